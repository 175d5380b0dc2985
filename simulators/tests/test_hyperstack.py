"""The simulated Hyperstack: wrappers, refusals, pages, counters, and HTTP in front of them."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from typing import Any

import pytest
from spotinference_sim.hyperstack_answers import HyperstackAnswers
from spotinference_sim.hyperstack_calls import BAD_DATES
from spotinference_sim.instants import DAY_S, SECOND_US, day_start_s
from spotinference_sim.prices import price_text
from spotinference_sim.scenario import Scenario

START_S = day_start_s(date(2026, 11, 22))
VM_ID = 700101
DAY = {"start_date": "2026-11-22T00:00:00", "end_date": "2026-11-23T00:00:00"}
HISTORY = "/billing/billing/history"
Asker = Callable[..., Any]


@pytest.fixture
def ask(make_tiny: Callable[..., Scenario]) -> Asker:
    """Ask the tiny scenario at a second of its day; answers the body, refusals as (status, body)."""

    def ask(path: str, second: float = 3_600, scenario: Scenario | None = None, lag: bool = False, **query: str) -> Any:
        answers = HyperstackAnswers(scenario or make_tiny(), lag)
        answer = answers.answer(path, query, round((START_S + second) * SECOND_US))
        body = json.loads(answer.body)
        return body if answer.status == 200 else (answer.status, body)

    return ask


def test_usage_counts_in_dollars_per_minute_and_since_creation(ask: Asker) -> None:
    body = ask("/billing/billing/usage", deleted="false")
    vm, volume = body["data"]
    assert (vm["resource_type"], volume["resource_type"]) == ("vm", "volume")
    assert vm["resource_id"] == volume["resource_id"] == VM_ID
    assert vm["bill_per_minute"] == pytest.approx(60 * 1_010e-9)
    assert vm["total_bill"] == pytest.approx(2_600 * 1_010e-9 - 0.0015)
    assert vm["total_up_time"] == 60
    assert (vm["active"], vm["terminate_time"], vm["create_time"]) == (True, None, "2026-11-22T00:00:00")


def test_a_free_machine_costs_the_integer_zero(ask: Asker) -> None:
    (vm,) = ask("/billing/billing/usage", second=100)["data"]
    assert json.dumps([vm["bill_per_minute"], vm["total_bill"]]) == "[0, 0]"


def test_deleted_resources_are_listed_apart_without_a_rate(ask: Asker) -> None:
    assert ask("/billing/billing/usage", deleted="true")["data"] == []
    (volume,) = ask("/billing/billing/usage", second=5_000, deleted="true")["data"]
    assert (volume["bill_per_minute"], volume["active"]) == (None, False)
    assert volume["terminate_time"] == "2026-11-22T01:15:00Z"
    assert volume["total_bill"] == pytest.approx(4_000 * 27e-9)
    assert [row["name"] for row in ask("/billing/billing/usage", second=5_000)["data"]] == ["tiny"]


def test_the_total_of_a_window_is_the_sum_of_its_lines(ask: Asker, demo: Scenario) -> None:
    second = DAY_S + 7_200
    metrics = ask(HISTORY, second, demo, **DAY)["billing_history"]["billing_history"][0]["metrics"]
    lines: list[Any] = []
    for kind, wrapper in (("virtual-machine", "billing_history_vm"), ("volume", "billing_history_volume")):
        body = ask(f"{HISTORY}/{kind}", second, demo, per_page="100", **DAY)
        assert body["success"] is True
        assert "status" not in body
        lines += body[wrapper]["billing_history"]
    assert sum(row["metrics"]["incurred_bill"] for row in lines) == pytest.approx(metrics["incurred_bill"])
    assert metrics["vm_cost"] + metrics["volume_cost"] == pytest.approx(metrics["incurred_bill"])
    assert {row["metrics"]["usage_time"] for row in lines} == {DAY_S}


def test_history_stops_at_now_and_knows_nothing_of_what_is_not_there_yet(ask: Asker) -> None:
    body = ask(f"{HISTORY}/virtual-machine", 2_000, **DAY)
    (row,) = body["billing_history_vm"]["billing_history"]
    assert row["metrics"]["usage_time"] == 2_000
    assert row["metrics"]["incurred_bill"] == pytest.approx(1_000 * 1_010e-9)
    assert row["attributes"]["status"] == "ACTIVE"
    early = {"start_date": "2026-11-20T00:00:00", "end_date": "2026-11-21T00:00:00"}
    assert ask(f"{HISTORY}/virtual-machine", **early)["billing_history_vm"]["total_count"] == 0
    for kind in ("snapshot", "bucket"):
        assert ask(f"{HISTORY}/{kind}", **DAY)[f"billing_history_{kind}"]["billing_history"] == []


def test_history_pages_and_searches(ask: Asker, demo: Scenario) -> None:
    dates = {"start_date": "2026-11-14T00:00:00", "end_date": "2026-11-22T00:00:00"}
    path = f"{HISTORY}/virtual-machine"
    first = ask(path, 0, demo, per_page="2", page="1", **dates)["billing_history_vm"]
    assert first["pagination"] == {"page": 1, "per_page": 2, "pages": 3}
    assert (len(first["billing_history"]), first["total_count"]) == (2, 6)
    found = ask(path, 0, demo, search="H100", **dates)["billing_history_vm"]
    assert [row["attributes"]["resource_name"] for row in found["billing_history"]] == ["vllm-h100-a"]
    assert ask(f"{HISTORY}/volume", page="0", **DAY)[0] == 400
    assert ask(f"{HISTORY}/volume", page="x", **DAY)[0] == 400


@pytest.mark.parametrize(
    "dates",
    [
        {},
        {"start_date": "2026-11-22T00:00:00"},
        {"start_date": "2026-11-22T00:00:00Z", "end_date": "2026-11-23T00:00:00Z"},
        {"start_date": "2026-11-22", "end_date": "2026-11-23"},
        {"start_date": "2026-13-22T00:00:00", "end_date": "2026-11-23T00:00:00"},
    ],
)
def test_dates_of_another_format_are_refused(ask: Asker, dates: dict[str, str]) -> None:
    for path in (HISTORY, f"{HISTORY}/volume", f"{HISTORY}/cluster"):
        assert ask(path, **dates) == (
            400,
            {"status": False, "message": BAD_DATES, "error_reason": "bad_request"},
        )


def test_clusters_contracts_and_ai_answer_404(ask: Asker) -> None:
    status, body = ask(f"{HISTORY}/cluster", **DAY)
    assert (status, body["error_reason"]) == (404, "not_found")
    assert body["message"] == "No cluster data found for 2026-11-22T00:00:00 - 2026-11-23T00:00:00 "
    assert ask(f"{HISTORY}/fine_tuning", **DAY)[0] == 404
    message = ask(f"{HISTORY}/contract", **DAY)[1]["message"]
    assert message == "Billing History for Contracts does not exist."


def test_details_carry_the_time_per_state(ask: Asker) -> None:
    body = ask(f"{HISTORY}/virtual-machine/{VM_ID}", 10_000, **DAY)
    assert body["status"] is True
    metrics = body["billing_history_vm_details"]["billing_history"][0]["metrics"]
    assert (metrics["usage_time_ACTIVE"], metrics["usage_time_HIBERNATED"]) == (6_200, 2_700)
    row = ask(f"{HISTORY}/volume/{VM_ID}", **DAY)["billing_history_volume_details"]["billing_history"][0]
    assert row["attributes"]["subresource_amount"] == 1
    assert "usage_time_ACTIVE" not in row["metrics"]
    assert ask(f"{HISTORY}/volume/{VM_ID}", 5_000, **DAY)["status"] is True
    assert ask(f"{HISTORY}/volume/1", **DAY)[0] == 404
    assert ask(f"{HISTORY}/snapshot/1", **DAY)[0] == 404


def test_graphs_sum_to_the_bill_by_hour_and_by_day(ask: Asker) -> None:
    for dates, step in ((DAY, 3_600), (DAY | {"start_date": "2026-11-16T00:00:00"}, 86_400)):
        wrapped = ask(f"{HISTORY}/virtual-machine/{VM_ID}/graph", DAY_S, **dates)["billing_history_vm_details"]
        metrics = wrapped["billing_history"][0]["metrics"]
        assert wrapped["granularity"] == step
        values = [point["value"] for point in metrics["incurred_bill_graph"]]
        assert sum(values) == pytest.approx(metrics["incurred_bill"])
        assert len(values) == DAY_S // step


def test_billing_events_are_the_spells(ask: Asker) -> None:
    events = ask(f"/billing/billing/virtual-machine/{VM_ID}/billing-events", 7_250, **DAY)["billing_events_history"]
    assert [event["event"] for event in events] == ["CREATING", "ACTIVE", "HIBERNATING"]
    assert [event["event_duration"] for event in events] == [1_000, 6_200, 50]
    assert events[1]["total_cost"] == pytest.approx(6_200 * 1_010e-9)


def test_sub_resources_split_the_bill(ask: Asker) -> None:
    body = ask(f"/billing/billing/virtual-machine/{VM_ID}/sub-resource", **DAY)["sub_resources_costs"]
    metrics = body["billing_history"][0]["metrics"]
    assert metrics["gpu_incurred_bill"] == round(2_600 * 1_000e-9, 15)
    assert metrics["publicip_incurred_bill"] == pytest.approx(2_600 * 10e-9)
    assert json.dumps(metrics["cpu_incurred_bill"]) == "0"


def test_the_price_book_is_a_bare_array_of_texts_and_follows_the_change(ask: Asker, demo: Scenario) -> None:
    change = demo.prices.changes[0]
    for second, value in ((change.at_s - 1, "3.196800000"), (change.at_s, "2.998800000")):
        book = {row["name"]: row for row in ask("/pricebook", second - START_S, demo)}
        assert book["H100-80G-SXM5"]["value"] == book["H100-80G-SXM5"]["original_value"] == value
        assert book["vCPU"]["value"] == "0E-9"
    assert price_text(27) == "0.000097200"


def test_calculate_shows_the_rate_of_one_resource(ask: Asker) -> None:
    for kind in ("virtual-machine", "instance"):
        body = ask(f"/pricebook/calculate/resource/{kind}/{VM_ID}")["calculated_resource_bills"]["resource"]
        assert body["actual_price"] == pytest.approx(1_010e-9 * 3_600)
        assert {part["name"] for part in body["resources"]} == {"gpu", "publicip"}
    assert ask(f"/pricebook/calculate/resource/volume/{VM_ID}")["status"] is True
    assert ask(f"/pricebook/calculate/resource/cluster/{VM_ID}")[0] == 404


def test_machines_show_their_state_and_lose_their_address(ask: Asker, demo: Scenario) -> None:
    (vm,) = ask("/core/virtual-machines")["instances"]
    assert (vm["status"], vm["power_state"], vm["vm_state"]) == ("ACTIVE", "RUNNING", "active")
    assert (vm["flavor"]["gpu"], vm["flavor"]["gpu_count"]) == ("L40", 1)
    assert vm["floating_ip_status"] == "ATTACHED"
    (vm,) = ask("/core/virtual-machines", 8_000)["instances"]
    assert (vm["vm_state"], vm["floating_ip"], vm["floating_ip_status"]) == (
        "shelved_offloaded",
        None,
        "NO FLOATING IP",
    )
    assert ask("/core/virtual-machines", 10)["instances"][0]["power_state"] is None
    assert ask(f"/core/virtual-machines/{VM_ID}")["instance"]["id"] == VM_ID
    names = [row["name"] for row in ask("/core/virtual-machines", 0, demo, search="A6000")["instances"]]
    assert names == ["vllm-a6000-new"]
    page = ask("/core/virtual-machines", 0, demo, page="2", pageSize="3")
    assert (page["page"], page["page_size"], page["count"], len(page["instances"])) == (2, 3, 5, 2)
    attached = ask("/core/virtual-machines", 0, demo, search="h100")["instances"][0]["volume_attachments"]
    assert attached[0]["volume"]["name"] == "weights-70b"


def test_deleted_machines_leave_core(ask: Asker, make_tiny: Callable[..., Scenario]) -> None:
    tiny = make_tiny()
    short_lived = replace(tiny.vms[0], spells=tiny.vms[0].spells[:2])
    scenario = replace(tiny, vms=(short_lived,))
    assert ask("/core/virtual-machines", 8_000, scenario)["instances"] == []
    assert ask(f"/core/virtual-machines/{VM_ID}/events", 8_000, scenario)[0] == 404
    row = ask(f"{HISTORY}/virtual-machine", 8_000, scenario, **DAY)["billing_history_vm"]["billing_history"][0]
    assert (row["attributes"]["status"], row["metrics"]["price_per_hour"]) == ("DELETED", 0)


def test_events_come_with_and_without_zone_and_only_when_they_happened(ask: Asker) -> None:
    events = ask(f"/core/virtual-machines/{VM_ID}/events", 7_200)["instance_events"]
    assert [event["reason"] for event in events][-1] == "HibernateInstanceRequest"
    assert [event["time"] for event in events][:2] == ["2026-11-22T00:00:00", "2026-11-22T00:16:40Z"]
    assert ask("/core/virtual-machines/5/events")[0] == 404


def test_the_rest_of_the_fleet_answers(ask: Asker, demo: Scenario) -> None:
    assert ask("/core/volumes")["volumes"][0]["status"] == "available"
    assert ask("/core/volumes", 0, demo)["volumes"][0]["attachments"][0]["instance_id"] == VM_ID
    assert ask(f"/core/volumes/{VM_ID}")["volume"]["size"] == 1
    assert ask("/core/volumes/1")[0] == 404
    assert ask("/core/snapshots")["snapshots"] == []
    assert {group["gpu"] for group in ask("/core/flavors")["data"]} >= {"", "L40"}
    assert ask("/core/environments")["environments"][0]["region"] == ask("/core/regions")["regions"][0]["name"]
    assert ask("/pricebook/contracts")["contracts"] == []
    assert ask("/billing/payment/payment-details")["data"] == []
    assert ask("/billing/alive") == {"message": "alive"}
    assert ask("/core/unknown")[0] == 404
    assert ask(f"/core/virtual-machines/{VM_ID}/stop")[0] == 404


def test_credit_falls_with_cost_and_last_day_is_yesterday(ask: Asker) -> None:
    assert ask("/billing/user-credit/credit", 0)["data"]["credit"] == 5_000
    assert ask("/billing/user-credit/credit", 2_000)["data"]["credit"] == pytest.approx(5_000 - 0.00101 - 0.0000405)
    costs = ask("/billing/billing/last-day-cost", DAY_S + 60)["data"]
    assert costs["total_cost"] == pytest.approx(0.0054244)
    assert ask("/billing/billing/last-day-cost", 60)["data"]["total_cost"] == 0


def test_lag_shows_counters_in_steps_out_of_step_and_never_ahead(ask: Asker) -> None:
    bills = [ask("/billing/billing/usage", 2_000 + s, lag=True)["data"][0]["total_bill"] for s in range(120)]
    exact = [ask("/billing/billing/usage", 2_000 + s)["data"][0]["total_bill"] for s in range(120)]
    assert len(set(bills)) == 3
    assert all(late <= true for late, true in zip(bills, exact, strict=True))
    assert max(true - late for late, true in zip(bills, exact, strict=True)) <= 60 * 1_010e-9
    gone = ask("/billing/billing/usage", 4_501, lag=True, deleted="true")["data"][0]["total_bill"]
    assert gone == pytest.approx(4_000 * 27e-9)
    assert ask("/billing/billing/usage", 0, lag=True)["data"][0]["total_up_time"] == 0


async def test_http_wants_the_key_and_gets_only(stage: Any) -> None:
    url = f"{stage.simulators.hyperstack_url}/billing/alive"
    async with stage.client.get(url) as answer:
        assert answer.status == 401
        assert (await answer.json())["error_reason"] == "unauthorized"
    async with stage.client.post(url, headers={"api_key": "simulated-key"}) as answer:
        assert answer.status == 405
    assert await stage.hyperstack("/billing/alive") == (200, {"message": "alive"})
    status, body = await stage.hyperstack("/billing/billing/usage", deleted="false")
    assert (status, len(body["data"])) == (200, 2)
    assert (await stage.hyperstack("/nothing"))[0] == 404
