"""Hyperstack's answers: quirks of the vendor, exact decimals, and what cannot be read."""

import contextlib
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spotinference_pipeline import answers
from spotinference_pipeline.errors import HyperstackError

EVENTS = answers.VM_EVENTS.format(vm_id=700123)


def read_one(endpoint: str, content: bytes) -> Any:
    (item,) = answers.read_items(endpoint, content)
    return item


def test_a_counter_keeps_every_digit_of_its_text(words: Any) -> None:
    content = words.usages(words.usage("0.011612903333333001", bill_per_minute=Decimal("1.48e-11")))
    item = read_one(answers.USAGE, content)
    assert item.total_bill == Decimal("0.011612903333333001")
    assert item.bill_per_minute == Decimal("0.0000000000148")
    assert item.create_time == datetime(2026, 11, 22, 9)


def test_the_rate_of_a_terminated_resource_is_unknown_and_never_zero(words: Any) -> None:
    ended = words.usage(bill_per_minute=None, terminate_time="2026-11-22T10:30:00Z", active=False)
    item = read_one(answers.USAGE, words.usages(ended))
    assert item.bill_per_minute is None
    assert item.terminate_time == datetime(2026, 11, 22, 10, 30, tzinfo=UTC)


def test_integer_zeros_are_money_too(words: Any) -> None:
    item = read_one(answers.USAGE, words.usages(words.usage("0", bill_per_minute=0)))
    assert (item.total_bill, item.bill_per_minute) == (Decimal(0), Decimal(0))


def test_prices_come_as_strings_in_a_bare_array() -> None:
    content = b'[{"id":31,"name":"H100-80G-SXM5","value":"3.200000000","original_value":"0E-9","start_time":null}]'
    item = read_one(answers.PRICE_BOOK, content)
    assert item == answers.Price("H100-80G-SXM5", Decimal("3.2"), Decimal(0))


def test_the_balance_is_one_item_and_may_be_negative() -> None:
    content = b'{"message":"Success","status":true,"data":{"credit":-1.25,"threshold":0}}'
    assert read_one(answers.CREDIT, content) == answers.Credit(Decimal("-1.25"))


def test_a_machine_without_flavor_or_address_is_read(words: Any) -> None:
    item = read_one(answers.VIRTUAL_MACHINES, words.fleet({"id": 1, "status": "A_NEW_WORD"}))
    assert item == answers.VirtualMachine(1, "A_NEW_WORD")


@pytest.mark.parametrize("wrapper", ["instance_events", "virtual_machine_events"])
def test_events_are_found_under_both_names(wrapper: str) -> None:
    event = {"id": 1, "instance_id": 7, "time": "2026-11-22T10:00:00", "reason": "InstanceStartSuccess"}
    item = read_one(EVENTS, msgspec.json.encode({"status": True, wrapper: [event]}))
    assert item == answers.VmEvent(7, datetime(2026, 11, 22, 10), "InstanceStartSuccess")


@pytest.mark.parametrize("wrapper", ["billing_history", "billing_history_vm", "a_name_of_tomorrow"])
def test_history_rows_are_found_whatever_the_wrapper_is_called(words: Any, wrapper: str) -> None:
    content = words.history((700123, "461.01935484000006"), wrapper=wrapper)
    item = read_one(f"{answers.HISTORY}/virtual-machine", content)
    assert item.about.infrahub_id == 700123
    assert item.amounts() == {"incurred_bill": Decimal("461.01935484000006")}


def test_a_history_list_of_one_line_may_be_its_object() -> None:
    content = b'{"status":true,"vm":{"attributes":{"infrahub_id":7},"metrics":{"incurred_bill":1,"vm_cost":null}}}'
    assert read_one(f"{answers.HISTORY}/cluster", content).amounts() == {"incurred_bill": Decimal(1)}


def test_a_list_of_no_rows_gives_no_items(words: Any) -> None:
    assert answers.read_items(answers.USAGE, words.usages()) == []
    assert answers.read_items(f"{answers.HISTORY}/volume", words.history()) == []


def test_an_amount_that_is_no_number_is_told_when_it_is_asked_for() -> None:
    content = b'{"success":true,"x":{"metrics":{"incurred_bill":{"usd":1}}}}'
    with pytest.raises(ValueError, match="decimal"):
        read_one(f"{answers.HISTORY}/virtual-machine", content).amounts()


@pytest.mark.parametrize("wrapper", ["billing_history_vm_details", "billing_history_snapshot_details"])
def test_a_graph_gives_its_buckets_each_with_the_granularity_that_the_server_chose(wrapper: str) -> None:
    points = [
        {"datetime": "2026-11-21T00:00:00Z", "value": 25.60672043},
        {"datetime": "2026-11-21T01:00:00", "value": 0},
    ]
    row = {"attributes": {"infrahub_id": 7}, "metrics": {"incurred_bill": 25.6, "incurred_bill_graph": points}}
    shown = {"org_id": 1, "billing_history": [row], "total_count": 1, "granularity": 3600}
    content = msgspec.json.encode({"status": True, wrapper: shown})
    first, second = answers.read_items(answers.GRAPH.format(kind="virtual-machine", resource_id=7), content)
    assert first == answers.GraphPoint(datetime(2026, 11, 21, tzinfo=UTC), Decimal("25.60672043"), 3600)
    assert second == answers.GraphPoint(datetime(2026, 11, 21, 1), Decimal(0), 3600)


@pytest.mark.parametrize(
    "content", [b'{"status":true}', b'{"x":{"billing_history":[]}}', b'{"x":{"granularity":1,"billing_history":[{}]}}']
)
def test_F041_a_graph_without_its_members_is_refused_as_a_whole(content: bytes) -> None:
    with pytest.raises(HyperstackError, match=r"^body: expected"):
        answers.read_items(answers.GRAPH.format(kind="volume", resource_id=7), content)


def test_billing_events_are_read_and_may_be_none() -> None:
    endpoint = answers.BILLING_EVENTS.format(vm_id=7)
    event = {
        "start": "2026-11-21T18:00:00",
        "event": "HIBERNATED",
        "event_duration": 21600,
        "price_per_hour": 0.01639785,
    }
    content = msgspec.json.encode({"status": True, "billing_events_history": [event]})
    assert read_one(endpoint, content) == answers.BillingEvent(
        datetime(2026, 11, 21, 18), "HIBERNATED", Decimal("0.01639785")
    )
    assert answers.read_items(endpoint, b'{"status":true,"billing_events_history":[]}') == []


def test_a_list_says_in_the_vendors_words_that_it_has_no_line() -> None:
    refusal = b'{"status":false,"message":"No cluster data found for a - b ","error_reason":"not_found"}'
    assert answers.is_empty_list(f"{answers.HISTORY}/cluster", refusal)
    assert not answers.is_empty_list(f"{answers.HISTORY}/volume/7", refusal), "that is an unknown id"
    assert not answers.is_empty_list(answers.HISTORY, refusal), "an organisation is never nothing"
    for other in (b"<html>not found</html>", b"[]", b'{"message":"not found"}', b'{"error_reason":"forbidden"}'):
        assert not answers.is_empty_list(f"{answers.HISTORY}/cluster", other)


def test_answers_that_are_kept_but_not_read_give_no_items() -> None:
    assert answers.read_items(answers.VOLUMES, b'{"status":true,"volumes":[{}]}') == []
    with pytest.raises(HyperstackError, match="expected JSON"):
        answers.read_items(answers.VOLUMES, b"<html>")


@pytest.mark.parametrize("flag", ["status", "success"])
def test_an_answer_that_says_it_failed_is_no_answer(flag: str) -> None:
    with pytest.raises(HyperstackError, match=f"expected {flag} true, found false"):
        answers.read_items(answers.USAGE, msgspec.json.encode({flag: False, "data": []}))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html><body>502 Bad Gateway</body></html>",
        b"null",
        b"[]",
        b"{}",
        b'{"status":true}',
        b'{"status":true,"data":{}}',
        b'{"status":true,"data":null}',
        b'\xff{"status":true,"data":[]}',
        b'{"status":true,"data":[],"x":"\\ud800"}',
        b'{"data":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
    ids=range(11),
)
def test_F041_a_body_that_is_no_answer_is_refused_as_a_whole(content: bytes) -> None:
    with pytest.raises(HyperstackError, match=r"^body: expected"):
        answers.read_items(answers.USAGE, content)


@pytest.mark.parametrize("content", [b'{"success":true}', b'{"success":true,"x":{}}', b'{"x":[{"metrics":{}}]}'])
def test_F041_a_history_without_rows_of_any_name_is_refused(content: bytes) -> None:
    with pytest.raises(HyperstackError, match="'billing_history' or 'metrics'"):
        answers.read_items(answers.HISTORY, content)


def test_F043_an_answer_cut_at_any_byte_is_refused(words: Any) -> None:
    content = words.usages(words.usage(), words.usage())
    for size in range(len(content)):
        with pytest.raises(HyperstackError, match="expected JSON"):
            answers.read_items(answers.USAGE, content[:size])


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e", "01", "+1", "0x1"])
def test_F044_a_number_that_json_does_not_know_refuses_the_answer(words: Any, number: str) -> None:
    content = words.usages(words.usage("777")).replace(b"777", number.encode())
    with pytest.raises(HyperstackError, match="expected JSON"):
        answers.read_items(answers.USAGE, content)


@pytest.mark.parametrize("number", ["1e99999999999999999999", "true", "[1]", '"ten"', "null"])
def test_F044_money_that_is_no_decimal_makes_a_bad_item_and_the_others_are_read(words: Any, number: str) -> None:
    content = words.usages(words.usage("777"), words.usage("2")).replace(b"777", number.encode())
    bad, good = answers.read_items(answers.USAGE, content)
    assert isinstance(bad, answers.BadItem)
    assert bad.position == "item 0"
    assert "total_bill" in bad.reason
    assert number.encode() in bad.content
    assert isinstance(good, answers.UsageItem)


@pytest.mark.parametrize("name", ["resource_id", "resource_type", "total_bill", "create_time", "active"])
def test_F045_a_missing_field_makes_a_bad_item_that_names_it(words: Any, name: str) -> None:
    item = words.usage()
    del item[name]
    bad, good = answers.read_items(answers.USAGE, words.usages(item, words.usage()))
    assert isinstance(bad, answers.BadItem)
    assert name in bad.reason
    assert isinstance(good, answers.UsageItem)


def test_F046_a_new_field_is_ignored(words: Any) -> None:
    new = words.usage(carbon={"grams": [1, 2]})
    assert answers.read_items(answers.USAGE, words.usages(new)) == answers.read_items(
        answers.USAGE, words.usages(words.usage())
    )


@given(st.decimals(allow_nan=False, allow_infinity=False, places=18, min_value=-(10**9), max_value=10**9))
def test_any_amount_is_read_as_it_is_written(words: Any, amount: Decimal) -> None:
    assert read_one(answers.USAGE, words.usages(words.usage(str(amount)))).total_bill == amount


@given(st.binary(max_size=200))
def test_any_bytes_are_items_or_an_error_of_theirs(content: bytes) -> None:
    for endpoint in (answers.USAGE, answers.HISTORY, answers.PRICE_BOOK, answers.CREDIT, EVENTS):
        with contextlib.suppress(HyperstackError):
            assert isinstance(answers.read_items(endpoint, content), list)


def test_instants_of_the_vendor_are_utc_with_and_without_a_zone() -> None:
    assert answers.utc(datetime(2026, 11, 22, 10)) == datetime(2026, 11, 22, 10, tzinfo=UTC)
    paris = timezone(timedelta(hours=1))
    assert answers.utc(datetime(2026, 11, 22, 10, tzinfo=paris)) == datetime(2026, 11, 22, 9, tzinfo=UTC)


@pytest.mark.parametrize("instant", [datetime(1, 1, 1), datetime(9999, 12, 31, 23)])
def test_an_instant_beyond_the_calendar_is_left_at_its_end(instant: datetime) -> None:
    for hours in (-14, 14):
        assert answers.utc(instant.replace(tzinfo=timezone(timedelta(hours=hours)))).year in (1, 9999)
