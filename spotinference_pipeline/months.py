"""A calendar month's book beside the books of its days: what the whole window was billed beyond their sum.

Owns the rows with the reason `month_boundary`. They lie on the month's last day and leave each other day its own book;
with them the ledger of the month is the month's book to the last digit. Needs nothing but books, in femto-dollars.
Definitions: docs/method.md, "Reconciliation".
"""

from collections import Counter
from collections.abc import Sequence
from datetime import date

from spotinference_pipeline.books import Book, Key, Line, read_books
from spotinference_pipeline.settlement import NOISE, UNATTRIBUTED, Adjustment
from spotinference_pipeline.warehouse import Warehouse
from spotinference_pipeline.windows import day_window, days_between, month_window

MONTH_BOUNDARY = "month_boundary"
MONTH_SECONDS = 60
"""How much of its present price a month's bill may be off the sum of its days before somebody must look."""


def settle_month(warehouse: Warehouse, utc_day: date) -> list[Adjustment]:
    """Give what is booked on a day for its month: nothing unless it is the month's last one and the month has a book."""
    month = month_window(utc_day)
    months = read_books(warehouse, month) if utc_day == month.last_day else []
    if not months:
        return []
    days = days_between(month.start.date(), utc_day)
    return differ(months, [read_books(warehouse, day_window(day)) for day in days])


def differ(months: Sequence[Book], days: Sequence[Sequence[Book]]) -> list[Adjustment]:
    """Give each month's book minus the days' newest books before it, and minus what was booked for an earlier one.

    A month of which some day has no book by then says nothing. A day's later book is a correction of that day alone.
    """
    adjustments: list[Adjustment] = []
    booked: Counter[Key] = Counter()
    for month in months:
        known = [[book for book in books if book.observed_at <= month.observed_at] for books in days]
        if not all(known):
            continue
        apart = _bills(month)
        for books in known:
            apart.subtract(_bills(books[-1]))
        for key in sorted(apart.keys() | booked.keys()):
            line = month.lines.get(key, Line(0))
            if amount := apart[key] - booked[key]:
                tolerance = line.hourly * MONTH_SECONDS // 3600 + NOISE
                adjustments.append(Adjustment(key, MONTH_BOUNDARY, amount, month.observed_at, tolerance, line.name))
        booked = apart
    return adjustments


def _bills(book: Book) -> Counter[Key]:
    return Counter({key: line.bill for key, line in book.lines.items()} | {UNATTRIBUTED: book.unattributed})
