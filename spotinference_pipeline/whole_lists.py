"""Which answers of Hyperstack were not read as a whole, though each of them is good for itself.

Owns two reasons: a row of the answer was refused, and a list of several pages moved while it was read, so that a row may be
on none of them. The first is known once all rows of a file are stored, the second from the exchanges. What a list is, is
`history_lists`'; that a book needs whole answers is `books`', and its check's; that a good minute and an upper bound do is
`rollup.snapshot_days`' and `metric.bounds`'.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from spotinference_pipeline.answers import USAGE, VIRTUAL_MACHINES, is_history_list
from spotinference_pipeline.history_lists import read_history_list
from spotinference_pipeline.hyperstack_rows import EXCHANGE_SCHEMA
from spotinference_pipeline.raw import Exchange

Row = tuple[Any, ...]


def doubt_moved(exchanges: Sequence[Exchange], rows: Sequence[Row]) -> list[Row]:
    """Give the rows of one file's exchanges, those of a list of several pages that is not whole as not good."""
    lists: dict[tuple[str | None, ...], list[int]] = defaultdict(list)
    for place, exchange in enumerate(exchanges):
        if "page" in exchange.query and is_history_list(exchange.endpoint):
            window = exchange.query.get("start_date"), exchange.query.get("end_date")
            lists[exchange.endpoint, *window].append(place)
    found = list(rows)
    for places in lists.values():
        if all(exchanges[place].query["page"] == "1" for place in places):
            continue
        if problem := read_history_list([exchanges[place] for place in places]).problem:
            for place in places:
                found[place] = _doubt(rows[place], problem)
    return found


def doubt_refused(rows: Sequence[Row], quarantine: Sequence[Row]) -> list[Row]:
    """Give the rows of exchanges, those of which the quarantine holds a bill, a counter or a machine as not good.

    `quarantine`: rows that begin with source_file and source_line, and end with reason and content.
    """
    reasons = {(file, line): reason for file, line, *_, reason, _ in quarantine}
    endpoint = list(EXCHANGE_SCHEMA).index("endpoint")
    return [
        _doubt(row, f"a row was refused: {reasons[row[-2:]]}")
        if row[-2:] in reasons and _is_list(row[endpoint])
        else row
        for row in rows
    ]


def _is_list(endpoint: str) -> bool:
    """Tell whether an answer names all there is: what one of its rows says is missing where the row was refused."""
    return endpoint in (USAGE, VIRTUAL_MACHINES) or is_history_list(endpoint)


def _doubt(row: Row, problem: str) -> Row:
    named = dict(zip(EXCHANGE_SCHEMA, row, strict=True))
    return tuple((named | {"is_good": False, "problem": named["problem"] or problem}).values())
