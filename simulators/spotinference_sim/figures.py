"""The figures behind the number, as they are published: six decimals, twelve for money, half to even, in integers.

Owns their definitions as this package understands them. Shares no code with the pipeline and looks at events only:
spells, wakes and requests of the window. What was paid and served in all is `truth`'s.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import date
from fractions import Fraction
from itertools import pairwise
from typing import Any

from spotinference_sim import spans
from spotinference_sim.instants import SECOND_US
from spotinference_sim.rates import PLACES, decimal_text
from spotinference_sim.request import Request
from spotinference_sim.resources import FEMTO, Resource, Vm
from spotinference_sim.scenario import Scenario
from spotinference_sim.spans import Span
from spotinference_sim.truth import DayTruth, bill, busy_spans, cold_span, truth, window_of

RATIO_PLACES = 6
LATENCIES, RATIOS = (50, 90, 99), (10, 50, 90)
Window = tuple[int, int]


def figures(scenario: Scenario, day: date, requests: Sequence[Request] | None = None) -> dict[str, Any]:
    """Work out the figures of the seven days that end with `day`, by their published names.

    `requests` takes the place of the scenario's.
    """
    window = window_of(day)
    played = scenario.requests if requests is None else requests
    whole = truth(replace(scenario, requests=tuple(played)), day)
    served = [r for r in played if window[0] <= r.finished_us < window[1] and not r.canary]
    paid = _femtos(whole["paid_usd"])
    return {
        **_times(scenario, window, played, served),
        **_tokens(served),
        **_percentiles(served),
        **_rates(paid, served),
    }


def costs_by_machine(scenario: Scenario, day: date) -> dict[int | None, tuple[int, int, int]]:
    """Tell by machine what it cost, what it served and in how many requests; all else under None."""
    window, busy = window_of(day), busy_spans(scenario.requests)
    costs: dict[int | None, list[int]] = defaultdict(lambda: [0, 0, 0])
    for resource in scenario.resources:
        costs[resource.id if resource.kind == "vm" else None][0] += _paid(resource, busy, window)
        if isinstance(resource, Vm):
            costs[resource.id][1] += 0
    for request in scenario.requests:
        if window[0] <= request.finished_us < window[1] and not request.canary:
            costs[request.vm_id][1] += (request.prompt_tokens or 0) + (request.completion_tokens or 0)
            costs[request.vm_id][2] += 1
    return {vm_id: (cost, tokens, count) for vm_id, (cost, tokens, count) in costs.items()}


def costs_by_model(scenario: Scenario, day: date, models: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, int]]:
    """Tell by model what its machines cost and its share of all else, in femto-dollars, when these machines serve it."""
    window = window_of(day)
    machines = costs_by_machine(scenario, day)
    own = dict.fromkeys(sorted(models), 0)
    for vm_id in sorted({vm_id for vm_ids in models.values() for vm_id in vm_ids}):
        sharers = [model for model in sorted(models) if vm_id in models[model]]
        tokens = [_tokens_on(scenario.requests, window, vm_id, model) for model in sharers]
        for model, part in zip(sharers, _cut(machines.get(vm_id, (0, 0, 0))[0], tokens), strict=True):
            own[model] += part
    rest = sum(cost for cost, _, _ in machines.values()) - sum(own.values())
    shared = _cut(rest, [max(femtos, 0) // 10**9 for femtos in own.values()])
    return {model: (femtos, part) for (model, femtos), part in zip(own.items(), shared, strict=True)}


def usd_per_million(femtos: int, tokens: int) -> str | None:
    """Divide money by millions of tokens."""
    return _quotient(femtos * 10**6, tokens * FEMTO, PLACES)


def _cut(amount: int, weights: Sequence[int]) -> list[int]:
    """Cut an amount in proportion to weights, alike where all are 0; each cut is rounded down."""
    weights = weights if any(weights) else [1] * len(weights)
    cuts = [amount * sum(weights[:place]) // sum(weights) for place in range(len(weights) + 1)]
    return [after - before for before, after in pairwise(cuts)]


def _tokens_on(requests: Iterable[Request], window: Window, vm_id: int, model: str) -> int:
    return sum(
        (r.prompt_tokens or 0) + (r.completion_tokens or 0)
        for r in requests
        if (r.vm_id, r.model) == (vm_id, model) and window[0] <= r.finished_us < window[1] and not r.canary
    )


def _paid(resource: Resource, busy: Mapping[int, list[Span]], window: Window) -> int:
    flights = busy.get(resource.id, []) if resource.kind == "vm" else []
    return sum(bill(resource, flights, *window).paid.values())


def _times(scenario: Scenario, window: Window, played: Iterable[Request], served: Iterable[Request]) -> dict[str, Any]:
    busy = busy_spans(played)
    gpus, total = DayTruth(), DayTruth()
    failed = [0, 0, 0]
    for vm in scenario.vms:
        if vm.excluded:
            continue
        one = bill(vm, busy.get(vm.id, []), *window)
        total.add(one)
        for name in ("busy", "active"):
            gpus.micros[name] += one.micros[name] * vm.flavor.gpu_count
        failed = [mine + more for mine, more in zip(failed, _failed(vm, busy.get(vm.id, []), window), strict=True)]
    tokens = sum((r.prompt_tokens or 0) + (r.completion_tokens or 0) for r in served)
    return {
        "duty_cycle": _quotient(gpus.micros["busy"], gpus.micros["active"]),
        "powered_fraction": _quotient(total.micros["active"], total.micros["alive"]),
        "cold_starts": total.counts["cold_starts"],
        "cold_start_seconds": decimal_text(total.micros["cold_start"], 6),
        "cold_start_usd": decimal_text(total.paid["cold_start"], 15),
        "failed_cold_starts": failed[0],
        "failed_cold_start_seconds": decimal_text(failed[1], 6),
        "failed_cold_start_usd": decimal_text(failed[2], 15),
        "tokens_per_busy_second": _quotient(tokens * SECOND_US, total.micros["busy"]),
    }


def _failed(vm: Vm, busy: list[Span], window: Window) -> tuple[int, int, int]:
    """Count failed wakes that began in the window; their cold microseconds and femto-dollars."""
    wakes = [wake for wake in vm.wakes if wake.ready_s is None and not wake.is_restart]
    count = sum(window[0] <= wake.active_s * SECOND_US < window[1] for wake in wakes)
    cold = spans.subtract(spans.clip(map(cold_span, wakes), *window), busy)
    paid = 0
    for spell in vm.spells:
        if spell.status == "ACTIVE":
            within = spans.clip(cold, spell.start_s * SECOND_US, spell.end_s * SECOND_US)
            paid += (spell.rate - spell.ip_rate) * spans.length(within)
    return count, spans.length(cold), paid


def _tokens(served: Sequence[Request]) -> dict[str, Any]:
    prompt = sum(r.prompt_tokens or 0 for r in served)
    completion = sum(r.completion_tokens or 0 for r in served)
    caching = [r for r in served if r.cached_tokens is not None]
    reasoning = [r for r in served if r.reasoning_tokens is not None]
    caching_prompt = sum(r.prompt_tokens or 0 for r in caching)
    reasoning_completion = sum(r.completion_tokens or 0 for r in reasoning)
    return {
        "cache_hit_ratio": _quotient(sum(r.cached_tokens or 0 for r in caching), caching_prompt),
        "cache_hit_known_share": _quotient(caching_prompt, prompt),
        "reasoning_share": _quotient(sum(r.reasoning_tokens or 0 for r in reasoning), reasoning_completion),
        "reasoning_known_share": _quotient(reasoning_completion, completion),
        "output_input_ratio": _quotient(completion, prompt),
        "answered_requests": sum(map(_is_answered, served)),
    }


def _percentiles(served: Iterable[Request]) -> dict[str, Any]:
    answered = [r for r in served if r.upstream_status is not None and r.upstream_status < 400]
    latencies = [r.finished_us - r.started_us for r in answered if r.end_reason == "complete"]
    firsts = [r.first_byte_us - r.started_us for r in answered if r.stream and r.first_byte_us is not None]
    ratios = [
        Fraction(r.completion_tokens, r.prompt_tokens)
        for r in answered
        if r.completion_tokens is not None and r.prompt_tokens
    ]
    shown = {each: _nearest_rank(ratios, each) for each in RATIOS}
    return {
        "latency_seconds": _seconds(latencies),
        "time_to_first_token_seconds": _seconds(firsts),
        "output_input_percentiles": {
            f"p{each}": None if ratio is None else _quotient(ratio.numerator, ratio.denominator)
            for each, ratio in shown.items()
        },
    }


def _seconds(micros: Sequence[int]) -> dict[str, str | None]:
    found = {each: _nearest_rank(micros, each) for each in LATENCIES}
    return {f"p{each}": None if value is None else decimal_text(value, 6) for each, value in found.items()}


def _nearest_rank(values: Sequence[Any], percent: int) -> Any:
    """Give the smallest value that so many percent of all values do not exceed; None of none."""
    return sorted(values)[-(-len(values) * percent // 100) - 1] if values else None


def _rates(paid: int, served: Sequence[Request]) -> dict[str, str | None]:
    prompt = sum(r.prompt_tokens or 0 for r in served)
    completion = sum(r.completion_tokens or 0 for r in served)
    told_apart = [r.reasoning_tokens for r in served if r.reasoning_tokens is not None]
    return {
        "usd_per_million_prompt_tokens": usd_per_million(paid, prompt),
        "usd_per_million_completion_tokens": usd_per_million(paid, completion),
        "usd_per_million_visible_tokens": usd_per_million(paid, completion - sum(told_apart)) if told_apart else None,
        "usd_per_request": _quotient(paid, sum(map(_is_answered, served)) * FEMTO, PLACES),
    }


def _is_answered(request: Request) -> bool:
    """Tell whether an engine worked on it: it was neither refused by the proxy nor by the engine."""
    if request.usage_source != "none":
        return True
    return request.vm_id is not None if request.upstream_status is None else request.upstream_status < 400


def _femtos(usd: str) -> int:
    return int(usd.replace(".", ""))


def _quotient(numerator: int, denominator: int, places: int = RATIO_PLACES) -> str | None:
    return decimal_text(round(Fraction(numerator * 10**places, denominator)), places) if denominator else None
