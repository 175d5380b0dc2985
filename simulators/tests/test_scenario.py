"""The demo scenario: deterministic, complete, and free of impossible things."""

from datetime import date
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spotinference_sim.fleet import CREDIT_NANOS
from spotinference_sim.instants import DAY_S, FOREVER_S, HOUR_S, SECOND_US
from spotinference_sim.resources import FEMTO, Meter, Spell
from spotinference_sim.scenario import LEAD_DAYS, Scenario


def test_the_same_seed_gives_the_same_scenario_and_another_gives_another() -> None:
    first = Scenario.generate(5, date(2026, 11, 20), 2)
    assert first == Scenario.generate(5, date(2026, 11, 20), 2)
    assert first != Scenario.generate(6, date(2026, 11, 20), 2)


def test_no_days_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one day, asked for 0"):
        Scenario.generate(1, date(2026, 11, 20), 0)


def test_the_demo_holds_every_mishap(demo: Scenario) -> None:
    by_name = {vm.name: vm for vm in demo.vms}
    assert by_name["orchestrator"].wakes == ()
    assert by_name["vllm-a6000-old"].ended_s < demo.end_s
    assert by_name["vllm-a6000-new"].created_s > demo.start_s + 2 * DAY_S
    assert [wake.ready_s for vm in demo.vms for wake in vm.wakes].count(None) == 1
    assert any(spell.status == "SHUTOFF" for spell in by_name["vllm-l40-a"].spells)
    assert {vm.id for vm in demo.vms} & {volume.id for volume in demo.volumes}
    assert len(demo.prices.changes) == 1
    assert demo.prices.changes[0].at_s % 60 == 0
    kept = {spell.ip_rate > 0 for spell in by_name["vllm-a100-a"].spells if spell.status == "HIBERNATED"}
    freed = {spell.ip_rate > 0 for spell in by_name["vllm-h100-a"].spells if spell.status == "HIBERNATED"}
    assert (kept, freed) == ({True}, {False})


def test_the_requests_hold_every_kind(demo: Scenario) -> None:
    kinds = {(r.end_reason, r.usage_source, r.status) for r in demo.requests}
    assert kinds == {
        ("complete", "engine_final", 200),
        ("upstream_error", "none", 400),
        ("client_gone", "engine_final", 200),
        ("client_gone", "engine_partial", 200),
        ("refused", "none", 503),
    }
    last_week = demo.end_s - 7 * DAY_S
    seconds = [(r.started_us // SECOND_US, r.finished_us // SECOND_US) for r in demo.requests]
    assert any(last_week < a < demo.end_s and a // DAY_S != b // DAY_S for a, b in seconds)
    assert any(b - a > 2_000 and a // HOUR_S != b // HOUR_S and a // DAY_S == b // DAY_S for a, b in seconds)
    hours = {a // HOUR_S for a, _ in seconds}
    assert len(hours) < (demo.days + LEAD_DAYS) * 24
    assert {r.choices for r in demo.requests} == {1, 2}
    assert any(r.canary for r in demo.requests)
    assert len({r.request_id for r in demo.requests}) == len(demo.requests)


def test_requests_run_only_on_engines_that_are_ready_from_begin_to_end(demo: Scenario) -> None:
    for request in demo.requests:
        if request.vm_id is not None:
            wake = demo.vm_by_id[request.vm_id].wake_at(request.started_us // SECOND_US)
            assert wake is not None
            assert request.finished_us < wake.until_s * SECOND_US
            assert request.engine_completion_tokens >= (request.completion_tokens or 0)
    starts = [request.started_us for request in demo.requests]
    assert starts == sorted(starts)


@pytest.mark.parametrize("days", [1, 2, 5, 9])
def test_lives_are_whole_and_transitions_outlast_a_minute(days: int) -> None:
    scenario = Scenario.generate(11, date(2026, 11, 12), days)
    for resource in scenario.resources:
        spells = resource.spells
        assert all(a.end_s == b.start_s for a, b in pairwise(spells))
        assert all(spell.start_s < spell.end_s for spell in spells)
        assert resource.spell_at(resource.created_s - 1) is None
    for vm in scenario.vms:
        for spell in vm.spells:
            if spell.status.endswith("ING"):
                assert spell.end_s - spell.start_s > 60
        changes = {spell.start_s for spell in vm.spells} | {vm.ended_s}
        assert {event.at_s for event in vm.events} <= changes


@given(st.integers(0, 11 * DAY_S), st.integers(0, 3 * HOUR_S))
@settings(max_examples=60, deadline=None)
def test_counters_never_fall_but_for_the_credit(demo: Scenario, second: int, step: int) -> None:
    at_us, later_us = ((demo.start_s + s) * SECOND_US + 7 for s in (second, second + step))
    for resource in demo.resources:
        credit = sum(c.nanos for c in resource.credits if at_us < c.at_s * SECOND_US <= later_us)
        assert credit in (0, CREDIT_NANOS)
        moved = resource.meter.femtos(later_us) - resource.meter.femtos(at_us)
        assert moved + credit * 10**6 >= 0
        exact = resource.meter.femtos(at_us) / FEMTO
        assert abs(resource.meter.dollars(at_us) - exact) < 4e-10


def test_a_counter_is_a_whole_number_of_nanos_at_whole_seconds(demo: Scenario) -> None:
    for resource in demo.resources:
        for second in range(demo.start_s, demo.end_s, 7_777):
            assert resource.meter.femtos(second * SECOND_US) % 10**6 == 0


def test_a_meter_stands_at_zero_before_creation_and_still_after_deletion() -> None:
    meter = Meter((Spell(100, 200, "ACTIVE", (("gpu", 5),)),))
    assert (meter.femtos(99 * SECOND_US), meter.dollars(99 * SECOND_US)) == (0, 0.0)
    assert meter.femtos(FOREVER_S * SECOND_US) == meter.femtos(200 * SECOND_US) == 500 * SECOND_US
