"""The proxy as a whole: who may ask what, which upstream answers, how it starts, reloads and stops.

The only place where relay, log and listeners meet. Does not pass bytes (relay.py) nor write files (log.py).
Instants in the log come from the injected clock; waiting is measured by the loop's monotonic clock.
"""

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any

from spotinference_proxy.admin import AdminPages
from spotinference_proxy.client_connection import Answer, ClientConnection, Limits, error_answer, json_answer
from spotinference_proxy.engine_metrics import missing_counters
from spotinference_proxy.errors import BodyError, LogError
from spotinference_proxy.headers import CANARY
from spotinference_proxy.http1 import RequestHead
from spotinference_proxy.inject import ClientRequest, read_request
from spotinference_proxy.keys import FailureLimiter, KeyRing, key_in
from spotinference_proxy.listener import Listener
from spotinference_proxy.log import RequestLog
from spotinference_proxy.logs import Logs
from spotinference_proxy.metrics import Metrics
from spotinference_proxy.record import RequestRecord, Row, new_request_id
from spotinference_proxy.relay import ABORT_WITHIN_SECONDS, RETRY_AFTER_SECONDS, Relay, Surroundings
from spotinference_proxy.routes import makes_tokens, method_of
from spotinference_proxy.settings import Settings, check_exposure
from spotinference_proxy.shipping import Shipper
from spotinference_proxy.tasks import Periodic
from spotinference_proxy.upstreams import UpstreamPool
from spotinference_proxy.writer import SegmentWriter

FIRST_PROBE_SECONDS = 0.25  # a sleeping VM does not answer at all: do not wait for it before listening
_BUSY_RETRY_SECONDS = 1
_REFUSED_AND_LOGGED = (413, 415)  # of an allowed client; what is no whole request is in no log


def utc_now() -> datetime:
    """Return the machine's clock."""
    return datetime.now(UTC)


def _make_writer(settings: Settings, clock: Callable[[], datetime]) -> SegmentWriter:
    least = settings.min_free_bytes
    if least is None:
        return SegmentWriter(settings.log_dir, settings.writer, clock)
    return SegmentWriter(settings.log_dir, settings.writer, clock, min_free_bytes=least, min_free_ratio=0.0)


class Proxy:
    """One proxy process: `start`, serve, `stop`. `address` and `admin_address` are known after `start`."""

    def __init__(
        self,
        settings: Settings,
        clock: Callable[[], datetime] = utc_now,
        *,
        periodic: bool = True,
        writer: SegmentWriter | None = None,
        limits: Limits | None = None,
        logs: Logs | None = None,
    ) -> None:
        check_exposure(settings)
        self.settings = settings
        self.address = settings.listen
        self.admin_address = settings.admin_listen
        self.log = RequestLog(writer or _make_writer(settings, clock))
        self.pool = UpstreamPool(settings.upstreams)
        self.relays: set[Relay] = set()
        self.is_stopping = False
        self._clock = clock
        self._stopwatch: Callable[[], float | None] = time.monotonic if clock is utc_now else lambda: None
        self._logs = logs or Logs()
        self._keys = self._read_keys(settings)
        self._failures = FailureLimiter(time.monotonic)
        self._in_flight_of: dict[str, int] = {}
        self._is_background_on = periodic
        self._is_quiet = asyncio.Event()
        self._is_started = False
        self._errands: set[asyncio.Task[None]] = set()
        limits = dataclasses.replace(limits or Limits(), body_bytes=settings.max_body_bytes)
        self._listener = Listener(self._refuse, self._serve, self._broke_off, limits)
        self._shipper = Shipper.of(settings, self._logs)
        self.metrics = Metrics(
            lambda: self.log.stats,
            lambda: self.pool.upstreams,
            is_ready=lambda: self.is_ready,
            shipper=self._shipper,
        )
        self.metrics.know_models(settings.upstreams)
        pages = AdminPages(self)
        self._admin = Listener(pages.refuse, pages.serve)
        around = Surroundings(
            pool=self.pool,
            log=self.log,
            clock=clock,
            stopwatch=self._stopwatch,
            now=time.monotonic,
            over=self._over,
            passes_credentials=lambda: self._keys is None,
        )
        sweeps = (self._listener.check, self._admin.check, self.pool.prune)
        self._around = around
        self._periodic = Periodic(around, self.relays, sweeps, self._engine_read, reports_fleet=not settings.worker)

    @property
    def is_ready(self) -> bool:
        """Whether requests are taken, as far as it is up to the proxy."""
        return self.log.is_writable and self.log.is_admitting and not self.is_stopping

    # ------------------------------------------------------------------ life

    async def start(self) -> None:
        """Recover and open the log, probe the upstreams, listen. Raises: LogError, OSError."""
        self._is_started = True
        try:
            await self.log.start()
            probe = self._run(self.probe())
            await asyncio.wait([probe], timeout=FIRST_PROBE_SECONDS)
            shares_port = self.settings.worker is not None
            self.address = await self._listener.open(self.settings.listen, shares_port=shares_port)
            self.admin_address = await self._admin.open(self.settings.admin_listen)
        except BaseException:
            await self.stop_now()
            raise
        if self._is_background_on:
            self._periodic.start()
            if self._shipper is not None:
                self._shipper.start()

    def reload(self, settings: Settings) -> None:
        """Take new upstreams and keys; running requests go on. Raises: SettingsError; then all is as before."""
        self._keys = self._read_keys(settings)
        self.settings = settings
        self.pool.configure(settings.upstreams)
        self.metrics.know_models(settings.upstreams)
        self._run(self.probe())

    def _read_keys(self, settings: Settings) -> KeyRing | None:
        if settings.keys_file is None:
            return None
        return KeyRing(settings.keys_file, tell=lambda why: self._logs.warning("keys_file", message=why))

    async def stop(self, seconds: float | None = None) -> None:
        """Accept nothing new, let running requests end, then end them by vLLM's abort call; seal the log."""
        self._stop_accepting()
        await self._wait(self.settings.stop_seconds if seconds is None else seconds)
        for relay in list(self.relays):
            relay.end_early("proxy_stopped")
        await self._wait(ABORT_WITHIN_SECONDS + 0.5)
        await self.stop_now()

    async def stop_now(self) -> None:
        """Cut what runs, seal the log, close everything. Twice is once."""
        self._stop_accepting()
        if not self._is_started:
            return
        self._is_started = False
        for relay in list(self.relays):
            relay.cut("proxy_stopped")
        await self._wait(ABORT_WITHIN_SECONDS)
        await self._listener.flush()
        await self._periodic.stop()
        for errand in self._errands:
            errand.cancel()
        self._listener.close()
        self._admin.stop()
        self._admin.close()
        self.pool.close()
        await self.log.close()
        if self._shipper is not None:
            await self._shipper.stop()

    async def probe(self) -> None:
        """Probe every upstream now; write a `health` row for each that changed."""
        await self._periodic.probe()

    async def minute(self) -> None:
        """Write the rows of a minute: health and counters of every upstream, and the beat."""
        await self._periodic.minute()

    def progress(self) -> None:
        """Write a `usage` row for every running stream that has stated any."""
        self._periodic.progress()

    def _stop_accepting(self) -> None:
        self.is_stopping = True
        self._listener.stop()

    async def _wait(self, seconds: float) -> None:
        """Wait until no request runs, at most so long."""
        self._is_quiet.clear()
        if self.relays:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._is_quiet.wait(), seconds)

    def _run(self, errand: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(errand)
        self._errands.add(task)
        task.add_done_callback(self._errands.discard)
        return task

    # ------------------------------------------------------------------ requests

    def _refuse(self, connection: ClientConnection, head: RequestHead) -> Answer | None:
        """Look at a head alone: what is refused here costs no body and goes into no log."""
        path = head.target.partition("?")[0]
        method = method_of(path)
        if method is None:
            return error_answer(404, "not found: the proxy passes vLLM's /v1 API only")
        if head.method != method:
            return json_answer(405, {"detail": "Method Not Allowed"}, [("allow", method)])
        answer = self._check_key(self._keys, connection, head) if self._keys is not None else None
        return answer or self._check_state(head, path)

    def _check_state(self, head: RequestHead, path: str) -> Answer | None:
        if head.fields.get("content-encoding", "identity").lower() != "identity":
            return error_answer(415, "content-encoding: expected none; send the body as it is")
        if self.is_stopping:
            return error_answer(503, "the proxy is stopping; try again", _BUSY_RETRY_SECONDS)
        if not self.log.is_admitting and makes_tokens(path):
            why = self.log.why_not_admitting or "request log: cannot be written"
            return error_answer(503, f"{why}; try again", RETRY_AFTER_SECONDS)
        return None

    def _check_key(self, keys: KeyRing, connection: ClientConnection, head: RequestHead) -> Answer | None:
        connection.key_id = keys.key_id(key_in(head.fields))
        if connection.key_id is not None:
            return None
        if self._failures.is_blocked(connection.peer):
            return error_answer(429, "too many wrong keys; try again in a minute", 60)
        self._failures.note(connection.peer)
        return error_answer(401, "key missing or unknown; send it as Authorization: Bearer KEY")

    def _serve(self, connection: ClientConnection, head: RequestHead, body: bytes) -> None:
        record, is_logged = self._record(connection, head)
        if head.method == "GET" and record.endpoint == "/v1/models" and len(self.pool.upstreams) > 1:
            self._run(self._list_models(connection))
            return
        try:
            asked = read_request(record.endpoint, body) if body else ClientRequest(body)
        except BodyError as error:
            self._turn_away(connection, record, error_answer(400, str(error)), is_logged=is_logged)
            return
        record.requested_model, record.stream, record.choices = asked.model, asked.is_stream, asked.choices
        record.is_beam = asked.is_beam
        upstream = self._busy(connection) or self.pool.choose(asked.model) or self._nobody(asked.model)
        if isinstance(upstream, Answer):
            self._turn_away(connection, record, upstream, is_logged=is_logged)
            return
        if connection.key_id is not None:
            self._in_flight_of[connection.key_id] = self._in_flight_of.get(connection.key_id, 0) + 1
        relay = Relay(self._around, connection, head, asked, record, is_logged=is_logged)
        self.relays.add(relay)
        relay.start(upstream)

    def _record(self, connection: ClientConnection, head: RequestHead) -> tuple[RequestRecord, bool]:
        started_at = self._clock()
        path = head.target.partition("?")[0]
        record = RequestRecord(new_request_id(started_at), started_at, path, key_id=connection.key_id)
        record.started_monotonic = self._stopwatch()
        record.canary = head.fields.get(CANARY) == "1"
        return record, makes_tokens(path)

    def _busy(self, connection: ClientConnection) -> Answer | None:
        settings = self.settings
        if len(self.relays) >= settings.max_in_flight:
            return error_answer(503, "too many requests in flight; try again", _BUSY_RETRY_SECONDS)
        if self._in_flight_of.get(connection.key_id or "", 0) >= settings.max_in_flight_per_key:
            return error_answer(429, "too many requests in flight for this key; try again", _BUSY_RETRY_SECONDS)
        return None

    def _nobody(self, model: str | None) -> Answer:
        serving = self.pool.serving(model)
        message = f"no model server is ready (0 of {len(serving)}), it may be waking up; try again"
        return error_answer(503, message, RETRY_AFTER_SECONDS)

    def _turn_away(
        self, connection: ClientConnection, record: RequestRecord, answer: Answer, *, is_logged: bool
    ) -> None:
        """Refuse a whole request: its record first, then the answer."""
        record.status = answer.status
        self.metrics.refused(answer.status)
        if not is_logged:
            connection.respond(answer)
            return

        def done(error: LogError | None) -> None:
            connection.respond(answer if error is None else error_answer(503, "the request log cannot be written"))

        self.log.commit_then([record.begin(), record.end(self._clock(), "refused", self._stopwatch())], done)
        self.metrics.request_ended(record, "refused")

    def _broke_off(self, connection: ClientConnection, head: RequestHead | None, status: int) -> None:
        self.metrics.refused(status)
        if head is not None and status in _REFUSED_AND_LOGGED:
            record, is_logged = self._record(connection, head)
            record.status = status
            if is_logged:
                self.log.append(record.begin())
                self.log.append(record.end(self._clock(), "refused", self._stopwatch()))
                self.metrics.request_ended(record, "refused")

    async def _list_models(self, connection: ClientConnection) -> None:
        models = await self.pool.merged_models()
        connection.respond(json_answer(200, models))

    def _engine_read(self, row: Row) -> None:
        missing = missing_counters(row)
        if self.metrics.engine_read(str(row["upstream"]), missing) and missing:
            self._logs.warning("engine_counters_missing", upstream=row["upstream"], counters=missing)

    def _over(self, relay: Relay, reason: str) -> None:
        self.relays.discard(relay)
        record = relay.record
        if record.key_id is not None:
            left = self._in_flight_of[record.key_id] - 1
            if left:
                self._in_flight_of[record.key_id] = left
            else:
                del self._in_flight_of[record.key_id]
        if relay.is_logged:
            self.metrics.request_ended(record, reason)
            if self.settings.access_log:
                self._logs.access(record, reason)
        if not self.relays:
            self._is_quiet.set()
