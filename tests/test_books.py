"""Which answers of a day count as its book: whole, settled, of one raw file, in that order of time."""

from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from spotinference_pipeline import answers, checks, ledger
from spotinference_pipeline.books import Book, Line, read_books
from spotinference_pipeline.raw import Exchange
from spotinference_pipeline.windows import day_window

DAY = date(2026, 11, 22)
WINDOW = {"start_date": "2026-11-22T00:00:00", "end_date": "2026-11-23T00:00:00"}
SETTLED, LATER = "2026-11-23T02:00:00", "2026-11-23T03:00:00"
NONE = b'{"status":false,"message":"No data found","error_reason":"not_found"}'
USD = 10**15


class Shelf:
    """Raw files of answers about the day, and the books that come of them."""

    def __init__(self, desk: Any, words: Any) -> None:
        self.desk = desk
        self.words = words

    def row(self, number: int, bill: str, billing_id: str | None = None, price: str = "1") -> dict[str, Any]:
        about = {"id": billing_id or f"uuid-{number}", "infrahub_id": number, "resource_name": "otter"}
        return {"attributes": about, "metrics": {"incurred_bill": Decimal(bill), "price_per_hour": Decimal(price)}}

    def answer(self, kind: str, *rows: dict[str, Any], page: int = 1, at: str = SETTLED, **changes: Any) -> Exchange:
        wrapper = {"billing_history": rows, "total_count": 1}
        content = self.words.encode({"success": True, "billing_history_x": wrapper})
        query = WINDOW | ({} if kind in ("", "contract") else {"per_page": "100", "page": str(page)})
        endpoint = f"{answers.HISTORY}/{kind}".rstrip("/")
        return self.words.exchange(endpoint, content, at, **({"query": query} | changes))

    def total(self, bill: str, **changes: Any) -> Exchange:
        row = {"attributes": {"id": "org"}, "metrics": {"incurred_bill": Decimal(bill)}}
        return self.answer("", row, **changes)

    def lists(self, at: str = SETTLED, **given: list[Exchange]) -> list[Exchange]:
        """Every needed list, those that are not given without lines, in the vendor's words."""
        found = []
        for kind, is_needed in answers.HISTORY_LISTS.items():
            if kind.replace("-", "_") in given:
                found += given[kind.replace("-", "_")]
            elif is_needed:
                query = WINDOW | {"per_page": "100", "page": "1"}
                found.append(self.words.exchange(f"{answers.HISTORY}/{kind}", NONE, at, query=query, status=404))
        return found

    def land(self, *exchanges: Exchange) -> list[Book]:
        self.desk.land(*exchanges)
        self.desk.ingest()
        return read_books(self.desk.warehouse, day_window(DAY))


@pytest.fixture
def shelf(desk: Any, words: Any) -> Shelf:
    return Shelf(desk, words)


def test_a_book_has_the_total_and_every_line_at_nano_dollars(shelf: Shelf) -> None:
    vms = shelf.answer("virtual-machine", shelf.row(7, "461.01935484000006", price="25.6"), shelf.row(8, "0"))
    volumes = shelf.answer("volume", shelf.row(7, "0.30000000000000004"))
    (book,) = shelf.land(shelf.total("461.5"), *shelf.lists(virtual_machine=[vms], volume=[volumes]))
    assert book.organisation == 461 * USD + USD // 2
    assert book.lines == {
        ("vm", 7): Line(461_019_354_840 * 10**6, 25 * USD + 6 * USD // 10, "otter"),
        ("vm", 8): Line(0, USD, "otter"),
        ("volume", 7): Line(300_000_000 * 10**6, USD, "otter"),
    }
    assert book.unattributed == 180_645_160 * 10**6


def test_a_line_that_stands_on_two_pages_counts_once_and_the_later_answer_counts(shelf: Shelf) -> None:
    pages = [
        shelf.answer("volume", shelf.row(1, "1"), shelf.row(2, "5"), page=1),
        shelf.answer("volume", shelf.row(2, "6"), page=2, at="2026-11-23T02:00:05"),
        shelf.answer("volume", shelf.row(1, "1"), shelf.row(2, "6"), page=1, at="2026-11-23T02:00:10"),
    ]
    (book,) = shelf.land(shelf.total("7"), *shelf.lists(volume=pages))
    assert {key: line.bill // USD for key, line in book.lines.items()} == {("volume", 1): 1, ("volume", 2): 6}


def test_two_lines_of_one_resource_add_up(shelf: Shelf) -> None:
    two = shelf.answer("volume", shelf.row(1, "1", "uuid-a"), shelf.row(1, "2", "uuid-b"))
    (book,) = shelf.land(shelf.total("3"), *shelf.lists(volume=[two]))
    assert book.lines["volume", 1].bill == 3 * USD
    assert book.unattributed == 0


@pytest.mark.parametrize("kind", [kind for kind, is_needed in answers.HISTORY_LISTS.items() if is_needed])
def test_without_one_of_the_needed_lists_it_is_no_book(shelf: Shelf, kind: str) -> None:
    kept = [one for one in shelf.lists() if not one.endpoint.endswith(kind)]
    assert shelf.land(shelf.total("1"), *kept) == []
    assert shelf.land(*shelf.lists()) == [], "nor without the total"


def test_F040_a_list_that_failed_makes_no_book_and_one_that_was_tried_again_does(shelf: Shelf) -> None:
    failed = shelf.answer("volume", status=500)
    assert shelf.land(shelf.total("1"), *shelf.lists(volume=[failed])) == []
    assert len(shelf.land(shelf.total("1", at=LATER), *shelf.lists(volume=[failed, shelf.answer("volume")]))) == 1


def test_a_page_that_failed_makes_no_book(shelf: Shelf) -> None:
    pages = [shelf.answer("volume", shelf.row(1, "1")), shelf.answer("volume", page=2, status=502)]
    assert shelf.land(shelf.total("1"), *shelf.lists(volume=pages)) == []


def test_an_ai_list_that_was_asked_for_must_be_good_too(shelf: Shelf) -> None:
    failed = shelf.answer("fine_tuning", status=500)
    assert shelf.land(shelf.total("1"), *shelf.lists(fine_tuning=[failed])) == []
    good = shelf.answer("fine_tuning", shelf.row(3, "1"))
    (book,) = shelf.land(shelf.total("1", at=LATER), *shelf.lists(fine_tuning=[good]))
    assert book.lines["fine_tuning", 3].bill == USD


def test_answers_of_less_than_two_hours_after_the_day_are_no_book(shelf: Shelf) -> None:
    early = "2026-11-23T01:59:58"
    assert shelf.land(shelf.total("1", at=early), *shelf.lists()) == []
    assert shelf.land(shelf.total("1"), *shelf.lists(at=early)) == []


def test_answers_about_another_window_are_no_book(shelf: Shelf) -> None:
    month = {"start_date": "2026-11-01T00:00:00", "end_date": "2026-11-23T00:00:00"}
    assert shelf.land(shelf.total("1", query=month), *shelf.lists()) == []


def test_books_come_oldest_first_whatever_the_order_of_their_files(shelf: Shelf) -> None:
    later = "2026-11-25T02:00:00"
    shelf.land(shelf.total("2", at=later), *shelf.lists(at=later))
    books = shelf.land(shelf.total("1"), *shelf.lists())
    assert [book.organisation // USD for book in books] == [1, 2]


def test_a_total_without_an_amount_makes_no_book(shelf: Shelf) -> None:
    content = msgspec.json.encode({"status": True, "x": {"billing_history": []}})
    assert shelf.land(shelf.words.exchange(answers.HISTORY, content, SETTLED, query=WINDOW), *shelf.lists()) == []


@pytest.mark.parametrize("later", ["a total that cannot be read", "exact repeats"])
def test_a_second_file_that_is_no_book_keeps_the_first_in_the_ledger_and_in_its_check(shelf: Shelf, later: str) -> None:
    """The check counts the bills anew: what is no book to the ledger must be none to it, or publication is blocked."""
    first = [shelf.total("5"), *shelf.lists(virtual_machine=[shelf.answer("virtual-machine", shelf.row(1, "5"))])]
    shelf.land(*first)
    if later == "exact repeats":
        books = shelf.land(*first)
    else:
        at = "2026-11-25T02:00:00"
        row = {"attributes": {"id": "org"}, "metrics": {"incurred_bill": "n/a"}}
        vms = shelf.answer("virtual-machine", shelf.row(1, "4"), at=at)
        books = shelf.land(shelf.answer("", row, at=at), *shelf.lists(at, virtual_machine=[vms]))
    assert [book.organisation // USD for book in books] == [5]
    ledger.build_day(shelf.desk.warehouse, DAY)
    (finding,) = checks.run(shelf.desk.warehouse, DAY, ["ledger_equals_the_books"])
    assert finding.passed, finding.broken


def test_the_books_of_a_day_are_its_own(shelf: Shelf) -> None:
    shelf.land(shelf.total("1"), *shelf.lists())
    assert read_books(shelf.desk.warehouse, day_window(DAY - timedelta(days=1))) == []
