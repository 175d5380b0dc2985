"""From counters and books to a ledger: what each resource cost on one UTC day, and what for.

Owns which lives are in a day, and the tables' rows. What the validated rows of a day say is `readings`', how lives add
up to a resource's day `own_days`', Hyperstack's own bills are `books`', what a difference between both means is
`settlement`'s, the arithmetic is `meter`'s, in integers. Without a book a day costs what its counters moved by; with one
it costs what was billed, to the last digit. Definitions: docs/method.md, "Paid", "Parts" and "Reconciliation".

Writes rollup.resource_days, rollup.cost_days, rollup.vm_days, rollup.adjustments, rollup.reconciliation_days and, for what
was first billed and is never edited, rollup.charge_days.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

import polars as pl

from spotinference_pipeline.answers import HISTORY_LISTS
from spotinference_pipeline.batch import to_frame
from spotinference_pipeline.books import FINAL, Book, Key, read_books
from spotinference_pipeline.charges import Reading, VmFacts, add_shares
from spotinference_pipeline.hyperstack_rows import type_of_list
from spotinference_pipeline.meter import Interval, intersect, length, subtract, union
from spotinference_pipeline.months import settle_month
from spotinference_pipeline.own_days import Measure, ResourceDay
from spotinference_pipeline.readings import (
    LOOK_AROUND,
    Life,
    learn_rates,
    read_graphs,
    read_lives,
    read_public_ip_bills,
    read_public_ip_rate,
    read_vm_facts,
)
from spotinference_pipeline.settlement import UNATTRIBUTED, Adjustment, divide, divide_list_price, is_agreed, settle
from spotinference_pipeline.warehouse import Warehouse
from spotinference_pipeline.windows import Window, day_window, to_microseconds

TABLES = (
    "rollup.resource_days",
    "rollup.cost_days",
    "rollup.vm_days",
    "rollup.adjustments",
    "rollup.reconciliation_days",
    "rollup.charge_days",
)
_MONEY, _SECONDS, _INSTANT = pl.Decimal(38, 15), pl.Decimal(18, 6), pl.Datetime("us", "UTC")
_RESOURCE = {"utc_day": pl.Date, "resource_type": pl.String, "resource_id": pl.Int64}
_SCHEMAS: dict[str, dict[str, Any]] = {
    "rollup.resource_days": _RESOURCE
    | {"resource_name": pl.String}
    | dict.fromkeys(("cost_usd", "counter_usd", "edge_usd", "outside_usd"), _MONEY)
    | {"source": pl.String, "unseen_seconds": _SECONDS, "readings": pl.Int64, "is_excluded": pl.Boolean},
    "rollup.cost_days": _RESOURCE | {"cost_kind": pl.String, "cost_usd": _MONEY},
    "rollup.vm_days": {"utc_day": pl.Date, "vm_id": pl.Int64, "gpu_count": pl.Int64}
    | dict.fromkeys(("alive_seconds", "active_seconds", "busy_seconds", "cold_start_seconds"), _SECONDS)
    | dict.fromkeys(("wakes", "failed_wakes", "unexplained_changes"), pl.Int64),
    "rollup.adjustments": _RESOURCE
    | {"reason": pl.String, "cost_usd": _MONEY, "tolerance_usd": _MONEY, "booked_at": _INSTANT},
    "rollup.reconciliation_days": {
        "utc_day": pl.Date,
        "books": pl.Int64,
        "first_book_at": _INSTANT,
        "last_book_at": _INSTANT,
        "is_final": pl.Boolean,
        "is_agreed": pl.Boolean,
    }
    | dict.fromkeys(("billed_usd", "counter_usd", "residual_usd", "unattributed_usd"), _MONEY),
    "rollup.charge_days": _RESOURCE | {"cost_kind": pl.String, "cost_usd": _MONEY, "list_cost_usd": _MONEY},
}
LISTED_TYPES = frozenset({*map(type_of_list, HISTORY_LISTS), UNATTRIBUTED[0]})
"""Resource types that books have lines of."""


@dataclass(frozen=True)
class DayFacts:
    """All that the day's rows are made of: every life that touches it, what each resource came to, the machines' states."""

    utc_day: date
    lives: list[Life]
    vms: Mapping[int, VmFacts]
    resources: Mapping[Key, ResourceDay]
    books: Sequence[Book]
    adjustments: Sequence[Adjustment]
    month: Sequence[Adjustment]
    """What is booked on the day for its month, beyond the day's own books."""


def read_day(warehouse: Warehouse, utc_day: date) -> DayFacts:
    """Work out what each resource cost on the day, for this module and `wakes`."""
    window = day_window(utc_day)
    start, end = to_microseconds(window.start), to_microseconds(window.end)
    books = read_books(warehouse, window)
    lives = _lives(warehouse, window, books)
    facts = learn_rates(_facts(warehouse, lives, window), lives)
    ip_rate, ip_bills = read_public_ip_rate(warehouse, window.end), read_public_ip_bills(warehouse, window)
    billed = LISTED_TYPES if books else frozenset()
    day = Measure(start, end, facts, ip_rate, read_graphs(warehouse, window), billed, ip_bills)
    resources: dict[Key, ResourceDay] = defaultdict(ResourceDay)
    for life in lives:
        day.add(resources[life.resource_type, life.resource_id], life)
    adjustments = settle({key: found.own for key, found in resources.items()}, books, LISTED_TYPES) if books else []
    _close(resources, books, adjustments)
    month = settle_month(warehouse, utc_day) if books else []
    _add_month(resources, month)
    if books:
        for life in lives:
            if not life.is_ended and life.readings[-1].at < end:
                life.readings.append(Reading(end, life.readings[-1].total, None))
    return DayFacts(utc_day, lives, facts, resources, books, adjustments, month)


def build_day(warehouse: Warehouse, utc_day: date, facts: DayFacts | None = None) -> dict[str, int]:
    """Build the day's rows of the ledger's tables; give their numbers by table.

    The same validated rows give the same result, whatever was built before. `facts`: what `read_day` gave, if it is at hand.
    """
    facts = facts or read_day(warehouse, utc_day)
    window = day_window(utc_day)
    day = to_microseconds(window.start), to_microseconds(window.end)
    vm_lives = [life for life in facts.lives if life.resource_type == "vm"]
    vms = [_vm_row(utc_day, vm_id, facts.vms[vm_id], vm_lives, day) for vm_id in sorted(facts.vms)]
    return _store(warehouse, facts, vms)


def _lives(warehouse: Warehouse, window: Window, books: Sequence[Book]) -> list[Life]:
    """Read the lives that are in the day; a line of a book that nobody ever saw is a life too, named as it was first."""
    start = to_microseconds(window.start)
    lives = read_lives(warehouse, window.start, window.end)
    names = {key: line.name for book in reversed(books) for key, line in book.lines.items()}
    billed = {(life.resource_type, life.resource_id) for life in lives} & names.keys()
    lives = [life for life in lives if life.readings[-1].at > start or (life.resource_type, life.resource_id) in billed]
    for key in sorted(names.keys() - billed):
        lives.append(Life(*key, names[key], [Reading(start, 0, None)], is_excluded=False))
    return lives


def _facts(warehouse: Warehouse, lives: Sequence[Life], window: Window) -> dict[int, VmFacts]:
    low = min([window.start, *(_instant(life.readings[0].at) for life in lives)])
    high = max([window.end, *(_instant(life.readings[-1].at) for life in lives)])
    return read_vm_facts(warehouse, low - LOOK_AROUND, high + LOOK_AROUND, window)


def _close(resources: dict[Key, ResourceDay], books: Sequence[Book], adjustments: Sequence[Adjustment]) -> None:
    """Settle each resource: what was billed where a book says so, else what its counters say."""
    if any(one.key == UNATTRIBUTED for one in adjustments):
        resources[UNATTRIBUTED].name = UNATTRIBUTED[0]
    adjusted: dict[Key, int] = defaultdict(int)
    at_first: dict[Key, int] = defaultdict(int)
    for one in adjustments:
        adjusted[one.key] += one.amount
        if one.booked_at == books[0].observed_at:
            at_first[one.key] += one.amount
    for key, found in resources.items():
        own = found.own
        if books and key[0] in LISTED_TYPES:
            found.kinds = divide(key[0], own, own.total + adjusted[key])
            found.first_kinds = divide(key[0], own, own.total + at_first[key])
            line = books[0].lines.get(key)
            found.listed_kinds = divide_list_price(found.first_kinds, line.listed if line else None)
            found.source = "books, hours inferred" if own.holes else "books"
            found.edge = found.outside = 0
        else:
            found.kinds = found.first_kinds = add_shares(own.shares) | {"credit": own.credit}


def _add_month(resources: dict[Key, ResourceDay], month: Sequence[Adjustment]) -> None:
    """Add what a month was billed beyond its days: nobody knows for what, so it is of the kind `other`, or a credit."""
    for one in month:
        if one.key not in resources:
            resources[one.key] = ResourceDay(one.name or one.key[0], source="books")
        found, kind = resources[one.key], "credit" if one.amount < 0 else "other"
        found.kinds = {**found.kinds, kind: found.kinds.get(kind, 0) + one.amount}


def _vm_row(utc_day: date, vm_id: int, vm: VmFacts, lives: Sequence[Life], day: Interval) -> tuple[Any, ...]:
    start, end = day
    alive = union(
        (max(life.readings[0].at, start), min(life.readings[-1].at, end)) for life in lives if life.resource_id == vm_id
    )
    active = intersect(
        union((low, high) for low, high, status in vm.line.pieces(start, end) if status == "ACTIVE"), alive
    )
    busy = intersect(active, vm.busy)
    cold = subtract(intersect(active, union(cold.interval for cold in vm.cold_starts)), busy)
    wakes = [cold for cold in vm.cold_starts if start <= cold.start < end]
    return (
        utc_day,
        vm_id,
        vm.gpu_count,
        *(_seconds(length(intervals)) for intervals in (alive, active, busy, cold)),
        len(wakes),
        sum(cold.failed for cold in wakes),
        sum(start <= at < end for at in vm.line.unexplained),
    )


def _store(warehouse: Warehouse, facts: DayFacts, vms: Sequence[tuple[Any, ...]]) -> dict[str, int]:
    utc_day, resources, books = facts.utc_day, facts.resources, facts.books
    resource_rows: list[tuple[Any, ...]] = []
    cost_rows: list[tuple[Any, ...]] = []
    charge_rows: list[tuple[Any, ...]] = []
    for key, found in sorted(resources.items()):
        own, spent = found.own, {kind: amount for kind, amount in found.kinds.items() if amount}
        amounts = (_usd(amount) for amount in (sum(spent.values()), own.total, found.edge, found.outside))
        unseen = _seconds(length(own.holes))
        resource_rows.append(
            (utc_day, *key, found.name, *amounts, found.source, unseen, own.readings, found.is_excluded)
        )
        cost_rows += [(utc_day, *key, kind, _usd(spent[kind])) for kind in sorted(spent)]
        first, listed = found.first_kinds, found.listed_kinds
        charge_rows += [
            (utc_day, *key, kind, _usd(first[kind]), _usd(listed[kind]) if kind in listed else None)
            for kind in sorted(first)
            if first[kind]
        ]
    booked = [
        (utc_day, *one.key, one.reason, _usd(one.amount), _usd(one.tolerance), one.booked_at)
        for one in (*facts.adjustments, *facts.month)
    ]
    counted = sum(found.own.total for found in resources.values())
    reconciled = [_reconciliation_row(utc_day, books, facts.adjustments, counted)] if books else []
    rows = zip(TABLES, (resource_rows, cost_rows, vms, booked, reconciled, charge_rows), strict=True)
    return {table: warehouse.replace_day(table, utc_day, to_frame(some, _SCHEMAS[table])) for table, some in rows}


def _reconciliation_row(
    utc_day: date, books: Sequence[Book], adjustments: Sequence[Adjustment], counted: int
) -> tuple[Any, ...]:
    first, last = books[0].observed_at, books[-1].observed_at
    residual = sum(abs(one.amount) for one in adjustments if one.key != UNATTRIBUTED and one.booked_at == first)
    unattributed = sum(one.amount for one in adjustments if one.key == UNATTRIBUTED)
    amounts = (_usd(amount) for amount in (books[-1].organisation, counted, residual, unattributed))
    is_final = last >= day_window(utc_day).end + FINAL
    return utc_day, len(books), first, last, is_final, is_agreed(adjustments, books), *amounts


def _usd(femto: int) -> Decimal:
    return Decimal(femto).scaleb(-15)


def _seconds(microseconds: int) -> Decimal:
    return Decimal(microseconds).scaleb(-6)


def _instant(microseconds: int) -> datetime:
    return datetime.fromisoformat("1970-01-01T00:00:00+00:00") + timedelta(microseconds=microseconds)
