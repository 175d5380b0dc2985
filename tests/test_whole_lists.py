"""Which answers are not whole although each is good for itself; such a day has no book, such a minute is not good."""

from datetime import date
from decimal import Decimal
from typing import Any

import pytest

from spotinference_pipeline import checks, ledger, transform
from spotinference_pipeline.answers import HISTORY, HISTORY_LISTS, USAGE, VIRTUAL_MACHINES
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


@pytest.mark.parametrize("metrics", [{}, {"incurred_bill": None}, {"incurred_bill": None, "price_per_hour": 1}])
@pytest.mark.parametrize("of", [HISTORY, VMS])
def test_F045_a_line_or_total_without_a_bill_makes_no_book(desk: Any, words: Any, metrics: Any, of: str) -> None:
    """What is not said is not 0: the machine would cost nothing."""
    row = {"attributes": {"id": "uuid-1", "infrahub_id": 1}, "metrics": metrics}
    content = words.encode({"status": True, "x": {"billing_history": [row]}})
    lists = [words.exchange(of, content, f"{AT}:05", query=WINDOW)]
    assert books_of(desk, words, lists if of == VMS else [*lists, words.exchange(VMS, words.history(), AT)]) == []
    told = desk.rows("select is_good, problem from validated.exchanges where problem is not null")
    assert told == [(False, "a row was refused: value out of range (no incurred_bill)")]


def test_F045_a_refused_counter_makes_no_good_minute(desk: Any, words: Any) -> None:
    """Money whose counter cannot be read is missing from the minute as if nobody had looked."""
    counters = words.usages(words.usage(), words.usage("777", resource_id=2))
    for at, content in (("10:00", counters.replace(b"777", b'"n/a"')), ("10:01", counters)):
        desk.land(words.exchange(USAGE, content, at, query={"deleted": "false"}))
    desk.ingest()
    transform.build_table(desk.warehouse, "rollup.snapshot_days", DAY)
    ((good, failed),) = desk.rows("select minutes_good, exchanges_failed from rollup.snapshot_days")
    assert (good, failed) == (1, 1)
    (problem,) = desk.rows("select problem from validated.exchanges where not is_good")[0]
    assert problem.startswith("a row was refused: Invalid decimal string")
    assert desk.count("quarantine") == 1
    assert desk.count("billing_snapshots") == 3, "the others of the answer are read"


def test_a_refused_machine_is_missing_from_its_fleet(desk: Any, words: Any) -> None:
    content = words.fleet(words.machine(), words.machine(status=7))
    desk.land(words.exchange(VIRTUAL_MACHINES, content, "10:00"))
    desk.ingest()
    assert desk.rows("select is_good, items from validated.exchanges") == [(False, 2)]


@pytest.mark.parametrize(("amounts", "total"), [(("0.5", "0.5"), "1"), (("0.5", "0.7"), "1.2")])
def test_F048_lines_without_an_id_are_told_apart_by_what_they_are_about(
    desk: Any, words: Any, amounts: tuple[str, str], total: str
) -> None:
    """Two adapters of one model, of one number: both count, whether their bills are equal or not."""
    (book,) = books_of(desk, words, [words.exchange(VMS, adapters(words, *amounts), AT, query=WINDOW)], total)
    assert {key: line.bill for key, line in book.lines.items()} == {("vm", 7): int(Decimal(total) * 10**15)}
    assert book.unattributed == 0


def test_F048_a_line_without_an_id_that_is_read_again_with_another_bill_is_the_same_line(desk: Any, words: Any) -> None:
    again = [
        words.exchange(VMS, adapters(words, "0.5", bill, status=status), at, query=WINDOW)
        for bill, status, at in (("0.6", "ACTIVE", f"{AT}:01"), ("0.7", "SHUTOFF", f"{AT}:02"))
    ]
    (book,) = books_of(desk, words, again, "1.2")
    assert book.unattributed == 0


def adapters(words: Any, *bills: str, status: str = "ACTIVE") -> bytes:
    """Lines of one model that only an attribute tells apart of which we know nothing."""
    about = {"infrahub_id": 7, "resource_name": "llama", "status": status}
    rows = [
        {"attributes": about | {"lora_adapter": number}, "metrics": {"incurred_bill": Decimal(bill)}}
        for number, bill in enumerate(bills)
    ]
    content: bytes = words.encode({"success": True, "x": {"billing_history": rows}})
    return content
