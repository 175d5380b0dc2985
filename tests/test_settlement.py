"""From our own day and its books to what counts: adjustments with reasons, and parts that add up to the bill."""

import random
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from spotinference_pipeline.books import Book, Key, Line
from spotinference_pipeline.charges import Share
from spotinference_pipeline.settlement import (
    MOST_RESIDUAL_USD,
    NOISE,
    UNATTRIBUTED,
    Adjustment,
    OwnDay,
    divide,
    divide_list_price,
    is_agreed,
    settle,
)

VM: Key = ("vm", 1)
USD = 10**15
AT = datetime(2026, 11, 23, 2, tzinfo=UTC)
LATER = AT + timedelta(days=2)
LISTED = frozenset({"vm", "volume", "unattributed"})


def own(amount: int, *, credit: int = 0, hole: tuple[int, int] | None = None, readings: int = 1440) -> OwnDay:
    shares = [Share(0, 10, amount, {"busy": 1, "idle": 3})]
    return OwnDay(shares, [hole] if hole else [], amount, credit, credit, readings)


def book(*bills: tuple[Key, int], total: int | None = None, at: datetime = AT, hourly: int = USD) -> Book:
    lines = {key: Line(bill, hourly) for key, bill in bills}
    return Book(at, sum(bill for _, bill in bills) if total is None else total, lines)


def reasons(days: dict[Key, OwnDay], *books: Book) -> dict[Key, list[tuple[str, int]]]:
    found: dict[Key, list[tuple[str, int]]] = {}
    for one in settle(days, books, LISTED):
        found.setdefault(one.key, []).append((one.reason, one.amount))
    return found


def test_a_bill_that_our_counters_know_needs_no_adjustment() -> None:
    assert reasons({VM: own(5 * USD)}, book((VM, 5 * USD))) == {}


def test_a_small_difference_is_where_the_day_was_cut() -> None:
    """Two minutes at $1 an hour are a thirtieth of a dollar."""
    within = USD // 30
    assert reasons({VM: own(5 * USD)}, book((VM, 5 * USD + within))) == {VM: [("boundary", within)]}
    assert reasons({VM: own(5 * USD)}, book((VM, 5 * USD - within))) == {VM: [("boundary", -within)]}
    assert reasons({VM: own(5 * USD)}, book((VM, 6 * USD))) == {VM: [("rate", USD)]}


def test_what_has_ended_since_is_measured_by_the_days_own_price() -> None:
    """A line shows the present price: 0 of what has ended, little of what is parked."""
    day, within = own(5 * USD), USD // 30
    day.hourly = USD
    assert reasons({VM: day}, book((VM, 5 * USD + within), hourly=0)) == {VM: [("boundary", within)]}
    assert reasons({VM: day}, book(total=-5 * USD)) == {
        VM: [("rate", -5 * USD)],
        UNATTRIBUTED: [("unattributed", -5 * USD)],
    }
    beyond = within + NOISE + 1
    assert reasons({VM: day}, book((VM, 5 * USD + beyond), hourly=0)) == {VM: [("rate", beyond)]}
    assert reasons({VM: day}, book((VM, 5 * USD + 2 * within), hourly=2 * USD)) == {VM: [("boundary", 2 * within)]}


def test_what_books_do_not_list_may_be_off_for_where_the_day_was_cut() -> None:
    """Two minutes of what the unlisted resources cost an hour together, and noise."""
    first, second = own(4 * USD), own(4 * USD)
    first.hourly, second.hourly = USD, 2 * USD
    days, most = {("quantum", 3): first, ("quantum", 4): second}, USD // 10 + NOISE
    for off, is_within in ((-most, True), (-most - 1, False), (most, True), (most + 1, False)):
        books = [book(total=8 * USD + off)]
        assert is_agreed(settle(days, books, LISTED), books) is is_within, off


def test_what_nobody_saw_has_its_reason_whatever_its_size() -> None:
    cut = own(5 * USD, hole=(0, 3))
    cut.is_cut_unseen = True
    assert reasons({VM: cut}, book((VM, 9 * USD))) == {VM: [("gap", 4 * USD)]}
    assert reasons({}, book((VM, 9 * USD))) == {VM: [("unseen", 9 * USD)]}
    assert reasons({VM: own(0, readings=0)}, book((VM, 9 * USD))) == {VM: [("unseen", 9 * USD)]}


def test_a_hole_inside_the_day_explains_nothing() -> None:
    """The counter was read on both sides of it: what the day's total differs by is not in it."""
    days, books = {VM: own(5 * USD, hole=(2, 3))}, [book((VM, 9 * USD))]
    assert reasons(days, *books) == {VM: [("rate", 4 * USD)]}
    assert not is_agreed(settle(days, books, LISTED), books)
    assert reasons(days, book((VM, 5 * USD + USD // 30))) == {VM: [("boundary", USD // 30)]}
    assert reasons({VM: own(5 * USD, credit=-USD, hole=(2, 3))}, book((VM, 9 * USD)))[VM][0][0] == "correction"


def test_a_credit_that_the_books_see_otherwise_is_a_correction() -> None:
    assert reasons({VM: own(5 * USD, credit=-2 * USD)}, book((VM, 5 * USD))) == {VM: [("correction", 2 * USD)]}


def test_what_no_line_explains_is_a_line_of_its_own() -> None:
    assert reasons({VM: own(USD)}, book((VM, USD), total=USD + 7)) == {UNATTRIBUTED: [("unattributed", 7)]}


def test_types_that_books_do_not_list_keep_our_amounts_and_are_not_unattributed() -> None:
    days = {VM: own(USD), ("quantum", 3): own(4 * USD)}
    assert reasons(days, book((VM, USD), total=5 * USD)) == {}


def test_later_books_bring_corrections_and_equal_ones_bring_nothing() -> None:
    first, same, moved = (book((VM, bill), at=at) for bill, at in ((5, AT), (5, LATER), (9, LATER + timedelta(days=9))))
    assert reasons({VM: own(4)}, first, same, moved) == {VM: [("boundary", 1), ("correction", 4)]}


def test_a_resource_without_a_line_costs_nothing() -> None:
    assert reasons({VM: own(5 * USD)}, book((("volume", 1), 3))) == {
        VM: [("rate", -5 * USD)],
        ("volume", 1): [("unseen", 3)],
    }


def adjustment(amount: int, reason: str, key: Key = VM, at: datetime = AT) -> Adjustment:
    return Adjustment(key, reason, amount, at, NOISE)


def test_books_agree_within_half_a_dollar_or_a_thousandth_of_the_bill() -> None:
    small, large = [book((VM, 10 * USD))], [book((VM, 10_000 * USD))]
    assert is_agreed([adjustment(-MOST_RESIDUAL_USD, "rate")], small)
    assert not is_agreed([adjustment(MOST_RESIDUAL_USD + 1, "rate")], small)
    assert is_agreed([adjustment(10 * USD, "boundary")], large)
    assert not is_agreed([adjustment(10 * USD + 1, "correction")], large)
    assert is_agreed([adjustment(9 * USD, "gap"), adjustment(USD, "unseen")], small), "nobody looked"
    assert is_agreed([adjustment(9 * USD, "correction", at=LATER)], small), "a later book corrects an earlier one"


def test_unattributed_money_is_at_most_a_hundredth_and_never_negative() -> None:
    books = [book((VM, 100 * USD))]
    assert is_agreed([adjustment(USD, "unattributed", UNATTRIBUTED)], books)
    assert not is_agreed([adjustment(USD + 1, "unattributed", UNATTRIBUTED)], books)
    assert is_agreed([adjustment(-NOISE, "unattributed", UNATTRIBUTED)], books)
    assert not is_agreed([adjustment(-NOISE - 1, "unattributed", UNATTRIBUTED)], books)


# Dividing a bill


def test_a_bill_is_divided_as_our_hours_are() -> None:
    assert divide("vm", own(100), 100) == {"busy": 25, "idle": 75}
    assert divide("vm", own(100), 200) == {"busy": 50, "idle": 150}


def test_hours_that_were_seen_keep_their_amounts_and_unseen_ones_take_what_is_left() -> None:
    shares = [Share(0, 10, 60, {"busy": 1}), Share(10, 20, 20, {"parked": 1}), Share(20, 30, 20, {"idle": 1})]
    day = OwnDay(shares, [(12, 30)], 100)
    assert divide("vm", day, 160) == {"busy": 60, "parked": 50, "idle": 50}
    assert divide("vm", day, 40) == {"busy": 24, "parked": 8, "idle": 8}, "less than was seen: all hours give alike"


def test_a_bill_of_which_nothing_is_known_has_the_kind_of_its_type() -> None:
    assert divide("bucket", OwnDay(), 7) == {"storage": 7}
    assert divide("vm", OwnDay(), 7) == {"idle": 7}
    assert divide("unattributed", OwnDay(), 7) == {"other": 7}


def test_a_negative_bill_is_a_credit_and_a_credit_that_was_seen_stays_one() -> None:
    assert divide("vm", own(100), -5) == {"credit": -5}
    assert divide("vm", own(100, credit=-40), 60) == {"busy": 25, "idle": 75, "credit": -40}
    assert divide("vm", own(100, credit=-40), -50) == {"credit": -50}


# Properties

AMOUNTS = st.integers(-(10**16), 10**18)
KEYS = st.sampled_from([VM, ("vm", 2), ("volume", 1)])
SHARES = st.lists(
    st.tuples(
        st.integers(0, 10**17),
        st.dictionaries(st.sampled_from(["busy", "idle", "parked"]), st.integers(1, 10**9), min_size=1),
    ),
    max_size=24,
)


@st.composite
def own_days(draw: st.DrawFn) -> OwnDay:
    """A day of hours, some of them in a hole; amounts may be nothing at all."""
    shares = [Share(n * 10, n * 10 + 10, amount, weights) for n, (amount, weights) in enumerate(draw(SHARES))]
    credit = draw(st.one_of(st.just(0), st.integers(-(10**16), -1)))
    holes = [(low, low + size) for low, size in draw(st.lists(st.tuples(st.integers(0, 240), st.integers(1, 60))))]
    network = draw(st.one_of(st.none(), st.integers(0, 10**17)))
    return OwnDay(shares, holes, sum(share.amount for share in shares), credit, credit, len(shares), network)


@st.composite
def books_of(draw: st.DrawFn) -> list[Book]:
    found = []
    for number in range(draw(st.integers(1, 3))):
        bills = draw(st.dictionaries(KEYS, AMOUNTS))
        found.append(book(*bills.items(), total=draw(AMOUNTS), at=AT + number * timedelta(days=1)))
    return found


@given(own_days(), AMOUNTS)
def test_the_parts_of_a_bill_add_up_to_it_and_only_credits_are_negative(day: OwnDay, bill: int) -> None:
    parts = divide("vm", day, bill)
    assert sum(parts.values()) == bill
    assert all(amount >= 0 for kind, amount in parts.items() if kind != "credit")
    spent = bill - day.billed_credit
    if day.network is not None and spent >= 0:
        assert parts.get("network", 0) == min(day.network, spent), "what Hyperstack bills for public IPs is known"


def test_a_list_price_of_which_nothing_can_be_divided_is_none() -> None:
    assert divide_list_price({"busy": 3, "idle": 1}, None) == {}
    assert divide_list_price({"credit": -5}, 7) == {}
    assert divide_list_price({"busy": 3, "credit": -5}, -6) == {}
    assert divide_list_price({"busy": 3, "idle": 1, "credit": -5}, 3) == {"busy": 6, "idle": 2, "credit": -5}


@given(own_days(), AMOUNTS, AMOUNTS)
def test_the_parts_of_a_list_price_add_up_to_it_and_have_the_bills_kinds(day: OwnDay, bill: int, listed: int) -> None:
    parts = divide("vm", day, bill)
    found = divide_list_price(parts, listed)
    assert not found or sum(found.values()) == listed
    assert found.keys() <= parts.keys()
    assert found.get("credit", parts.get("credit")) == parts.get("credit")
    assert all(amount >= 0 for kind, amount in found.items() if kind != "credit")


@given(st.dictionaries(KEYS, own_days()), books_of())
def test_after_the_adjustments_our_ledger_is_the_newest_book(days: dict[Key, OwnDay], books: list[Book]) -> None:
    adjustments = settle(days, books, LISTED)
    assert sum(day.total for day in days.values()) + sum(one.amount for one in adjustments) == books[-1].organisation
    for key in {VM, ("vm", 2), ("volume", 1)}:
        booked = sum(one.amount for one in adjustments if one.key == key)
        before = days[key].total if key in days else 0
        assert before + booked == books[-1].lines.get(key, Line(0)).bill
    assert all(one.amount for one in adjustments)


@given(st.dictionaries(KEYS, own_days()), books_of())
def test_reading_the_newest_book_twice_is_reading_it_once(days: dict[Key, OwnDay], books: list[Book]) -> None:
    again = Book(books[-1].observed_at + timedelta(days=1), books[-1].organisation, books[-1].lines)
    assert settle(days, [*books, again], LISTED) == settle(days, books, LISTED)


@given(st.dictionaries(KEYS, own_days()), books_of(), st.randoms())
def test_the_order_of_resources_and_lines_changes_nothing(
    days: dict[Key, OwnDay], books: list[Book], shuffler: random.Random
) -> None:
    def shuffled(mapping: dict[Key, object]) -> dict[Key, object]:
        items = list(mapping.items())
        shuffler.shuffle(items)
        return dict(items)

    other = [Book(one.observed_at, one.organisation, shuffled(dict(one.lines))) for one in books]  # type: ignore[arg-type]
    assert settle(shuffled(dict(days)), other, LISTED) == settle(days, books, LISTED)  # type: ignore[arg-type]
