"""The wake ledger: each wake with its seconds and dollars, which add up to the day's cold start."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spotinference_pipeline import transform

pytestmark = pytest.mark.no_cover  # whole simulated days: tracing would double their time

Open = Callable[[], AbstractContextManager[Any]]
DAY = date(2026, 11, 22)
EVE, MORROW = "2026-11-21", "2026-11-23"


def build(books: Any, *days: date) -> None:
    for day in days or (DAY,):
        transform.build_ledger(books.warehouse, day)


def wakes(books: Any) -> list[dict[str, Any]]:
    return books.warehouse.query("from rollup.wakes").rows(named=True)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text if "T" in text else f"{DAY}T{text}").replace(tzinfo=UTC)


def assert_adds_up(books: Any) -> None:
    broken = books.warehouse.query(
        """
        select days.utc_day, days.vm_id
        from rollup.vm_days as days
        left join (
            select utc_day, vm_id, sum(cold_seconds) as seconds, sum(cost_usd) as cost_usd
            from rollup.wake_days group by all
        ) as wakes using (utc_day, vm_id)
        left join rollup.cost_days as costs
            on costs.utc_day = days.utc_day and costs.resource_type = 'vm' and costs.resource_id = days.vm_id
            and costs.cost_kind = 'cold_start'
        where
            coalesce(wakes.seconds, 0) != days.cold_start_seconds
            or coalesce(wakes.cost_usd, 0) != coalesce(costs.cost_usd, 0)
        """
    )
    assert broken.is_empty(), broken


def test_a_wake_has_its_seconds_dollars_and_what_it_served(books: Any) -> None:
    """Woken at 10:00 at $0.06 a minute, ready at 10:10, busy from 10:20, parked at 12:00."""
    books.reading(f"{EVE}T23:00", "1", "0", created=f"{EVE}T22:00")
    books.reading("10:00", "1", "0", created=f"{EVE}T22:00")
    books.reading("12:00", "8.2", "0.06", created=f"{EVE}T22:00")
    books.reading(f"{MORROW}T00:00", "8.2", "0", created=f"{EVE}T22:00")
    books.fleet(f"{EVE}T23:00", "HIBERNATED")
    books.event("10:00", "RestoreHibernationInstanceSuccess")
    books.event("12:00", "HibernateInstanceSuccess")
    books.probe("10:05", False)
    books.probe("10:10", True)
    books.request("10:20", "10:30", "10:21")
    build(books)
    (wake,) = wakes(books)
    assert wake == {
        "utc_day": DAY,
        "vm_id": 1,
        "started_at": at("10:00"),
        "found_by": "event",
        "ready_at": at("10:10"),
        "ready_by": "probe",
        "is_failed": False,
        "cold_seconds": Decimal(600),
        "cost_usd": Decimal("0.6"),
        "parked_at": at("12:00"),
        "requests": 1,
        "served_tokens": None,
    }
    assert_adds_up(books)


@pytest.mark.parametrize("by", ["probe", "first_byte"])
def test_the_last_thing_known_may_be_that_the_engine_was_ready_after_midnight(books: Any, by: str) -> None:
    books.reading("23:00", "0", "0", created=f"{EVE}T22:00")
    books.reading(f"{MORROW}T00:00", "3", "0.06", created=f"{EVE}T22:00")
    books.fleet("23:00", "SHUTOFF")
    books.event("23:50", "InstanceStartSuccess")
    if by == "probe":
        books.probe("23:55", False)
        books.probe(f"{MORROW}T00:08", True)
    else:
        books.request(f"{MORROW}T00:06", f"{MORROW}T00:20", f"{MORROW}T00:08")
    build(books)
    (wake,) = wakes(books)
    assert (wake["ready_by"], wake["ready_at"]) == (by, at(f"{MORROW}T00:08"))
    assert wake["cold_seconds"] == Decimal(600)


def test_a_wake_over_midnight_has_rows_on_both_days_and_is_one_wake(books: Any) -> None:
    books.reading(f"{EVE}T23:50", "0", "0.06", created=f"{EVE}T23:50")
    books.reading("00:30", "2.4", "0.06", created=f"{EVE}T23:50")
    books.fleet(f"{EVE}T23:00", "SHUTOFF")
    books.event(f"{EVE}T23:50", "InstanceStartSuccess")
    books.fleet("00:30")
    books.request("00:06", "00:20", "00:08")
    build(books, DAY - timedelta(days=1), DAY)
    (wake,) = wakes(books)
    assert (wake["utc_day"], wake["ready_by"], wake["ready_at"]) == (DAY - timedelta(days=1), "first_byte", at("00:08"))
    assert (wake["cold_seconds"], wake["cost_usd"]) == (Decimal(16 * 60), Decimal("0.96")), "busy since 00:06"
    rows = books.warehouse.query("select cost_usd from rollup.wake_days order by utc_day")["cost_usd"].to_list()
    assert rows == [Decimal("0.6"), Decimal("0.36")]
    assert_adds_up(books)
    before = books.warehouse.query("from rollup.wake_days order by all")
    build(books, DAY, DAY - timedelta(days=1))
    assert books.warehouse.query("from rollup.wake_days order by all").equals(before)


def test_a_failed_wake_is_cold_as_a_whole_and_one_that_no_event_told_is_found_in_its_gap(books: Any) -> None:
    books.reading("08:00", "0", "0.06", created="2026-11-22T08:00")
    books.reading("12:00", "14.4", "0.06", created="2026-11-22T08:00")
    books.fleet("08:00", "SHUTOFF")
    books.fleet("08:10")
    books.probe("08:20", False)
    books.fleet("09:00", "SHUTOFF")
    build(books)
    (wake,) = wakes(books)
    assert (wake["found_by"], wake["started_at"], wake["is_failed"]) == ("gap_middle", at("08:05"), True)
    assert (wake["ready_at"], wake["ready_by"], wake["parked_at"]) == (None, None, at("08:35"))
    assert wake["cold_seconds"] == 30 * 60
    assert_adds_up(books)


def test_an_excluded_machine_wakes_for_nothing(books: Any) -> None:
    books.reading("08:00", "0", created="2026-11-22T08:00", excluded=True)
    books.reading("12:00", "14.4", created="2026-11-22T08:00", excluded=True)
    books.event("08:00", "InstanceStopSuccess")
    books.event("09:00", "InstanceStartSuccess")
    books.probe("09:10", True)
    build(books)
    assert [(wake["cost_usd"], wake["cold_seconds"]) for wake in wakes(books)] == [(0, 600)]


_MINUTE = st.integers(0, 3 * 1440 - 1)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(
    changes=st.lists(_MINUTE, min_size=1, max_size=12, unique=True),
    told=st.lists(st.booleans(), min_size=12, max_size=12),
    probes=st.lists(st.tuples(_MINUTE, st.booleans()), max_size=12),
    flights=st.lists(st.tuples(_MINUTE, st.integers(1, 90)), max_size=6),
    amounts=st.lists(st.integers(0, 10**10), min_size=7, max_size=7),
)
def test_wakes_of_a_day_add_up_to_its_cold_start(
    open_books: Open,
    changes: list[int],
    told: list[bool],
    probes: list[tuple[int, bool]],
    flights: list[tuple[int, int]],
    amounts: list[int],
) -> None:
    def minute(number: int) -> str:
        return (datetime(2026, 11, 21, 0, 0) + timedelta(minutes=number)).isoformat()

    with open_books() as books:
        total = 0
        for place, amount in enumerate(amounts):
            total += amount
            books.reading(minute(place * 719), str(Decimal(total).scaleb(-9)), created="2026-11-20T23:00")
        books.fleet("2026-11-20T23:30", "SHUTOFF")
        for place, number in enumerate(sorted(changes)):
            wakes_up = place % 2 == 0
            if told[place]:
                books.event(minute(number), "InstanceStartSuccess" if wakes_up else "InstanceStopSuccess")
            else:
                books.fleet(minute(number), "ACTIVE" if wakes_up else "SHUTOFF")
        for number, ready in dict(probes).items():
            books.probe(minute(number), ready)
        for number, lasts in flights:
            books.request(minute(number), minute(number + lasts), minute(number + 1))
        build(books, *(date(2026, 11, day) for day in (21, 22, 23)))
        assert_adds_up(books)
        costs = books.warehouse.query(
            "select sum(cost_usd) from rollup.cost_days where cost_kind = 'cold_start'"
        ).item()
        assert sum(wake["cost_usd"] for wake in wakes(books)) == (costs or 0)
