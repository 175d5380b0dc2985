"""Weeks in which one thing is out of the ordinary, each small enough to be laid down in a second.

Owns what is changed in the demo's scenario. Every week has seven days; the truth is worked out from its events as ever.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import date
from functools import cache

from spotinference_sim.fleet import A100_ID, H100_ID, L40_ID, QWEN_8B
from spotinference_sim.instants import DAY_S, HOUR_S, SECOND_US
from spotinference_sim.request import Request
from spotinference_sim.resources import Vm, Wake
from spotinference_sim.scenario import Scenario

SEED, DAYS = 7, 7
START, MONTH_END_START = date(2026, 11, 16), date(2026, 11, 27)
KEPT_OF = 40
"""One of so many requests of the demo is kept, and every canary."""
GPUS = 8
CHOICES = 3
RESTART_S = 180
"""From the end of an engine's process to the next one being ready."""


def week(name: str) -> Scenario:
    """Make the week of this name, one of NAMES."""
    return _CHANGES[name](_thinned(MONTH_END_START if name == "month_end" else START))


@cache
def _thinned(start_day: date) -> Scenario:
    whole = Scenario.generate(SEED, start_day, DAYS)
    kept = (r for place, r in enumerate(whole.requests) if place % KEPT_OF == 0 or r.canary)
    return replace(whole, requests=tuple(kept))


def _as_it_is(scenario: Scenario) -> Scenario:
    return scenario


def _zero_tokens(scenario: Scenario) -> Scenario:
    """Keep requests that ended without usage; there is no other traffic."""
    return _with(scenario, (r for r in scenario.requests if r.prompt_tokens is None))


def _aborted_streams(scenario: Scenario) -> Scenario:
    """Let every client leave in mid-stream: some after usage that was not final, some before any."""
    served = (r for r in scenario.requests if r.prompt_tokens is not None)
    return _with(scenario, (_abort(request, known=place % 3 > 0) for place, request in enumerate(served)))


def _abort(request: Request, known: bool) -> Request:
    first_us = request.first_byte_us or request.started_us
    made = (request.completion_tokens or 0) // 3
    return replace(
        request,
        stream=True,
        finished_us=first_us + (request.finished_us - first_us) // 3,
        end_reason="client_gone",
        usage_source="engine_partial" if known else "none",
        prompt_tokens=request.prompt_tokens if known else None,
        completion_tokens=made if known else None,
        cached_tokens=None,
        reasoning_tokens=None,
        engine_completion_tokens=made,
    )


def _idle_machine(scenario: Scenario) -> Scenario:
    """Let nobody ask anything of one machine all week, not even a canary."""
    return _with(scenario, (r for r in scenario.requests if r.vm_id != A100_ID))


def _across_midnights(scenario: Scenario) -> Scenario:
    """Add a request over one midnight and one over two, on a machine that never sleeps."""
    start_us = scenario.start_s * SECOND_US
    short = _long_request(1, start_us + (2 * DAY_S - 20) * SECOND_US + 7, 90 * SECOND_US + 1)
    long = _long_request(2, start_us + (DAY_S + 22 * HOUR_S) * SECOND_US + 3, 29 * HOUR_S * SECOND_US + 5)
    return _with(scenario, (*scenario.requests, short, long))


def _long_request(number: int, at_us: int, took_us: int) -> Request:
    return Request(
        f"0198bbbb-0000-7000-8000-{number:012d}",
        L40_ID,
        QWEN_8B,
        at_us,
        at_us + took_us,
        9_001,
        77_777,
        first_byte_us=at_us + 400_000,
        requested_model=QWEN_8B,
        stream=True,
        engine_prompt_tokens=9_001,
        engine_completion_tokens=77_777,
    )


def _restarted_engines(scenario: Scenario) -> Scenario:
    """Let two engines' processes end at noon of the third day and begin anew, while their machines stay ACTIVE."""
    at_s = scenario.start_s + 2 * DAY_S + 12 * HOUR_S + 17
    gap = at_s * SECOND_US, (at_s + RESTART_S) * SECOND_US
    ids = (H100_ID, L40_ID)
    vms = tuple(_restarted(vm, at_s) if vm.id in ids else vm for vm in scenario.vms)
    kept = (r for r in scenario.requests if r.vm_id not in ids or r.finished_us < gap[0] or r.started_us >= gap[1])
    return _with(replace(scenario, vms=vms), kept)


def _restarted(vm: Vm, at_s: int) -> Vm:
    wakes: list[Wake] = []
    for wake in vm.wakes:
        if wake.ready_s is not None and wake.ready_s < at_s < wake.until_s:
            again = Wake(at_s, at_s + RESTART_S, wake.until_s, at_s + 30, is_restart=True)
            wakes += [replace(wake, until_s=at_s), again]
        else:
            wakes.append(wake)
    return replace(vm, wakes=tuple(wakes))


def _several_choices(scenario: Scenario) -> Scenario:
    """Let every client ask for several choices: the prompt is answered once per choice and told once."""
    return _with(scenario, map(_with_choices, scenario.requests))


def _with_choices(request: Request) -> Request:
    if request.prompt_tokens is None or request.choices != 1:
        return request
    tokens = (request.completion_tokens or 0) * CHOICES
    reasoning = None if request.reasoning_tokens is None else request.reasoning_tokens * CHOICES
    return replace(
        request,
        choices=CHOICES,
        completion_tokens=tokens,
        reasoning_tokens=reasoning,
        engine_prompt_tokens=request.prompt_tokens * CHOICES,
        engine_completion_tokens=tokens,
    )


def _mixed_gpus(scenario: Scenario) -> Scenario:
    """Give one machine eight GPUs, and leave its price."""
    vms = (
        replace(vm, flavor=replace(vm.flavor, name="n3-H100-SXM5x8", gpu_count=GPUS)) if vm.id == H100_ID else vm
        for vm in scenario.vms
    )
    return replace(scenario, vms=tuple(vms))


def _with(scenario: Scenario, requests: Iterable[Request]) -> Scenario:
    return replace(scenario, requests=tuple(sorted(requests, key=lambda request: request.started_us)))


_CHANGES: dict[str, Callable[[Scenario], Scenario]] = {
    "plain": _as_it_is,
    "zero_tokens": _zero_tokens,
    "aborted_streams": _aborted_streams,
    "idle_machine": _idle_machine,
    "across_midnights": _across_midnights,
    "month_end": _as_it_is,
    "restarted_engines": _restarted_engines,
    "several_choices": _several_choices,
    "mixed_gpus": _mixed_gpus,
}
NAMES = tuple(_CHANGES)
