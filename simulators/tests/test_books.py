"""Scenarios with every type that costs, and the books of their days: by hand, as sums, and as answers show them."""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import pytest
from spotinference_sim import features
from spotinference_sim.books import organisation_truth, render_books, truth_by_resource
from spotinference_sim.faults import NAMES, Faults
from spotinference_sim.features import DOWN_NANOS, UP_NANOS, Features
from spotinference_sim.fleet import H100_ID, ORCHESTRATOR_ID
from spotinference_sim.hyperstack_answers import HyperstackAnswers
from spotinference_sim.instants import DAY_S, SECOND_US, day_start_s
from spotinference_sim.kinds import KINDS
from spotinference_sim.request import Request
from spotinference_sim.resources import FEMTO, Revision
from spotinference_sim.scenario import Scenario
from spotinference_sim.truth import NANO_FEMTOS, truth
from spotinference_sim.wakes import true_wakes

FIRST = date(2026, 10, 28)
DAYS = 9
HISTORY = "/billing/billing/history"
LISTS = [kind for kind in KINDS.values() if kind.path]


@pytest.fixture(scope="module")
def full() -> Scenario:
    return Scenario.generate(7, FIRST, DAYS, features=Features.all())


@pytest.fixture(scope="module")
def days() -> list[date]:
    return [FIRST + timedelta(days=number) for number in range(DAYS)]


def asked(scenario: Scenario, path: str, now_s: int, day: date, faults: Faults | None = None) -> Any:
    dates = {"start_date": f"{day}T00:00:00", "end_date": f"{day + timedelta(days=1)}T00:00:00", "per_page": "100"}
    answer = HyperstackAnswers(scenario, faults=faults).answer(path, dates, now_s * SECOND_US)
    return json.loads(answer.body) if answer.status == 200 else {}


def lines(scenario: Scenario, day: date, now_s: int, faults: Faults | None = None) -> dict[tuple[str, int], float]:
    """Read all lists of a day: dollars by type and id."""
    found: dict[tuple[str, int], float] = {}
    for kind in LISTS:
        body = asked(scenario, f"{HISTORY}/{kind.path}", now_s, day, faults)
        for wrapped in (m for m in body.values() if isinstance(m, dict) and "billing_history" in m):
            for row in wrapped["billing_history"]:
                key = kind.word, row["attributes"]["infrahub_id"]
                found[key] = found.get(key, 0.0) + row["metrics"]["incurred_bill"]
    return found


def test_features_leave_the_ordinary_machines_volumes_and_requests_alone(full: Scenario) -> None:
    plain = Scenario.generate(7, FIRST, DAYS)
    assert full.requests == plain.requests
    for before, after in ((plain.vms, full.vms), (plain.volumes, full.volumes)):
        assert [resource.spells for resource in before] == [resource.spells for resource in after[: len(before)]]
    assert plain.others == ()
    assert Scenario.generate(7, FIRST, DAYS, features=Features()) == plain


def test_the_full_scenario_holds_every_type_and_every_oddity(full: Scenario) -> None:
    assert {resource.kind for resource in full.resources} == set(KINDS)
    keys = [(resource.kind, resource.id) for resource in full.resources]
    assert {key for key in keys if keys.count(key) == 2} == {("vm", features.SAME_VM_ID), ("volume", features.SAME_ID)}
    names = [volume.name for volume in full.volumes]
    assert names.count("staging") == 2
    assert sum(resource.excluded for resource in full.resources) == 1
    assert {resource.list_percent for resource in full.resources} == {100, 125}
    assert any(resource.renames for resource in full.resources)
    assert {vm.id for vm in full.vms} & {volume.id for volume in full.volumes}
    assert full.prices.changes
    assert full.start_day.month != (full.start_day + timedelta(days=DAYS - 1)).month


def test_the_books_of_a_tiny_day_add_up_by_hand(
    make_tiny: Callable[..., Scenario], make_request: Callable[..., Request]
) -> None:
    scenario = make_tiny(make_request())
    vm, volume = truth_by_resource(scenario, scenario.start_day).values()
    nanos = {"busy": 10_000, "cold_start": 100_000, "idle": 6_090_000, "network": 62_000, "parked": 554_400}
    assert vm.femtos_by_kind == {kind: n * NANO_FEMTOS for kind, n in (nanos | {"credit": -1_500_000}).items()}
    assert volume.femtos_by_kind == {"storage": 108_000 * NANO_FEMTOS}
    assert (vm.kind, volume.kind, vm.id == volume.id) == ("vm", "volume", True)
    organisation = organisation_truth(scenario, scenario.start_day)
    assert organisation.first_femtos == organisation.final_femtos == 5_424_400 * NANO_FEMTOS
    assert organisation.credit_femtos == -1_500_000 * NANO_FEMTOS
    assert truth_by_resource(scenario, scenario.start_day, requests=())["vm", vm.id].femtos_by_kind.get("busy") is None
    assert truth_by_resource(scenario, scenario.start_day - timedelta(days=1)) == {}


def test_the_books_say_what_the_published_truth_says(full: Scenario, days: list[date]) -> None:
    figures = truth(full, days[-1])["days"]
    for day in days[-7:]:
        organisation = organisation_truth(full, day)
        rows = truth_by_resource(full, day).values()
        assert render_books(full, day)["organisation"]["first_usd"] == figures[day.isoformat()]["paid_usd"]
        assert organisation.first_femtos == sum(organisation.by_category.values()) + organisation.uncategorised_femtos
        for kind, usd in figures[day.isoformat()]["paid_usd_by_kind"].items():
            femtos = sum(row.femtos_by_kind.get(kind, 0) for row in rows)
            assert f"{femtos / FEMTO:.9f}" == f"{float(usd):.9f}"


@pytest.mark.parametrize("faults", [Faults.none(), Faults()], ids=["honest", "default"])
def test_settled_history_shows_the_books_to_the_last_digit(full: Scenario, days: list[date], faults: Faults) -> None:
    now_s = full.end_s + 5 * DAY_S
    for day in days:
        found, books = lines(full, day, now_s, faults), truth_by_resource(full, day)
        assert {key: round(usd, 9) for key, usd in found.items()} == {
            key: round(row.final_femtos / FEMTO, 9) for key, row in books.items() if row.listed
        }
        metrics = asked(full, HISTORY, now_s, day, faults)["billing_history"]["billing_history"][0]["metrics"]
        organisation = organisation_truth(full, day)
        assert metrics["incurred_bill"] == pytest.approx(organisation.final_femtos / FEMTO, abs=1e-9)
        assert metrics["incurred_bill"] - sum(found.values()) == pytest.approx(
            organisation.unattributed_femtos / FEMTO, abs=1e-8
        )


@pytest.mark.parametrize("name", [name for name in NAMES if name != "never_settle"])
def test_no_fault_changes_settled_lines_but_the_one_that_never_settles(name: str) -> None:
    scenario = Scenario.long(5, FIRST, 3, (4, 4), Features.all())
    day = FIRST + timedelta(days=1)
    found = lines(scenario, day, scenario.end_s + 5 * DAY_S, Faults.worst(name, Faults()))
    books = {key: row for key, row in truth_by_resource(scenario, day).items() if row.listed}
    missing = {("cluster", features.CLUSTER_ID)} if name == "cluster_remainder" else set()
    assert books.keys() - found.keys() == missing
    for key, usd in found.items():
        exact = books[key].final_femtos / FEMTO if key in books else 0
        assert usd == pytest.approx(exact, abs=1e-9)


def test_a_closed_day_changes_once_at_the_start_of_its_second_day_after(full: Scenario, days: list[date]) -> None:
    changed = {}
    for day in days:
        start_s = day_start_s(day)
        before, after = (lines(full, day, start_s + 2 * DAY_S + second) for second in (3_599, 3_600))
        changed |= {(day, *key): round((after[key] - before[key]) * 1e9) for key in after if after[key] != before[key]}
    rows = {(day, *key): row for day in days for key, row in truth_by_resource(full, day).items()}
    assert changed == {key: row.revision_femtos // NANO_FEMTOS for key, row in rows.items() if row.revision_femtos}
    assert sorted(changed.values()) == [DOWN_NANOS, UP_NANOS]


def test_a_correction_moves_the_balance_but_no_counter_of_usage(make_tiny: Callable[..., Scenario]) -> None:
    tiny = make_tiny()
    start_s = tiny.start_s
    late = replace(tiny.vms[0], revisions=(Revision(start_s + 5_000, start_s + 50_000, 10**9),))
    revised = replace(tiny, vms=(late,))
    for second, extra in ((49_999, 0), (50_000, 1)):
        at_us = (start_s + second) * SECOND_US
        credit = [HyperstackAnswers(s).answer("/billing/user-credit/credit", {}, at_us).body for s in (tiny, revised)]
        first, then = (json.loads(body)["data"]["credit"] for body in credit)
        assert first - then == pytest.approx(extra)
        usage = [HyperstackAnswers(s).answer("/billing/billing/usage", {}, at_us).body for s in (tiny, revised)]
        assert usage[0] == usage[1]


def test_excluded_resources_are_in_no_sum(full: Scenario, days: list[date]) -> None:
    row = truth_by_resource(full, days[3])["volume", features.EXCLUDED_ID]
    assert (row.first_femtos, row.femtos_by_kind) == (0, {})
    assert row.excluded_femtos == 27 * 400 * DAY_S * NANO_FEMTOS
    assert organisation_truth(full, days[3]).excluded_femtos == row.excluded_femtos


def test_usage_has_what_history_has_not_and_the_other_way_round(full: Scenario) -> None:
    body = HyperstackAnswers(full).answer("/billing/billing/usage", {}, full.end_s * SECOND_US).body
    rows = json.loads(body)["data"]
    assert {row["resource_type"] for row in rows} == {"vm", "volume", "filesystem"}
    assert {row["name"] for row in rows} >= {"orchestrator-renamed", "weights-70b-renamed", "runner", "cache"}
    assert [row["exclude_billing"] for row in rows].count(True) == 1
    lives = [row for row in rows if row["resource_id"] == features.SAME_ID]
    body = HyperstackAnswers(full).answer("/billing/billing/usage", {"deleted": "true"}, full.end_s * SECOND_US).body
    lives += [row for row in json.loads(body)["data"] if row["resource_id"] == features.SAME_ID]
    assert len({row["create_time"] for row in lives}) == 2


def test_a_life_made_again_under_its_id_has_its_own_line(full: Scenario) -> None:
    dates = {"start_date": "2026-10-28T00:00:00", "end_date": "2026-11-06T00:00:00", "per_page": "100"}
    answers = HyperstackAnswers(full)
    now_us = (full.end_s + DAY_S) * SECOND_US
    path = f"{HISTORY}/volume/{features.SAME_ID}"
    rows = json.loads(answers.answer(path, dates, now_us).body)["billing_history_volume_details"]["billing_history"]
    assert len({row["attributes"]["id"] for row in rows}) == 2
    assert rows[0]["attributes"]["status"] == "DELETED"
    early = dates | {"end_date": "2026-10-29T00:00:00"}
    rows = json.loads(answers.answer(path, early, now_us).body)["billing_history_volume_details"]["billing_history"]
    assert len(rows) == 1


def test_a_renamed_machine_bears_each_name_in_its_time(full: Scenario, days: list[date]) -> None:
    names = [truth_by_resource(full, day)["vm", ORCHESTRATOR_ID].names for day in days]
    assert (names[0], names[-1]) == (("orchestrator",), ("orchestrator-renamed",))
    assert ("orchestrator", "orchestrator-renamed") in names


def test_every_detail_and_graph_sums_to_its_line(full: Scenario, days: list[date]) -> None:
    now_s = full.end_s + 5 * DAY_S
    for kind, number in (("snapshot", 52_001), ("bucket", 53_001), ("cluster", 54_001), ("virtual-machine", H100_ID)):
        detail = asked(full, f"{HISTORY}/{kind}/{number}", now_s, days[4])
        (row,) = next(member for member in detail.values() if isinstance(member, dict))["billing_history"]
        graph = asked(full, f"{HISTORY}/{kind}/{number}/graph", now_s, days[4])
        (points,) = next(member for member in graph.values() if isinstance(member, dict))["billing_history"]
        values = [point["value"] for point in points["metrics"]["incurred_bill_graph"]]
        assert sum(values) == pytest.approx(row["metrics"]["incurred_bill"])
    path = f"/billing/billing/virtual-machine/{H100_ID}/sub-resource"
    (whole,) = asked(full, path, now_s, days[4])["sub_resources_costs"]["billing_history"]
    graph = asked(full, f"{path}/graph", now_s, days[4])["sub_resources_costs"]
    assert graph["granularity"] == 3_600
    for name in ("gpu", "disk", "publicip"):
        values = [point["value"] for point in graph["billing_history"][0]["metrics"][f"{name}_incurred_bill_graph"]]
        assert sum(values) == pytest.approx(whole["metrics"][f"{name}_incurred_bill"])


def test_400_days_are_made_in_seconds_and_answered_in_milliseconds() -> None:
    began = time.perf_counter()
    scenario = Scenario.long(11, date(2025, 10, 20), 400, features=Features.all())
    assert scenario == Scenario.long(11, date(2025, 10, 20), 400, features=Features.all())
    answers = HyperstackAnswers(scenario, faults=Faults())
    dates = {"start_date": "2026-08-01T00:00:00", "end_date": "2026-08-02T00:00:00", "per_page": "100"}
    for kind in LISTS * 20:
        assert answers.answer(f"{HISTORY}/{kind.path}", dates, scenario.end_s * SECOND_US).status == 200
    assert time.perf_counter() - began < 10
    assert len(scenario.vms) >= 10
    assert len(scenario.volumes) >= 10
    assert scenario.requests == ()
    statuses = {spell.status for vm in scenario.vms for spell in vm.spells}
    assert statuses >= {"ACTIVE", "SHUTOFF", "HIBERNATED"}
    assert len(scenario.prices.changes) >= 6
    for number in (0, 57, 200, 399):
        assert organisation_truth(scenario, scenario.start_day + timedelta(days=number)).first_femtos > 0


def test_payments_raise_the_balance_without_their_tax(full: Scenario) -> None:
    first = full.payments[0]
    answers = HyperstackAnswers(full)

    def asked_at(path: str, second: int) -> Any:
        return json.loads(answers.answer(path, {}, second * SECOND_US).body)["data"]

    assert asked_at("/billing/payment/payment-details", first.at_s - 1) == []
    (row,) = asked_at("/billing/payment/payment-details", first.at_s)
    assert (row["amount"], row["tax_amount"], row["currency"]) == (250, 50, "usd")
    credit = [asked_at("/billing/user-credit/credit", first.at_s + step)["credit"] for step in (-1, 0)]
    assert credit[1] - credit[0] == pytest.approx(250, abs=0.01)


def test_a_wake_by_hand(make_tiny: Callable[..., Scenario], make_request: Callable[..., Request]) -> None:
    scenario = make_tiny(make_request(), make_request(canary=True))
    (wake,) = true_wakes(scenario)
    start_s = scenario.start_s
    assert (wake.active_s, wake.ready_s, wake.until_s) == (start_s + 1_000, start_s + 1_100, start_s + 7_200)
    assert (wake.cold_micros, wake.cold_femtos, wake.served_tokens) == (100 * SECOND_US, 100_000 * NANO_FEMTOS, 150)
    assert true_wakes(scenario, ())[0].served_tokens == 0


def test_the_wakes_are_the_cold_starts_of_the_truth(full: Scenario, days: list[date]) -> None:
    figures = truth(full, days[-1])
    wakes = [wake for wake in true_wakes(full) if wake.active_s >= day_start_s(days[-7])]
    assert len(wakes) == figures["cold_starts"]
    assert [wake.ready_s for wake in wakes].count(None) == figures["failed_wakes"] == 1
    assert sum(wake.cold_micros for wake in wakes) == Decimal(figures["cold_start_seconds"]) * SECOND_US
    assert sum(wake.cold_femtos for wake in wakes) == Decimal(figures["paid_usd_by_kind"]["cold_start"]) * FEMTO


def test_two_lives_of_one_day_are_one_row_of_the_books() -> None:
    scenario = Scenario.long(3, FIRST, 1, (1, 1), Features(same_id=True))
    row = truth_by_resource(scenario, FIRST)["vm", features.SAME_VM_ID]
    lives = [vm for vm in scenario.vms if vm.id == features.SAME_VM_ID]
    end_us = (scenario.start_s + DAY_S) * SECOND_US
    assert len(lives) == 2
    assert row.first_femtos == sum(vm.meter.femtos(end_us) for vm in lives)
    assert row.names == ("runner",)
    found = lines(scenario, FIRST, scenario.end_s + DAY_S)
    assert found["vm", features.SAME_VM_ID] == pytest.approx(row.first_femtos / FEMTO)
