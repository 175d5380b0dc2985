"""From ledger lines and token sums to the figure of one day, on one screen; each line says where to find it again.

Owns which lines there are and how they read. What a day says is `revision`'s, drafted as it would be published now; a
withheld day shows the quotient all the same, because it is the operator who asks. Nothing is written.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import date
from decimal import Decimal
from typing import Any

from spotinference_pipeline import publication
from spotinference_pipeline.errors import PublicationError
from spotinference_pipeline.public_files import HISTORY, ROOT
from spotinference_pipeline.revision import Document
from spotinference_pipeline.settings import Settings
from spotinference_pipeline.storage import Storage
from spotinference_pipeline.warehouse import Warehouse

NAME_WIDTH, FIGURE_WIDTH, NUMBER_WIDTH = 12, 50, 24


@dataclass(frozen=True)
class Line:
    """One step: its name, the figure (None: not known) and its unit, and the table or file that gives it.

    Dollars are a Decimal and tokens an int, with a unit; what is put together of several figures is words without one.
    """

    name: str
    figure: Decimal | int | str | None
    unit: str | None
    source: str

    def shown(self) -> str:
        """Give the figure as a person reads it: numbers with a unit below each other."""
        if self.figure is None:
            return "unknown"
        return str(self.figure) if self.unit is None else f"{_plain(self.figure):>{NUMBER_WIDTH}} {self.unit}"


@dataclass(frozen=True)
class Explanation:
    """The steps of one day, from what was paid to whether to trust the figure.

    `published_revision` is the day's newest one; `is_published` tells whether it says what this does.
    """

    day: str
    status: str
    usd_per_million_tokens: str | None
    published_revision: int | None
    is_published: bool
    lines: tuple[Line, ...]

    def screen(self) -> list[str]:
        """Give the lines as a person reads them."""
        return [f"{line.name:<{NAME_WIDTH}}{line.shown():<{FIGURE_WIDTH}}  {line.source}" for line in self.lines]

    def document(self) -> dict[str, Any]:
        """Give the same for programs: dollars as strings, tokens as integers, what is not known as null."""
        return asdict(self) | {"lines": [asdict(line) | {"figure": _plain(line.figure)} for line in self.lines]}


def explain(warehouse: Warehouse, target: Storage, settings: Settings, utc_day: date) -> Explanation:
    """Put together how the day's figure comes about, as it would be published now.

    Raises: PublicationError when the day is not built, or what was published of it cannot be read.
    """
    given = {"utc_day": utc_day}
    rows = warehouse.query("from metric.cost_per_mtok where utc_day = $utc_day", given).rows(named=True)
    if not rows:
        raise PublicationError(
            f"day {utc_day}: expected its figures in metric.cost_per_mtok, found none; run `spotinference build {utc_day}`"
        )
    published = _published(target)
    day = utc_day.isoformat()
    good = (each for each, (_, is_good) in published.items() if each < day and is_good)
    document, _ = publication.draft(warehouse, settings, utc_day, max(good, default=None))
    newest = _newest(target, day, published[day][0]) if day in published else None
    revision = None if newest is None else newest["revision"]
    is_published = newest is not None and publication.is_published(document, newest)
    lines = (
        _headline(document, rows[0], newest, is_published=is_published),
        *_money(warehouse, given, rows[0]),
        *_tokens(rows[0]),
        *_trust(document),
    )
    return Explanation(day, document["status"], document["usd_per_million_tokens"], revision, is_published, lines)


def _published(target: Storage) -> dict[str, tuple[int, bool]]:
    """Give each published day's revision, and whether it has a figure."""
    content = target.find(HISTORY)
    days = _json(HISTORY, content)["days"] if content else []
    return {day["day"]: (day["revision"], day["usd_per_million_tokens"] is not None) for day in days}


def _newest(target: Storage, day: str, revision: int) -> Document:
    name = f"{ROOT}/days/{day}/r{revision}.json"
    document: Document = _json(name, target.read(name))
    return document


def _json(name: str, content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        raise PublicationError(
            f"{name}: expected JSON as it was published, found something else; bring the file back from a copy"
        ) from None


def _headline(document: Document, row: dict[str, Any], newest: Document | None, *, is_published: bool) -> Line:
    shown = f"{document['display']} per million tokens, {document['status']}"
    if document["status"] == "withheld" and row["usd_per_million_tokens"] is not None:
        shown = f"{row['usd_per_million_tokens']:.2f} computed, withheld"
    start, end = (document["window"][name].removesuffix(":00:00Z") for name in ("start", "end"))
    became = _became(newest, is_published=is_published)
    return Line(document["day"], shown, None, f"{start} to {end} UTC, {became}")


def _became(newest: Document | None, *, is_published: bool) -> str:
    if newest is None:
        return "not published"
    if is_published:
        return f"published as days/{newest['day']}/r{newest['revision']}.json"
    status = "" if newest["status"] == "withheld" else f", {newest['status']}"
    return f"not published yet; r{newest['revision']} says {newest['display']}{status}"


def _money(warehouse: Warehouse, given: dict[str, Any], row: dict[str, Any]) -> Iterator[Line]:
    lines = warehouse.query(
        """
        select count(*) as lines, count(distinct (resource_type, resource_id)) as resources
        from metric.inputs
        where line = 'cost' and utc_day > cast($utc_day as date) - interval 7 days and utc_day <= $utc_day
        """,
        given,
    ).row(0)
    parts = warehouse.query(
        "select cost_kind, paid_usd from metric.cost_parts where utc_day = $utc_day and paid_usd != 0", given
    )
    for kind, usd in parts.iter_rows():
        yield Line(f"+ {kind}", usd, "USD", f"metric.cost_parts, cost_kind = '{kind}'")
    yield Line("= paid", row["paid_usd"], "USD", f"sql/metric/paid.sql, {lines[0]} lines of {lines[1]} resources")


def _tokens(row: dict[str, Any]) -> Iterator[Line]:
    for name in ("prompt", "completion"):
        yield Line(f"+ {name}", row[f"{name}_tokens"], "tokens", f"rollup.token_days, {name}_tokens")
    usd, served = row["usd_per_million_tokens"], row["served_tokens"]
    yield Line("= served", served, "tokens", f"sql/metric/served.sql, {row['requests']:,} requests")
    quotient, unit = ("nothing to divide", None) if usd is None else (usd, "USD per million")
    paid = "?" if row["paid_usd"] is None else f"{row['paid_usd']:f}"
    yield Line("figure", quotient, unit, f"sql/metric/cost_per_mtok.sql, 1000000 * {paid} / {served}")


def _trust(document: Document) -> Iterator[Line]:
    bounds, coverage, books = document["bounds"], document["coverage"], document["reconciliation"]
    between = f"{_or_unknown(bounds['low'])} to {_or_unknown(bounds['high'])}"
    yield Line("bounds", between, None, "metric.bounds, inside_usd, most_usd, exact_tokens, largest_tokens")
    seen = f"snapshots {_or_unknown(coverage['snapshot'])}, usage {_or_unknown(coverage['exact_usage'])}"
    yield Line("coverage", seen, None, "metric.figures, snapshot_coverage_ratio, exact_usage_ratio")
    yield Line("of tokens", coverage["token"], None, "metric.coverage, token_coverage_ratio")
    booked = f"{books['days_reconciled']} of 7 days, residual {_short(books['residual_usd'])}"
    booked += f", unattributed {_short(books['unattributed_usd'])}"
    yield Line("books", booked, None, "metric.figures, days_reconciled, residual_usd, unattributed_usd")
    invoiced = f"residual {_short(books['invoice_residual_usd'])}"
    yield Line("invoices", invoiced, None, "sql/publication/invoice_residual.sql")
    yield Line("status", document["status"], None, document["status_reason"] or "docs/method.md, Status")


def _plain(figure: Decimal | int | str | None) -> int | str | None:
    """Give a Decimal as text, digit by digit."""
    return f"{figure:f}" if isinstance(figure, Decimal) else figure


def _short(amount: str | None) -> str:
    return "unknown" if amount is None else f"{Decimal(amount):.6f} USD"


def _or_unknown(figure: str | None) -> str:
    return "unknown" if figure is None else figure
