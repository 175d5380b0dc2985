"""Lists of the billing history over several pages, against a server whose counters lie and whose rows move."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import httpx
import pytest

from spotinference_pipeline import answers, history_lists
from spotinference_pipeline.history_lists import read_history_list
from spotinference_pipeline.hyperstack import Hyperstack
from spotinference_pipeline.pacing import Pace
from spotinference_pipeline.raw import Exchange

MINUTE = datetime(2026, 11, 23, 2, tzinfo=UTC)
DAY = (datetime(2026, 11, 22, tzinfo=UTC), datetime(2026, 11, 23, tzinfo=UTC))


class Shelf:
    """A fake list of so many rows; `moves` changes them before a request of that number is answered."""

    def __init__(self, words: Any, rows: int, moves: dict[int, Callable[[list[Any]], None]] | None = None) -> None:
        self.words = words
        self.rows = [self.row(number) for number in range(rows)]
        self.moves = moves or {}
        self.pages: list[str | None] = []
        self.most_per_page = 1000
        self.failing: dict[int, httpx.Response] = {}

    def row(self, number: int, bill: str = "1") -> dict[str, Any]:
        attributes = {"id": f"uuid-{number}", "infrahub_id": number + 1, "resource_name": "otter"}
        return {"attributes": attributes, "metrics": {"incurred_bill": Decimal(bill), "usage_time": 86400}}

    def answer(self, request: httpx.Request) -> httpx.Response:
        self.pages.append(request.url.params.get("page"))
        if move := self.moves.get(len(self.pages)):
            move(self.rows)
        if failed := self.failing.get(len(self.pages)):
            return failed
        page = int(request.url.params.get("page", "1"))
        size = min(int(request.url.params.get("per_page", "10")), self.most_per_page)
        shown = self.rows[(page - 1) * size : page * size]
        lying = {"page": page, "per_page": size, "pages": 1, "total_count": 17}
        wrapper = {"billing_history": shown, "total_count": 10, "pagination": lying}
        content = self.words.encode({"success": True, "billing_history_vm": wrapper})
        return httpx.Response(200, stream=httpx.ByteStream(content))

    def fetch(self, kind: str = "virtual-machine") -> list[Exchange]:
        transport, pace = httpx.MockTransport(self.answer), Pace(most_per_minute=1000)
        with Hyperstack("https://h.test/v1", "key", lambda: MINUTE, pace=pace, transport=transport) as api:
            return api.fetch_history_list(MINUTE, kind, *DAY)


def ids(exchanges: Sequence[Exchange]) -> list[int | None]:
    return [row.about.infrahub_id for row in read_history_list(exchanges).rows]


def test_a_list_of_one_page_is_one_request_of_a_hundred_rows(words: Any) -> None:
    shelf = Shelf(words, 13)
    (exchange,) = taken = shelf.fetch()
    assert exchange.endpoint == f"{answers.HISTORY}/virtual-machine"
    assert exchange.query == {
        "start_date": "2026-11-22T00:00:00",
        "end_date": "2026-11-23T00:00:00",
        "per_page": "100",
        "page": "1",
    }
    assert ids(taken) == list(range(1, 14))
    assert read_history_list(taken).problem is None


@pytest.mark.parametrize("rows", [100, 101, 250])
def test_a_list_of_several_pages_is_read_to_its_end_and_once_more(words: Any, rows: int) -> None:
    shelf = Shelf(words, rows)
    taken = shelf.fetch()
    assert ids(taken) == list(range(1, rows + 1))
    assert shelf.pages == [str(page) for page in range(1, rows // 100 + 2)] * 2
    assert read_history_list(taken).problem is None


def test_a_server_that_gives_smaller_pages_than_asked_for_is_read_to_its_end(words: Any) -> None:
    shelf = Shelf(words, 25)
    shelf.most_per_page = 10
    assert ids(shelf.fetch()) == list(range(1, 26))


def test_a_server_that_ignores_the_page_is_not_asked_for_ever(words: Any) -> None:
    shelf = Shelf(words, 100)

    def first_page(request: httpx.Request) -> httpx.Response:
        return shelf.answer(httpx.Request("GET", request.url.copy_set_param("page", "1")))

    with Hyperstack("https://h.test/v1", "key", lambda: MINUTE, transport=httpx.MockTransport(first_page)) as api:
        taken = api.fetch_history_list(MINUTE, "volume", *DAY)
    assert len(taken) == 4, "a second page that brings nothing new ends the pass; two passes agree"
    assert ids(taken) == list(range(1, 101))


def test_F048_a_row_that_moved_over_a_page_is_found_by_the_next_pass(words: Any) -> None:
    def leave(rows: list[Any]) -> None:
        rows.insert(150, rows.pop(0))

    shelf = Shelf(words, 150, {2: leave})
    taken = shelf.fetch()
    assert set(ids(taken)) == set(range(1, 151))
    assert len(ids(taken)) == 150, "rows shown twice count once"
    assert len(shelf.pages) == 6, "the first pass missed a row, the second and the third agree"
    assert read_history_list(taken).problem is None


def test_F048_a_list_that_never_stands_still_is_told_to_be_partial(words: Any) -> None:
    def replace(rows: list[Any]) -> None:
        rows[0] = Shelf(words, 0).row(1000 + len(shelf.pages))

    shelf = Shelf(words, 150)
    shelf.moves = dict.fromkeys(range(1, 20), replace)
    found = read_history_list(shelf.fetch())
    assert len(shelf.pages) == 2 * history_lists.MOST_PASSES
    assert found.problem == "the list moved while it was read, in 3 passes"


def test_F048_a_bill_that_changed_between_passes_counts_as_it_was_last(words: Any) -> None:
    def settle(rows: list[Any]) -> None:
        rows[0] = Shelf(words, 0).row(0, "2.5")

    taken = Shelf(words, 150, {3: settle}).fetch()
    assert read_history_list(taken).rows[0].amounts() == {"incurred_bill": Decimal("2.5")}


def test_pages_end_at_a_cap(words: Any) -> None:
    shelf = Shelf(words, 100 * (history_lists.MOST_PAGES + 1))
    assert len(shelf.fetch()) == 2 * history_lists.MOST_PAGES


def test_a_page_that_cannot_be_had_makes_the_list_partial(words: Any) -> None:
    shelf = Shelf(words, 150)
    shelf.failing = {2: httpx.Response(429, stream=httpx.ByteStream(b""))}
    taken = shelf.fetch()
    assert [exchange.status for exchange in taken] == [200, 429]
    assert read_history_list(taken).problem == "status 429"


def test_a_try_that_failed_is_kept_and_the_list_is_whole(words: Any) -> None:
    shelf = Shelf(words, 150)
    shelf.failing = {1: httpx.Response(500, stream=httpx.ByteStream(b""))}
    taken = shelf.fetch()
    assert [exchange.status for exchange in taken] == [500, 200, 200, 200, 200]
    assert read_history_list(taken).problem is None
    single = Shelf(words, 13)
    single.failing = {1: httpx.Response(500, stream=httpx.ByteStream(b""))}
    assert [exchange.status for exchange in single.fetch()] == [500, 200]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b'{"status":false,"message":"No cluster data found for x - y ","error_reason":"not_found"}', None),
        (b"<html>not found</html>", "status 404"),
        (b'{"status":false}', "status 404"),
        (b"[" * 100_000, "status 404"),
    ],
    ids=range(4),
)
def test_no_data_is_a_404_in_the_vendors_own_words_and_no_other(
    words: Any, content: bytes, problem: str | None
) -> None:
    exchange = words.exchange(f"{answers.HISTORY}/cluster", content, status=404)
    found = read_history_list([exchange])
    assert (found.rows, found.problem) == ((), problem)


def test_contracts_come_as_a_whole(words: Any) -> None:
    shelf = Shelf(words, 3)
    assert ids(shelf.fetch("contract")) == [1, 2, 3]
    assert shelf.pages == [None]


def test_an_answer_that_cannot_be_read_makes_the_list_partial(words: Any) -> None:
    cut = words.exchange(f"{answers.HISTORY}/volume", b'{"success":true,"x":{"billing')
    assert "expected JSON" in str(read_history_list([cut]).problem)
    assert read_history_list([]).problem == "nothing was asked"
    other = words.exchange(f"{answers.HISTORY}/volume", b'{"success":true,"x":{"metrics":{}}}', sha256="0" * 64)
    assert "sha256" in str(read_history_list([other]).problem)


def test_F045_a_row_that_cannot_be_read_is_kept_and_makes_the_list_partial(words: Any) -> None:
    shelf = Shelf(words, 2)
    shelf.rows[0] = {"attributes": {"id": "uuid-0"}}
    found = read_history_list(shelf.fetch())
    assert [row.about.id for row in found.rows] == ["uuid-1"]
    assert b"uuid-0" in found.bad_items[0].content
    assert found.problem == "rows that cannot be read"


def test_rows_without_an_id_are_told_apart_by_their_content(words: Any) -> None:
    shelf = Shelf(words, 3)
    for row in shelf.rows:
        del row["attributes"]["id"]
    shelf.rows[2] = shelf.rows[1]
    assert ids(shelf.fetch()) == [1, 2]


def test_each_method_of_the_books_asks_for_its_path(words: Any) -> None:
    seen: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.url.raw_path.decode().removeprefix("/v1"))
        return httpx.Response(200, stream=httpx.ByteStream(b"{}"))

    start, end = DAY[0], DAY[0] + timedelta(hours=1)
    with Hyperstack("https://h.test/v1", "key", lambda: MINUTE, transport=httpx.MockTransport(answer)) as api:
        api.fetch_history_detail(MINUTE, "virtual-machine", 7, start, end)
        api.fetch_graph(MINUTE, "volume", 8, start, end)
        api.fetch_billing_events(MINUTE, "volume", 8, start, end)
        api.fetch_sub_resources(MINUTE, 7, start, end)
        api.fetch_payments(MINUTE)
        api.fetch_snapshots(MINUTE)
    window = "start_date=2026-11-22T00%3A00%3A00&end_date=2026-11-22T01%3A00%3A00"
    assert seen == [
        f"/billing/billing/history/virtual-machine/7?{window}",
        f"/billing/billing/history/volume/8/graph?{window}",
        f"/billing/billing/volume/8/billing-events?{window}",
        f"/billing/billing/virtual-machine/7/sub-resource?{window}",
        "/billing/payment/payment-details",
        "/core/snapshots",
    ]
