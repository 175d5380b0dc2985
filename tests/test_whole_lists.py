"""Which answers of the billing history are not whole although each is good for itself; such a day has no book, nor a check."""

from datetime import date
from typing import Any

import pytest

from spotinference_pipeline import checks, ledger
from spotinference_pipeline.answers import HISTORY, HISTORY_LISTS
from spotinference_pipeline.books import Book, read_books
from spotinference_pipeline.raw import Exchange
from spotinference_pipeline.windows import day_window

DAY = date(2026, 11, 22)
WINDOW = {"start_date": "2026-11-22T00:00:00", "end_date": "2026-11-23T00:00:00"}
AT = "2026-11-23T02:10"
VMS = f"{HISTORY}/virtual-machine"


def books_of(desk: Any, words: Any, vms: list[Exchange], total: str = "86.4") -> list[Book]:
    """The books of a file with these lists of machines, and no other line; the ledger's check of them passes."""
    needed = [f"{HISTORY}/{kind}" for kind, is_needed in HISTORY_LISTS.items() if is_needed]
    others = [words.exchange(one, words.history(), AT, query=WINDOW) for one in needed if one != VMS]
    desk.land(words.exchange(HISTORY, words.history((0, total)), AT, query=WINDOW), *others, *vms)
    desk.ingest()
    ledger.build_day(desk.warehouse, DAY)
    (finding,) = checks.run(desk.warehouse, DAY, ["ledger_equals_the_books"])
    assert finding.passed, finding.broken
    return read_books(desk.warehouse, day_window(DAY))


def page(words: Any, number: int, first: int, at: str, rows: int) -> Exchange:
    query = WINDOW | {"per_page": "100", "page": str(number)}
    return words.exchange(VMS, words.history(*((first + one, "1") for one in range(rows))), at, query=query)


def passes(words: Any, *firsts: tuple[int, int]) -> list[Exchange]:
    """Passes through a list of two pages, by the number of each page's first machine."""
    found = []
    for number, (full, rest) in enumerate(firsts):
        found.append(page(words, 1, full, f"{AT}:{10 * number + 1:02d}", 100))
        found.append(page(words, 2, rest, f"{AT}:{10 * number + 2:02d}", 50))
    return found


def test_F048_a_list_that_moved_until_the_end_makes_no_book(desk: Any, words: Any) -> None:
    assert books_of(desk, words, passes(words, (1000, 2000), (3000, 4000), (5000, 6000)), "150") == []
    problems = desk.rows(f"select distinct is_good, problem from validated.exchanges where endpoint = '{VMS}'")
    assert problems == [(False, "the list moved while it was read, in 3 passes")]


@pytest.mark.parametrize("firsts", [[(1, 101), (1, 101)], [(1, 100), (1, 101), (1, 101)]])
def test_F048_a_list_whose_last_two_passes_name_the_same_rows_makes_a_book(
    desk: Any, words: Any, firsts: list[tuple[int, int]]
) -> None:
    (book,) = books_of(desk, words, passes(words, *firsts), "150")
    assert (len(book.lines), book.unattributed) == (150, 0)


@pytest.mark.parametrize("amount", ['"n/a"', "1e999", "-99999999999999"])
def test_F045_a_line_whose_bill_cannot_be_read_makes_no_book(desk: Any, words: Any, amount: str) -> None:
    """Kept in quarantine, whoever refuses it: the reader of the answer, its rows, or the table's contract."""
    content = words.history((1, "80"), (2, "6.4")).replace(
        b'"incurred_bill":6.4', b'"incurred_bill":' + amount.encode()
    )
    assert books_of(desk, words, [words.exchange(VMS, content, AT, query=WINDOW)]) == []
    ((is_good, problem),) = desk.rows(f"select is_good, problem from validated.exchanges where endpoint = '{VMS}'")
    assert not is_good
    assert problem.startswith("a row was refused: ")
    assert desk.count("quarantine") == 1


def test_two_lines_that_contradict_each_other_make_no_book(desk: Any, words: Any) -> None:
    """Without an id of the billing system nothing says which of them counts, or whether both do."""
    vms = words.exchange(VMS, words.history((1, "80"), (1, "6.4")), AT, query=WINDOW)
    assert books_of(desk, words, [vms]) == []


def test_a_line_that_was_refused_first_and_read_in_the_next_try_makes_a_book(desk: Any, words: Any) -> None:
    refused = words.exchange(VMS, words.history((1, "86.4")).replace(b"86.4", b'"n/a"'), AT, query=WINDOW)
    read = words.exchange(VMS, words.history((1, "86.4")), f"{AT}:05", query=WINDOW)
    (book,) = books_of(desk, words, [refused, read])
    assert book.unattributed == 0


def test_a_refused_counter_leaves_its_minute_as_it_is(desk: Any, words: Any) -> None:
    """Each running counter stands for itself: what one of them says is no part of another."""
    content = words.usages(words.usage(), words.usage("777", resource_id=2)).replace(b"777", b"1e999")
    desk.land(words.exchange("/billing/billing/usage", content, AT))
    desk.ingest()
    assert desk.rows("select is_good, problem from validated.exchanges") == [(True, None)]
    assert desk.count("quarantine") == 1
