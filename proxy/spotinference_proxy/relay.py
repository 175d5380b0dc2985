"""One request to vLLM and its answer back: bytes pass, the same bytes are read, one record comes out.

Owns the order of things: begin row, request, answer as it comes, end row durable, then the last bytes. Owns
what happens when a side goes away. Does not own choice, keys and refusals (app.py) nor files (log.py). There
is no task per request: connections and the log call in, each call does one step.
A client that leaves: vLLM ends the request by its id and still states its usage (aborts.py); where it cannot, the
upstream is closed at once, which also stops the work.
"""

import asyncio
import errno
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Literal

from spotinference_proxy.aborts import AbortCall, abort_ids
from spotinference_proxy.answers import error_answer
from spotinference_proxy.client_connection import ClientConnection
from spotinference_proxy.errors import LogError
from spotinference_proxy.headers import answer_fields, request_fields
from spotinference_proxy.http1 import RequestHead, ResponseHead, render_request_head
from spotinference_proxy.inject import ClientRequest
from spotinference_proxy.log import RequestLog
from spotinference_proxy.pacing import Pacer
from spotinference_proxy.record import RequestRecord, Row
from spotinference_proxy.upstream_connection import UpstreamConnection
from spotinference_proxy.upstreams import Upstream, UpstreamPool
from spotinference_proxy.usage import AnswerReader

COMMIT_TRIES = 3
STALE_SECONDS = 1.0  # within which a kept connection that breaks had been closed before it was used
RETRY_AFTER_SECONDS = 10
LARGE_BYTES = 64 * 1024  # of a body worth letting go of while its answer comes
_OURS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL})
_ERRORS = {
    "upstream_timeout": (504, "the model server does not answer"),
    "proxy_stopped": (503, "the proxy is stopping; try again"),
    "upstream_gone": (502, "the model server cannot be reached or hung up"),
    "refused": (503, "the proxy has no connection left; try again"),
}


@dataclass(frozen=True)
class Surroundings:
    """What every relay of a proxy shares."""

    pool: UpstreamPool
    log: RequestLog
    clock: Callable[[], datetime]
    pacer: Pacer
    health_changed: Callable[[Upstream], None]
    stopwatch: Callable[[], float | None]  # monotonic seconds, or None where `clock` is not the machine's


class Relay:
    """Call `start` once. `client_gone`, `cut` and `end_early` may come at any time."""

    upstream: Upstream
    is_logged = True
    is_heard = True  # from vLLM, since somebody last looked
    silent_since = 0.0
    _passes_credentials = False  # a client's own, where the proxy checks no keys
    _tried: tuple[Upstream, ...] = ()
    _connection: UpstreamConnection | None = None
    _connecting: asyncio.Task[None] | None = None
    _abort: AbortCall | None = None
    _asked_at = 0.0
    _reader: AnswerReader | None = None
    _failure: tuple[int, str] | None = None
    _early_reason: str | None = None
    _reason = ""
    _commit: Literal["no", "running", "done"] = "no"
    _tries_left = COMMIT_TRIES
    _is_begun = False
    _is_retried = False
    _is_answer_begun = False
    _is_framed = True
    _is_answer_whole = False
    _is_gone = False
    _is_passing = False
    _is_released = False
    _is_paced = False

    def __init__(
        self,
        around: Surroundings,
        client: ClientConnection,
        head: RequestHead,
        asked: ClientRequest,
        record: RequestRecord,
        over: Callable[["Relay", str], None],
    ) -> None:
        """Give `over` whoever is to be told, once, that nothing is left to do, and the reason of the end."""
        self.record = record
        self._over = over
        self._around = around
        self._client = client
        self._head = head
        self._asked = asked
        self._held: list[bytes] = []

    def start(self, upstream: Upstream, *, passes_credentials: bool, is_logged: bool) -> None:
        """Ask `upstream`; everything else follows from what it and the client do."""
        self._passes_credentials = passes_credentials
        self.is_logged = is_logged
        self._client.exchange = self
        self._ask(upstream)

    # ------------------------------------------------------------------ towards vLLM

    def _ask(self, upstream: Upstream) -> None:
        self.upstream = upstream
        self._is_released = False
        upstream.in_flight += 1
        connection = upstream.connections.take()
        if connection is not None:
            self._send(connection)
        else:
            self._connecting = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        try:
            connection = await self.upstream.connections.connect()
        except OSError as error:
            self._connecting = None
            if error.errno in _OURS:
                self._release()
                self._fail("refused")
            else:
                self._unreachable()
            return
        self._connecting = None
        if self._commit == "no":
            self._send(connection)
        else:
            self.upstream.connections.keep(connection)
            self._release()

    def _unreachable(self) -> None:
        upstream = self.upstream
        self._release()
        if upstream.is_ready:
            upstream.lose("no connection")
            self._around.log.append(upstream.health_row(self._around.clock()))
            self._around.health_changed(upstream)
        if self._commit != "no":
            return
        self._tried = (*self._tried, upstream)
        other = self._around.pool.choose(self._asked.model, self._tried)
        if other is None:
            self._fail("upstream_gone")
        else:
            self._ask(other)

    def _send(self, connection: UpstreamConnection) -> None:
        self._connection = connection
        head, asked, upstream, record = self._head, self._asked, self.upstream, self.record
        record.vm_id = upstream.settings.vm_id
        if not self._is_begun:
            self._is_begun = True
            if self.is_logged:
                self._around.log.append(record.begin())
        length = len(asked.body) if asked.body or head.method == "POST" else None
        headers = head.headers if "host" in head.fields else [*head.headers, ("host", upstream.connections.authority)]
        fields = request_fields(headers, record.request_id, length, self._credentials)
        self._asked_at = time.monotonic()
        connection.ask(
            render_request_head(head.method, upstream.connections.prefix + head.target, fields), asked.body, self
        )
        if self._client.is_paused:  # it has not taken an earlier answer yet
            connection.pause(is_paused=True)
        if len(asked.body) > LARGE_BYTES:
            asyncio.get_running_loop().call_later(STALE_SECONDS, self._let_go_of_body, connection)

    def _let_go_of_body(self, connection: UpstreamConnection) -> None:
        """Forget a large body once the connection it went over has proved good: it will not be sent again."""
        if self._connection is connection:
            self._asked = replace(self._asked, body=b"")

    @property
    def held_bytes(self) -> int:
        """How much of a large body is in memory: until it is let go of, and vLLM has taken it."""
        waiting = self._connection.unsent_bytes if self._connection is not None else 0
        return max(len(self._asked.body), waiting)

    @property
    def _credentials(self) -> str | None:
        """What opens vLLM: its key, else the client's own where the proxy checks no keys."""
        known = self.upstream.connections.credentials
        return known or (self._head.fields.get("authorization") if self._passes_credentials else None)

    def _release(self) -> None:
        self._connection = None
        if not self._is_released:
            self._is_released = True
            self.upstream.in_flight -= 1
        self._end_if_over()

    # ------------------------------------------------------------------ what vLLM answers

    def answer_begun(self, head: ResponseHead) -> None:
        """Pass the head on; a stream's at once."""
        record, asked = self.record, self._asked
        record.upstream_status = head.status
        self._is_framed = head.is_chunked or head.content_length is not None
        content_type = head.fields.get("content-type", "")
        self._reader = reader = AnswerReader(
            record.endpoint,
            head.status,
            content_type,
            record.choices,
            hides_final=asked.hides_final_usage,
            hides_running=asked.hides_running_usage,
            metadata=head.fields.get("metadata"),
            fingerprint=self.upstream.fingerprint,
            max_completion_tokens=asked.max_completion_tokens,
        )
        if reader.is_stream:
            self._is_paced = True
            self._around.pacer.begin()
        if self._is_gone:
            return
        record.status = head.status
        self._is_answer_begun = True
        is_edited = reader.is_stream and (asked.hides_final_usage or asked.hides_running_usage)
        length = None if is_edited else head.content_length
        self._client.begin(head.status, head.reason, answer_fields(head.headers), length, at_once=reader.is_stream)

    def answer_part(self, content: bytes, is_last: bool, /) -> None:
        """Read a part and send it on; what ends the answer waits for the record."""
        reader = self._reader
        assert reader is not None
        shown = reader.feed(content)
        self.is_heard = True
        if self._is_passing and not is_last and reader.outcome == "open":  # every part but the first and the last
            self._client.send(shown)
            return
        if self.record.first_byte_at is None:
            self.record.first_byte_at = self._around.clock()
            self._is_passing = not self._is_gone
        if self._is_gone:
            if reader.outcome != "open":
                self._settle(self._outcome())
        elif self._commit == "done":
            self._client.send(shown)
        elif self._commit == "running" or is_last or reader.outcome != "open":
            self._held.append(shown)
            if reader.outcome != "open":
                self._settle(self._outcome())
        else:
            self._client.send(shown)

    def answer_ended(self) -> None:
        """End the record, then the answer."""
        connection, self._connection = self._connection, None
        reader = self._reader
        assert reader is not None
        self._held.append(reader.finish())
        self._is_answer_whole = self._is_framed or reader.outcome != "open"
        if not self._is_answer_whole:  # ended with its connection, and nothing says that this was the end
            self._failure = _ERRORS["upstream_gone"]
        self.upstream.fingerprint = reader.system_fingerprint
        if connection is not None:
            self.upstream.connections.keep(connection)
        if self._commit == "done":
            self._pass_end()
        else:
            self._settle(self._outcome())
        self._release()

    def answer_lost(self, *, is_untouched: bool) -> None:
        """Ask once more if vLLM had closed the kept connection before; else end what cannot go on."""
        connection, self._connection = self._connection, None
        elapsed = time.monotonic() - self._asked_at
        is_stale = is_untouched and connection is not None and connection.was_used and elapsed < STALE_SECONDS
        if is_stale and not self._is_retried and self._commit == "no" and not self._is_gone:
            self._is_retried = True
            self._connecting = asyncio.get_running_loop().create_task(self._connect())
            return
        self._fail("upstream_gone")
        self._release()

    def _outcome(self) -> str:
        if self._is_gone:
            return "client_gone"
        if self._early_reason is not None:
            return self._early_reason
        assert self._reader is not None
        if self._reader.outcome == "open":
            return "upstream_gone"
        is_error = self._reader.outcome == "error" or (self.record.upstream_status or 0) >= 400
        return "upstream_error" if is_error else "complete"

    # ------------------------------------------------------------------ when a side goes away

    def client_gone(self) -> None:
        """Have vLLM end the request and read on to its usage, or close it."""
        self._is_gone = True
        self._is_passing = False
        if self._connection is not None:
            self._connection.pause(is_paused=False)
        if self._commit == "done":
            self._drop()
        if self._commit != "no":
            return
        if self._connection is None or not self._end_by_id():
            self.cut("client_gone")

    def client_paused(self, *, is_paused: bool) -> None:
        """Take no more from vLLM than the client takes from us."""
        if self._connection is not None:
            self._connection.pause(is_paused=is_paused)

    def end_early(self, reason: str) -> None:
        """End a running request for `reason`: by vLLM's abort call, so that its usage is known, or at once."""
        self._early_reason = reason
        if self._commit == "no" and not self._end_by_id():
            self.cut(reason)

    def cut(self, reason: str) -> None:
        """Close the upstream now and end the record for `reason`; a whole answer stays whole."""
        if self._is_answer_whole:
            return
        self._fail(self._early_reason or reason)
        self._drop()

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.let_go()
        if self._connecting is None:
            self._release()

    def _end_by_id(self) -> bool:
        if self._connection is None or self._asked.names_itself:
            return False
        record, response_id = self.record, self._reader.response_id if self._reader else None
        ids = abort_ids(record.endpoint, record.request_id, self._asked.prompts, response_id)
        if ids and self._abort is None:
            given_up = partial(self.cut, "proxy_stopped")
            self._abort = AbortCall(self.upstream.connections, ids, self._credentials, given_up)
        return bool(ids)

    # ------------------------------------------------------------------ the record, then the end

    def note_progress(self) -> None:
        """Queue a `usage` row if vLLM has said anything."""
        if self._commit == "no" and self.is_logged and self._reader is not None:
            self.record.usage = self._reader.usage
            row = self.record.progress(self._around.clock())
            if row is not None:
                self._around.log.append(row)

    def _fail(self, reason: str) -> None:
        reason = "client_gone" if self._is_gone else reason
        self._failure = _ERRORS.get(reason, (502, reason))
        if not self._is_visible and not self._is_gone and self._commit == "no":
            self.record.status = self._failure[0]
        if self._commit == "done":
            self._pass_end()
        else:
            self._settle(reason)

    def _settle(self, reason: str) -> None:
        """Make the end row durable; the first reason stands."""
        if self._commit != "no":
            return
        self._commit = "running"
        self._is_passing = False
        self._reason = reason
        record, reader = self.record, self._reader
        if reader is not None:
            record.usage, record.is_usage_final, record.model = reader.usage, reader.is_final, reader.model
            record.is_implausible = reader.is_implausible
        if not self.is_logged:
            self._committed(None)
            return
        rows = [record.end(self._around.clock(), reason, self._around.stopwatch())]
        if not self._is_begun:
            rows.insert(0, record.begin())
        self._try_commit(rows)

    def _try_commit(self, rows: list[Row]) -> None:
        def done(error: LogError | None) -> None:
            if error is None:
                self._committed(None)
            elif self._tries_left:
                self._try_commit(rows)
            else:
                self._committed(error)

        self._tries_left -= 1
        self._around.log.commit_then(rows, done)

    def _committed(self, error: LogError | None) -> None:
        self._commit = "done"
        if error is not None:  # nobody may take for served what is in no record
            self._held.clear()
            self._failure = (503, "the request log cannot be written; try again")
        try:
            if self._is_answer_whole or self._failure is not None:
                self._pass_end()
            elif self._is_gone:
                self._drop()  # all that counts was said
            elif self._held:
                self._client.send(b"".join(self._held))
                self._held.clear()
        finally:
            self._end_if_over()

    def _pass_end(self) -> None:
        """Send the client what ends its answer: the rest, an error of ours, or a visible break."""
        client = self._client
        if self._is_gone or client.exchange is not self:
            return
        rest = b"".join(self._held)
        self._held.clear()
        if self._failure is None:
            client.finish(rest)
        elif self._is_visible:
            client.send(rest + self._reader.rest() if self._reader else rest)
            client.break_off()
        else:
            status, message = self._failure
            client.respond(error_answer(status, message, RETRY_AFTER_SECONDS if status == 503 else None))

    @property
    def _is_visible(self) -> bool:
        """Whether the client has seen anything of vLLM's answer: then it can be broken off, but not be another."""
        return self._is_answer_begun and self._client.has_sent

    def _end_if_over(self) -> None:
        if self._commit == "done" and self._is_released:
            if self._abort is not None:
                self._abort.cancel()
            reason, self._reason = self._reason, ""
            if reason:
                if self._is_paced:
                    self._around.pacer.end()
                self._over(self, reason)
