"""The vLLM servers behind the proxy: which is ready, which gets the next request, what its counters say.

Owns readiness, choice and the calls the proxy makes on its own account (/health, /metrics, the list of
models, the abort call). Does not pass on clients' requests: relay.py. vLLM's counters are summed over their
labels (one series per engine); a server without them is unknown, not 0 (https://docs.vllm.ai, metrics).
"""

import asyncio
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

import aiohttp

from spotinference_proxy.record import Row, render_instant
from spotinference_proxy.settings import UpstreamSettings
from spotinference_proxy.usage import dialect_of, parse_object

PROBE_SECONDS = 2.0  # for an answer of /health, /metrics and /v1/models
_ABORTED_TURNS = 8  # of one Responses call with tools; unknown ids are harmless
_SERIES = re.compile(r"(?P<name>[a-zA-Z_:][\w:]*)(?:\{.*\})?\s+(?P<value>\S+)(?:\s+\S+)?")
_FAILURES = (aiohttp.ClientError, TimeoutError)


class Upstream:
    """One vLLM; `is_ready` is None until it was probed."""

    def __init__(self, settings: UpstreamSettings) -> None:
        self.settings = settings
        self.url = settings.url
        self.is_ready: bool | None = None
        self.in_flight = 0

    @property
    def credentials(self) -> dict[str, str]:
        """The header that opens this vLLM, if it has a key."""
        key = self.settings.api_key
        return {"Authorization": f"Bearer {key}"} if key else {}

    def health_row(self, at: datetime) -> Row:
        """Return the `health` row of now."""
        return {"k": "health", **self._who(at), "ready": bool(self.is_ready)}

    async def probe(self, session: aiohttp.ClientSession) -> bool:
        """Ask /health; return whether readiness changed."""
        before = self.is_ready
        answer = await self._read(session, "/health")
        self.is_ready = answer is not None
        return self.is_ready != before

    async def engine_row(self, session: aiohttp.ClientSession, clock: Callable[[], datetime]) -> Row | None:
        """Scrape /metrics; return the `engine` row, or None when it does not answer."""
        page = await self._read(session, "/metrics")
        if page is None:
            return None
        return {"k": "engine", **self._who(clock()), **parse_counters(page.decode("utf-8", "replace"))}

    async def fetch_models(self, session: aiohttp.ClientSession) -> list[Any]:
        """Return the entries of /v1/models; none when it does not answer."""
        answer = parse_object(await self._read(session, "/v1/models") or b"") or {}
        entries = answer.get("data")
        return entries if isinstance(entries, list) else []

    async def abort(self, session: aiohttp.ClientSession, ids: Sequence[str]) -> bool:
        """Ask vLLM to end requests; False when it has no such call or does not answer."""
        url = f"{self.url}/inference/v1/abort_requests"
        with suppress(*_FAILURES):
            headers = {**self.credentials, "Content-Type": "application/json"}  # the session adds none by itself
            async with session.post(url, json={"request_ids": list(ids)}, headers=headers, timeout=_limit()) as answer:
                return answer.status == 200
        return False

    async def _read(self, session: aiohttp.ClientSession, path: str) -> bytes | None:
        with suppress(*_FAILURES):
            async with session.get(
                self.url + path, headers=self.credentials, timeout=_limit(), allow_redirects=False
            ) as answer:
                content = await answer.read()
                return content if answer.status == 200 else None
        return None

    def _who(self, at: datetime) -> dict[str, Any]:
        return {"at": render_instant(at), "vm_id": self.settings.vm_id, "upstream": self.url}


class UpstreamPool:
    """All upstreams; the ready one with the fewest requests in flight is next."""

    def __init__(self, settings: Sequence[UpstreamSettings]) -> None:
        self.upstreams = [Upstream(one) for one in settings]

    def choose(self, model: str | None) -> Upstream | None:
        """Return a ready upstream of `model`; of any for no or an unknown model, so that vLLM answers it."""
        serving = [
            one for one in self.upstreams if model is None or model in one.settings.models or not one.settings.models
        ]
        ready = [one for one in (serving or self.upstreams) if one.is_ready]
        return min(ready, key=lambda one: one.in_flight, default=None)

    async def probe(self, session: aiohttp.ClientSession) -> list[Upstream]:
        """Probe all at once; return those whose readiness changed."""
        changes = await asyncio.gather(*(one.probe(session) for one in self.upstreams))
        return [one for one, is_changed in zip(self.upstreams, changes, strict=True) if is_changed]

    async def engine_rows(self, session: aiohttp.ClientSession, clock: Callable[[], datetime]) -> list[Row]:
        """Scrape the ready upstreams' counters."""
        rows = await asyncio.gather(*(one.engine_row(session, clock) for one in self.upstreams if one.is_ready))
        return [row for row in rows if row is not None]

    async def merged_models(self, session: aiohttp.ClientSession) -> dict[str, Any]:
        """Return one list of the models of all ready upstreams, each model once."""
        lists = await asyncio.gather(*(one.fetch_models(session) for one in self.upstreams if one.is_ready))
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


def parse_counters(page: str) -> dict[str, Any]:
    """Return the members of an `engine` row from a Prometheus page; null where it has no such series."""
    totals: dict[str, Decimal] = {}
    for line in page.splitlines():
        match = _SERIES.fullmatch(line.strip())
        if match is None:
            continue
        with suppress(InvalidOperation):
            value = Decimal(match["value"])
            if value.is_finite():
                totals[match["name"]] = totals.get(match["name"], Decimal(0)) + value
    started = totals.get("process_start_time_seconds")
    return {
        "process_started_at": render_instant(datetime.fromtimestamp(float(started), UTC)) if started else None,
        "prompt_tokens_total": _whole(totals.get("vllm:prompt_tokens_total")),
        "generation_tokens_total": _whole(totals.get("vllm:generation_tokens_total")),
    }


def _whole(value: Decimal | None) -> int | None:
    return int(value) if value is not None and 0 <= value < 2**63 else None


def _limit() -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=PROBE_SECONDS)
