"""The truth, first by hand on a tiny scenario, then as properties of the demo."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spotinference_sim.instants import DAY_S, SECOND_US
from spotinference_sim.rates import split_rate
from spotinference_sim.request import Request
from spotinference_sim.scenario import Scenario
from spotinference_sim.truth import KINDS, WINDOW_DAYS, paid_between, truth


def test_a_tiny_day_adds_up_by_hand(make_tiny: Callable[..., Scenario], make_request: Callable[..., Request]) -> None:
    scenario = make_tiny(make_request())
    figures = truth(scenario, scenario.start_day)
    kinds = figures["paid_usd_by_kind"]
    assert kinds["busy"] == "0.000010000000000"  # 10 s at 1,000 nano-dollars
    assert kinds["cold_start"] == "0.000100000000000"  # 100 s
    assert kinds["idle"] == "0.006090000000000"  # 6,200 - 110 s
    assert kinds["network"] == "0.000062000000000"  # 6,200 s at 10
    assert kinds["parked"] == "0.000554400000000"  # 79,200 s at 7
    assert kinds["storage"] == "0.000108000000000"  # 4,000 s at 27
    assert kinds["credit"] == "-0.001500000000000"
    assert kinds["other"] == "0.000000000000000"
    assert figures["paid_usd"] == "0.005424400000000"
    assert figures["served_tokens"] == 150
    assert figures["usd_per_million_tokens"] == "36.162666666667"
    assert figures["duty_cycle"] == "0.001612903226"  # 10 of 6,200 s
    assert figures["cold_starts"] == 1
    assert figures["failed_wakes"] == 0
    assert figures["cold_start_seconds"] == "100.000000"
    assert figures["active_seconds"] == "6200.000000"
    assert figures["powered_fraction"] == "0.071759259259"
    assert figures["cached_tokens"] is None


def test_overlapping_requests_are_busy_once_and_busy_beats_cold(
    make_tiny: Callable[..., Scenario], make_request: Callable[..., Request]
) -> None:
    first = make_request()
    later = replace(first, started_us=first.started_us + 5 * SECOND_US, finished_us=first.finished_us + 3)
    early = replace(
        first, started_us=first.started_us - 950 * SECOND_US, finished_us=first.started_us - 900 * SECOND_US
    )
    scenario = make_tiny(early, first, later)
    figures = truth(scenario, scenario.start_day)
    assert figures["busy_seconds"] == "60.000003"
    assert figures["cold_start_seconds"] == "50.000000"
    assert figures["paid_usd"] == "0.005424400000000"


def test_canaries_cost_but_do_not_serve_and_unknown_usage_is_not_zero_tokens(
    make_tiny: Callable[..., Scenario], make_request: Callable[..., Request]
) -> None:
    nothing = make_request(prompt_tokens=None, completion_tokens=None, model=None, usage_source="none", vm_id=None)
    known = make_request(cached_tokens=16, reasoning_tokens=5)
    scenario = make_tiny(make_request(canary=True), nothing, known)
    figures = truth(scenario, scenario.start_day)
    assert figures["requests"] == 2
    assert figures["served_tokens"] == 150
    assert figures["served_tokens_by_model"] == {"tiny-model": 150}
    assert (figures["cached_tokens"], figures["reasoning_tokens"]) == (16, 5)
    assert figures["busy_seconds"] == "10.000000"


def test_a_wake_that_fails_is_cold_to_its_end(make_tiny: Callable[..., Scenario]) -> None:
    scenario = make_tiny()
    vm = scenario.vms[0]
    failed = replace(vm, wakes=(replace(vm.wakes[0], ready_s=None),))
    figures = truth(replace(scenario, vms=(failed,)), scenario.start_day)
    assert figures["cold_start_seconds"] == "6200.000000"
    assert figures["failed_wakes"] == 1
    assert figures["idle_seconds"] == "0.000000"


def test_nothing_served_gives_no_number(make_tiny: Callable[..., Scenario]) -> None:
    scenario = make_tiny()
    figures = truth(scenario, scenario.start_day)
    assert figures["usd_per_million_tokens"] is None
    assert figures["usd_per_million_by_part"] is None
    assert truth(scenario, scenario.start_day - timedelta(days=1))["duty_cycle"] is None


def test_a_request_counts_in_the_day_it_finishes_and_is_busy_in_both(
    make_tiny: Callable[..., Scenario], make_request: Callable[..., Request], short: Scenario
) -> None:
    vm = next(vm for vm in short.vms if vm.name == "vllm-l40-a")
    midnight_us = short.end_s * SECOND_US
    request = make_request(vm_id=vm.id, started_us=midnight_us - 4 * SECOND_US, finished_us=midnight_us + 6 * SECOND_US)
    scenario = replace(short, requests=(request,))
    first = truth(scenario, scenario.start_day)
    second = truth(scenario, scenario.start_day + timedelta(days=1))["days"]["2026-11-23"]
    assert (first["served_tokens"], first["busy_seconds"]) == (0, "4.000000")
    assert (second["served_tokens"], second["busy_seconds"]) == (150, "6.000000")


def test_given_requests_replace_the_last_day_only(demo: Scenario, make_request: Callable[..., Request]) -> None:
    day = demo.start_day + timedelta(days=8)
    played = truth(demo, day)
    start_us = (demo.end_s - DAY_S) * SECOND_US
    own = [request for request in demo.requests if request.finished_us > start_us]
    assert truth(demo, day, own) == played
    assert truth(demo, day, [])["days"]["2026-11-22"]["served_tokens"] == 0
    before = truth(demo, day, [])["days"]["2026-11-21"]
    for name in ("served_tokens", "requests", "paid_usd", "cold_start_seconds"):
        assert before[name] == played["days"]["2026-11-21"][name]


def test_the_demo_is_of_the_size_that_it_promises(demo: Scenario) -> None:
    figures = truth(demo, demo.start_day + timedelta(days=8))
    assert Decimal(3) < Decimal(figures["usd_per_million_tokens"]) < Decimal(5)
    for one in figures["days"].values():
        assert 15_000_000 < one["served_tokens"] < 30_000_000
        assert Decimal(80) < Decimal(one["paid_usd"]) < Decimal(130)
    assert figures["failed_wakes"] == 1
    assert figures["paid_usd_by_kind"]["credit"] == "-7.250000000000000"
    assert all(Decimal(usd) > 0 for kind, usd in figures["paid_usd_by_kind"].items() if kind not in ("other", "credit"))


@pytest.mark.parametrize("back", range(3))
def test_days_add_up_to_the_window_and_kinds_and_parts_to_the_total(demo: Scenario, back: int) -> None:
    day = demo.start_day + timedelta(days=8 - back)
    figures = truth(demo, day)
    assert len(figures["days"]) == WINDOW_DAYS
    paid = Decimal(figures["paid_usd"])
    assert sum(Decimal(one["paid_usd"]) for one in figures["days"].values()) == paid
    assert sum(map(Decimal, figures["paid_usd_by_kind"].values())) == paid
    parts = figures["usd_per_million_by_part"].values()
    assert sum(map(Decimal, parts)) == Decimal(figures["usd_per_million_tokens"])
    for name in ("served_tokens", "requests", "prompt_tokens", "completion_tokens", "cold_starts"):
        assert sum(one[name] for one in figures["days"].values()) == figures[name]


@given(st.integers(0, 8))
@settings(max_examples=9, deadline=None)
def test_the_meters_move_by_what_the_kinds_say(demo: Scenario, number: int) -> None:
    day = demo.start_day + timedelta(days=number)
    end_us = (demo.start_s + (number + 1) * DAY_S) * SECOND_US
    start_us = end_us - WINDOW_DAYS * DAY_S * SECOND_US
    assert Decimal(truth(demo, day)["paid_usd"]) == Decimal(paid_between(demo, start_us, end_us)) / 10**15


@given(st.lists(st.integers(-(10**17), 10**17), min_size=8, max_size=8), st.integers(1, 10**9))
def test_parts_add_up_exactly_for_any_money(femtos: list[int], served: int) -> None:
    headline, parts = split_rate(dict(zip(KINDS, femtos, strict=True)), served)
    assert headline is not None
    assert parts is not None
    assert sum(map(Decimal, parts.values())) == Decimal(headline)
    exact = Decimal(sum(femtos)) / 10**9 / served
    assert abs(Decimal(headline) - exact) < Decimal("1e-12") + abs(exact) * Decimal("1e-20")


def test_ties_of_remainders_go_by_the_order_of_the_kinds() -> None:
    _, parts = split_rate({"busy": 1, "idle": 1, "parked": 1}, 3 * 10**9 // 10**6 * 10**6)
    assert parts == {"busy": "0.000000000000", "idle": "0.000000000000", "parked": "0.000000000000"}
    _, parts = split_rate({"busy": 5, "idle": 5, "parked": 10}, 10_000)
    assert parts == {"busy": "0.000000000001", "idle": "0.000000000000", "parked": "0.000000000001"}
