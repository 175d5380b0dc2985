"""The wake ledger: what each wake of a machine cost on a UTC day before its engine was ready, and when it was parked again.

Owns the rows of a day; rollup.wakes puts the days of a wake together (sql/rollup/wakes.sql). A day's wakes divide what the
ledger has as the machine's cold starts: they add up to its cold_start cost exactly. Definitions: docs/method.md, "Wakes".

Writes rollup.wake_days and rollup.parks.
"""

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

import polars as pl

from spotinference_pipeline.batch import to_frame
from spotinference_pipeline.charges import VmFacts, add_shares
from spotinference_pipeline.ledger import DayFacts
from spotinference_pipeline.meter import Interval, apportion, intersect, length, subtract, union
from spotinference_pipeline.own_days import ResourceDay
from spotinference_pipeline.states import ACTIVE, StateLine
from spotinference_pipeline.warehouse import Warehouse
from spotinference_pipeline.windows import day_window, to_microseconds

TABLES = ("rollup.wake_days", "rollup.parks")
_EPOCH = datetime.fromisoformat("1970-01-01T00:00:00+00:00")
_INSTANT = pl.Datetime("us", "UTC")
_SCHEMAS: dict[str, dict[str, Any]] = {
    "rollup.wake_days": {
        "utc_day": pl.Date,
        "vm_id": pl.Int64,
        "started_at": _INSTANT,
        "found_by": pl.String,
        "ready_at": _INSTANT,
        "ready_by": pl.String,
        "is_failed": pl.Boolean,
        "cold_seconds": pl.Decimal(18, 6),
        "cost_usd": pl.Decimal(38, 15),
    },
    "rollup.parks": {
        "utc_day": pl.Date,
        "vm_id": pl.Int64,
        "parked_at": _INSTANT,
        "vm_status": pl.String,
        "found_by": pl.String,
    },
}


def build_day(warehouse: Warehouse, utc_day: date, facts: DayFacts) -> dict[str, int]:
    """Build the day's rows of wakes and parks from what `ledger.read_day` gave; give their numbers by table."""
    window = day_window(utc_day)
    day = to_microseconds(window.start), to_microseconds(window.end)
    wake_rows: list[tuple[Any, ...]] = []
    park_rows: list[tuple[Any, ...]] = []
    for vm_id, vm in sorted(facts.vms.items()):
        wake_rows += [(utc_day, vm_id, *row) for row in _wakes(facts, vm_id, vm, day)]
        park_rows += [(utc_day, vm_id, *row) for row in _parks(vm.line, day)]
    rows = zip(TABLES, (wake_rows, park_rows), strict=True)
    return {table: warehouse.replace_day(table, utc_day, to_frame(some, _SCHEMAS[table])) for table, some in rows}


def _wakes(facts: DayFacts, vm_id: int, vm: VmFacts, day: Interval) -> list[tuple[Any, ...]]:
    """Give a row for each wake that began on the day or was still cold on it."""
    start, end = day
    wakes = [
        wake for wake in vm.cold_starts if start <= wake.start < end or max(wake.start, start) < min(wake.end, end)
    ]
    lives = [life for life in facts.lives if (life.resource_type, life.resource_id) == ("vm", vm_id)]
    spans = [(life.readings[0].at, life.readings[-1].at) for life in lives]
    alive = union((max(low, start), min(high, end)) for low, high in spans)
    cold = [subtract(intersect(alive, union([wake.interval])), vm.busy) for wake in wakes]
    costs = _divide(facts.resources.get(("vm", vm_id)), cold)
    return [
        (
            _instant(wake.start),
            _found_by(vm.line, wake.start),
            _instant(wake.end) if wake.ready_by else None,
            wake.ready_by,
            wake.failed,
            Decimal(length(time)).scaleb(-6),
            Decimal(cost).scaleb(-15),
        )
        for wake, time, cost in zip(wakes, cold, costs, strict=True)
    ]


def _divide(resource: ResourceDay | None, cold: Sequence[Sequence[Interval]]) -> list[int]:
    """Divide the day's cold_start cost among its wakes: by their shares' cold cost, inside a share by cold time."""
    spent = resource.kinds.get("cold_start", 0) if resource is not None else 0
    weights = [0] * len(cold)
    for share in resource.own.shares if resource is not None and spent else ():
        times = [length(intersect(time, [(share.start, share.end)])) for time in cold]
        if any(times):
            parts = apportion(add_shares([share])["cold_start"], times)
            weights = [weight + max(part, 0) for weight, part in zip(weights, parts, strict=True)]
    if not any(weights):
        weights = [length(time) for time in cold]
    return apportion(spent, weights) if any(weights) else [0] * len(cold)


def _parks(line: StateLine, day: Interval) -> list[tuple[Any, ...]]:
    """Give a row for each time on the day at which the machine left ACTIVE."""
    stops = [stop for _, stop, _ in line.active_runs(day[1]) if day[0] <= stop < day[1]]
    return [(_instant(at), line.at(at), _found_by(line, at)) for at in stops if line.at(at) != ACTIVE]


def _found_by(line: StateLine, at: int) -> str:
    return "gap_middle" if at in line.unexplained else "event"


def _instant(microseconds: int) -> datetime:
    return _EPOCH + timedelta(microseconds=microseconds)
