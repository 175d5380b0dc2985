"""From exchanges to rows: names, units, rounding, and what cannot be a row."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from spotinference_pipeline import answers, contracts
from spotinference_pipeline.batch import Batch
from spotinference_pipeline.hyperstack_rows import EXCHANGE_SCHEMA, add_exchange, status_of_event
from spotinference_pipeline.raw import Exchange

EVENTS = answers.VM_EVENTS.format(vm_id=700123)
WINDOW = {"start_date": "2026-11-21T00:00:00", "end_date": "2026-11-22T00:00:00"}


def rows_of(exchange: Exchange) -> tuple[Batch, dict[str, Any]]:
    """The batch after one exchange, and the exchange's own row."""
    batch = Batch()
    row = add_exchange(batch, exchange, "file", 1)
    return batch, dict(zip(EXCHANGE_SCHEMA, row, strict=True))


def only(batch: Batch, table: str) -> dict[str, Any]:
    (row,) = batch.rows[table]
    return dict(zip(contracts.polars_schema(table), row, strict=True))


def test_a_counter_is_read_at_nano_dollars_and_its_rate_is_not(words: Any) -> None:
    usage = words.usage("0.0116129033333330001", bill_per_minute=Decimal("0.000193548388888"), name="né")
    batch, own = rows_of(words.exchange(answers.USAGE, words.usages(usage), query={"deleted": "false"}))
    row = only(batch, "validated.billing_snapshots")
    assert row["total_bill_usd"] == Decimal("0.011612903")
    assert row["rate_usd_per_minute"] == Decimal("0.000193548388888")
    assert row["observed_at"] == words.at("10:00:00.5")
    assert row["created_at"] == words.at("09:00")
    assert (row["resource_name"], row["terminated_at"], row["is_active"]) == ("né", None, True)
    assert (own["is_good"], own["items"], own["query"], own["problem"]) == (True, 1, "deleted=false", None)


def test_rounding_is_half_to_even(words: Any) -> None:
    usages = words.usages(words.usage("0.0000000005"), words.usage("0.0000000015"))
    batch, _ = rows_of(words.exchange(answers.USAGE, usages))
    assert [row[7] for row in batch.rows["validated.billing_snapshots"]] == [Decimal(0), Decimal("2e-9")]


def test_an_ended_resource_has_its_end_and_no_rate(words: Any) -> None:
    usage = words.usage(active=False, bill_per_minute=None, terminate_time="2026-11-22T10:30:00+00:00")
    row = only(rows_of(words.exchange(answers.USAGE, words.usages(usage)))[0], "validated.billing_snapshots")
    assert row["terminated_at"] == words.at("10:30")
    assert row["rate_usd_per_minute"] is None


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ({"floating_ip": "203.0.113.10", "floating_ip_status": "ATTACHED"}, True),
        ({"floating_ip": "203.0.113.10"}, True),
        ({"floating_ip": "203.0.113.10", "floating_ip_status": "DETACHING"}, False),
        ({"floating_ip": None}, False),
    ],
)
def test_a_machine_has_a_public_address_while_one_is_attached(words: Any, address: Any, shown: bool) -> None:
    fleet = words.fleet(words.machine(7, "SHUTOFF", **address))
    row = only(rows_of(words.exchange(answers.VIRTUAL_MACHINES, fleet))[0], "validated.vm_states")
    assert (row["vm_id"], row["vm_status"], row["source"]) == (7, "SHUTOFF", "fleet")
    assert row["has_public_ip"] is shown
    assert (row["gpu_name"], row["gpu_count"]) == ("H100-80G-SXM5", 8)


def test_a_machine_without_gpu_has_none_and_not_an_empty_one(words: Any) -> None:
    fleet = words.fleet(words.machine(flavor={"gpu": "", "gpu_count": 0}))
    row = only(rows_of(words.exchange(answers.VIRTUAL_MACHINES, fleet))[0], "validated.vm_states")
    assert row["gpu_name"] is None


@pytest.mark.parametrize(
    ("reason", "status"),
    [
        ("InstanceCreationRequest", "CREATING"),
        ("InstanceCreationSuccess", "ACTIVE"),
        ("InstanceStartSuccess", "ACTIVE"),
        ("InstanceStopSuccess", "SHUTOFF"),
        ("HibernateInstanceSuccess", "HIBERNATED"),
        ("HibernateInstanceFailed", "ACTIVE"),
        ("RestoreHibernationInstanceSuccess", "ACTIVE"),
        ("InstanceDeleteSuccess", "DELETED"),
        ("AttachVolumeSuccess", None),
        ("InstanceStart", None),
        ("InstanceStartSuccessAgain", None),
        ("", None),
    ],
)
def test_an_event_tells_the_status_that_follows(words: Any, reason: str, status: str | None) -> None:
    assert status_of_event(reason) == status
    exchange = words.exchange(EVENTS, words.events(("2026-11-22T09:59:58", reason)))
    row = only(rows_of(exchange)[0], "validated.vm_states")
    assert (row["vm_status"], row["reason"], row["source"]) == (status, reason, "event")
    assert row["observed_at"] == words.at("09:59:58")


def test_prices_keep_both_values_and_a_missing_list_price_is_unknown(words: Any) -> None:
    content = b'[{"name":"PublicIP","value":"0.00672043","original_value":"0.01"},{"name":"RAM","value":"0E-9"}]'
    batch, _ = rows_of(words.exchange(answers.PRICE_BOOK, content))
    assert [row[1:4] for row in batch.rows["validated.prices"]] == [
        ("PublicIP", Decimal("0.00672043"), Decimal("0.01")),
        ("RAM", Decimal(0), None),
    ]


def test_a_payment_has_its_amount_without_tax_and_the_word_for_its_state(words: Any) -> None:
    paid = {"payment_id": "p1", "amount": Decimal("250.5"), "tax_amount": 50, "created_at": "2026-11-22T09:30:05"}
    content = words.encode({"status": True, "data": [paid | {"status": "success", "currency": "usd"}, {"amount": 1}]})
    batch, own = rows_of(words.exchange(answers.PAYMENTS, content))
    row = only(batch, "validated.payments")
    assert (row["payment_id"], row["payment_status"]) == ("p1", "success")
    assert (row["amount_usd"], row["tax_usd"]) == (Decimal("250.5"), Decimal(50))
    assert row["paid_at"] == datetime(2026, 11, 22, 9, 30, 5, tzinfo=UTC)
    assert (own["items"], own["is_good"]) == (2, True), "one of them cannot be read, and is kept"


def test_the_parts_of_a_machine_are_bills_of_it_with_or_without_their_wrapper(words: Any) -> None:
    row = {"attributes": {"id": "uuid"}, "metrics": {"gpu_incurred_bill": 5, "publicip_incurred_bill": Decimal("0.16")}}
    wrapped = {"org_id": 1, "billing_history": [row], "total_count": 1}
    query = {"start_date": "2026-11-22T00:00:00", "end_date": "2026-11-23T00:00:00"}
    for document in ({"status": True, "sub_resources_costs": wrapped}, wrapped):
        batch, _ = rows_of(words.exchange(answers.SUB_RESOURCES.format(vm_id=7), words.encode(document), query=query))
        rows = batch.frame("validated.billing_history").rows(named=True)
        found = {(row["resource_type"], row["resource_id"], row["figure"]): row["amount_usd"] for row in rows}
        assert found == {
            ("vm", 7, "gpu_incurred_bill"): Decimal(5),
            ("vm", 7, "publicip_incurred_bill"): Decimal("0.16"),
        }


def test_the_balance_is_a_row(words: Any) -> None:
    batch, _ = rows_of(words.exchange(answers.CREDIT, b'{"status":true,"data":{"credit":-1.0000000004}}'))
    assert only(batch, "validated.credit_balances")["balance_usd"] == Decimal("-1.0")


def test_a_history_row_gives_a_row_for_each_amount_of_money(words: Any) -> None:
    content = (
        b'{"status":true,"billing_history":{"billing_history":[{"attributes":{"id":"x"},"metrics":'
        b'{"incurred_bill":462.4402151386667,"vm_cost":-0.000161290333,"bucket_cost":null,"usage_time":86400}}]}}'
    )
    batch, own = rows_of(words.exchange(answers.HISTORY, content, query=WINDOW))
    assert [row[1:9] for row in batch.rows["validated.billing_history"]] == [
        (*map(words.at, WINDOW.values()), "organisation", None, "x", None, figure, Decimal(amount))
        for figure, amount in (("incurred_bill", "462.4402151386667"), ("vm_cost", "-0.000161290333"))
    ]
    assert own["items"] == 1


@pytest.mark.parametrize(("path", "resource_type"), [("virtual-machine", "vm"), ("volume", "volume")])
def test_a_history_of_resources_says_of_which_type(words: Any, path: str, resource_type: str) -> None:
    exchange = words.exchange(f"{answers.HISTORY}/{path}", words.history((700123, "1.5")), query=WINDOW)
    row = only(rows_of(exchange)[0], "validated.billing_history")
    assert (row["resource_type"], row["resource_id"], row["resource_name"]) == (resource_type, 700123, "otter")


def test_a_line_without_a_number_gets_one_made_of_its_id_and_without_both_it_is_quarantined(words: Any) -> None:
    content = b"""{"success":true,"x":{"billing_history":[
        {"attributes":{"id":"uuid-1"},"metrics":{"incurred_bill":1}},
        {"attributes":{"id":"uuid-2"},"metrics":{"incurred_bill":2}},
        {"metrics":{"incurred_bill":3}}]}}"""
    batch, own = rows_of(words.exchange(f"{answers.HISTORY}/contract", content, query=WINDOW))
    first, second = (row[4] for row in batch.rows["validated.billing_history"])
    assert first != second
    assert 2**60 <= min(first, second) < max(first, second) < 2**62
    assert [(refused[2], refused[3]) for refused in batch.quarantine] == [("item 2", "validated.billing_history")]
    assert own["is_good"]


def test_a_list_without_lines_is_a_good_answer_whatever_its_status(words: Any) -> None:
    refusal = b'{"status":false,"message":"No cluster data found","error_reason":"not_found"}'
    _, absent = rows_of(words.exchange(f"{answers.HISTORY}/cluster", refusal, query=WINDOW, status=404))
    assert (absent["is_good"], absent["items"], absent["problem"]) == (True, 0, None)
    _, unknown = rows_of(words.exchange(f"{answers.HISTORY}/volume/7", refusal, query=WINDOW, status=404))
    assert (unknown["is_good"], unknown["problem"]) == (False, "status 404")


def test_a_graph_gives_a_row_for_each_bucket(words: Any) -> None:
    points = [{"datetime": "2026-11-21T05:00:00Z", "value": Decimal("0.1000000000000000055")}]
    row = {"metrics": {"incurred_bill_graph": points}}
    content = words.encode({"status": True, "x": {"billing_history": [row], "granularity": 3600}})
    endpoint = answers.GRAPH.format(kind="virtual-machine", resource_id=7)
    bucket = only(rows_of(words.exchange(endpoint, content, query=WINDOW))[0], "validated.billing_graphs")
    assert (bucket["resource_type"], bucket["resource_id"], bucket["bucket_seconds"]) == ("vm", 7, 3600)
    assert bucket["bucket_start"] == words.at("2026-11-21T05:00")
    assert bucket["amount_usd"] == Decimal("0.100000000000000006")


def test_a_billing_event_tells_state_and_price_and_the_price_may_be_unknown(words: Any) -> None:
    events = [
        {"start": "2026-11-21T18:00:00", "event": "HIBERNATED", "price_per_hour": Decimal("0.01639785")},
        {"start": "2026-11-21T19:00:00", "event": "ACTIVE", "price_per_hour": None},
    ]
    content = words.encode({"status": True, "billing_events_history": events})
    batch, _ = rows_of(words.exchange(answers.BILLING_EVENTS.format(vm_id=7), content, query=WINDOW))
    assert [row[1:5] for row in batch.rows["validated.billing_events"]] == [
        (7, words.at("2026-11-21T18:00"), "HIBERNATED", Decimal("0.01639785")),
        (7, words.at("2026-11-21T19:00"), "ACTIVE", None),
    ]


def test_an_exchange_that_failed_is_a_row_with_its_problem(words: Any) -> None:
    _, refused = rows_of(words.exchange(answers.USAGE, b"<html>", status=502))
    assert (refused["http_status"], refused["is_good"], refused["problem"]) == (502, False, "status 502")
    batch, silent = rows_of(words.exchange(answers.USAGE, None, error="no answer: ReadTimeout"))
    assert (silent["http_status"], silent["is_good"], silent["problem"]) == (None, False, "no answer: ReadTimeout")
    assert batch.tallies["file"].accepted == 1


@pytest.mark.parametrize(
    "changes", [{}, {"status": 200, "body": None, "sha256": None}, {"sha256": "0" * 64, "body": "{}"}], ids=range(3)
)
def test_F043_a_body_that_cannot_be_read_is_quarantined_and_the_exchange_is_not_good(
    words: Any, changes: dict[str, Any]
) -> None:
    batch, own = rows_of(words.exchange(answers.USAGE, b'{"status":true,"data":[', **changes))
    assert own["is_good"] is False
    assert own["items"] is None
    assert batch.quarantine[0][2:4] == ("body", "validated.exchanges")
    assert batch.quarantine[0][4] == own["problem"]


BAD_AMOUNTS = ['"NaN"', '"sNaN"', '"-Infinity"', "1e999", "-1e999", "99999999999999999999999999999"]


@pytest.mark.parametrize("amount", BAD_AMOUNTS)
def test_F044_money_out_of_range_is_quarantined_wherever_it_is(words: Any, amount: str) -> None:
    def put(content: bytes) -> bytes:
        assert content.count(b"777") == 1
        return content.replace(b"777", amount.encode())

    for endpoint, content in (
        (answers.USAGE, put(words.usages(words.usage("777")))),
        (answers.USAGE, put(words.usages(words.usage(bill_per_minute=777)))),
        (answers.PRICE_BOOK, put(b'[{"name":"RAM","value":777}]')),
        (answers.PRICE_BOOK, put(b'[{"name":"RAM","value":1,"original_value":777}]')),
        (answers.CREDIT, put(b'{"status":true,"data":{"credit":777}}')),
        (f"{answers.HISTORY}/volume", put(words.history((1, "777")))),
    ):
        batch, own = rows_of(words.exchange(endpoint, content, query=WINDOW))
        assert not batch.rows, endpoint
        assert batch.quarantine[0][2] == "item 0"
        assert "out of range" in batch.quarantine[0][4]
        assert own["is_good"], "the answer as a whole was read"


@pytest.mark.parametrize(
    "query",
    [
        {},
        {"start_date": "2026-11-22T00:00:00"},
        {"start_date": "now", "end_date": "later"},
        {"start_date": "2026-11-22T00:00:00", "end_date": "2026-11-21T00:00:00"},
        {"start_date": "0001-01-01T00:00:00+14:00", "end_date": "2026-11-21T00:00:00"},
    ],
    ids=str,
)
def test_a_history_of_no_window_is_quarantined(words: Any, query: dict[str, str]) -> None:
    batch, _ = rows_of(words.exchange(f"{answers.HISTORY}/volume", words.history((1, "1")), query=query))
    assert not batch.rows
    assert batch.quarantine[0][3] == "validated.billing_history"


def test_an_instant_beyond_the_calendar_breaks_the_contract_and_nothing_else(words: Any) -> None:
    usage = words.usage(create_time="0001-01-01T00:00:00+14:00")
    batch, _ = rows_of(words.exchange(answers.USAGE, words.usages(usage, words.usage(resource_id=2))))
    assert batch.frame("validated.billing_snapshots")["resource_id"].to_list() == [2]
    assert "created_at" in batch.quarantine[0][4]


def test_F045_an_item_without_a_field_is_quarantined_with_its_bytes(words: Any) -> None:
    item = words.usage(name="canary")
    del item["total_bill"]
    batch, _ = rows_of(words.exchange(answers.USAGE, words.usages(words.usage(), item)))
    assert len(batch.rows["validated.billing_snapshots"]) == 1
    assert batch.quarantine[0][1:3] == (1, "item 1")
    assert "canary" in batch.quarantine[0][5]


@pytest.mark.parametrize("currency", ["eur", "EUR", "", "x" * 40])
def test_F049_money_of_another_currency_is_refused_and_its_answer_is_not_good(words: Any, currency: str) -> None:
    usages = words.usages(words.usage(currency=currency), words.usage(resource_id=2, currency="USD"))
    prices = words.encode([{"name": "RAM", "value": "1", "currency": currency}])
    credit = words.encode({"status": True, "data": {"credit": 1, "currency": currency}})
    for endpoint, content in ((answers.USAGE, usages), (answers.PRICE_BOOK, prices), (answers.CREDIT, credit)):
        batch, own = rows_of(words.exchange(endpoint, content))
        assert batch.quarantine[0][4] == own["problem"] == f"currency: expected usd, found {currency[:20]!r}"
        assert own["is_good"] is False
        assert own["schema_drift"] is None
        kept = [row[2] for row in batch.rows.get("validated.billing_snapshots", [])]
        assert kept == ([2] if endpoint == answers.USAGE else [])


@pytest.mark.parametrize(
    ("date", "skew"),
    [
        ("Sun, 22 Nov 2026 10:00:00 GMT", 0),
        ("Sun, 22 Nov 2026 10:02:00 GMT", 120),
        ("Sun, 22 Nov 2026 09:58:30 GMT", -90),
        ("Sun, 22 Nov 2026 10:00:00 -0000", 0),
        ("Fri, 31 Dec 9999 23:59:59 -1400", 251_606_959_198),
        ("yesterday", None),
        ("", None),
        (None, None),
    ],
)
def test_F055_the_vendors_clock_is_compared_with_ours(words: Any, date: str | None, skew: int | None) -> None:
    _, own = rows_of(words.exchange(answers.USAGE, words.usages(), date=date))
    assert own["clock_skew_seconds"] == skew
    assert own["is_good"]


def test_F046_new_fields_are_named_and_their_items_are_read(words: Any) -> None:
    usages = words.usages(words.usage(carbon={"grams": 1}, total_bill_eur=1), words.usage(resource_id=2, carbon=None))
    batch, own = rows_of(words.exchange(answers.USAGE, usages))
    assert own["schema_drift"] == "carbon, total_bill_eur"
    assert own["is_good"]
    assert len(batch.rows["validated.billing_snapshots"]) == 2
    assert not batch.quarantine


def test_F046_a_new_category_of_cost_is_named(words: Any) -> None:
    metrics = {"incurred_bill": 1, "cluster_cost": 1, "usage_time_ACTIVE": 1, "gpu_incurred_bill": 1}
    body = words.encode({"status": True, "x": {"billing_history": [{"metrics": metrics, "note": 1}, {"metrics": []}]}})
    _, own = rows_of(words.exchange(answers.HISTORY, body, query=WINDOW))
    assert own["schema_drift"] == "metrics.cluster_cost, note"


def test_F046_names_of_new_fields_are_few_and_short(words: Any) -> None:
    noisy = words.usage(**{f"{place:03d}{'x' * 100},": 1 for place in range(200)})
    _, own = rows_of(words.exchange(answers.USAGE, words.usages(noisy)))
    assert own["schema_drift"].count(",") == 19
    assert len(own["schema_drift"]) < 20 * 67


def test_an_empty_list_whose_body_is_not_the_one_that_came_is_a_failure(words: Any) -> None:
    lost = words.exchange(f"{answers.HISTORY}/cluster", b'{"error_reason":"not_found"}', status=404, sha256="0" * 64)
    _, own = rows_of(lost)
    assert (own["is_good"], own["problem"]) == (False, "status 404")
