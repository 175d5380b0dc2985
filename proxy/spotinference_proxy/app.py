"""The proxy as a whole: listeners, who may ask, which upstream, the rows that come once a minute.

The only place where relay and log meet. Does not pass bytes (relay.py) nor write files (log.py). Instants in
the log come from the injected clock; waiting is measured by the loop's monotonic clock.
"""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from urllib.parse import unquote

import aiohttp
from aiohttp import web

from spotinference_proxy import headers
from spotinference_proxy.answer import error_answer
from spotinference_proxy.errors import LogError
from spotinference_proxy.inject import ClientRequest, read_request
from spotinference_proxy.keys import KeyRing, key_in
from spotinference_proxy.log import RequestLog
from spotinference_proxy.record import RequestRecord, new_request_id
from spotinference_proxy.relay import Relay, Surroundings
from spotinference_proxy.settings import Settings, check_exposure
from spotinference_proxy.tasks import Periodic
from spotinference_proxy.upstreams import UpstreamPool
from spotinference_proxy.writer import SegmentWriter

MAX_BODY_BYTES = 64 * 1024 * 1024
STOP_SECONDS = 5.0  # for running requests to end by themselves
_POOL_IDLE_SECONDS = 4.0  # vLLM closes idle connections after 5 s
_CONNECT_SECONDS = 5.0
_OTHER_PATHS = frozenset({"/tokenize", "/detokenize", "/rerank", "/v2/rerank", "/score"})
_TOKEN_FREE = ("/tokenize", "/detokenize", "/count_tokens", "/render", "/cancel")


def utc_now() -> datetime:
    """Return the machine's clock."""
    return datetime.now(UTC)


class Proxy:
    """One proxy: `start`, serve, `stop`. `address` and `admin_address` are known after `start`."""

    def __init__(
        self,
        settings: Settings,
        clock: Callable[[], datetime] = utc_now,
        *,
        periodic: bool = True,
        writer: SegmentWriter | None = None,
        stop_seconds: float = STOP_SECONDS,
    ) -> None:
        check_exposure(settings)
        self.log = RequestLog(writer or SegmentWriter(settings.log_dir, settings.writer, clock))
        self.address = settings.listen
        self.admin_address = settings.admin_listen
        self.relays: set[Relay] = set()
        self.pool = UpstreamPool(settings.upstreams)
        self._settings = settings
        self._clock = clock
        self._keys = KeyRing(settings.keys_file) if settings.keys_file else None
        self._is_background_on = periodic
        self._stop_seconds = stop_seconds
        self._is_stopping = False
        self._tasks: set[asyncio.Task[web.StreamResponse]] = set()
        self._runners: list[web.AppRunner] = []
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        """Recover and open the log, probe the upstreams, listen. Raises: LogError, OSError."""
        self._session = session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_POOL_IDLE_SECONDS),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        )
        self._around = Surroundings(session, self.log, self._clock)
        self._periodic = Periodic(self._around, self.pool, self.relays)
        try:
            await self.log.start()
            await self.probe()
            self.address = await self._listen(self._settings.listen, self._answer)
            self.admin_address = await self._listen(self._settings.admin_listen, self._answer_admin)
        except BaseException:
            await self.stop()
            raise
        if self._is_background_on:
            self._periodic.start()

    async def stop(self) -> None:
        """Refuse new requests, let running ones end, cut the rest, seal the log. Twice is once."""
        self._is_stopping = True
        if self._session is None:
            return
        await self._periodic.stop()
        await self._wait()
        for relay in list(self.relays):
            relay.cut("proxy_stopped")
        await self._wait()
        for runner in self._runners:
            await runner.cleanup()
        await self.log.close()
        await self._session.close()
        self._session = None

    async def probe(self) -> None:
        """Probe every upstream now; write a `health` row for each that changed."""
        await self._periodic.probe()

    async def minute(self) -> None:
        """Write the rows of a minute: health and counters of every upstream, and the beat."""
        await self._periodic.minute()

    def progress(self) -> None:
        """Write a `usage` row for every running stream that has stated any."""
        self._periodic.progress()

    async def _wait(self) -> None:
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self._stop_seconds)

    async def _listen(self, address: tuple[str, int], handler: Callable[[web.Request], object]) -> tuple[str, int]:
        app = web.Application(client_max_size=MAX_BODY_BYTES)
        app.router.add_route("*", "/{path:.*}", handler)  # type: ignore[arg-type]
        runner = web.AppRunner(
            app, handler_cancellation=True, access_log=None, auto_decompress=False, shutdown_timeout=1.0
        )
        self._runners.append(runner)
        await runner.setup()
        await web.TCPSite(runner, *address).start()
        host, port = runner.addresses[0][:2]
        return str(host), int(port)

    async def _answer_admin(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/healthz":
            return web.json_response({"status": "ok"})
        if request.path == "/readyz":
            is_ready = self.log.is_writable and not self._is_stopping
            facts = {
                "ready": is_ready,
                "log_writable": self.log.is_writable,
                "upstreams_ready": sum(bool(one.is_ready) for one in self.pool.upstreams),
            }
            return web.json_response(facts, status=200 if is_ready else 503)
        return error_answer(404, f"{request.path}: expected /healthz or /readyz")

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        started_at = self._clock()
        path = request.raw_path.partition("?")[0]
        if not is_passed(path):
            return error_answer(404, "not found: the proxy passes /v1/*")
        key = key_in(request.headers)
        key_id = self._keys.key_id(key) if self._keys else None
        if self._keys is not None and key_id is None:
            return error_answer(401, "key missing or unknown; send it as Authorization: Bearer KEY")
        if self._is_stopping or not self.log.is_writable:
            return error_answer(503, "the proxy cannot take requests now; try again")
        if request.method == "GET" and path == "/v1/models" and len(self.pool.upstreams) > 1:
            return web.json_response(await self.pool.merged_models(self._around.session))
        record = RequestRecord(new_request_id(started_at), started_at, path, key_id=key_id)
        record.canary = request.headers.get(headers.CANARY) == "1"
        is_logged = request.method == "POST" and not path.endswith(_TOKEN_FREE)
        try:
            asked = read_request(path, await request.read())
        except web.HTTPRequestEntityTooLarge:
            return await self._refuse(record, 413, f"body larger than {MAX_BODY_BYTES} bytes", is_logged)
        record.requested_model, record.stream, record.choices = asked.model, asked.is_stream, asked.choices
        return await self._relay(request, asked, record, is_logged)

    async def _relay(
        self, request: web.Request, asked: ClientRequest, record: RequestRecord, is_logged: bool
    ) -> web.StreamResponse:
        upstream = self.pool.choose(asked.model)
        if upstream is None:
            return await self._refuse(record, 503, "no upstream is ready; try again", is_logged)
        record.vm_id = upstream.settings.vm_id
        fields = headers.render_request(
            request.headers.items(), record.request_id, upstream.credentials, has_keys=self._keys is not None
        )
        relay = Relay(self._around, request, asked, record, upstream, headers=fields, is_logged=is_logged)
        self.relays.add(relay)
        task = asyncio.create_task(relay.run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: self.relays.discard(relay))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            relay.leave()  # the task goes on until the record is written
            raise

    async def _refuse(self, record: RequestRecord, status: int, message: str, is_logged: bool) -> web.Response:
        record.status = status
        if is_logged:
            try:
                await self.log.commit(record.begin(), record.end(self._clock(), "refused"))
            except LogError:
                return error_answer(503, "the proxy cannot take requests now; try again")
        return error_answer(status, message)


def is_passed(path: str) -> bool:
    """Tell whether a raw path is one of vLLM's API that clients may use; no dots, no empty segments."""
    if path in _OTHER_PATHS:
        return True
    segments = unquote(path).removesuffix("/").split("/")
    is_plain = not any(part in ("", ".", "..") or "\\" in part or "\0" in part for part in segments[1:])
    return path.startswith("/v1/") and len(segments) > 2 and is_plain
