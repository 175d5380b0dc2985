"""The vLLM servers behind the proxy: which is ready, which gets the next request, what its counters say.

Owns readiness, choice, kept connections and the calls the proxy makes on its own account (/health, /metrics,
the list of models, the abort call). Does not pass on clients' requests: relay.py. vLLM closes an idle
connection after 5 s, so ours are given up before that.
"""

import asyncio
import itertools
import ssl
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

import msgspec

from spotinference_proxy.engine_metrics import parse_counters
from spotinference_proxy.headers import request_fields
from spotinference_proxy.http1 import ResponseHead, render_request_head
from spotinference_proxy.record import Row, render_instant
from spotinference_proxy.settings import UpstreamSettings
from spotinference_proxy.upstream_connection import UpstreamConnection
from spotinference_proxy.usage import dialect_of

PROBE_SECONDS = 2.0  # for an answer of /health, /metrics and /v1/models
CONNECT_SECONDS = 5.0
IDLE_SECONDS = 4.0  # of a kept connection
_MAX_FETCHED_BYTES = 8 * 1024 * 1024
_MISSES = 2  # probes without an answer, one after the other, until an upstream counts as not ready
_ABORTED_TURNS = 8  # of one Responses call with tools; unknown ids are harmless
_TURN = itertools.count()


def _load(upstream: "Upstream") -> tuple[int, int]:
    return upstream.in_flight, upstream.turn


class Upstream:
    """One vLLM; `is_ready` is None until it was probed."""

    def __init__(self, settings: UpstreamSettings) -> None:
        self.is_ready: bool | None = None
        self.in_flight = 0
        self.turn = 0
        self.fingerprint: str | None = None  # vLLM's system_fingerprint, constant for a process
        self._idle: list[UpstreamConnection] = []
        self._misses = 0
        self.configure(settings)

    def configure(self, settings: UpstreamSettings) -> None:
        """Take new settings for the same URL."""
        self.settings = settings
        self.url = settings.url
        parts = urlsplit(settings.url)
        self.prefix = parts.path
        self._host = parts.hostname or ""
        self.authority = parts.netloc
        self._ssl = ssl.create_default_context() if parts.scheme == "https" else None
        self._port = parts.port or (443 if self._ssl else 80)
        self.credentials = f"Bearer {settings.api_key}" if settings.api_key else None

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
        async with asyncio.timeout(CONNECT_SECONDS):
            _, connection = await asyncio.get_running_loop().create_connection(
                UpstreamConnection, self._host, self._port, ssl=self._ssl
            )
        return connection

    def keep(self, connection: UpstreamConnection) -> None:
        """Keep a connection for the next request, if it can be used again."""
        if connection.is_closed or not connection.is_reusable:
            return
        connection.idle_since = time.monotonic()
        self._idle.append(connection)

    def prune(self, idle_seconds: float = IDLE_SECONDS) -> None:
        """Close connections kept for too long."""
        oldest = time.monotonic() - idle_seconds
        kept = []
        for connection in self._idle:
            if connection.idle_since > oldest:
                kept.append(connection)
            else:
                connection.close()
        self._idle = kept

    def health_row(self, at: datetime) -> Row:
        """Return the `health` row of now."""
        return {"k": "health", **self._who(at), "ready": bool(self.is_ready)}

    async def probe(self) -> bool:
        """Ask /health; return whether readiness changed."""
        before = self.is_ready
        try:
            status, _ = await self.fetch("GET", "/health")
        except TimeoutError:
            self._misses += 1  # perhaps only busy
            is_ready = bool(before) and self._misses < _MISSES
        except OSError:
            is_ready = False
        else:
            self._misses = 0
            is_ready = status == 200
        self.is_ready = is_ready
        if not is_ready:
            self.fingerprint = None  # what comes back may be another version
        return is_ready != before

    async def engine_row(self, clock: Callable[[], datetime]) -> Row | None:
        """Scrape /metrics; return the `engine` row, or None when it does not answer."""
        page = await self._read("/metrics")
        if page is None:
            return None
        return {"k": "engine", **self._who(clock()), **parse_counters(page.decode("utf-8", "replace"))}

    async def fetch_models(self) -> list[Any]:
        """Return the entries of /v1/models; none when it does not answer."""
        try:
            answer = msgspec.json.decode(await self._read("/v1/models") or b"null")
        except msgspec.DecodeError:
            return []
        entries = answer.get("data") if isinstance(answer, dict) else None
        return entries if isinstance(entries, list) else []

    async def abort(self, body: bytes) -> bool:
        """Ask vLLM to end requests; False when it has no such call or does not answer."""
        with suppress(OSError, TimeoutError):
            status, _ = await self.fetch("POST", "/inference/v1/abort_requests", body)
            return status == 200
        return False

    async def fetch(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        """Make a call of the proxy's own; return status and body. Raises: OSError, TimeoutError."""
        headers = [("host", self.authority)]
        if body is not None:
            headers.append(("content-type", "application/json"))
        fields = request_fields(headers, "proxy", None if body is None else len(body), self.credentials)
        async with asyncio.timeout(PROBE_SECONDS):
            connection = self.take() or await self.connect()
            taker = _Fetched(asyncio.get_running_loop().create_future())
            try:
                connection.ask(render_request_head(method, self.prefix + path, fields) + (body or b""), taker)
                await taker.is_done
            except BaseException:
                connection.let_go()
                raise
        self.keep(connection)
        return taker.status, bytes(taker.content)

    async def _read(self, path: str) -> bytes | None:
        with suppress(OSError, TimeoutError):
            status, content = await self.fetch("GET", path)
            return content if status == 200 else None
        return None

    def _who(self, at: datetime) -> dict[str, Any]:
        return {"at": render_instant(at), "vm_id": self.settings.vm_id, "upstream": self.url}


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


class UpstreamPool:
    """All upstreams; the ready one with the fewest requests in flight is next."""

    def __init__(self, settings: Sequence[UpstreamSettings]) -> None:
        self.upstreams = [Upstream(one) for one in settings]

    def configure(self, settings: Sequence[UpstreamSettings]) -> None:
        """Take a new list: a known URL keeps its state, one that is gone gets no more requests."""
        known = {upstream.url: upstream for upstream in self.upstreams}
        following = []
        for one in settings:
            upstream = known.pop(one.url, None)
            if upstream is None:
                upstream = Upstream(one)
            else:
                upstream.configure(one)
            following.append(upstream)
        self.upstreams = following
        for upstream in known.values():
            upstream.prune(0)

    def choose(self, model: str | None, excluded: Collection[Upstream] = ()) -> Upstream | None:
        """Return a ready upstream of `model`; of any for no or an unknown model, so that vLLM answers it."""
        ready = [one for one in self.serving(model) if one.is_ready and one not in excluded]
        chosen = min(ready, key=_load) if len(ready) > 1 else ready[0] if ready else None
        if chosen is not None:
            chosen.turn = next(_TURN)
        return chosen

    def serving(self, model: str | None) -> list[Upstream]:
        """Return the upstreams that are asked for `model`, ready or not."""
        serving = [
            one for one in self.upstreams if model is None or model in one.settings.models or not one.settings.models
        ]
        return serving or self.upstreams

    def prune(self) -> None:
        """Close connections kept for too long."""
        for upstream in self.upstreams:
            upstream.prune()

    def close(self) -> None:
        """Close every kept connection."""
        for upstream in self.upstreams:
            upstream.prune(0)

    async def probe(self) -> list[Upstream]:
        """Probe all at once; return those whose readiness changed."""
        upstreams = list(self.upstreams)
        changes = await asyncio.gather(*(one.probe() for one in upstreams))
        return [one for one, is_changed in zip(upstreams, changes, strict=True) if is_changed]

    async def engine_rows(self, clock: Callable[[], datetime]) -> list[Row]:
        """Scrape the ready upstreams' counters."""
        rows = await asyncio.gather(*(one.engine_row(clock) for one in self.upstreams if one.is_ready))
        return [row for row in rows if row is not None]

    async def merged_models(self) -> dict[str, Any]:
        """Return one list of the models of all ready upstreams, each model once."""
        lists = await asyncio.gather(*(one.fetch_models() for one in self.upstreams if one.is_ready))
        entries = [entry for found in lists for entry in found if isinstance(entry, dict)]
        return {"object": "list", "data": list({entry.get("id"): entry for entry in entries}.values())}


def abort_ids(endpoint: str, request_id: str, prompts: int, response_id: str | None) -> list[str]:
    """Return the ids by which vLLM knows a request; none when they cannot be known."""
    dialect = dialect_of(endpoint)
    if endpoint.endswith("/v1/completions"):
        return [f"cmpl-{request_id}-{k}" for k in range(prompts)]
    if dialect in ("openai", "messages"):
        return [f"chatcmpl-{request_id}"]
    if dialect == "responses" and response_id:
        return [f"{response_id}_{turn}" for turn in range(_ABORTED_TURNS)]
    return []
