"""The connections to one vLLM: kept ones, new ones, and calls of the proxy's own over them.

Owns how long a connection is kept: vLLM closes an idle one after 5 s, so ours are given up before that. Does not
own what goes over a connection for a client (relay.py) nor which vLLM is asked (upstreams.py).
"""

import asyncio
import ssl
import time
from contextlib import suppress
from urllib.parse import urlsplit

from spotinference_proxy.headers import request_fields
from spotinference_proxy.http1 import ResponseHead, render_request_head
from spotinference_proxy.upstream_connection import UpstreamConnection

FETCH_SECONDS = 2.0  # for an answer of /health, /metrics and /v1/models
CONNECT_SECONDS = 5.0
IDLE_SECONDS = 4.0  # of a kept connection
_MAX_FETCHED_BYTES = 8 * 1024 * 1024


class Connections:
    """Everything about a URL that is not about what is asked of it; `credentials` is a whole Authorization field."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.prefix = parts.path
        self.authority = parts.netloc
        self.credentials: str | None = None
        self._host = parts.hostname or ""
        self._ssl = ssl.create_default_context() if parts.scheme == "https" else None
        self._port = parts.port or (443 if self._ssl else 80)
        self._idle: list[UpstreamConnection] = []

    def take(self) -> UpstreamConnection | None:
        """Return a kept connection that is still good, the youngest first."""
        oldest = time.monotonic() - IDLE_SECONDS
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closed and connection.idle_since > oldest:
                return connection
            connection.close()
        return None

    async def connect(self) -> UpstreamConnection:
        """Return a new connection. Raises: OSError, TimeoutError."""
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                _, connection = await asyncio.get_running_loop().create_connection(
                    UpstreamConnection, self._host, self._port, ssl=self._ssl
                )
        except ValueError as error:  # a name that no resolver takes
            raise OSError(f"{self._host}: {error}") from error
        return connection

    def keep(self, connection: UpstreamConnection) -> None:
        """Keep a connection for the next request, if it can be used again."""
        if connection.is_reusable and not connection.is_closed:
            connection.pause(is_paused=False)  # its last client may have left with unread bytes
            connection.idle_since = time.monotonic()
            self._idle.append(connection)

    def prune(self, idle_seconds: float = IDLE_SECONDS) -> None:
        """Close connections kept for too long."""
        oldest = time.monotonic() - idle_seconds
        kept = [connection for connection in self._idle if connection.idle_since > oldest]
        for connection in self._idle:
            if connection.idle_since <= oldest:
                connection.close()
        self._idle = kept

    async def fetch(
        self, method: str, path: str, body: bytes | None = None, credentials: str | None = None
    ) -> tuple[int, bytes]:
        """Make a call of the proxy's own; return status and body. Raises: OSError, TimeoutError."""
        headers = [("host", self.authority)]
        if body is not None:
            headers.append(("content-type", "application/json"))
        fields = request_fields(headers, "proxy", None if body is None else len(body), self.credentials or credentials)
        request = render_request_head(method, self.prefix + path, fields), body or b""
        async with asyncio.timeout(FETCH_SECONDS):
            kept = self.take()
            if kept is not None:
                with suppress(OSError):  # it may have been closed just now: that says nothing about vLLM
                    return await self._fetch(kept, request)
            return await self._fetch(await self.connect(), request)

    async def _fetch(self, connection: UpstreamConnection, request: tuple[bytes, bytes]) -> tuple[int, bytes]:
        taker = _Fetched(asyncio.get_running_loop().create_future())
        try:
            connection.ask(*request, taker)
            await taker.is_done
        except BaseException:
            connection.let_go()
            raise
        self.keep(connection)
        return taker.status, bytes(taker.content)


class _Fetched:
    """The answer to a call of the proxy's own."""

    def __init__(self, is_done: asyncio.Future[None]) -> None:
        self.is_done = is_done
        self.status = 0
        self.content = bytearray()

    def answer_begun(self, head: ResponseHead) -> None:
        self.status = head.status

    def answer_part(self, content: bytes, is_last: bool, /) -> None:  # noqa: ARG002
        self.content += content
        if len(self.content) > _MAX_FETCHED_BYTES and not self.is_done.done():
            self.is_done.set_exception(OSError(f"answer longer than {_MAX_FETCHED_BYTES} bytes"))

    def answer_ended(self) -> None:
        if not self.is_done.done():
            self.is_done.set_result(None)

    def answer_lost(self, *, is_untouched: bool) -> None:  # noqa: ARG002
        if not self.is_done.done():
            self.is_done.set_exception(ConnectionResetError("the connection was lost"))
