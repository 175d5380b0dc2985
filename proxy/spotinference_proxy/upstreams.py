"""The vLLM servers behind the proxy: which is ready, which gets the next request, what its counters say.

Owns readiness, choice, and what the proxy asks on its own account (/health, /metrics, the list of models).
Does not own connections (connections.py) nor clients' requests (relay.py).
"""

import asyncio
import itertools
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

import msgspec

from spotinference_proxy.answers import Answer, json_answer
from spotinference_proxy.connections import Connections
from spotinference_proxy.engine_metrics import parse_counters
from spotinference_proxy.record import Row, render_instant
from spotinference_proxy.settings import UpstreamSettings

_MISSES = 2  # probes without an answer, one after the other, until an upstream counts as not ready
_TURN = itertools.count()


def _load(upstream: "Upstream") -> tuple[int, int]:
    return upstream.in_flight, upstream.turn


def _serving(model: str | None, upstreams: Sequence["Upstream"]) -> list["Upstream"]:
    return [one for one in upstreams if model is None or model in one.settings.models or not one.settings.models]


class Upstream:
    """One vLLM; `is_ready` is None until it was probed."""

    def __init__(self, settings: UpstreamSettings) -> None:
        self.is_ready: bool | None = None
        self.problem: str | None = None  # why it is not ready
        self.in_flight = 0
        self.turn = 0
        self.is_being_probed = False
        self.fingerprint: str | None = None  # vLLM's system_fingerprint, constant for a process
        self.url = settings.url
        self.connections = Connections(settings.url)
        self._misses = 0
        self.configure(settings)

    def configure(self, settings: UpstreamSettings) -> None:
        """Take new settings for the same URL."""
        self.settings = settings
        self.connections.credentials = f"Bearer {settings.api_key}" if settings.api_key else None

    def health_row(self, at: datetime) -> Row:
        """Return the `health` row of now."""
        return {"k": "health", **self._who(at), "ready": bool(self.is_ready)}

    async def probe(self) -> bool:
        """Ask /health, unless it is being asked; return whether readiness changed by the answer.

        Two at once would count one slow moment twice, and tell one change twice.
        """
        if self.is_being_probed:
            return False
        self.is_being_probed = True
        try:
            problem = await self._ask_health()
        finally:
            self.is_being_probed = False
        before = self.is_ready  # only now: a request may have lost it meanwhile
        if problem is None:
            self.is_ready, self.problem = True, None
        elif not before or not 0 < self._misses < _MISSES:  # else perhaps only busy
            self.lose(problem)
        return self.is_ready != before

    async def _ask_health(self) -> str | None:
        """Return what is wrong with it, None if nothing; count the probes without an answer."""
        try:
            status, _ = await self.connections.fetch("GET", "/health")
        except TimeoutError:
            self._misses += 1
            return "no answer in time"
        except OSError as error:
            self._misses = 0
            return error.strerror or str(error)
        self._misses = 0
        return None if status == 200 else f"/health answers {status}"

    def lose(self, problem: str) -> None:
        """Count it as not ready; what comes back may be another version."""
        self.is_ready, self.problem, self.fingerprint = False, problem, None

    async def engine_row(self, clock: Callable[[], datetime]) -> Row | None:
        """Scrape /metrics; return the `engine` row, or None when it does not answer."""
        status, page = await self._fetch("/metrics")
        if status != 200:
            return None
        return {"k": "engine", **self._who(clock()), **parse_counters(page.decode("utf-8", "replace"))}

    async def fetch_models(self, credentials: str | None) -> list[Any] | Answer | None:
        """Return the entries of /v1/models, or its refusal (401 and the like); None when it gives neither."""
        status, content = await self._fetch("/v1/models", credentials)
        try:
            answer = msgspec.json.decode(content)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        if 400 <= status < 500:
            return Answer(status, content, [("content-type", "application/json")])
        entries = answer.get("data") if isinstance(answer, dict) and status == 200 else None
        return entries if isinstance(entries, list) else None

    async def _fetch(self, path: str, credentials: str | None = None) -> tuple[int, bytes]:
        """Return status and body of an answer; 0 when there is none."""
        with suppress(OSError):
            return await self.connections.fetch("GET", path, credentials=credentials)
        return 0, b""

    def _who(self, at: datetime) -> dict[str, Any]:
        return {"at": render_instant(at), "vm_id": self.settings.vm_id, "upstream": self.url}


class UpstreamPool:
    """All upstreams; the ready one with the fewest requests in flight is next."""

    def __init__(self, settings: Sequence[UpstreamSettings]) -> None:
        self.upstreams = [Upstream(one) for one in settings]
        self._leaving: list[Upstream] = []  # not in the list any more, but still of use

    def configure(self, settings: Sequence[UpstreamSettings]) -> None:
        """Take a new list: a known URL keeps its state; one that is gone serves only until the new ones are known."""
        known = {upstream.url: upstream for upstream in self.everyone}
        self.upstreams = []
        for one in settings:
            upstream = known.pop(one.url, None)
            if upstream is None:
                upstream = Upstream(one)
            else:
                upstream.configure(one)
            self.upstreams.append(upstream)
        self._leaving = list(known.values())

    def choose(self, model: str | None, excluded: Collection[Upstream] = ()) -> Upstream | None:
        """Return a ready upstream of `model`; of any for no or an unknown model, so that vLLM answers it."""
        ready = [one for one in self.serving(model) if one.is_ready and one not in excluded]
        if not ready and self._leaving and not self._is_known:
            ready = [one for one in _serving(model, self._leaving) if one.is_ready and one not in excluded]
        chosen = min(ready, key=_load) if len(ready) > 1 else ready[0] if ready else None
        if chosen is not None:
            chosen.turn = next(_TURN)
        return chosen

    def serving(self, model: str | None) -> list[Upstream]:
        """Return the upstreams that are asked for `model`, ready or not."""
        return _serving(model, self.upstreams) or self.upstreams

    def prune(self) -> None:
        """Close connections kept for too long."""
        for upstream in self.everyone:
            upstream.connections.prune()

    def close(self) -> None:
        """Close every kept connection."""
        for upstream in self.everyone:
            upstream.connections.prune(0)

    async def probe(self, *chosen: Upstream) -> list[Upstream]:
        """Probe those chosen, else all, also those that leave, at once; return those whose readiness changed."""
        upstreams = chosen or self.everyone
        changes = await asyncio.gather(*(one.probe() for one in upstreams))
        if self._is_known:
            done = [one for one in self._leaving if not one.in_flight]
            self._leaving = [one for one in self._leaving if one.in_flight]
            for upstream in done:
                upstream.connections.prune(0)
        return [one for one, is_changed in zip(upstreams, changes, strict=True) if is_changed]

    @property
    def everyone(self) -> list[Upstream]:
        """The upstreams, and those that are not in the list any more but still have requests."""
        return [*self.upstreams, *self._leaving]

    @property
    def _is_known(self) -> bool:
        """Whether each upstream of the list was probed."""
        return all(one.is_ready is not None for one in self.upstreams)

    async def engine_rows(self, clock: Callable[[], datetime]) -> list[Row]:
        """Scrape the ready upstreams' counters."""
        rows = await asyncio.gather(*(one.engine_row(clock) for one in self.upstreams if one.is_ready))
        return [row for row in rows if row is not None]

    async def merged_models(self, credentials: str | None = None) -> Answer | None:
        """Return one list of the models of all ready upstreams, each once; without any list the first refusal, if any.

        `credentials` are the client's own, for upstreams that have none from us.
        """
        answers = await asyncio.gather(*(one.fetch_models(credentials) for one in self.upstreams if one.is_ready))
        lists = [found for found in answers if isinstance(found, list)]
        if not lists:
            return next((found for found in answers if isinstance(found, Answer)), None)
        entries = [entry for found in lists for entry in found if isinstance(entry, dict)]
        named = {entry["id"]: entry for entry in entries if isinstance(entry.get("id"), str)}
        return json_answer(200, {"object": "list", "data": list(named.values())})
