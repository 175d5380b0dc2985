"""A list of the billing history over all its pages: which rows there are, and whether all of them were read.

Owns when a page is the last, and when a list is whole. The answer's counters (`total_count`, `pages`) contradict each
other and decide nothing. One request is `hyperstack`'s; what a row says, and which rows are the same, is in `answers`.

Source: the vendor's examples of 2026: 13 rows at 10 a page with `pages` 1; lists are computed anew for each page.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from spotinference_pipeline.answers import BadItem, BillingRow, read_items
from spotinference_pipeline.errors import HyperstackError, RawFileError
from spotinference_pipeline.raw import Exchange

ROWS_PER_PAGE = 100
MOST_PAGES = 100
"""Most pages of one pass through a list: 10,000 resources."""
MOST_PASSES = 3
UNPAGED = frozenset({"contract"})
"""Kinds whose list comes as a whole."""


@dataclass(frozen=True)
class HistoryList:
    """The rows of one list, each once, in the order of their first sight. `problem`: why it is not whole, else None."""

    rows: tuple[BillingRow, ...]
    bad_items: tuple[BadItem, ...]
    problem: str | None


def read_history_list(exchanges: Sequence[Exchange]) -> HistoryList:
    """Read what the exchanges of one `fetch_history_list` say together; 404 in the vendor's own words is no rows.

    Of a row that several pages or passes show the last sight counts: the bill of a closed day may still settle.
    A list of several pages is whole when its last two passes name the same rows.
    """
    rows: dict[str, BillingRow] = {}
    bad: dict[bytes, BadItem] = {}
    passes: list[set[str]] = []
    for exchange in exchanges:
        if exchange.query.get("page", "1") == "1" and (not passes or passes[-1]):
            passes.append(set())
        for item in _items(exchange):
            if isinstance(item, BillingRow):
                rows[item.identity] = item
                passes[-1].add(item.identity)
            else:
                bad[item.content] = item
    return HistoryList(tuple(rows.values()), tuple(bad.values()), _problem(exchanges, passes, bool(bad)))


def fetch_pages(fetch: Callable[[dict[str, str]], list[Exchange]]) -> list[Exchange]:
    """Go through a list with a function that asks for one page and gives its tries; give all that was taken.

    A page that is not full, or that brings no row unseen in this pass, is the last. A list of several pages moves while it
    is read: it is read again until two passes name the same rows.
    """
    taken: list[Exchange] = []
    before: frozenset[str] | None = None
    for _ in range(MOST_PASSES):
        pages, rows = _fetch_pass(fetch)
        taken += pages
        if pages[-1].query["page"] == "1" or pages[-1].status != 200 or rows == before:
            break
        before = rows
    return taken


def _fetch_pass(fetch: Callable[[dict[str, str]], list[Exchange]]) -> tuple[list[Exchange], frozenset[str]]:
    taken: list[Exchange] = []
    seen: frozenset[str] = frozenset()
    for page in range(1, MOST_PAGES + 1):
        taken += fetch({"per_page": str(ROWS_PER_PAGE), "page": str(page)})
        rows = identities(taken[-1])
        is_last = not is_full(taken[-1], ROWS_PER_PAGE) or rows <= seen
        seen |= rows
        if is_last:
            break
    return taken, seen


def identities(exchange: Exchange) -> frozenset[str]:
    """Give the identities of a page's rows; none when the page cannot be read."""
    return frozenset(
        item.identity if isinstance(item, BillingRow) else hashlib.sha256(item.content).hexdigest()
        for item in _items(exchange)
    )


def is_full(exchange: Exchange, asked_for: int) -> bool:
    """Tell whether a page has as many rows as it may have, so that another may follow."""
    count = len(_items(exchange))
    return count > 0 and count >= min(asked_for, _rows_per_page(exchange) or asked_for)


def is_no_data(exchange: Exchange) -> bool:
    """Tell whether a list says that it has no rows in this window: 404 with the vendor's own error."""
    if exchange.status != 404:
        return False
    try:
        return msgspec.json.decode(exchange.body_bytes() or b"", type=_Refusal).error_reason == "not_found"
    except (msgspec.MsgspecError, RecursionError, ValueError, RawFileError):
        return False


class _Refusal(msgspec.Struct):
    error_reason: str | None = None


class _Page(msgspec.Struct):
    per_page: int | None = None


class _Wrapper(msgspec.Struct):
    pagination: _Page | None = None


def _items(exchange: Exchange) -> Sequence[BillingRow | BadItem]:
    if exchange.status != 200:
        return ()
    try:
        found = read_items(exchange.endpoint, exchange.body_bytes() or b"")
    except (HyperstackError, RawFileError):
        return ()
    return [item for item in found if isinstance(item, BillingRow | BadItem)]


def _rows_per_page(exchange: Exchange) -> int | None:
    """Give the page size that the answer says it used: a server that ignores ours is still read to its end."""
    try:
        members = msgspec.json.decode(exchange.body_bytes() or b"", type=dict[str, msgspec.Raw])
    except (msgspec.MsgspecError, RecursionError, ValueError, RawFileError):
        return None
    for member in members.values():
        try:
            page = msgspec.json.decode(member, type=_Wrapper).pagination
        except (msgspec.MsgspecError, RecursionError, ValueError):
            continue
        if page and page.per_page and page.per_page > 0:
            return page.per_page
    return None


def _problem(exchanges: Sequence[Exchange], passes: Sequence[set[str]], has_bad_items: bool) -> str | None:
    if not exchanges:
        return "nothing was asked"
    last = exchanges[-1]
    problem: str | None = None
    if last.status == 200:
        problem = _unreadable(last)
    elif not is_no_data(last):
        problem = last.error or f"status {last.status}"
    has_pages = any(exchange.query.get("page", "1") != "1" for exchange in exchanges)
    if problem is None and has_bad_items:
        problem = "rows that cannot be read"
    if problem is None and has_pages and (len(passes) < 2 or passes[-1] != passes[-2]):
        problem = f"the list moved while it was read, in {len(passes)} passes"
    return problem


def _unreadable(exchange: Exchange) -> str | None:
    try:
        read_items(exchange.endpoint, exchange.body_bytes() or b"")
    except (HyperstackError, RawFileError) as error:
        return str(error)
    return None
