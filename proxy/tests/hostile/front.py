"""What clients connect to: a proxy in a thread of its own on the event loop of production, or a naive relay.

Owns starting and stopping both with a recording upstream behind them, and what the loop complained about. The
relay is every test's negative control: it forwards whatever comes and never loses patience.
"""

import asyncio
import contextlib
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import uvloop
from spotinference_proxy.app import Proxy
from spotinference_proxy.client_connection import Limits
from spotinference_proxy.record import parse_line
from spotinference_proxy.settings import Settings, UpstreamSettings

QUICK = Limits(header_seconds=2.0, body_seconds=2.0, write_seconds=2.0, idle_seconds=10.0)


class Front:
    """`address` answers as soon as `start` returns; `complaints` are exceptions that reached the loop."""

    def __init__(
        self,
        upstream: Any,
        folder: Path,
        *,
        limits: Limits = QUICK,
        periodic: bool = True,
        api_key: str | None = None,
        **settings: Any,
    ) -> None:
        self.upstream = upstream
        self.folder = folder
        self.address = self.admin_address = ("", 0)
        self.complaints: list[dict[str, Any]] = []
        self.patience = 6.0
        self._limits, self._periodic, self._api_key, self._settings = limits, periodic, api_key, settings
        self._is_started = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()
        assert self._is_started.wait(20)
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._is_over.set)
        self._thread.join(20)
        assert not self._thread.is_alive()
        if self._failure is not None:
            raise self._failure

    def call(self, errand: Coroutine[Any, Any, Any]) -> Any:
        """Run something in the proxy's loop."""
        return asyncio.run_coroutine_threadsafe(errand, self._loop).result(20)

    def rows(self, kind: str) -> list[dict[str, Any]]:
        """Return the log's rows of a kind, as they are on disk now."""
        paths = sorted([*self.folder.glob("*.jsonl"), *self.folder.glob("*.open")])
        lines = [line for path in paths for line in path.read_bytes().splitlines(keepends=True)]
        return [row for row in map(parse_line, lines) if row["k"] == kind]

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self._live())
        except BaseException as error:  # told by whoever starts or stops us
            self._failure = error
        finally:
            self._is_started.set()

    async def _live(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(lambda _, context: self.complaints.append(context))
        self._is_over = asyncio.Event()
        await self.upstream.start()
        try:
            async with self._open():
                self._is_started.set()
                await self._is_over.wait()
        finally:
            await self.upstream.stop()

    @contextlib.asynccontextmanager
    async def _open(self) -> Any:
        upstreams = (UpstreamSettings(self.upstream.url, vm_id=7, models=("otter",), api_key=self._api_key),)
        places = {"listen": ("127.0.0.1", 0), "admin_listen": ("127.0.0.1", 0), "log_dir": self.folder}
        settings = Settings(upstreams, **(places | self._settings))
        self.proxy = proxy = Proxy(settings, limits=self._limits, periodic=self._periodic)
        await proxy.start()
        self.address, self.admin_address = proxy.address, proxy.admin_address
        try:
            yield
        finally:
            await proxy.stop(0.2)


class NaiveRelay(Front):
    """Bytes in, bytes out."""

    @contextlib.asynccontextmanager
    async def _open(self) -> Any:
        self.patience = 0.4
        host, port = self.upstream.url.removeprefix("http://").split(":")

        async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(ConnectionError):
                while data := await reader.read(65536):
                    writer.write(data)
                    await writer.drain()
            writer.close()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            back, forth = await asyncio.open_connection(host, int(port))
            await asyncio.gather(pass_on(reader, forth), pass_on(back, writer))

        await self._probe(host, int(port))
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        self.address = self.admin_address = server.sockets[0].getsockname()
        try:
            yield
        finally:
            server.close()

    async def _probe(self, host: str, port: int) -> None:
        """Make one call of its own, as a proxy does."""
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(b"GET /health HTTP/1.1\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        writer.close()
