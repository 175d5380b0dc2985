"""One request to vLLM and its answer back: bytes pass, the same bytes are read, one record comes out.

Owns the order of things: begin row, request, answer as it comes, end row durable, then the last bytes. Owns
what happens when a side goes away. Does not own choice, keys and refusals (app.py) nor files (log.py).
A client that leaves: vLLM ends a request by its id and then still states its usage (`--enable-scale-out`,
POST /inference/v1/abort_requests); a call that comes before vLLM knows the request does nothing, so it is
repeated. Without that call the upstream is closed at once, which also stops the work.
"""

import asyncio
import contextlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from spotinference_proxy.answer import break_connection, error_answer
from spotinference_proxy.errors import LogError
from spotinference_proxy.headers import render_answer
from spotinference_proxy.inject import ClientRequest
from spotinference_proxy.log import RequestLog
from spotinference_proxy.record import RequestRecord
from spotinference_proxy.strip import UsageStripper
from spotinference_proxy.upstreams import Upstream, abort_ids
from spotinference_proxy.usage import UsageReader

ABORT_EVERY_SECONDS = 0.1
ABORT_WITHIN_SECONDS = 2.0  # then the upstream is closed; vLLM needs about 0.02 s
COMMIT_TRIES = 3
_LARGE_BODY_BYTES = 1024 * 1024
_ERRORS = {
    "upstream_timeout": (504, "the model server does not answer"),
    "proxy_stopped": (503, "the proxy is stopping; try again"),
    "upstream_gone": (502, "the model server cannot be reached or hung up"),
}


@dataclass(frozen=True)
class Surroundings:
    """What every relay of a proxy shares."""

    session: aiohttp.ClientSession
    log: RequestLog
    clock: Callable[[], datetime]


def _content(body: bytes) -> bytes | io.BytesIO | None:
    """Return a body as aiohttp wants it: a large one in parts, so that the loop is not held up."""
    return (body or None) if len(body) < _LARGE_BODY_BYTES else io.BytesIO(body)


class Relay:
    """Run once. `leave` and `cut` may be called at any time from the same loop."""

    def __init__(
        self,
        around: Surroundings,
        client: web.Request,
        asked: ClientRequest,
        record: RequestRecord,
        upstream: Upstream,
        *,
        headers: CIMultiDict[str],
        is_logged: bool = True,
    ) -> None:
        self.upstream = upstream
        self.record = record
        self.last_heard = asyncio.get_running_loop().time()
        self._around = around
        self._client = client
        self._asked = asked
        self._headers = headers
        self._is_logged = is_logged
        self._reader: UsageReader | None = None
        self._stripper: UsageStripper | None = None
        self._answer: web.StreamResponse | None = None
        self._held = b""
        self._received = 0
        self._is_gone = False
        self._is_cut = False
        self._cut_reason = "client_gone"
        self._close_at: float | None = None
        self._deadline: asyncio.Timeout | None = None
        self._settling: asyncio.Task[None] | None = None
        self._aborting: asyncio.Task[None] | None = None

    async def run(self) -> web.StreamResponse:
        """Relay to the end and return the client's answer, already sent or (an error of ours) to be sent."""
        if self._is_logged:
            self._around.log.append(self.record.begin())
        self.upstream.in_flight += 1
        try:
            return await self._run()
        except LogError:
            return self._break()
        finally:
            self.upstream.in_flight -= 1
            if self._settling is None:  # a bug, or the loop ends: still one record
                with contextlib.suppress(LogError):
                    await self._settle("proxy_stopped")
            if self._aborting is not None:
                self._aborting.cancel()

    def leave(self) -> None:
        """The client is gone: have vLLM end the request and read on to its usage, or close it."""
        if self._is_gone:
            return
        self._is_gone = True
        if self._settling is None and self._abort_ids():
            self._aborting = asyncio.create_task(self._abort())
            self._close_in(ABORT_WITHIN_SECONDS)
        else:
            self.cut("client_gone")

    def cut(self, reason: str) -> None:
        """Close the upstream now and end the record for `reason`."""
        self._cut_reason = "client_gone" if self._is_gone else reason
        self._close_in(0)

    def note_progress(self) -> None:
        """Queue a `usage` row if vLLM has said anything."""
        row = self.record.progress(self._around.clock()) if self._settling is None else None
        if row is not None and self._is_logged:
            self._around.log.append(row)

    async def _run(self) -> web.StreamResponse:
        try:
            return await self._exchange_in_time()
        except TimeoutError:
            return await self._fail(self._cut_reason if self._is_cut else "upstream_timeout")
        except (aiohttp.ClientError, ConnectionError) as error:
            if isinstance(error, aiohttp.ClientConnectorError) and self.upstream.is_ready:
                self.upstream.is_ready = False
                self._around.log.append(self.upstream.health_row(self._around.clock()))
            return await self._fail("upstream_gone")

    async def _exchange_in_time(self) -> web.StreamResponse:
        self._deadline = asyncio.timeout_at(self._close_at)
        try:
            async with self._deadline:
                return await self._exchange()
        finally:
            self._is_cut = self._deadline.expired()
            self._deadline = None

    async def _exchange(self) -> web.StreamResponse:
        asked, record = self._asked, self.record
        url = URL(self.upstream.url + self._client.raw_path, encoded=True)
        async with self._around.session.request(
            self._client.method, url, headers=self._headers, data=_content(asked.body), allow_redirects=False
        ) as found:
            record.upstream_status = found.status
            content_type = found.headers.get("Content-Type", "")
            self._reader = UsageReader(record.endpoint, found.status, content_type, record.choices)
            answer = await self._begin_answer(found, is_stream="text/event-stream" in content_type.lower())
            length = found.content_length
            while chunk := await found.content.readany():
                await self._pass(chunk, is_last=self._received + len(chunk) == length)
            self._reader.finish()
        await self._end_answer(self._stripper.finish() if self._stripper else b"")
        return answer

    async def _begin_answer(self, found: aiohttp.ClientResponse, *, is_stream: bool) -> web.StreamResponse:
        asked = self._asked
        if is_stream and (asked.hides_final_usage or asked.hides_running_usage):
            self._stripper = UsageStripper(hides_final=asked.hides_final_usage, hides_running=asked.hides_running_usage)
        headers = render_answer(found.headers.items(), keeps_length=self._stripper is None)
        self._answer = web.StreamResponse(status=found.status, reason=found.reason, headers=headers)
        if not self._is_gone:
            try:
                await self._answer.prepare(self._client)
                self.record.status = found.status
            except ConnectionError:
                self.leave()
        return self._answer

    async def _pass(self, chunk: bytes, *, is_last: bool) -> None:
        """Read a chunk and send it on; what ends the answer waits for the record."""
        reader, record = self._reader, self.record
        assert reader is not None
        self.last_heard = asyncio.get_running_loop().time()
        self._received += len(chunk)
        record.first_byte_at = record.first_byte_at or self._around.clock()
        was_open = reader.outcome == "open"
        reader.feed(chunk)
        record.usage, record.is_usage_final, record.model = reader.usage, reader.is_final, reader.model
        shown = self._stripper.feed(chunk) if self._stripper and not self._is_gone else chunk
        if is_last:
            self._held = shown
        elif was_open and reader.outcome != "open":
            await self._settle(self._outcome())
            await self._send(shown)
        else:
            await self._send(shown)

    async def _end_answer(self, rest: bytes) -> None:
        reader, record = self._reader, self.record
        assert reader is not None
        record.usage, record.is_usage_final, record.model = reader.usage, reader.is_final, reader.model
        await self._settle(self._outcome())
        await self._send(self._held + rest)
        if self._is_gone or self._answer is None:
            return
        try:
            await self._answer.write_eof()
        except ConnectionError:
            self._is_gone = True

    def _outcome(self) -> str:
        if self._is_gone:
            return "client_gone"
        assert self._reader is not None
        if self._reader.outcome == "open":
            return "upstream_gone"
        is_error = self._reader.outcome == "error" or (self.record.upstream_status or 0) >= 400
        return "upstream_error" if is_error else "complete"

    async def _send(self, content: bytes) -> None:
        if self._is_gone or not content or self._answer is None:
            return
        try:
            await self._answer.write(content)
        except ConnectionError:
            self.leave()

    async def _settle(self, reason: str) -> None:
        """Make the end row durable; the first reason stands. Raises: LogError."""
        if self._is_logged:
            if self._settling is None:
                self._settling = asyncio.create_task(self._commit(reason))
            await asyncio.shield(self._settling)

    async def _commit(self, reason: str) -> None:
        row = self.record.end(self._around.clock(), reason)
        for left in reversed(range(COMMIT_TRIES)):
            try:
                await self._around.log.commit(row)
            except LogError:
                if not left:
                    raise
            else:
                return

    async def _fail(self, reason: str) -> web.StreamResponse:
        """End what cannot go on: an error if nothing was sent yet, else a broken connection, no clean end."""
        reason = "client_gone" if self._is_gone else reason
        is_begun = self._answer is not None and self._answer.prepared
        status, message = _ERRORS.get(reason, (502, reason))
        if not is_begun and not self._is_gone:
            self.record.status = status
        await self._settle(reason)
        if is_begun or self._is_gone:
            return self._break()
        return error_answer(status, message)

    def _break(self) -> web.StreamResponse:
        break_connection(self._client)
        return self._answer if self._answer is not None else error_answer(503, "broken")

    def _close_in(self, seconds: float) -> None:
        self._close_at = asyncio.get_running_loop().time() + seconds
        if self._deadline is not None and not self._deadline.expired():
            self._deadline.reschedule(self._close_at)

    def _abort_ids(self) -> list[str]:
        response_id = self._reader.response_id if self._reader else None
        return abort_ids(self.record.endpoint, self.record.request_id, self._asked.prompts, response_id)

    async def _abort(self) -> None:
        while await self.upstream.abort(self._around.session, self._abort_ids()):
            await asyncio.sleep(ABORT_EVERY_SECONDS)
        self.cut("client_gone")
