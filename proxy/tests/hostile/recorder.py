"""An upstream on a raw socket that keeps every byte it gets, and answers what its script says.

Owns what reached "vLLM": whole requests, the proxy's own calls apart, and bytes that are no request at all.
It reads only what a proxy may send: one Content-Length, no chunks, lines that end in CR LF. Anything else is a
stray, so a proxy that repairs, forwards or smuggles shows.
"""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from typing import NamedTuple

_LINE = re.compile(rb"([A-Z]+) ([\x21-\x7e]+) HTTP/1\.1")
_FIELD = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+): ?([\t\x20-\x7e\x80-\xff]*)")
_OWN = ("/health", "/metrics", "/inference/v1/abort_requests")  # GET works; there is no abort call


class Seen(NamedTuple):
    """A request as it came; field names in lower case."""

    method: str
    target: str
    fields: list[tuple[str, str]]
    body: bytes
    raw: bytes

    @property
    def request_id(self) -> str:
        (found,) = [value for name, value in self.fields if name == "x-request-id"]
        return found


class Mark(NamedTuple):
    """How much had come at an instant."""

    received: int
    requests: int
    own: int
    strays: int


Script = Callable[[Seen, asyncio.StreamWriter], Awaitable[None]]


def render_answer(body: bytes, fields: str = "Content-Type: application/json\r\n", status: str = "200 OK") -> bytes:
    """Return a whole answer."""
    return f"HTTP/1.1 {status}\r\n{fields}Content-Length: {len(body)}\r\n\r\n".encode("latin-1") + body


class Recorder:
    """`script` answers requests; `requests` are the clients', `own` the proxy's calls, `strays` neither."""

    def __init__(self) -> None:
        self.requests: list[Seen] = []
        self.own: list[Seen] = []
        self.strays: list[bytes] = []
        self.received = 0
        self.hangs_up_on_probes = False  # as a server that closes a kept connection just then
        self.script: Script = self.say_ok
        self.url = ""
        self._tasks: set[asyncio.Task] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = "http://{}:{}".format(*self._server.sockets[0].getsockname())

    async def stop(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def mark(self) -> Mark:
        return Mark(self.received, len(self.requests), len(self.own), len(self.strays))

    def since(self, mark: Mark) -> list[Seen]:
        """Return the clients' requests since `mark`, having checked that nothing else came but the usual probe."""
        seen, own = self.requests[mark.requests :], self.own[mark.own :]
        strays = self.strays[mark.strays :]
        assert not strays, f"bytes that are no request: {strays}"
        assert {one.raw for one in own} <= {self.own[0].raw}, f"not the proxy's own probe: {own}"
        came = sum(len(one.raw) for one in (*seen, *own))
        assert self.received - mark.received == came, "part of a request is at the upstream"
        return seen

    async def say_ok(self, seen: Seen, writer: asyncio.StreamWriter) -> None:
        usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
        answer = {"id": "cmpl-1", "object": "text_completion", "model": "otter", "choices": [], "usage": usage}
        writer.write(render_answer(json.dumps(answer | {"echo": f"{seen.method} {seen.target}"}).encode()))

    def say(self, raw: bytes, *, closes: bool = False) -> None:
        """Answer every request with these bytes from now on."""

        async def script(seen: Seen, writer: asyncio.StreamWriter) -> None:
            writer.write(raw)
            if closes:
                writer.close()

        self.script = script

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        buffer = bytearray()
        try:
            while data := await reader.read(65536):
                self.received += len(data)
                buffer += data
                await self._answer(buffer, writer)
        except ConnectionError:
            pass
        except RuntimeError:  # uvloop's word for a write to a connection that was closed meanwhile
            if not writer.is_closing():
                raise
        finally:
            if buffer:
                self.strays.append(bytes(buffer))
            self._tasks.discard(task)
            writer.close()

    async def _answer(self, buffer: bytearray, writer: asyncio.StreamWriter) -> None:
        while (end := buffer.find(b"\r\n\r\n") + 4) > 3:
            seen = self._read(buffer, end)
            if seen is None:
                break
            del buffer[: len(seen.raw)]
            if seen.target in _OWN:
                self.own.append(seen)
                if self.hangs_up_on_probes and self.requests:
                    self.hangs_up_on_probes = False
                    raise ConnectionAbortedError
                writer.write(render_answer(b"", "", "200 OK" if seen.method == "GET" else "404 Not Found"))
            else:
                self.requests.append(seen)
                await self.script(seen, writer)

    def _read(self, buffer: bytearray, end: int) -> Seen | None:
        """Return the first request if it is whole. Raises: ConnectionAbortedError when it is none."""
        first, *lines = bytes(buffer[: end - 4]).split(b"\r\n")
        line = _LINE.fullmatch(first)
        found = [_FIELD.fullmatch(one) for one in lines]
        if line is None or None in found:
            raise ConnectionAbortedError
        fields = [(one[1].decode().lower(), one[2].decode("latin-1")) for one in found if one]
        lengths = [value for name, value in fields if name == "content-length"]
        is_odd = len(lengths) > 1 or not all(re.fullmatch("[0-9]{1,9}", one) for one in lengths)
        if is_odd or any(name == "transfer-encoding" for name, _ in fields):
            raise ConnectionAbortedError
        size = int(lengths[0]) if lengths else 0
        if len(buffer) < end + size:
            return None
        raw = bytes(buffer[: end + size])
        return Seen(line[1].decode(), line[2].decode(), fields, raw[end:], raw)
