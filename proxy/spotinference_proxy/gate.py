"""Which requests are taken in: routes, keys, limits, and the record of whoever is turned away.

Owns every answer that is the proxy's own, but for those to broken HTTP (client_connection.py) and of relays
that fail (relay.py). What can be refused by its head alone is, before a body is read; a whole request that is
turned away has its record first. Requests without a good key are in no log: anyone could send millions.
"""

import asyncio
import time
from collections.abc import Coroutine
from typing import Any

from spotinference_proxy.answers import Answer, error_answer, json_answer
from spotinference_proxy.client_connection import ClientConnection
from spotinference_proxy.errors import BodyError, LogError
from spotinference_proxy.headers import CANARY
from spotinference_proxy.http1 import RequestHead
from spotinference_proxy.inject import ClientRequest, read_request
from spotinference_proxy.keys import FailureLimiter, KeyRing, key_in
from spotinference_proxy.logs import Logs
from spotinference_proxy.metrics import Metrics
from spotinference_proxy.record import RequestRecord, Row, new_request_id
from spotinference_proxy.relay import LARGE_BYTES, RETRY_AFTER_SECONDS, Relay, Surroundings
from spotinference_proxy.routes import makes_tokens, method_of
from spotinference_proxy.settings import Settings

_BUSY_RETRY_SECONDS = 1
_REFUSED_AND_LOGGED = (413, 415)  # of an allowed client; what is no whole request is in no log


class Gate:
    """Stands between the listener and the relays; `relays` are those that run now."""

    def __init__(
        self, settings: Settings, around: Surroundings, metrics: Metrics, logs: Logs, max_held_bytes: int
    ) -> None:
        self.relays: set[Relay] = set()
        self.is_stopping = False
        self.is_quiet = asyncio.Event()
        self._around = around
        self._metrics = metrics
        self._logs = logs
        self._max_held_bytes = max_held_bytes
        self._failures = FailureLimiter(time.monotonic)
        self._in_flight_of: dict[str, int] = {}
        self._errands: set[asyncio.Task[None]] = set()
        self.configure(settings)

    def configure(self, settings: Settings) -> None:
        """Take new settings and read the keys. Raises: SettingsError; then all is as before."""
        keys = None
        if settings.keys_file is not None:
            keys = KeyRing(settings.keys_file, tell=lambda why: self._logs.warning("keys_file", message=why))
        self._keys = keys
        self._settings = settings

    def run(self, errand: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Do something beside the requests; it ends with `close` at the latest."""
        task = asyncio.get_running_loop().create_task(errand)
        self._errands.add(task)
        task.add_done_callback(self._errands.discard)
        return task

    def close(self) -> None:
        """End what runs beside the requests."""
        for errand in self._errands:
            errand.cancel()

    # ------------------------------------------------------------------ towards the listener

    def refuse(self, connection: ClientConnection, head: RequestHead) -> Answer | None:
        """Look at a head alone: what is refused here costs no body and goes into no log."""
        path = head.target.partition("?")[0]
        method = method_of(path)
        if method is None:
            return error_answer(404, "not found: the proxy passes vLLM's API only")
        if head.method != method:
            return json_answer(405, {"detail": "Method Not Allowed"}, [("allow", method)])
        if method == "GET" and (head.content_length or head.is_chunked):
            return error_answer(400, "GET: expected no body")
        answer = self._check_key(self._keys, connection, head) if self._keys is not None else None
        return answer or self._check_state(head, path)

    def serve(self, connection: ClientConnection, head: RequestHead, body: bytes) -> None:
        """Take a whole request in, or turn it away."""
        around, record = self._around, self._record(connection, head)
        if record.endpoint == "/v1/models" and len(around.pool.upstreams) > 1:
            self.run(self._list_models(connection, head.fields.get("authorization") if self._keys is None else None))
            return
        try:
            asked = read_request(record.endpoint, body) if body else ClientRequest(body)
        except BodyError as error:
            self._turn_away(connection, record, error_answer(400, str(error)))
            return
        record.requested_model, record.stream, record.choices = asked.model, asked.is_stream, asked.choices
        record.is_beam = asked.is_beam
        chosen = self._busy(connection, len(body)) or around.pool.choose(asked.model) or self._nobody(asked.model)
        if isinstance(chosen, Answer):
            self._turn_away(connection, record, chosen)
            return
        key_id = connection.key_id
        if key_id is not None:
            self._in_flight_of[key_id] = self._in_flight_of.get(key_id, 0) + 1
        relay = Relay(around, connection, head, asked, record, self._over)
        self.relays.add(relay)
        relay.start(chosen, passes_credentials=self._keys is None, is_logged=makes_tokens(record.endpoint))

    def broke_off(self, connection: ClientConnection, head: RequestHead | None, answer: Answer) -> None:
        """Answer a request that was not read to its end; one that is too large, or compressed, has its record first."""
        if head is not None and answer.status in _REFUSED_AND_LOGGED:
            self._turn_away(connection, self._record(connection, head), answer)
        else:
            self._metrics.refused(answer.status)
            connection.respond(answer)

    # ------------------------------------------------------------------ reasons

    def _check_key(self, keys: KeyRing, connection: ClientConnection, head: RequestHead) -> Answer | None:
        connection.key_id = keys.key_id(key_in(head.fields))
        if connection.key_id is not None:
            return None
        if self._failures.is_blocked(connection.peer):
            return error_answer(429, "too many wrong keys; try again in a minute", 60)
        self._failures.note(connection.peer)
        return error_answer(401, "key missing or unknown; send it as Authorization: Bearer KEY")

    def _check_state(self, head: RequestHead, path: str) -> Answer | None:
        if self.is_stopping:
            return error_answer(503, "the proxy is stopping; try again", _BUSY_RETRY_SECONDS)
        why = self._around.log.why_not_admitting
        if why is not None and makes_tokens(path):
            return error_answer(503, f"{why}; try again", RETRY_AFTER_SECONDS)
        if head.fields.get("content-encoding", "identity").lower() != "identity":
            return error_answer(415, "content-encoding: expected none; send the body as it is")
        return None

    def _busy(self, connection: ClientConnection, size: int) -> Answer | None:
        settings = self._settings
        if size > LARGE_BYTES:
            held = size + sum(relay.held_bytes for relay in self.relays)
            if held > max(settings.max_body_bytes, self._max_held_bytes):
                return error_answer(503, "too many large requests on their way to vLLM; try again", _BUSY_RETRY_SECONDS)
        if len(self.relays) >= settings.max_in_flight:
            return error_answer(503, "too many requests in flight; try again", _BUSY_RETRY_SECONDS)
        if self._in_flight_of.get(connection.key_id or "", 0) >= settings.max_in_flight_per_key:
            return error_answer(429, "too many requests in flight for this key; try again", _BUSY_RETRY_SECONDS)
        return None

    def _nobody(self, model: str | None) -> Answer:
        serving = self._around.pool.serving(model)
        message = f"no model server is ready (0 of {len(serving)}), it may be waking up; try again"
        return error_answer(503, message, RETRY_AFTER_SECONDS)

    # ------------------------------------------------------------------ records and ends

    def _record(self, connection: ClientConnection, head: RequestHead) -> RequestRecord:
        started_at = self._around.clock()
        path = head.target.partition("?")[0]
        record = RequestRecord(new_request_id(started_at), started_at, path, key_id=connection.key_id)
        record.started_monotonic = self._around.stopwatch()
        record.canary = head.fields.get(CANARY) == "1"
        return record

    def _refused(self, record: RequestRecord) -> list[Row]:
        self._tell(record, "refused")
        return [record.begin(), record.end(self._around.clock(), "refused", self._around.stopwatch())]

    def _turn_away(self, connection: ClientConnection, record: RequestRecord, answer: Answer) -> None:
        record.status = answer.status
        self._metrics.refused(answer.status)
        if not makes_tokens(record.endpoint):
            connection.respond(answer)
            return

        def done(error: LogError | None) -> None:
            connection.respond(answer if error is None else error_answer(503, "the request log cannot be written"))

        self._around.log.commit_then(self._refused(record), done)

    async def _list_models(self, connection: ClientConnection, credentials: str | None) -> None:
        answer = error_answer(502, "no model server gives its list of models")
        try:
            if not any(upstream.is_ready for upstream in self._around.pool.upstreams):
                answer = self._nobody(None)
                return
            answer = await self._around.pool.merged_models(credentials) or answer
        finally:
            connection.respond(answer)

    def _tell(self, record: RequestRecord, reason: str) -> None:
        self._metrics.request_ended(record, reason)
        if self._settings.access_log:
            self._logs.access(record, reason)

    def _over(self, relay: Relay, reason: str) -> None:
        self.relays.discard(relay)
        record = relay.record
        if record.key_id is not None:
            left = self._in_flight_of.pop(record.key_id) - 1
            if left:
                self._in_flight_of[record.key_id] = left
        if relay.is_logged:
            self._tell(record, reason)
        if not self.relays:
            self.is_quiet.set()
