"""What each fault does to the answers, by hand: one test for each row of the reference's table of faults."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date, timedelta
from itertools import pairwise
from typing import Any

import pytest
from spotinference_sim.books import truth_by_resource
from spotinference_sim.fault_scenes import EXCLUDED_ID, FREE_ID, as_seen
from spotinference_sim.faults import Faults
from spotinference_sim.features import CLUSTER_ID, FILESYSTEM_ID, Features
from spotinference_sim.hyperstack_answers import HyperstackAnswers
from spotinference_sim.hyperstack_core import UNKNOWN_STATUS
from spotinference_sim.hyperstack_gate import Fate, HyperstackGate, Passage
from spotinference_sim.instants import DAY_S, HOUR_S, MINUTE_S, SECOND_US
from spotinference_sim.long_fleet import FIRST_VM_ID
from spotinference_sim.resources import FEMTO
from spotinference_sim.scenario import Scenario

FIRST = date(2026, 11, 20)
DAYS = 4
HISTORY = "/billing/billing/history"
USAGE = "/billing/billing/usage"
VMS = f"{HISTORY}/virtual-machine"
VM = f"{VMS}/{FIRST_VM_ID}"
EVENTS = f"/billing/billing/virtual-machine/{FIRST_VM_ID}/billing-events"
SECOND_DAY = {"start_date": "2026-11-21T00:00:00", "end_date": "2026-11-22T00:00:00"}
FAILED_RESTORE = "RestoreHibernationInstanceFailed"
LATE_S = DAYS * DAY_S
"""Seconds after the first midnight at which the second day is long settled."""
Ask = Callable[..., Any]


@pytest.fixture(scope="module")
def scenario() -> Scenario:
    return Scenario.long(5, FIRST, DAYS, (9, 5), Features.all())


@pytest.fixture
def ask(scenario: Scenario) -> Ask:
    """Ask under faults, at a second after the first midnight; answers the body, refusals as (status, body)."""

    def ask(faults: Faults, path: str, second: float = LATE_S, **query: str) -> Any:
        at_us = round((scenario.start_s + second) * SECOND_US)
        answer = HyperstackAnswers(scenario, faults=faults).answer(path, query, at_us)
        body = json.loads(answer.body)
        return body if answer.status == 200 else (answer.status, body)

    return ask


def passages(scenario: Scenario, faults: Faults, path: str = USAGE, every_s: int = MINUTE_S) -> Iterator[Passage]:
    """Ask one question again and again from the first midnight for two days."""
    gate = HyperstackGate(HyperstackAnswers(scenario, faults=faults))
    for at_s in range(scenario.start_s, scenario.start_s + 2 * DAY_S, every_s):
        yield gate.passage(path, SECOND_DAY if "billing/" in path and path != USAGE else {}, at_s * SECOND_US)


def test_a_key_is_revoked_for_a_while(scenario: Scenario) -> None:
    statuses = [passage.answer.status for passage in passages(scenario, Faults.worst("revoked_s"))]
    assert [statuses.index(401), statuses.count(401)] == [12 * 60, 6 * 60]
    assert statuses[-1] == 200


def test_missing_dates_mean_the_month_so_far(ask: Ask) -> None:
    month = {"start_date": "2026-11-01T00:00:00", "end_date": "2026-11-24T00:00:00"}
    assert ask(Faults.none(), HISTORY)[0] == 400
    assert ask(Faults.worst("dates_optional"), HISTORY) == ask(Faults.none(), HISTORY, **month)


@pytest.mark.parametrize(
    ("path", "real", "by_schema"),
    [
        ("snapshot", "billing_history_snapshot", "billing_history_volume"),
        ("snapshot/52001", "billing_history_snapshot_details", "billing_history_volume_details"),
        (f"volume/{FIRST_VM_ID}/graph", "billing_history_volume_details", "billing_history_snapshot_details"),
        ("bucket/53001", "billing_history_bucket_details", "billing_history_bucket_details"),
        ("bucket/53001/graph", "billing_history_bucket_details", "billing_history"),
        ("serverless_inference", "billing_history_serverless_inference", "billing_history_serverless_inference"),
    ],
)
def test_wrappers_are_named_as_the_schemas_have_it(path: str, real: str, by_schema: str, ask: Ask) -> None:
    honest = ask(Faults.none(), f"{HISTORY}/{path}", **SECOND_DAY)
    described = ask(Faults.worst("schema_keys"), f"{HISTORY}/{path}", **SECOND_DAY)
    assert (real in honest, by_schema in described) == (True, True)
    assert "success" not in described or path == "serverless_inference"
    if path == "bucket/53001":
        assert described[by_schema] == honest[real]["billing_history"][0]


def test_parts_of_a_machine_are_bare_as_the_schemas_have_it(ask: Ask) -> None:
    path = f"/billing/billing/virtual-machine/{FIRST_VM_ID}/sub-resource"
    honest = ask(Faults.none(), path, **SECOND_DAY)
    assert ask(Faults.worst("schema_keys"), path, **SECOND_DAY) == honest["sub_resources_costs"]


@pytest.mark.parametrize("refresh_s", [12, 60, 300])
def test_counters_move_once_in_a_while(ask: Ask, refresh_s: int) -> None:
    faults = replace(Faults.none(), refresh_s=refresh_s)
    bills = [ask(faults, USAGE, DAY_S + s)["data"][0]["total_bill"] for s in range(0, 1_200, 4)]
    assert len(set(bills)) - 1 == pytest.approx(1_200 / refresh_s, abs=1)
    assert bills == sorted(bills)


def test_a_stuck_counter_catches_up(ask: Ask, scenario: Scenario) -> None:
    stuck = Faults.worst("stuck_counter")
    late = 0
    for second in range(0, 2 * DAY_S, 20 * MINUTE_S):
        rows = zip(ask(stuck, USAGE, second)["data"], ask(Faults.none(), USAGE, second)["data"], strict=True)
        behind = [(shown["total_bill"], exact["total_bill"]) for shown, exact in rows]
        assert all(shown <= exact for shown, exact in behind)
        late += any(shown < exact for shown, exact in behind)
    assert 3 < late < 144


def test_one_counter_falls_once_and_history_does_not(ask: Ask) -> None:
    def bills(faults: Faults, second: int) -> dict[str, float]:
        return {
            f"{r['resource_type']}{r['resource_id']}{r['create_time']}": r["total_bill"]
            for r in ask(faults, USAGE, second)["data"]
        }

    falls = []
    for before, after in pairwise(range(DAY_S, 3 * DAY_S, HOUR_S)):
        old, new = bills(Faults.worst("negative_step"), before), bills(Faults.worst("negative_step"), after)
        exact_old, exact_new = bills(Faults.none(), before), bills(Faults.none(), after)
        for key in old.keys() & new.keys():
            gap = (exact_new[key] - new[key]) - (exact_old[key] - old[key])
            falls += [gap] if gap > 1e-9 else []
    assert len(falls) == 1
    assert 0 < falls[0] <= 0.05
    assert ask(Faults.worst("negative_step"), VMS, **SECOND_DAY) == ask(Faults.none(), VMS, **SECOND_DAY)


def test_history_lags_in_open_windows_and_settles_two_hours_after(ask: Ask) -> None:
    def rows(faults: Faults, second: int) -> list[Any]:
        return list(ask(faults, VMS, second, per_page="100", **SECOND_DAY)["billing_history_vm"]["billing_history"])

    lag = Faults.worst("history_lag_s")
    for second in (DAY_S + 40_000, 2 * DAY_S - 1, 2 * DAY_S + 7_199):
        pairs = list(zip(rows(lag, second), rows(Faults.none(), second), strict=True))
        behind = [exact["metrics"]["usage_time"] - late["metrics"]["usage_time"] for late, exact in pairs]
        assert all(0 <= seconds <= 240 for seconds in behind)
        assert any(behind)
        for late, exact in pairs:
            assert late["metrics"]["incurred_bill"] <= exact["metrics"]["incurred_bill"] + 1e-9
        assert (
            len({late["metrics"]["incurred_bill"] == late["metrics"]["non_discounted_bill"] for late, _ in pairs}) == 2
        )
    assert rows(lag, 2 * DAY_S + 7_200) == rows(Faults.none(), 2 * DAY_S + 7_200)
    assert rows(Faults.worst("never_settle"), LATE_S) != rows(Faults.none(), LATE_S)


def test_durations_are_in_hours_as_documented(ask: Ask) -> None:
    row = ask(Faults.worst("usage_hours"), VM, **SECOND_DAY)["billing_history_vm_details"]["billing_history"][0]
    assert row["metrics"]["usage_time"] == 24


def test_times_per_state_are_negative_or_missing(ask: Ask, scenario: Scenario) -> None:
    states: list[Any] = []
    for vm in scenario.vms:
        if vm.created_s < scenario.start_s + DAY_S:
            body = ask(Faults.worst("odd_state_times"), f"{VMS}/{vm.id}", **SECOND_DAY)["billing_history_vm_details"]
            states += [r["metrics"] for r in body["billing_history"]]
    assert any("usage_time_HIBERNATED" not in metrics for metrics in states)
    assert any(metrics["usage_time_SHUTOFF"] < 0 for metrics in states)


def test_the_parts_of_the_total_fall_short_by_the_cluster(ask: Ask, scenario: Scenario) -> None:
    parts: dict[str, float] = {}
    for value in ("off", "category", "list"):
        faults = replace(Faults.none(), cluster_remainder=value)
        metrics = ask(faults, HISTORY, **SECOND_DAY)["billing_history"]["billing_history"][0]["metrics"]
        costs = {name: cost for name, cost in metrics.items() if name.endswith("_cost")}
        assert ("cluster_cost" in costs) == (value == "off")
        parts[value] = metrics["incurred_bill"] - sum(costs.values())
        listed = ask(faults, f"{HISTORY}/cluster", **SECOND_DAY)
        assert (listed[0] == 404) if value == "list" else (listed["billing_history_cluster"]["total_count"] == 1)
    truth = truth_by_resource(scenario, FIRST + timedelta(days=1))
    unknown = truth["filesystem", FILESYSTEM_ID].first_femtos / FEMTO
    assert parts["off"] == pytest.approx(unknown)
    assert (
        parts["category"] == parts["list"] == pytest.approx(unknown + truth["cluster", CLUSTER_ID].first_femtos / FEMTO)
    )


def test_counters_of_pages_are_wrong(ask: Ask) -> None:
    wrong = [
        ask(Faults.worst("wrong_counters"), VMS, LATE_S + s, **SECOND_DAY)["billing_history_vm"] for s in range(20)
    ]
    right = ask(Faults.none(), VMS, **SECOND_DAY)["billing_history_vm"]
    assert any(page["total_count"] != right["total_count"] for page in wrong)
    assert any("total_count" in page["pagination"] for page in wrong)
    assert all(page["billing_history"] == right["billing_history"] for page in wrong)


def test_a_row_comes_twice_or_not_at_all_between_pages(ask: Ask) -> None:
    def ids(faults: Faults, second: int, size: int = 4) -> list[str]:
        pages = [
            ask(faults, VMS, second, page=str(n), per_page=str(size), **SECOND_DAY)["billing_history_vm"][
                "billing_history"
            ]
            for n in (1, 2, 3)
        ]
        return [row["attributes"]["id"] for page in pages for row in page]

    exact = ids(Faults.none(), LATE_S)
    drifted = [ids(Faults.worst("page_drift"), LATE_S + s) for s in range(20)]
    assert len(set(exact)) == len(exact)
    assert any(set(found) < set(exact) for found in drifted)
    assert any(len(set(found)) < len(found) for found in drifted)
    assert all(found[:4] == exact[:4] for found in drifted)
    assert ids(Faults.worst("page_drift"), LATE_S, 100) == exact


def test_lists_without_rows_are_404_or_empty(ask: Ask) -> None:
    never = {"start_date": "2026-01-01T00:00:00", "end_date": "2026-01-02T00:00:00"}
    statuses = {}
    for value in ("real", "404", "empty"):
        faults = replace(Faults.none(), empty_lists=value)
        asked = [
            ask(faults, f"{HISTORY}/{kind}", **never)
            for kind in ("volume", "snapshot", "cluster", "contract", "fine_tuning")
        ]
        statuses[value] = [answer[0] if isinstance(answer, tuple) else 200 for answer in asked]
    assert statuses == {"real": [200, 200, 404, 404, 404], "404": [404] * 5, "empty": [200] * 5}
    ai = ask(replace(Faults.none(), empty_lists="empty"), f"{HISTORY}/fine_tuning", **never)
    assert ai["billing_history_fine_tuning"]["billing_history"] == []


FLAKY = (
    VM,
    f"{HISTORY}/snapshot/52001",
    f"{HISTORY}/snapshot/52001/graph",
    EVENTS,
    EVENTS.replace("virtual-machine", "volume"),
)


@pytest.mark.parametrize("path", FLAKY)
def test_five_endpoints_fail_now_and_then_in_two_shapes(path: str, scenario: Scenario) -> None:
    gate = HyperstackGate(HyperstackAnswers(scenario, faults=Faults()))
    at_us = (scenario.start_s + LATE_S) * SECOND_US
    answers = [gate.passage(path, SECOND_DAY, at_us + n * 61 * SECOND_US).answer for n in range(600)]
    failed = [answer for answer in answers if answer.status != 200]
    assert 10 < len(failed) < 60
    assert {frozenset(json.loads(answer.body)) for answer in failed} == {
        frozenset({"message"}),
        frozenset({"status", "message", "error_reason"}),
    }
    assert all(p.answer.status == 200 for p in passages(scenario, replace(Faults(), latency_s=(0.0, 0.0)), VMS, HOUR_S))


def test_flaky_endpoints_may_always_fail_and_answer_html(scenario: Scenario) -> None:
    (answer,) = {passage.answer for passage in passages(scenario, Faults.worst("flaky_html"), VM, HOUR_S)}
    assert (answer.status, answer.content_type, answer.body[:6]) == (500, "text/html", b"<html>")


def test_asking_again_at_the_same_instant_draws_again(scenario: Scenario) -> None:
    gate = HyperstackGate(HyperstackAnswers(scenario, faults=replace(Faults.none(), flaky_share=0.5)))
    at_us = (scenario.start_s + LATE_S) * SECOND_US
    assert {gate.passage(VM, SECOND_DAY, at_us).answer.status for _ in range(20)} == {200, 500}


def test_too_many_calls_in_a_minute_are_refused_until_it_ends(scenario: Scenario) -> None:
    for faults, wait_s in ((replace(Faults.none(), rate_limit=10), None), (Faults.worst("retry_after"), 43)):
        gate = HyperstackGate(HyperstackAnswers(scenario, faults=faults))
        at_us = (scenario.start_s + DAY_S + 17) * SECOND_US
        answers = [gate.passage(USAGE, {}, at_us).answer for _ in range(12)]
        assert [answer.status for answer in answers] == [200] * 10 + [429] * 2
        assert answers[-1].retry_after_s == wait_s
        assert gate.passage(USAGE, {}, at_us + 43 * SECOND_US).answer.status == 200


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_an_outage_refuses_everything_for_a_day(status: int, scenario: Scenario) -> None:
    faults = replace(Faults.worst("outage_s"), outage_status=status)
    statuses = [passage.answer.status for passage in passages(scenario, faults, every_s=HOUR_S)]
    assert statuses == [200] * 12 + [status] * 24 + [200] * 12


def test_graphs_by_day_only(ask: Ask) -> None:
    wrapped = ask(Faults.worst("coarse_graphs"), f"{VM}/graph", **SECOND_DAY)["billing_history_vm_details"]
    assert wrapped["granularity"] == DAY_S
    assert len(wrapped["billing_history"][0]["metrics"]["incurred_bill_graph"]) == 1


def test_billing_events_are_empty_though_money_was_spent(ask: Ask) -> None:
    assert ask(Faults.none(), EVENTS, **SECOND_DAY)["billing_events_history"] != []
    assert ask(Faults.worst("empty_events"), EVENTS, **SECOND_DAY)["billing_events_history"] == []


def test_instants_come_with_an_offset(ask: Ask) -> None:
    row = ask(Faults.worst("offsets"), USAGE)["data"][0]
    assert row["create_time"] == ask(Faults.none(), USAGE)["data"][0]["create_time"].replace("T00", "T02") + "+02:00"
    assert "Z" not in json.dumps(ask(Faults.worst("offsets"), "/core/virtual-machines"))


def test_calls_take_their_time_hang_or_are_reset(scenario: Scenario) -> None:
    usual = [passage.delay_us for passage in passages(scenario, Faults(), every_s=HOUR_S)]
    assert min(usual) >= 200_000
    assert max(usual) <= 2_000_000
    slow = [passage.delay_us for passage in passages(scenario, Faults.worst("slow_share"))]
    assert 0.4 < slow.count(40 * SECOND_US) / len(slow) < 0.6
    for name, fate in (("hang_share", Fate.HANGS), ("reset_share", Fate.RESET)):
        fates = [passage.fate for passage in passages(scenario, Faults.worst(name))]
        assert 0.4 < fates.count(fate) / len(fates) < 0.6


def test_machines_try_to_wake_and_stay_hibernated(ask: Ask, scenario: Scenario) -> None:
    seen = as_seen(scenario, Faults.worst("failing_restore"))
    failed = [(vm, event) for vm in seen.vms for event in vm.events if event.reason == FAILED_RESTORE]
    assert failed
    for vm, event in failed:
        spell = vm.spell_at(event.at_s)
        assert spell is not None
        assert spell.status == "HIBERNATED"
    assert not any(event.reason == FAILED_RESTORE for vm in scenario.vms for event in vm.events)


def test_what_is_excluded_is_counted_and_costs_nothing(ask: Ask) -> None:
    faults = Faults.worst("exclude_billing")
    (row,) = (row for row in ask(faults, USAGE)["data"] if row["resource_id"] == EXCLUDED_ID)
    assert row["exclude_billing"] is True
    assert row["total_bill"] > 0.8
    lines = ask(faults, f"{HISTORY}/volume", per_page="100", **SECOND_DAY)["billing_history_volume"]["billing_history"]
    (line,) = (line for line in lines if line["attributes"]["infrahub_id"] == EXCLUDED_ID)
    assert (line["metrics"]["incurred_bill"], line["metrics"]["non_discounted_bill"] > 0) == (0, True)
    for path in (HISTORY, "/billing/user-credit/credit", "/billing/billing/last-day-cost"):
        dates = SECOND_DAY if path == HISTORY else {}
        assert ask(faults, path, **dates) == ask(Faults.none(), path, **dates)


def test_list_prices_are_larger_than_what_is_paid(ask: Ask) -> None:
    faults = Faults.worst("discount_percent")
    metrics = ask(faults, HISTORY, **SECOND_DAY)["billing_history"]["billing_history"][0]["metrics"]
    without = ask(Faults.none(), HISTORY, **SECOND_DAY)["billing_history"]["billing_history"][0]["metrics"]
    assert metrics["incurred_bill"] == without["incurred_bill"]
    assert metrics["non_discounted_bill"] == pytest.approx(without["non_discounted_bill"] / 0.8)
    book = {row["name"]: row for row in ask(faults, "/pricebook")}
    assert (book["L40"]["value"], book["L40"]["original_value"]) == ("1.000800000", "1.251000000")
    assert book["L40"]["discount_applied"] is True
    rate = ask(faults, f"/pricebook/calculate/resource/volume/{FIRST_VM_ID}")["calculated_resource_bills"]["resource"]
    assert rate["price"] > rate["actual_price"]
    parts = ask(faults, f"/billing/billing/virtual-machine/{FIRST_VM_ID}/sub-resource", **SECOND_DAY)
    assert "cpu_non_discounted_bill" in parts["sub_resources_costs"]["billing_history"][0]["metrics"]


def test_words_and_members_that_nobody_documents(ask: Ask) -> None:
    statuses = {
        row["status"]
        for second in range(DAY_S, DAY_S + HOUR_S, MINUTE_S)
        for row in ask(Faults.worst("unknown_status"), "/core/virtual-machines", second)["instances"]
    }
    assert UNKNOWN_STATUS in statuses
    (row,) = (row for row in ask(Faults.worst("unknown_type"), USAGE)["data"] if row["resource_id"] == FREE_ID)
    assert (row["resource_type"], row["total_bill"]) == ("filesystem", 0)
    more = ask(Faults.worst("extra_fields"), USAGE)
    assert "x_undocumented" in more
    assert all("x_undocumented" in row for row in more["data"])


def test_usage_is_empty_now_and_then_though_resources_exist(scenario: Scenario) -> None:
    rows = [
        json.loads(p.answer.body)["data"] for p in passages(scenario, Faults.worst("empty_usage_share"), every_s=HOUR_S)
    ]
    assert 10 < sum(not row for row in rows) < 38
