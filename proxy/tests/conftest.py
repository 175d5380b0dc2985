"""Fixtures of the proxy's tests: a clock one turns by hand, a scripted vLLM, a proxy in front of it."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import pytest
import uvloop
from aiohttp import web
from multidict import CIMultiDict
from spotinference_proxy.app import Proxy
from spotinference_proxy.client_connection import Limits
from spotinference_proxy.record import parse_line
from spotinference_proxy.segments import Calls
from spotinference_proxy.settings import Settings, UpstreamSettings
from spotinference_proxy.writer import SegmentWriter


class Clock:
    """An instant that only moves when told."""

    def __init__(self) -> None:
        self.now = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def step(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


class FakeVllm:
    """Answers /v1/* by `script`, remembers what it was asked, knows the abort call if `has_abort`."""

    def __init__(self) -> None:
        self.script: Callable[[web.Request], Awaitable[web.StreamResponse]] = self.say_ok
        self.requests: list[tuple[str, CIMultiDict[str], bytes]] = []
        self.aborts: list[list[str]] = []
        self.abort_keys: list[str | None] = []
        self.aborted = asyncio.Event()
        self.left = asyncio.Event()
        self.has_abort = True
        self.is_healthy = True
        self.metrics = 'vllm:prompt_tokens_total{engine="0"} 10.0\nvllm:prompt_tokens_total{engine="1"} 4.0\n'
        self.url = ""

    async def start(self) -> None:
        app = web.Application(client_max_size=2**30)
        app.router.add_get("/health", self._health)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_post("/inference/v1/abort_requests", self._abort)
        app.router.add_route("*", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        await self._runner.cleanup()

    async def say_ok(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({"model": "otter", "usage": {"prompt_tokens": 3, "completion_tokens": 2}})

    async def _health(self, request: web.Request) -> web.Response:
        return web.Response(status=200 if self.is_healthy else 503)

    async def _metrics(self, request: web.Request) -> web.Response:
        return web.Response(text=self.metrics)

    async def _abort(self, request: web.Request) -> web.Response:
        if not self.has_abort:
            return web.json_response({"error": "Scale-out endpoints are disabled"}, status=403)
        if request.content_type != "application/json":
            return web.json_response({"error": "Unsupported Media Type"}, status=400)
        self.abort_keys.append(request.headers.get("Authorization"))
        self.aborts.append((await request.json())["request_ids"])
        self.aborted.set()
        return web.Response()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.raw_path, CIMultiDict(request.headers), await request.read()))
        try:
            return await self.script(request)
        except (asyncio.CancelledError, ConnectionError):
            self.left.set()
            raise


@dataclass
class Rig:
    """A running proxy in front of fake vLLMs, and a client."""

    folder: Path
    clock: Clock
    vllm: FakeVllm
    session: aiohttp.ClientSession
    proxies: list[Proxy] = field(default_factory=list)

    @property
    def proxy(self) -> Proxy:
        return self.proxies[-1]

    async def start(
        self,
        *,
        calls: Calls | None = None,
        periodic: bool = False,
        limits: Limits | None = None,
        **changes: object,
    ) -> Proxy:
        upstreams = (UpstreamSettings(self.vllm.url, vm_id=700123, models=("otter",)),)
        values = {"upstreams": upstreams, "listen": ("127.0.0.1", 0), "admin_listen": ("127.0.0.1", 0)}
        values |= {"log_dir": self.folder, "stop_seconds": 0.2, "min_free_bytes": 0}
        settings = Settings(**(values | changes))
        writer = SegmentWriter(self.folder, "test", self.clock, calls=calls, min_free_bytes=0, min_free_ratio=0)
        proxy = Proxy(settings, self.clock, periodic=periodic, writer=writer, limits=limits)
        self.proxies.append(proxy)
        await proxy.start()
        return proxy

    def url(self, path: str, *, admin: bool = False) -> str:
        host, port = self.proxy.admin_address if admin else self.proxy.address
        return f"http://{host}:{port}{path}"

    async def post(self, path: str, body: object, **options: object) -> tuple[int, bytes, dict[str, str]]:
        content = json.dumps(body).encode() if isinstance(body, dict) else body
        async with self.session.post(self.url(path), data=content, **options) as answer:
            return answer.status, await answer.read(), dict(answer.headers)

    def rows(self, kind: str | None = None) -> list[dict]:
        found = []
        for path in sorted([*self.folder.glob("*.jsonl"), *self.folder.glob("*.open")]):
            found += [parse_line(line) for line in path.read_bytes().splitlines(keepends=True)]
        return [row for row in found if kind in (None, row["k"])]

    async def ends(self, count: int = 1) -> list[dict]:
        """Return the end rows as soon as there are `count`."""
        async with asyncio.timeout(10):
            while len(found := self.rows("end")) < count:
                await asyncio.sleep(0.005)
        return found


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loop that runs in production."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def rig(tmp_path: Path, clock: Clock) -> AsyncIterator[Rig]:
    vllm = FakeVllm()
    await vllm.start()
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        rig = Rig(tmp_path / "log", clock, vllm, session)
        yield rig
        for proxy in rig.proxies:
            with contextlib.suppress(OSError):
                await proxy.stop()
    await vllm.stop()
