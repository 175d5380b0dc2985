"""The whole proxy as a program to be killed; a fake vLLM and its clients live in a process beside it.

`start(folder, kind)` forks both and returns the proxy's process id and where the ids of the requests come whose
client saw the end of the answer, one a line; vLLM's answers name the id that the proxy gave. `kind` is `durable`, or
a control that must fail the same check: `eager` ends answers before their records are written, `unsynced` never syncs.
Run as a script, PROGRAM FOLDER UPSTREAM KIND, the proxy stays in the foreground and says its address. Then `kind` may
also hold `stops-before-end` or `stops-after-end`: its log says `stopped` and hangs around the write of an end row.
"""

import asyncio
import contextlib
import functools
import itertools
import os
import random
import re
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import uvloop
from spotinference_proxy import app, tasks
from spotinference_proxy.app import Proxy, utc_now
from spotinference_proxy.log import Done, RequestLog
from spotinference_proxy.logs import Logs
from spotinference_proxy.record import Row
from spotinference_proxy.segments import Calls
from spotinference_proxy.settings import Settings, UpstreamSettings
from spotinference_proxy.writer import SegmentWriter

CLIENTS = 16
MAX_BYTES = 30_000  # a segment of some 40 requests, so that many are sealed
KILLED_EARLY = 4  # every fourth life may be killed while it starts; the others have begun to listen
ORPHAN_SECONDS = 60  # no load outlives its harness for longer
PATH = "/v1/chat/completions"
PLAIN, STREAM = b"{}", b'{"stream":true}'
_ID = re.compile(rb'"id":"chatcmpl-([0-9a-f-]{36})"')
_lives = itertools.count()
_loads: list[int] = []


def start(folder: Path, kind: str = "durable") -> tuple[int, int]:
    """Fork a proxy and its load; return the proxy's process id and where the acknowledgements come."""
    while _loads:
        os.waitpid(_loads.pop(), 0)  # it ended with its proxy
    receiver, sender = os.pipe()
    told, telling = os.pipe()
    is_up, coming_up = os.pipe()
    with socket.create_server(("127.0.0.1", 0), backlog=256) as engine:
        url = f"http://127.0.0.1:{engine.getsockname()[1]}"
        proxy = _fork(lambda: live(folder, kind, url, telling, coming_up), (receiver, sender, told, engine.fileno()))
        _loads.append(_fork(lambda: load(engine, told, sender), (receiver, telling, coming_up)))
    for descriptor in (sender, told, telling, coming_up):
        os.close(descriptor)
    if next(_lives) % KILLED_EARLY:
        os.read(is_up, 100)
    os.close(is_up)
    return proxy, receiver


def _fork(work: Callable[[], None], closed: Sequence[int]) -> int:
    child = os.fork()
    if child:
        return child
    try:
        for descriptor in closed:
            os.close(descriptor)
        work()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(3)  # whatever happens, never back into the parent's code


# ---------------------------------------------------------------------- the proxy


def live(folder: Path, kind: str, upstream: str, *tellers: int) -> None:
    """Run a proxy until it is killed; tell its address on each of `tellers`."""
    if "eager" in kind:
        app.RequestLog = EagerLog
    tasks.PROGRESS_EVERY_SECONDS = 0.05
    uvloop.run(_live(folder, _calls(kind, tellers[0]), upstream, tellers))


async def _live(folder: Path, calls: Calls, upstream: str, tellers: Sequence[int]) -> None:
    anywhere = ("127.0.0.1", 0)
    settings = Settings(
        (UpstreamSettings(upstream, vm_id=1),),
        listen=anywhere,
        admin_listen=anywhere,
        log_dir=folder,
        stop_seconds=0.2,
        min_free_bytes=0,
    )
    writer = SegmentWriter(
        folder, "kill", utc_now, calls=calls, max_bytes=MAX_BYTES, reserve_bytes=0, min_free_bytes=0, min_free_ratio=0
    )
    proxy = Proxy(settings, writer=writer, logs=Logs(os.open(os.devnull, os.O_WRONLY)))
    await proxy.start()
    for teller in tellers:
        os.write(teller, "{} {}\n".format(*proxy.address).encode())
    await asyncio.Event().wait()


class EagerLog(RequestLog):
    """Says that rows are safe before it has written them."""

    def commit_then(self, rows: Sequence[Row], done: Done) -> None:
        """Say so at once."""
        super().commit_then(rows, lambda _: None)
        asyncio.get_running_loop().call_soon(done, None)


def _calls(kind: str, teller: int) -> Calls:
    if kind == "unsynced":
        return Calls(fdatasync=lambda fd: None, fsync=lambda fd: None)
    if "stops" not in kind:
        return Calls()

    def write(fd: int, content: bytes) -> int:
        if b'"k":"end"' not in content:
            return os.write(fd, content)
        written = os.write(fd, content) if "after" in kind else 0
        os.write(teller, b"stopped\n")
        time.sleep(ORPHAN_SECONDS)
        return written

    return Calls(write=write)


# ---------------------------------------------------------------------- its load


def load(engine: socket.socket, told: int, sender: int) -> None:
    """Be the vLLM, and the clients of the proxy whose address is told, until that proxy is dead."""
    signal.alarm(ORPHAN_SECONDS)
    uvloop.run(_load(engine, told, sender))


async def _load(engine: socket.socket, told: int, sender: int) -> None:
    loop = asyncio.get_running_loop()
    await Engine().listen(engine)
    address = await loop.run_in_executor(None, functools.partial(os.read, told, 100))
    if address:  # else the proxy died before it listened
        host, port = address.decode().split()
        await asyncio.gather(*(_ask_on(host, int(port), random.Random(), sender) for _ in range(CLIENTS)))


async def _ask_on(host: str, port: int, chance: random.Random, sender: int) -> None:
    with contextlib.suppress(OSError):
        while True:
            async with Client(host, port) as client:
                for _ in range(chance.randrange(1, 20)):
                    kind = chance.choice(("plain", "plain", "stream", "stream", "leave"))
                    found = await client.ask(PLAIN if kind == "plain" else STREAM, leaves=kind == "leave")
                    if found is None:
                        break
                    if found.status == 200:
                        os.write(sender, found.request_id + b"\n")


class Answer:
    """An answer that came to its end."""

    def __init__(self, head: bytes, body: bytes) -> None:
        self.status = int(head[9:12])
        self.head = head
        self.body = body

    @property
    def request_id(self) -> bytes:
        """The proxy's id of the request, as vLLM was told it."""
        found = _ID.search(self.body)
        assert found is not None, f"id: expected one, found {self.body[:200]!r}"
        return found[1]


class Client:
    """One connection that is kept from request to request."""

    def __init__(self, host: str, port: int) -> None:
        self._address = host, port

    async def __aenter__(self) -> "Client":
        """Connect."""
        self._reader, self._writer = await asyncio.open_connection(*self._address)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Hang up."""
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def ask(
        self, body: bytes, *, leaves: bool = False, tell: Callable[[bytes], object] | None = None
    ) -> Answer | None:
        """Return an answer that came whole; None when it did not, or when told to leave in its middle.

        `tell` gets its head before its body comes.
        """
        length = len(body)
        self._writer.write(f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode() + body)
        try:
            head = await self._reader.readuntil(b"\r\n\r\n")
            if tell is not None:
                tell(head)
            if leaves:
                return None
            found = re.search(rb"(?i)content-length: ([0-9]+)", head)
            return Answer(head, await (self._reader.readexactly(int(found[1])) if found else self._read_chunks()))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None

    async def _read_chunks(self) -> bytes:
        content = b""
        while size := int(await self._reader.readuntil(b"\r\n"), 16):
            content += (await self._reader.readexactly(size + 2))[:-2]
        await self._reader.readexactly(2)
        return content


class Engine:
    """A vLLM that knows /health, the abort call, and two kinds of answers; each of their steps takes a while."""

    def __init__(self, least: float = 0.0, most: float = 0.004, steps: int = 3) -> None:
        self.least, self.most, self.steps = least, most, steps
        self.chance = random.Random()
        self.running: dict[bytes, EngineConnection] = {}
        self.connections: set[EngineConnection] = set()
        self.health_seconds = 0.0
        self.asked = 0
        self.most_running = 0

    async def listen(self, on: socket.socket | None = None) -> str:
        """Take connections; return the URL."""
        on = on or socket.create_server(("127.0.0.1", 0), backlog=256)
        self._server = await asyncio.get_running_loop().create_server(lambda: EngineConnection(self), sock=on)
        return f"http://127.0.0.1:{on.getsockname()[1]}"

    async def close(self) -> None:
        """Close every connection."""
        self._server.close()
        while self.connections:
            for connection in self.connections:
                connection.transport.abort()
            await asyncio.sleep(0.01)


class EngineConnection(asyncio.Protocol):
    """One connection to an engine."""

    transport: asyncio.Transport

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._buffer = b""
        self._step = 0
        self._id = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = transport  # type: ignore[assignment]
        self._engine.connections.add(self)

    def data_received(self, data: bytes) -> None:
        """Answer a request that is whole."""
        self._buffer += data
        head, end, body = self._buffer.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: ([0-9]+)", head)
        if not end or (length and len(body) < int(length[1])):
            return
        self._buffer = b""
        engine = self._engine
        if head.startswith(b"GET ") or b"abort_requests" in head:
            for connection in [one for request_id, one in engine.running.items() if request_id in body]:
                connection.end_early()
            answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
            asyncio.get_running_loop().call_later(engine.health_seconds, self._write, answer)
            return
        self._id = re.search(rb"(?i)x-request-id: ([^\r]+)", head)[1]
        self._step = 0
        engine.running[self._id] = self
        engine.asked += 1
        engine.most_running = max(engine.most_running, len(engine.running))
        self._wait(self._stream if b'"stream":true' in body else self._answer)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop working."""
        self._engine.connections.discard(self)
        self.end_early()

    def end_early(self) -> None:
        """Come to the end of a stream at the next step."""
        self._step = max(self._step, self._engine.steps)

    def _wait(self, call: Callable[[], None]) -> None:
        seconds = self._engine.chance.uniform(self._engine.least, self._engine.most)
        asyncio.get_running_loop().call_later(seconds, call)

    def _answer(self) -> None:
        self._engine.running.pop(self._id, None)
        body = b'{"id":"chatcmpl-%b","model":"otter","usage":{"prompt_tokens":7,"completion_tokens":3}}' % self._id
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
        self._write(head + body)

    def _stream(self) -> None:
        self._step += 1
        if self._step == 1:
            head = b"Content-Type: text/event-stream\r\nTransfer-Encoding: chunked"
            self._write(b"HTTP/1.1 200 OK\r\n%b\r\n\r\n" % head)
        if self._step <= self._engine.steps:
            self._event(b'[{"index":0,"delta":{"content":"a"},"finish_reason":null}]')
            self._wait(self._stream)
            return
        self._engine.running.pop(self._id, None)
        self._event(b"[]")
        self._chunk(b"data: [DONE]\n\n")
        if self._engine.chance.random() < 0.5:
            self._end()
        else:
            self._wait(self._end)

    def _end(self) -> None:
        self._write(b"0\r\n\r\n")

    def _event(self, choices: bytes) -> None:
        usage = b'{"prompt_tokens":7,"total_tokens":%d,"completion_tokens":%d}' % (7 + self._step, self._step)
        found = b'{"id":"chatcmpl-%b","model":"otter","choices":%b,"usage":%b}' % (self._id, choices, usage)
        self._chunk(b"data: %b\n\n" % found)

    def _chunk(self, content: bytes) -> None:
        self._write(b"%x\r\n%b\r\n" % (len(content), content))

    def _write(self, content: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(content)


if __name__ == "__main__":
    where, upstream, kind = sys.argv[1:]
    live(Path(where), kind, upstream, 1)
