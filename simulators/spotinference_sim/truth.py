"""What was really paid and served: the scenario's own figures, by plain arithmetic on its events.

Owns the definitions of the published number as this package understands them. Shares no code with the
pipeline and reads no counter, answer or log: only spells, credits and requests. Money is whole
femto-dollars (nano-dollars per second times microseconds), so nothing is rounded before the two published
roundings in `rates`.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any

from spotinference_sim import spans
from spotinference_sim.instants import DAY_S, SECOND_US, day_start_s
from spotinference_sim.kinds import STORED
from spotinference_sim.rates import decimal_text, ratio_text, split_rate
from spotinference_sim.request import Request
from spotinference_sim.resources import Resource, Vm, Wake
from spotinference_sim.scenario import Scenario
from spotinference_sim.spans import Span

KINDS = ("busy", "idle", "cold_start", "parked", "storage", "network", "other", "credit")
WINDOW_DAYS = 7
NANO_FEMTOS = 10**6
"""Femto-dollars in a nano-dollar."""


@dataclass
class DayTruth:
    """One UTC day: femto-dollars by kind, microseconds by what machines did, tokens by kind."""

    paid: Counter[str] = field(default_factory=Counter)
    micros: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)
    tokens_by_model: Counter[str] = field(default_factory=Counter)
    known: set[str] = field(default_factory=set)

    def add(self, other: "DayTruth") -> None:
        """Add another day's figures to these."""
        for name in ("paid", "micros", "counts", "tokens", "tokens_by_model"):
            mine: Counter[str] = getattr(self, name)
            for key, amount in getattr(other, name).items():
                mine[key] += amount
        self.known |= other.known


def truth(scenario: Scenario, day: date, requests: Sequence[Request] | None = None) -> dict[str, Any]:
    """Work out the figures of the seven days that end with `day`, and of each of them.

    `requests` replaces the last day's: the scenario's requests that finish before `day` begins stay, all
    others give way to the given ones. Money and ratios are decimal strings, counts integers, unknown is
    None. Money is as first billed: late corrections of single resources are in `books`.
    """
    played: Iterable[Request] = scenario.requests
    if requests is not None:
        before_us = day_start_s(day) * SECOND_US
        played = [*(r for r in scenario.requests if r.finished_us <= before_us), *requests]
    busy = busy_spans(played)
    days: dict[str, Any] = {}
    total = DayTruth()
    for back in range(WINDOW_DAYS - 1, -1, -1):
        one = _day_truth(scenario, day - timedelta(days=back), busy, played)
        days[(day - timedelta(days=back)).isoformat()] = _figures(one)
        total.add(one)
    start = (day - timedelta(days=WINDOW_DAYS - 1)).isoformat()
    window = {"start": f"{start}T00:00:00Z", "end": f"{(day + timedelta(days=1)).isoformat()}T00:00:00Z"}
    return {"day": day.isoformat(), "window": window, **_figures(total), "days": days}


def window_of(day: date) -> Span:
    """Tell the seven days that end with `day`, in microseconds."""
    end_us = (day_start_s(day) + DAY_S) * SECOND_US
    return end_us - WINDOW_DAYS * DAY_S * SECOND_US, end_us


def busy_spans(requests: Iterable[Request]) -> dict[int, list[Span]]:
    """Tell by machine when at least one request was in flight."""
    by_vm: dict[int, list[Span]] = {}
    for request in requests:
        if request.vm_id is not None:
            by_vm.setdefault(request.vm_id, []).append((request.started_us, request.finished_us))
    return {vm_id: spans.union(flights) for vm_id, flights in by_vm.items()}


def _day_truth(scenario: Scenario, day: date, busy: dict[int, list[Span]], requests: Iterable[Request]) -> DayTruth:
    result = DayTruth()
    start_us = day_start_s(day) * SECOND_US
    end_us = start_us + DAY_S * SECOND_US
    for resource in scenario.resources:
        flights = busy.get(resource.id, []) if resource.kind == "vm" else []
        result.add(bill(resource, flights, start_us, end_us))
    for request in requests:
        if start_us <= request.finished_us < end_us and not request.canary:
            _serve(result, request)
    return result


def bill(resource: Resource, busy: list[Span], start_us: int, end_us: int) -> DayTruth:
    """Work out what one resource cost between two instants, late corrections left out; excluded ones cost nothing."""
    result = DayTruth()
    if resource.excluded:
        return result
    if isinstance(resource, Vm):
        _bill_vm(result, resource, busy, start_us, end_us)
    else:
        kind = "storage" if resource.kind in STORED else "other"
        for spell in resource.between(start_us // SECOND_US, -(-end_us // SECOND_US)):
            within = spans.clip([(spell.start_s * SECOND_US, spell.end_s * SECOND_US)], start_us, end_us)
            result.paid[kind] += spell.rate * spans.length(within)
    for credit in resource.credits:
        if start_us <= credit.at_s * SECOND_US < end_us:
            result.paid["credit"] -= credit.nanos * NANO_FEMTOS
    return result


def _bill_vm(result: DayTruth, vm: Vm, busy: list[Span], start_us: int, end_us: int) -> None:
    wakes = [wake for wake in vm.wakes if not wake.is_restart]
    cold = spans.clip(map(cold_span, wakes), start_us, end_us)
    busy = spans.clip(busy, start_us, end_us)
    for spell in vm.between(start_us // SECOND_US, -(-end_us // SECOND_US)):
        within = spans.clip([(spell.start_s * SECOND_US, spell.end_s * SECOND_US)], start_us, end_us)
        alive = spans.length(within)
        result.micros["alive"] += alive
        result.paid["network"] += spell.ip_rate * alive
        rate = spell.rate - spell.ip_rate
        if spell.status != "ACTIVE":
            result.paid["parked"] += rate * alive
            continue
        for start, end in within:
            busy_us = spans.length(spans.clip(busy, start, end))
            cold_us = spans.length(spans.subtract(spans.clip(cold, start, end), busy))
            split = {"busy": busy_us, "cold_start": cold_us, "idle": end - start - busy_us - cold_us}
            for kind, micros in split.items():
                result.paid[kind] += rate * micros
                result.micros[kind] += micros
            result.micros["active"] += end - start
    for wake in wakes:
        if start_us <= wake.active_s * SECOND_US < end_us:
            result.counts["cold_starts"] += 1
            result.counts["failed_wakes"] += wake.ready_s is None


def cold_span(wake: Wake) -> Span:
    """Tell from when to when a wake was cold: until its engine was ready, else as long as it was ACTIVE."""
    return wake.active_s * SECOND_US, (wake.ready_s or wake.until_s) * SECOND_US


def _serve(result: DayTruth, request: Request) -> None:
    result.counts["requests"] += 1
    served = (request.prompt_tokens or 0) + (request.completion_tokens or 0)
    result.tokens["served"] += served
    result.tokens["made"] += request.engine_prompt_tokens // request.choices + request.engine_completion_tokens
    if request.prompt_tokens is not None and request.model is not None:
        result.tokens_by_model[request.model] += served
    for name in ("prompt", "completion", "cached", "reasoning"):
        tokens: int | None = getattr(request, f"{name}_tokens")
        if tokens is not None:
            result.tokens[name] += tokens
            result.known.add(name)


def _figures(one: DayTruth) -> dict[str, Any]:
    """Render the figures of any set of days."""
    paid = {kind: one.paid[kind] for kind in KINDS}
    headline, parts = split_rate(paid, one.tokens["served"])
    seconds = {f"{name}_seconds": decimal_text(one.micros[name], 6) for name in ("busy", "idle", "active", "alive")}
    return {
        "paid_usd": decimal_text(sum(paid.values()), 15),
        "paid_usd_by_kind": {kind: decimal_text(femtos, 15) for kind, femtos in paid.items()},
        "served_tokens": one.tokens["served"],
        "made_tokens": one.tokens["made"],
        "served_tokens_by_model": dict(sorted(one.tokens_by_model.items())),
        "requests": one.counts["requests"],
        "prompt_tokens": one.tokens["prompt"],
        "completion_tokens": one.tokens["completion"],
        "cached_tokens": one.tokens["cached"] if "cached" in one.known else None,
        "reasoning_tokens": one.tokens["reasoning"] if "reasoning" in one.known else None,
        "usd_per_million_tokens": headline,
        "usd_per_million_by_part": parts,
        "duty_cycle": ratio_text(one.micros["busy"], one.micros["active"]),
        "powered_fraction": ratio_text(one.micros["active"], one.micros["alive"]),
        "cold_starts": one.counts["cold_starts"],
        "failed_wakes": one.counts["failed_wakes"],
        "cold_start_seconds": decimal_text(one.micros["cold_start"], 6),
        **seconds,
    }


def paid_between(scenario: Scenario, start_us: int, end_us: int) -> int:
    """Sum what the meters moved by between two instants, in femto-dollars: a second way to the total."""
    meters = [resource.meter for resource in scenario.resources if not resource.excluded]
    return sum(meter.femtos(end_us) - meter.femtos(start_us) for meter in meters)
