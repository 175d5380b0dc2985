"""Hyperstack's own books of a closed UTC day or month, as the validated tables hold them: complete, settled answers only.

Owns when a window's answers count as one book: one raw file in which the organisation's total and every list of lines
were read as a whole, at least SETTLE after the window was over. Reads bills at nano-dollars, as counters are: the named rounding
that takes off the noise of binary floats. Does not own how a book is fetched (`reconciliation`) nor what a difference
from our own ledger means (`settlement`).

Source: the vendor's API description; a line's present price an hour gives the tolerance of its bill.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal

from spotinference_pipeline.answers import HISTORY, HISTORY_LISTS
from spotinference_pipeline.hyperstack_rows import NANO_DOLLAR
from spotinference_pipeline.readings import to_femto
from spotinference_pipeline.warehouse import Warehouse
from spotinference_pipeline.windows import Window

SETTLE = timedelta(hours=2)
"""How long after its end a window's bills still move."""
FINAL = timedelta(days=2)
"""How long after its end a window's book is taken for its last: D+3 begins two days after D is over."""
Key = tuple[str, int]
_LINES = """
    with lines as (
        select
            source_file,
            resource_type,
            coalesce(resource_id, 0) as resource_id,
            billing_id,
            resource_name,
            figure,
            amount_usd
        from validated.billing_history
        where
            window_start = $start and window_end = $end and observed_at >= $settled
            and figure in ('incurred_bill', 'price_per_hour', 'non_discounted_bill')
        -- a line that stands on two pages, or was read twice: the later answer counts
        qualify row_number() over (
            partition by source_file, resource_type, billing_id, resource_id, figure
            order by observed_at desc, source_line desc
        ) = 1
    )

    select
        source_file,
        resource_type,
        resource_id,
        any_value(resource_name) as resource_name,
        sum(amount_usd) filter (where figure = 'incurred_bill') as bill_usd,
        max(amount_usd) filter (where figure = 'price_per_hour') as usd_per_hour,
        sum(amount_usd) filter (where figure = 'non_discounted_bill') as list_usd
    from lines
    group by source_file, resource_type, resource_id
    having bill_usd is not null
    order by source_file, resource_type, resource_id
"""
_BOOKS = """
    with asked as (
        select
            source_file,
            endpoint,
            query,
            bool_or(is_good) as is_good,
            max(observed_at) as observed_at
        from validated.exchanges
        where endpoint in (select unnest($endpoints)) and query like $dates
        group by source_file, endpoint, query
    )

    select
        source_file,
        max(observed_at) as observed_at
    from asked
    group by source_file
    having bool_and(is_good) and count(distinct endpoint) filter (where endpoint in (select unnest($needed))) = $needs
        and min(observed_at) >= $settled
    order by observed_at, source_file
"""


@dataclass(frozen=True)
class Line:
    """What Hyperstack billed for one resource in the window; femto-dollars, and femto-dollars an hour.

    `listed`: the same bill at list prices, where the line says it.
    """

    bill: int
    hourly: int = 0
    name: str | None = None
    listed: int | None = None


@dataclass(frozen=True)
class Book:
    """All lines of one window as they stood at `observed_at`, and the organisation's total."""

    observed_at: datetime
    organisation: int
    lines: Mapping[Key, Line] = field(default_factory=dict)
    source_file: str = ""

    @property
    def unattributed(self) -> int:
        """Give what the organisation was billed beyond its lines."""
        return self.organisation - sum(line.bill for line in self.lines.values())


def read_books(warehouse: Warehouse, window: Window) -> list[Book]:
    """Give the complete and settled books of exactly this window, oldest first; one that says nothing new is one too."""
    settled = window.end + SETTLE
    endpoints = [HISTORY, *(f"{HISTORY}/{kind}" for kind in HISTORY_LISTS)]
    needed = [HISTORY, *(f"{HISTORY}/{kind}" for kind, is_needed in HISTORY_LISTS.items() if is_needed)]
    dates = f"start_date={window.start:%Y-%m-%dT%H:%M:%S}&end_date={window.end:%Y-%m-%dT%H:%M:%S}%"
    files = warehouse.query(
        _BOOKS,
        {"endpoints": endpoints, "needed": needed, "needs": len(needed), "dates": dates, "settled": settled},
    )
    lines = warehouse.query(_LINES, {"start": window.start, "end": window.end, "settled": settled})
    by_file: dict[str, dict[Key, Line]] = defaultdict(dict)
    for file, resource_type, resource_id, name, bill, hourly, listed in lines.iter_rows():
        price, at_list = 0 if hourly is None else to_femto(hourly), None if listed is None else _nano(listed)
        by_file[file][resource_type, resource_id] = Line(_nano(bill), price, name, at_list)
    books = []
    for file, observed_at in files.iter_rows():
        organisation = by_file[file].pop(("organisation", 0), None)
        if organisation is not None:
            books.append(Book(observed_at, organisation.bill, by_file[file], file))
    return books


def _nano(usd: Decimal) -> int:
    return to_femto(usd.quantize(NANO_DOLLAR))
