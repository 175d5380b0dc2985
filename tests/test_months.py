"""A month's book beside its days' books: what differs is booked on its last day, and nothing twice."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from spotinference_pipeline.books import Book, Key, Line
from spotinference_pipeline.months import MONTH_BOUNDARY, differ
from spotinference_pipeline.settlement import NOISE, UNATTRIBUTED

VM: Key = ("vm", 1)
DISK: Key = ("volume", 2)
USD = 10**15
AT = datetime(2026, 12, 3, 2, tzinfo=UTC)
HOUR = timedelta(hours=1)


def book(at: datetime, total: int, **bills: int) -> Book:
    keys = {"vm": VM, "disk": DISK}
    return Book(at, total, {keys[name]: Line(bill, 60 * USD, name) for name, bill in bills.items()})


def booked(*months: Book, days: list[list[Book]]) -> list[tuple[Key, int, int]]:
    return [(one.key, one.amount, (one.booked_at - AT) // HOUR) for one in differ(months, days)]


DAYS = [[book(AT, 10, vm=6, disk=4)], [book(AT - HOUR, 9, vm=9), book(AT, 12, vm=6, disk=5)]]


def test_a_month_that_is_the_sum_of_its_days_books_nothing() -> None:
    assert booked(book(AT, 22, vm=12, disk=9), days=DAYS) == []


def test_F051_what_a_month_has_beyond_its_days_is_booked_by_line_and_what_no_line_has_too() -> None:
    found = differ([book(AT, 30, vm=15, disk=8)], DAYS)
    assert [(one.key, one.amount) for one in found] == [(UNATTRIBUTED, 6), (VM, 3), (DISK, -1)]
    assert {one.reason for one in found} == {MONTH_BOUNDARY}
    assert [(one.name, one.tolerance) for one in found[1:]] == [("vm", USD + NOISE), ("disk", USD + NOISE)]


def test_a_month_is_compared_with_the_books_that_its_days_had_by_then() -> None:
    late = [DAYS[0], [*DAYS[1], book(AT + 2 * HOUR, 13, vm=7, disk=5)]]
    assert booked(book(AT + HOUR, 22, vm=12, disk=9), days=late) == []
    assert booked(book(AT + 3 * HOUR, 22, vm=12, disk=9), days=late) == [(VM, -1, 3)]


def test_a_second_book_of_the_month_books_what_is_new_in_it() -> None:
    first, second = book(AT, 23, vm=13, disk=9), book(AT + HOUR, 22, vm=13, disk=8)
    assert booked(first, second, days=DAYS) == [(VM, 1, 0), (DISK, -1, 1)]
    assert booked(first, first, days=DAYS) == [(VM, 1, 0)]


def test_a_month_of_which_a_day_has_no_book_says_nothing() -> None:
    assert booked(book(AT, 30, vm=15, disk=8), days=[*DAYS, []]) == []
    assert booked(book(AT, 30, vm=15, disk=8), days=[*DAYS, [book(AT + HOUR, 1, vm=1)]]) == [], "not by then"


_BILLS = st.dictionaries(st.sampled_from([VM, DISK]), st.integers(-(10**18), 10**18).map(Line))


@given(st.lists(st.tuples(st.integers(-(10**18), 10**18), _BILLS), min_size=2, max_size=6))
def test_days_and_boundary_add_up_to_the_month(windows: list[tuple[int, dict[Key, Line]]]) -> None:
    month, *days = (Book(AT, total, lines) for total, lines in windows)
    found = differ([month], [[day] for day in days])
    assert sum(day.organisation for day in days) + sum(one.amount for one in found) == month.organisation
    for key in (VM, DISK):
        of_days = sum(day.lines.get(key, Line(0)).bill for day in days)
        of_key = sum(one.amount for one in found if one.key == key)
        assert of_days + of_key == month.lines.get(key, Line(0)).bill
