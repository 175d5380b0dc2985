"""The figures behind the number, by hand on a tiny day, and the unusual weeks that they are compared on."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spotinference_sim import variants
from spotinference_sim.figures import costs_by_machine, costs_by_model, figures, usd_per_million
from spotinference_sim.instants import DAY_S, SECOND_US
from spotinference_sim.request import Request
from spotinference_sim.resources import Wake
from spotinference_sim.scenario import Scenario
from spotinference_sim.truth import truth, window_of

FEMTO = 10**15


def test_the_figures_of_a_tiny_day_by_hand(
    make_tiny: Callable[..., Scenario], make_request: Callable[..., Request]
) -> None:
    slow = make_request(cached_tokens=25, reasoning_tokens=20)
    quick = replace(slow, finished_us=slow.started_us + 3 * SECOND_US, stream=False, prompt_tokens=400)
    refused = make_request(
        vm_id=None, prompt_tokens=None, completion_tokens=None, usage_source="none", upstream_status=None
    )
    scenario = make_tiny(slow, quick, refused)
    found = figures(scenario, scenario.start_day)
    assert found["cold_start_usd"] == "0.000100000000000"
    assert (found["cold_starts"], found["failed_cold_starts"], found["failed_cold_start_usd"]) == (
        1,
        0,
        "0.000000000000000",
    )
    assert found["cache_hit_ratio"] == "0.100000"  # 50 of 500
    assert found["cache_hit_known_share"] == "1.000000"
    assert found["reasoning_share"] == "0.400000"  # 40 of 100
    assert found["output_input_ratio"] == "0.200000"
    assert found["output_input_percentiles"] == {"p10": "0.125000", "p50": "0.125000", "p90": "0.500000"}
    assert found["latency_seconds"] == {"p50": "3.000000", "p90": "10.000000", "p99": "10.000000"}
    assert found["time_to_first_token_seconds"] == {"p50": "1.000000", "p90": "1.000000", "p99": "1.000000"}
    assert found["answered_requests"] == 2
    assert found["tokens_per_busy_second"] == "60.000000"  # 600 tokens in 10 s
    assert found["usd_per_million_completion_tokens"] == "54.244000000000"  # 0.0054244 USD over 100
    assert found["usd_per_million_visible_tokens"] == "90.406666666667"  # over 60
    assert found["usd_per_request"] == "0.002712200000"


def test_a_failed_wake_is_told_apart_to_its_last_second(make_tiny: Callable[..., Scenario]) -> None:
    scenario = make_tiny()
    vm = scenario.vms[0]
    failed = replace(vm, wakes=(replace(vm.wakes[0], ready_s=None),))
    found = figures(replace(scenario, vms=(failed,)), scenario.start_day)
    assert (found["failed_cold_starts"], found["failed_cold_start_seconds"]) == (1, "6200.000000")
    assert found["failed_cold_start_usd"] == found["cold_start_usd"] == "0.006200000000000"


def test_a_restart_of_the_engine_is_no_wake_of_the_machine(make_tiny: Callable[..., Scenario]) -> None:
    scenario = make_tiny()
    vm = scenario.vms[0]
    (wake,) = vm.wakes
    at_s = wake.active_s + 500
    again = Wake(at_s, at_s + 60, wake.until_s, at_s + 5, is_restart=True)
    restarted = replace(vm, wakes=(replace(wake, until_s=at_s), again))
    before, after = (truth(s, s.start_day) for s in (scenario, replace(scenario, vms=(restarted,))))
    assert before == after


def test_models_share_a_machine_by_their_tokens_on_it_and_the_rest_by_their_machines(
    make_tiny: Callable[..., Scenario], make_request: Callable[..., Request]
) -> None:
    one, other = make_request(model="a"), make_request(model="b", prompt_tokens=250)
    scenario = make_tiny(one, other)
    vm_id = scenario.vms[0].id
    machine, _, _ = costs_by_machine(scenario, scenario.start_day)[vm_id]
    costs = costs_by_model(scenario, scenario.start_day, {"b": [vm_id], "a": [vm_id]})
    assert costs["a"][0] == machine * 150 // 450
    assert sum(map(sum, costs.values())) == int(truth(scenario, scenario.start_day)["paid_usd"].replace(".", ""))


@given(st.integers(-(10**21), 10**21), st.integers(0, 10**12))
def test_usd_per_million_is_within_half_a_unit_of_the_quotient(femtos: int, tokens: int) -> None:
    text = usd_per_million(femtos, tokens)
    if tokens == 0:
        assert text is None
    else:
        units = int((text or "").replace(".", ""))
        assert 2 * abs(units * tokens * FEMTO - femtos * 10**18) <= tokens * FEMTO


@pytest.mark.parametrize("name", variants.NAMES)
def test_every_unusual_week_is_what_its_name_says(name: str) -> None:
    scenario, plain = variants.week(name), variants.week("plain")
    start_us, end_us = window_of(scenario.start_day.fromordinal(scenario.start_day.toordinal() + variants.DAYS - 1))
    day_us = DAY_S * SECOND_US
    requests = [r for r in scenario.requests if start_us <= r.finished_us < end_us]
    midnights = [r.finished_us // day_us - r.started_us // day_us for r in requests]
    is_so = {
        "plain": len(requests) > 500,
        "zero_tokens": bool(requests) and all(r.prompt_tokens is None for r in requests),
        "aborted_streams": all(r.end_reason == "client_gone" for r in requests)
        and {r.usage_source for r in requests} == {"engine_partial", "none"},
        "idle_machine": {vm.id for vm in plain.vms if vm.model} - {r.vm_id for r in requests} == {variants.A100_ID},
        "across_midnights": max(midnights) == 2 and 1 in midnights,
        "month_end": scenario.start_day.month
        != scenario.start_day.fromordinal(scenario.start_day.toordinal() + 6).month,
        "restarted_engines": sum(wake.is_restart for vm in scenario.vms for wake in vm.wakes) == 2,
        "several_choices": max(r.choices for r in requests) == variants.CHOICES,
        "mixed_gpus": {vm.flavor.gpu_count for vm in scenario.vms} == {0, 1, variants.GPUS},
    }
    assert is_so[name]
