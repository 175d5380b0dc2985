"""From observations to what each resource cost on one UTC day, and what for."""

import itertools
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spotinference_pipeline import checks
from spotinference_pipeline.charges import Reading, build_meter

Open = Callable[[], AbstractContextManager[Any]]
DAY = date(2026, 11, 22)
EVE, MORROW = "2026-11-21", "2026-11-23"
VM = ("vm", 1)


def usd(**amounts: str) -> dict[str, Decimal]:
    return {kind: Decimal(amount) for kind, amount in amounts.items()}


def assert_adds_up(books: Any) -> None:
    for finding in checks.run(books.warehouse, DAY, ["kinds_add_up_to_the_counter", "only_credits_are_negative"]):
        assert finding.passed, finding.broken


def test_a_day_costs_what_its_counter_moved_by(books: Any) -> None:
    """At $0.06 a minute: from midnight to midnight $86.40, all of it idle."""
    books.reading(f"{EVE}T23:59", "10.00")
    books.reading("00:00", "10.06")
    books.reading("12:00", "53.26")
    books.reading(f"{MORROW}T00:00", "96.46")
    books.fleet(f"{EVE}T23:59")
    assert books.build() == {VM: usd(idle="86.4")}
    row = books.resource()
    assert (row["cost_usd"], row["edge_usd"], row["readings"]) == (Decimal("86.4"), 0, 2)
    assert (row["resource_name"], row["is_excluded"]) == ("otter", False)
    assert_adds_up(books)


def test_the_first_sight_of_a_resource_counts_from_its_creation(books: Any) -> None:
    """Created at 06:00 and first seen at 06:10, when $0.60 were due already."""
    books.reading("06:10", "0.60", created="2026-11-22T06:00")
    books.reading("06:20", "1.20", created="2026-11-22T06:00")
    books.fleet("06:10")
    assert books.build() == {VM: usd(idle="1.2")}


def test_a_creation_before_the_day_leaves_its_cost_in_its_own_day(books: Any) -> None:
    """Created at 18:00 the day before and first seen at 06:00: half of the $43.20 belongs to each day."""
    for at, total in (("06:00", "43.2"), ("07:00", "46.8")):
        books.reading(at, total, created=f"{EVE}T18:00")
    assert books.build(DAY - timedelta(days=1)) == {VM: usd(idle="21.6")}
    assert books.build() == {VM: usd(idle="25.2")}
    assert books.resource()["edge_usd"] == Decimal("21.6"), "the rate says on which side of midnight, no reading does"


def test_an_ended_resource_has_its_final_counter_at_its_end(books: Any) -> None:
    books.reading("06:00", "1.00", created="2026-11-22T05:00")
    books.reading("06:20", "1.30", None, created="2026-11-22T05:00", ended="06:05")
    books.fleet("06:00")
    assert books.build() == {VM: usd(idle="1.3")}
    assert books.vm()["alive_seconds"] == 65 * 60


def test_a_resource_that_came_and_went_between_two_snapshots_costs_its_counter(books: Any) -> None:
    books.reading("06:20", "0.30", None, created="2026-11-22T06:00", ended="06:05", resource=("bucket", 9))
    assert books.build() == {("bucket", 9): usd(storage="0.3")}


def test_a_final_counter_that_was_corrected_counts_as_corrected(books: Any) -> None:
    books.reading("06:00", "1.00", created="2026-11-22T05:00")
    for at, total in (("06:45", "1.25"), ("06:15", "1.30"), ("06:30", "1.40")):
        books.reading(at, total, None, created="2026-11-22T05:00", ended="06:05")
    assert books.build() == {VM: usd(idle="1.25")}


def test_a_stale_answer_from_after_the_end_makes_no_credit(books: Any) -> None:
    """Ended at 06:05; an answer of 06:05:30 still calls it active, with the counter of 06:04."""
    created = "2026-11-22T05:00"
    books.reading("06:00", "1.00", created=created)
    books.reading("06:05:30", "1.24", created=created)
    books.reading("06:20", "1.30", None, created=created, ended="06:05")
    books.reading("06:21", "1.30", created=created)
    books.fleet("06:00")
    assert books.build() == {VM: usd(idle="1.3")}
    assert books.vm()["alive_seconds"] == 3900


def test_a_stale_answer_from_after_the_end_lets_nothing_live_on(books: Any) -> None:
    """With a book a life that was not seen to end goes on until midnight, on every later day too."""
    created = f"{EVE}T21:00"
    books.reading("00:00", "1.00", created=created)
    books.reading("06:05:30", "22.88", created=created)
    books.reading("06:20", "22.90", None, created=created, ended="06:05")
    books.fleet("00:00")
    books.book({VM: "21.90"}, "21.90")
    assert books.build() == {VM: usd(idle="21.9")}
    assert books.vm()["alive_seconds"] == 6 * 3600 + 300
    assert books.warehouse.query("from rollup.adjustments").is_empty()
    books.build(DAY + timedelta(days=1))
    assert books.warehouse.query("from rollup.resource_days").filter(utc_day=DAY + timedelta(days=1)).is_empty()


def test_a_resource_that_ended_before_the_day_is_not_in_it(books: Any) -> None:
    books.reading(f"{EVE}T10:00", "1.00")
    books.reading("06:15", "2.00", None, ended=f"{EVE}T11:00")
    assert books.build() == {}
    assert books.warehouse.query("from rollup.resource_days").is_empty()


def test_a_resource_of_tomorrow_is_not_in_the_day(books: Any) -> None:
    books.reading(f"{MORROW}T01:00", "1.00", created=f"{MORROW}T00:30")
    assert books.build() == {}


def test_F052_an_id_that_is_created_anew_is_another_life(books: Any) -> None:
    """The old one cost $5 until 06:00; the new one starts from zero and is no credit."""
    books.reading("05:00", "4.00", created=f"{EVE}T12:00")
    books.reading("00:00", "1.00", created=f"{EVE}T12:00")
    books.reading("06:15", "5.00", None, created=f"{EVE}T12:00", ended="06:00")
    books.reading("07:00", "0.50", created="2026-11-22T06:30")
    books.reading("08:00", "1.50", created="2026-11-22T06:30")
    assert books.build() == {VM: usd(idle="5.5")}
    assert books.resource()["readings"] == 5
    assert_adds_up(books)


def test_F054_a_falling_counter_is_a_credit_of_its_own_and_never_clamped(books: Any) -> None:
    """An hour at $0.06 a minute earns $3.60; the counter shows $1.00 less, so $4.60 were credited."""
    books.reading("00:00", "10.00")
    books.reading("01:00", "13.60")
    books.reading("02:00", "12.60")
    books.reading("03:00", "16.20")
    books.fleet("00:00")
    assert books.build() == {VM: usd(idle="10.8", credit="-4.6")}
    assert books.resource()["cost_usd"] == Decimal("6.2")
    assert_adds_up(books)


def test_F054_a_credit_over_midnight_is_booked_on_the_day_on_which_it_was_seen(books: Any) -> None:
    books.reading(f"{EVE}T23:00", "10.00", resource=("volume", 2))
    books.reading("01:00", "9.00", resource=("volume", 2))
    eve, day = books.build(DAY - timedelta(days=1)), books.build()
    assert eve == {("volume", 2): usd(storage="3.6")}
    assert day == {("volume", 2): usd(storage="3.6", credit="-8.2")}


def test_an_excluded_resource_costs_nothing_and_stays_visible(books: Any) -> None:
    books.reading("00:00", "10.00", excluded=True)
    books.reading("12:00", "50.00", excluded=True)
    assert books.build() == {}
    row = books.resource()
    assert (row["cost_usd"], row["is_excluded"], row["readings"]) == (0, True, 2)


def test_the_same_number_names_a_machine_and_a_volume(books: Any) -> None:
    for at, machine, volume in (("00:00", "10.00", "1.00"), ("01:00", "13.60", "1.50")):
        books.reading(at, machine)
        books.reading(at, volume, "0.0083", resource=("volume", 1))
    books.fleet("00:00")
    assert books.build() == {VM: usd(idle="3.6"), ("volume", 1): usd(storage="0.5")}


@pytest.mark.parametrize(
    ("resource_type", "kind"),
    [("volume", "storage"), ("snapshot", "storage"), ("bucket", "storage"), ("cluster", "other"), ("vm", "idle")],
)
def test_without_states_a_resource_has_the_kind_of_its_type(books: Any, resource_type: str, kind: str) -> None:
    for at, total in (("00:00", "1.00"), ("01:00", "1.50")):
        books.reading(at, total, resource=(resource_type, 5))
    assert books.build() == {(resource_type, 5): usd(**{kind: "0.5"})}


def test_a_credit_seen_after_midnight_may_belong_before_it_and_is_unsure_on_both_days(books: Any) -> None:
    """23:30 to 00:30 would have earned $3.60 and fell by $4: a credit of $7.60, booked where it was seen."""
    for at, total in ((f"{EVE}T23:00", "8.20"), (f"{EVE}T23:30", "10.00"), ("00:30", "6.00"), ("01:00", "7.80")):
        books.reading(at, total)
    eve = DAY - timedelta(days=1)
    assert books.build(eve) == {VM: usd(idle="3.6")}
    assert books.build() == {VM: usd(idle="3.6", credit="-7.6")}
    unsure = [(row["edge_usd"], row["outside_usd"]) for row in (books.resource(utc_day=eve), books.resource())]
    assert unsure == [(Decimal("9.4"), Decimal("1.8")), (Decimal("1.8"), Decimal("9.4"))]


def test_a_pair_over_midnight_is_split_by_the_rate_and_reported_as_edge(books: Any) -> None:
    """23:30 to 00:30 moved by $3.60: half on either side, and the same at the other end."""
    for at, total in ((f"{EVE}T23:30", "1.00"), ("00:30", "4.60"), ("23:30", "87.40"), (f"{MORROW}T00:30", "91.00")):
        books.reading(at, total)
    assert books.build() == {VM: usd(idle="86.4")}
    assert books.resource()["edge_usd"] == Decimal("3.6")


def test_a_rate_that_changes_over_midnight_weighs_both_sides(books: Any) -> None:
    """Hibernated at midnight: $0.06 a minute before it, nothing after it."""
    books.reading(f"{EVE}T23:30", "1.00")
    books.reading("00:30", "2.80", "0")
    books.fleet(f"{EVE}T23:30")
    books.event("00:00", "HibernateInstanceSuccess")
    books.fleet("00:30", "HIBERNATED")
    assert books.build(DAY - timedelta(days=1)) == {VM: usd(idle="1.8")}
    assert books.build() == {}


def test_F053_a_price_that_changes_inside_a_gap_is_found_by_the_counter(books: Any) -> None:
    """22:00 to 02:00 at $0.06, then $0.12: $21.60 says that it changed at 00:00 sharp."""
    books.reading(f"{EVE}T22:00", "1.00", "0.06")
    books.reading("02:00", "22.60", "0.12")
    books.fleet(f"{EVE}T22:00")
    books.fleet("02:00")
    assert books.build(DAY - timedelta(days=1)) == {VM: usd(idle="7.2")}
    assert books.build() == {VM: usd(idle="14.4")}


# What the money was spent on


@pytest.fixture
def hour(books: Any) -> Any:
    """An hour of a machine at $0.06 a minute, seen ACTIVE from its beginning to its end."""
    books.reading("10:00", "100.00")
    books.reading("11:00", "103.60")
    books.fleet("10:00")
    books.fleet("11:00")
    return books


def test_busy_is_the_union_of_the_requests_in_flight(hour: Any) -> None:
    """10:00 to 10:20 with overlaps, and 10:50 to 10:55: 25 minutes."""
    for start, end in (("10:00", "10:15"), ("10:05", "10:20"), ("10:06", "10:07"), ("10:50", "10:55")):
        hour.request(start, end)
    hour.request("10:30", "10:40", vm_id=2)
    assert hour.build() == {VM: usd(busy="1.5", idle="2.1")}
    row = hour.vm()
    assert (row["active_seconds"], row["busy_seconds"], row["alive_seconds"]) == (3600, 1500, 3600)
    assert row["gpu_count"] == 8


def test_a_wake_is_cold_until_the_first_healthy_probe(books: Any) -> None:
    """Parked for 10 minutes at $0.01, then ACTIVE at $0.06 a minute: cold for 15 minutes, idle for 35."""
    books.reading("10:00", "1.00", "0.01")
    books.reading("11:00", "4.10", "0.06")
    books.fleet("10:00", "HIBERNATED")
    books.event("10:10", "RestoreHibernationInstanceSuccess")
    for at, ready in (("10:11", False), ("10:25", True), ("10:26", True)):
        books.probe(at, ready)
    assert books.build() == {VM: usd(parked="0.1", cold_start="0.9", idle="2.1")}
    row = books.vm()
    assert (row["wakes"], row["failed_wakes"], row["cold_start_seconds"]) == (1, 0, 900)


def woken(books: Any, *, probes: Mapping[str, bool] | None = None, first_byte: str | None = None) -> dict[str, Any]:
    """A machine created at 10:00 and ACTIVE until 11:00; what the hour cost, by kind."""
    for at, total in (("10:01", "0.06"), ("11:00", "3.60"), ("12:00", "3.60")):
        books.reading(at, total, "0" if at == "12:00" else "0.06", created="2026-11-22T10:00")
    books.event("09:59", "InstanceCreationRequest")
    books.event("10:00", "InstanceCreationSuccess")
    books.event("11:00", "InstanceStopSuccess")
    for at, ready in (probes or {}).items():
        books.probe(at, ready)
    if first_byte is not None:
        books.request("10:10", "10:40", first_byte)
    return books.build()[VM]


def test_without_a_healthy_probe_it_is_cold_until_the_first_byte(books: Any) -> None:
    """Busy comes first: 10:10 to 10:40 is a request in flight, of which 20 minutes would have been cold."""
    assert woken(books, probes={"10:05": False}, first_byte="10:30") == usd(busy="1.8", cold_start="0.6", idle="1.2")


def test_a_failed_wake_is_cold_as_a_whole(books: Any) -> None:
    assert woken(books, probes={"10:05": False, "10:50": False}) == usd(cold_start="3.6")
    row = books.vm()
    assert (row["wakes"], row["failed_wakes"], row["cold_start_seconds"]) == (1, 1, 3600)


def test_a_machine_that_serves_no_model_is_never_cold(books: Any) -> None:
    assert woken(books) == usd(idle="3.6")
    assert books.vm()["wakes"] == 0


def test_what_bills_while_it_is_not_active_is_parked(books: Any) -> None:
    books.reading("10:00", "1.00", "0.01")
    books.reading("11:00", "1.60", "0.01")
    books.fleet("10:00", "HIBERNATED")
    assert books.build() == {VM: usd(parked="0.6")}
    assert books.vm()["active_seconds"] == 0


def test_a_change_of_status_is_cut_where_its_event_says(books: Any) -> None:
    """ACTIVE at $0.06 until 10:15, SHUTOFF at $0.01 until 11:00."""
    books.reading("10:00", "1.00", "0.06")
    books.reading("11:00", "2.35", "0.01")
    books.fleet("10:00")
    books.event("10:15", "InstanceStopSuccess")
    books.fleet("11:00", "SHUTOFF")
    assert books.build() == {VM: usd(idle="0.9", parked="0.45")}
    assert books.vm()["unexplained_changes"] == 0


def test_a_change_of_status_without_event_is_cut_at_the_midpoint_and_counted(books: Any) -> None:
    books.reading("10:00", "1.00", "0.06")
    books.reading("11:00", "3.10", "0.01")
    books.fleet("10:00")
    books.fleet("11:00", "SHUTOFF")
    assert books.build() == {VM: usd(idle="1.8", parked="0.3")}
    assert books.vm()["unexplained_changes"] == 1


def test_a_status_that_was_passed_through_is_at_the_lower_rate(books: Any) -> None:
    """ACTIVE, 20 minutes SHUTOFF in between, ACTIVE again; the rate was never seen while it was SHUTOFF."""
    books.reading("10:00", "1.00", "0.06")
    books.reading("11:00", "4.00", "0.04")
    books.fleet("10:00")
    books.event("10:20", "InstanceStopSuccess")
    books.event("10:40", "InstanceStartSuccess")
    books.fleet("11:00")
    costs = books.build()[VM]
    assert sum(costs.values()) == 3
    assert set(costs) == {"idle", "parked"}
    assert costs["parked"] < 1


def test_events_of_one_second_follow_one_another_whatever_their_order(open_books: Open) -> None:
    for reasons in itertools.permutations(("InstanceStartRequest", "InstanceStartSuccess")):
        with open_books() as books:
            books.reading("10:00", "1.00")
            books.reading("11:00", "4.60")
            books.fleet("10:00", "SHUTOFF")
            for reason in reasons:
                books.event("10:30", reason)
            books.build()
            assert books.vm()["active_seconds"] == 1800
            assert books.warehouse.query("from rollup.cost_days")["cost_kind"].to_list() == ["idle", "parked"]


def test_the_share_of_a_public_address_is_network(hour: Any) -> None:
    """$0.006 of the $0.06 a minute, as the newest price before the end of the day says."""
    hour.public_ip_price(f"{EVE}T10:00", "9.99")
    hour.public_ip_price("10:00", "0.36")
    hour.public_ip_price(f"{MORROW}T00:00", "5.55")
    assert hour.build() == {VM: usd(idle="3.6")}, "without an address there is no share"
    hour.warehouse.execute("update validated.vm_states set has_public_ip = true where source = 'fleet'")
    hour.request("10:00", "10:30")
    assert hour.build() == {VM: usd(network="0.36", busy="1.62", idle="1.62")}


def test_an_address_that_costs_more_than_the_machine_takes_all_and_no_more(hour: Any) -> None:
    hour.public_ip_price("10:00", "36")
    hour.warehouse.execute("update validated.vm_states set has_public_ip = true where source = 'fleet'")
    assert hour.build() == {VM: usd(network="3.6")}


def test_money_that_no_rate_explains_is_split_by_time(books: Any) -> None:
    books.reading("10:00", "1.00", "0")
    books.reading("11:00", "2.00", "0")
    books.fleet("10:00")
    books.request("10:00", "10:15")
    assert books.build() == {VM: usd(busy="0.25", idle="0.75")}


def test_a_machine_without_readings_is_a_row_of_no_time(books: Any) -> None:
    books.fleet("10:00", vm_id=7)
    assert books.build() == {}
    assert books.vm(7)["alive_seconds"] == 0


# Properties


def test_the_same_day_built_twice_is_equal(hour: Any) -> None:
    hour.request("10:10", "10:20")
    hour.build()
    first = hour.tables()
    hour.build()
    assert all(one.equals(two) for one, two in zip(first, hour.tables(), strict=True))
    assert [table.height > 0 for table in first] == [True, True, True, False, False, True]


@st.composite
def lives(draw: st.DrawFn) -> list[tuple[datetime, Decimal, Decimal]]:
    """Readings (instant, total, rate) over three days, at least one at each end; the counter may fall."""
    minutes = sorted({0, 4320, *draw(st.lists(st.integers(1, 4319), min_size=1, max_size=12))})
    total, found = Decimal(1000), []
    for minute in minutes:
        total += draw(st.decimals(-3, 100, places=9))
        rate = draw(st.sampled_from(["0", "0.01", "0.06", "0.123456789012345"]))
        found.append((datetime(2026, 11, 21) + timedelta(minutes=minute), total, Decimal(rate)))
    return found


def fill(books: Any, readings: list[tuple[datetime, Decimal, Decimal]]) -> None:
    for at, total, rate in readings:
        books.reading(at.isoformat(), str(total), str(rate))
    for at, status in (("00:00", "ACTIVE"), ("07:00", "SHUTOFF"), ("13:00", "ACTIVE"), ("22:00", "ERROR")):
        books.fleet(at, status, ip=status == "ACTIVE")
    books.event("06:30", "InstanceStopSuccess")
    books.probe("13:05", ready=False)
    books.probe("13:20", ready=True)
    books.public_ip_price("01:00", "0.00672043")
    for start, end in (("01:00", "03:00"), ("02:00", "02:30"), ("13:10", "13:40"), (f"{EVE}T23:00", "00:10")):
        books.request(start, end)


def three_days(books: Any) -> list[Decimal]:
    found = []
    for days in (-1, 0, 1):
        costs = books.build(DAY + timedelta(days=days))
        found.append(sum((amount for kinds in costs.values() for amount in kinds.values()), Decimal(0)))
    return found


SLOW = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@SLOW
@given(readings=lives())
def test_days_add_up_to_the_counter_and_parts_to_the_day_exactly(open_books: Open, readings: Any) -> None:
    with open_books() as books:
        fill(books, readings)
        days = three_days(books)
        assert sum(days) == readings[-1][1] - readings[0][1]
        for table, name in (("rollup.resource_days", "cost_usd"), ("rollup.cost_days", "cost_usd")):
            assert books.warehouse.query(f"select sum({name}) from {table}").item() in (sum(days), None)
        assert_adds_up(books)
        row = books.vm()
        assert row["busy_seconds"] + row["cold_start_seconds"] <= row["active_seconds"] <= row["alive_seconds"] <= 86400


@SLOW
@given(readings=lives(), data=st.data())
def test_F050_dropping_any_half_of_the_readings_leaves_the_total_unchanged(
    open_books: Open, readings: Any, data: st.DataObject
) -> None:
    inner = readings[1:-1]
    kept = data.draw(st.lists(st.sampled_from(inner), min_size=len(inner) // 2, unique=True)) if inner else []
    with open_books() as books:
        fill(books, [readings[0], *kept, readings[-1]])
        assert sum(three_days(books)) == readings[-1][1] - readings[0][1]


def test_F050_a_day_without_any_reading_costs_its_share(books: Any) -> None:
    books.reading(f"{EVE}T12:00", "0.00")
    books.reading(f"{MORROW}T12:00", "172.80")
    assert books.build() == {VM: usd(idle="86.4")}
    assert books.resource()["readings"] == 0
    assert books.resource()["edge_usd"] == Decimal("86.4"), "both midnights are inside one gap"
    assert books.resource()["outside_usd"] == Decimal("86.4")


READINGS = st.lists(
    st.tuples(st.integers(1, 10**6), st.integers(-(10**6), 10**9), st.integers(0, 10**6)), min_size=1, max_size=20
)


@given(READINGS, st.data())
def test_F050_the_course_and_its_credits_always_end_at_the_last_reading(steps: Any, data: st.DataObject) -> None:
    readings, at, total = [Reading(0, 0, None)], 0, 0
    for gap, amount, rate in steps:
        at, total = at + gap, total + amount
        readings.append(Reading(at, total, rate))
    kept = [reading for reading in readings[1:-1] if data.draw(st.booleans())]
    for some in (readings, [readings[0], *kept, readings[-1]]):
        course, credits = build_meter(some, None, 0)
        assert course.until(at) + sum(amount for _, amount in credits) == total
        assert all(amount < 0 for _, amount in credits)


def test_two_readings_of_one_instant_make_no_leg() -> None:
    course, credits = build_meter([Reading(5, 1, 1), Reading(5, 9, 1)], None, 0)
    assert list(course.legs) == []
    assert credits == []


def test_tables_keep_their_types_when_a_day_is_empty(books: Any) -> None:
    books.build()
    assert [table.height for table in books.tables()] == [0, 0, 0, 0, 0, 0]
    assert books.tables()[1].schema["cost_usd"] == pl.Decimal(38, 15)


# Days with a book


def test_a_bill_decides_the_amount_and_our_hours_its_parts(books: Any) -> None:
    """Our counters say $3.60, a quarter of the hour busy; Hyperstack says $3.61 and $0.05 that no line explains."""
    for minute in range(0, 60, 10):
        books.reading(f"10:{minute:02}", f"{100 + minute * 0.06:.2f}")
    books.reading("11:10", "103.60", None, ended="11:00")
    books.fleet("10:00")
    books.request("10:00", "10:15")
    books.book({VM: "3.61"}, total="3.66")
    assert books.build() == {VM: usd(busy="0.9025", idle="2.7075"), ("unattributed", 0): usd(other="0.05")}
    row = books.resource()
    assert (row["cost_usd"], row["counter_usd"], row["source"]) == (Decimal("3.61"), Decimal("3.6"), "books")
    assert (row["edge_usd"], row["unseen_seconds"]) == (0, 0)
    booked = books.warehouse.query("select reason, cost_usd from rollup.adjustments order by reason").rows()
    assert booked == [("boundary", Decimal("0.01")), ("unattributed", Decimal("0.05"))]
    assert_adds_up(books)


def test_hours_that_nobody_saw_take_what_is_left_of_the_bill(hour: Any) -> None:
    """Read at 10:00 and 11:00 and never again: 14 hours share the bill alike, the busy quarter hour has its part."""
    hour.request("10:00", "10:15")
    hour.book({VM: "50.4"}, total="50.4")
    assert hour.build() == {VM: usd(busy="0.9", idle="49.5")}
    assert hour.resource()["source"] == "books, hours inferred"
    assert hour.resource()["unseen_seconds"] == 14 * 3600
    assert hour.warehouse.query("from rollup.adjustments")["reason"].to_list() == ["gap"]


@pytest.mark.parametrize(
    ("readings", "reason"),
    [
        ((f"{EVE}T23:55", "00:05", "23:55", f"{MORROW}T00:05"), "rate"),
        (("00:00", "00:16", "23:44", f"{MORROW}T00:00"), "rate"),
        ((f"{EVE}T23:50", "00:06", "23:55", f"{MORROW}T00:05"), "gap"),
        ((f"{EVE}T23:55", "00:05", "23:50", f"{MORROW}T00:06"), "gap"),
        ((f"{EVE}T23:55", "00:05", "23:44"), "gap"),
        ((f"{EVE}T12:00", f"{MORROW}T12:00"), "gap"),
    ],
)
def test_only_a_hole_over_midnight_explains_a_difference_of_the_day(
    books: Any, readings: tuple[str, ...], reason: str
) -> None:
    """Between two readings inside the day the counter says all that was billed, however long nobody looked."""
    for number, at in enumerate(readings):
        books.reading(at, str(number))
    books.book({VM: "1500"}, total="1500")
    books.build()
    assert books.warehouse.query("from rollup.adjustments")["reason"].to_list() == [reason]


def test_a_line_that_nobody_saw_is_a_resource_of_the_day(books: Any) -> None:
    books.book({("bucket", 5): "0.25", ("vm", 6): "24"}, total="24.25")
    assert books.build() == {("bucket", 5): usd(storage="0.25"), ("vm", 6): usd(idle="24")}
    assert {row[3] for row in books.warehouse.query("from rollup.adjustments").rows()} == {"unseen"}


def test_a_later_book_corrects_an_earlier_one(books: Any) -> None:
    books.book({("volume", 5): "1"}, total="1")
    books.book({("volume", 5): "1.5"}, total="1.5", at=f"{MORROW}T12:00")
    assert books.build() == {("volume", 5): usd(storage="1.5")}
    booked = books.warehouse.query("select reason, cost_usd from rollup.adjustments order by booked_at").rows()
    assert booked == [("unseen", Decimal(1)), ("correction", Decimal("0.5"))]


def test_what_was_first_billed_is_never_edited(hour: Any) -> None:
    """A busy quarter hour of $0.90 in a day of which the rest was not seen: later bills move the ledger's kinds alone."""

    def charges() -> list[tuple[Any, ...]]:
        found = hour.warehouse.query("select resource_id, cost_kind, cost_usd from rollup.charge_days order by all")
        return list(found.rows())

    hour.request("10:00", "10:15")
    hour.fleet("10:00", vm_id=6)
    hour.book({VM: "50.4", ("vm", 6): "24"}, total="74.4")
    hour.build()
    first = charges()
    assert first == [(1, "busy", Decimal("0.9")), (1, "idle", Decimal("49.5")), (6, "idle", Decimal("24"))]
    for hours, bill in enumerate(("60.4", "0.45", "-2")):
        hour.book({VM: bill, ("volume", 5): "1"}, total="99", at=f"{MORROW}T{12 + hours}:00")
        costs = hour.build()
        assert sum(costs[VM].values()) == Decimal(bill)
        assert charges() == first
    assert hour.resource(6)["cost_usd"] == 0
    hours = hour.warehouse.query("from rollup.vm_days")["vm_id"].to_list()
    assert hours == [1, 6], "hours of what is billed no more stay as well"


def test_a_list_price_is_divided_like_the_bill_and_credits_are_what_they_are(books: Any) -> None:
    """$3.60 at a quarter off, of which $1 was credited; a line without a list price has none."""
    for minute in range(0, 60, 10):
        books.reading(f"10:{minute:02}", f"{100 + minute * 0.06 - (minute >= 50):.2f}")
    books.reading("11:10", "102.60", None, ended="11:00")
    books.fleet("10:00")
    books.request("10:00", "10:15")
    books.book({VM: "2.6", ("volume", 5): "1"}, total="3.7", listed={VM: "3.8"})
    books.build()
    rows = books.warehouse.query("from rollup.charge_days order by all").drop("utc_day").rows()
    assert rows == [
        ("unattributed", 0, "other", Decimal("0.1"), None),
        ("vm", 1, "busy", Decimal("0.9"), Decimal("1.2")),
        ("vm", 1, "credit", Decimal(-1), Decimal(-1)),
        ("vm", 1, "idle", Decimal("2.7"), Decimal("3.6")),
        ("volume", 5, "storage", Decimal(1), None),
    ]


def test_a_day_without_a_book_is_charged_what_its_counters_say(hour: Any) -> None:
    costs = hour.build()
    rows = hour.warehouse.query("from rollup.charge_days order by all")
    assert dict(rows.select("cost_kind", "cost_usd").rows()) == costs[VM]
    assert rows["list_cost_usd"].null_count() == rows.height > 0


def test_a_machine_that_ended_is_measured_by_what_it_cost_then(books: Any) -> None:
    """Hyperstack shows no price of it any more; a bill that is ten seconds off is still where the day was cut."""
    books.reading("23:50", "0.00")
    books.reading("23:59", "0.54")
    books.reading(f"{MORROW}T00:01", "0.59", None, created="2026-11-22T23:50", ended="23:59:50")
    books.book({VM: "0.58"}, total="0.58")
    books.build()
    (row,) = books.warehouse.query("from rollup.adjustments").rows(named=True)
    assert (row["reason"], row["cost_usd"]) == ("boundary", Decimal("-0.01"))
    assert row["tolerance_usd"] == Decimal("0.120001"), "two minutes at $0.06, and noise"


@pytest.mark.parametrize(("last", "is_agreed"), [("0.864004", True), ("0.8652", True), ("0.8653", False)])
def test_counters_of_a_type_that_no_list_names_may_be_off_at_midnight(books: Any, last: str, is_agreed: bool) -> None:
    """Beyond two minutes at $0.0006 somebody must look."""
    gadget = {"rate": "0.0006", "resource": ("gadget", 7)}
    books.reading("00:00", "10.00")
    books.reading(f"{MORROW}T00:00", "96.4")
    books.reading("00:00", "0.00", **gadget)
    books.reading(f"{MORROW}T00:00", last, **gadget)
    books.book({VM: "86.4"}, "87.264")
    books.build()
    assert books.warehouse.query("select is_agreed from rollup.reconciliation_days").item() is is_agreed


def test_a_day_of_a_negative_bill_is_a_credit(books: Any) -> None:
    books.book({VM: "-2"}, total="-2")
    assert books.build() == {VM: usd(credit="-2")}
    assert_adds_up(books)


def test_what_no_list_names_costs_what_its_counter_shows_and_the_rest_of_the_bill_is_unattributed(books: Any) -> None:
    """Last read at noon. Money after that is in the bill: guessing it beside the bill would count it twice."""
    books.reading("00:00", "0", "0.001", resource=("filesystem", 7))
    books.reading("12:00", "0.72", "0.001", resource=("filesystem", 7))
    books.book({}, total="1.44")
    assert books.build() == {("filesystem", 7): usd(other="0.72"), ("unattributed", 0): usd(other="0.72")}
    row = books.resource(7)
    assert (row["cost_usd"], row["counter_usd"], row["source"]) == (Decimal("0.72"), Decimal("0.72"), "counters")
    assert_adds_up(books)
