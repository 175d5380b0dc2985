"""The wake ledger: what each wake of a machine cost on a UTC day before its engine was ready, and when it was parked again.

Owns the rows of a day; rollup.wakes puts the days of a wake together (sql/rollup/wakes.sql). Money and seconds are the same
split as `ledger`'s, so a day's wakes add up to its cold_start cost and seconds exactly. Definitions: docs/method.md, "Wakes".

Writes rollup.wake_days and rollup.parks.
"""

from collections import defaultdict
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

import polars as pl

from spotinference_pipeline.batch import to_frame
from spotinference_pipeline.charges import VmFacts, split_cold_starts
from spotinference_pipeline.ledger import Course, DayFacts
from spotinference_pipeline.meter import Interval, intersect, length, subtract, union
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
    courses: dict[int, list[Course]] = defaultdict(list)
    for course in facts.courses:
        if course.life.resource_type == "vm":
            courses[course.life.resource_id].append(course)
    wake_rows: list[tuple[Any, ...]] = []
    park_rows: list[tuple[Any, ...]] = []
    for vm_id, vm in sorted(facts.vms.items()):
        wake_rows += [(utc_day, vm_id, *row) for row in _wakes(vm, courses[vm_id], day)]
        park_rows += [(utc_day, vm_id, *row) for row in _parks(vm.line, day)]
    rows = zip(TABLES, (wake_rows, park_rows), strict=True)
    return {table: warehouse.replace_day(table, utc_day, to_frame(some, _SCHEMAS[table])) for table, some in rows}


def _wakes(vm: VmFacts, courses: list[Course], day: Interval) -> list[tuple[Any, ...]]:
    """Give a row for each wake that began on the day or was still cold on it."""
    start, end = day
    wakes = [
        wake for wake in vm.cold_starts if start <= wake.start < end or max(wake.start, start) < min(wake.end, end)
    ]
    if not wakes:
        return []
    costs: dict[int, int] = defaultdict(int)
    for course in courses:
        if not course.life.is_excluded:
            for wake_start, amount in split_cold_starts(course.meter, vm, start, end).items():
                costs[wake_start] += amount
    spans = [(course.life.readings[0].at, course.life.readings[-1].at) for course in courses]
    alive = union((max(low, start), min(high, end)) for low, high in spans)
    return [
        (
            _instant(wake.start),
            _found_by(vm.line, wake.start),
            _instant(wake.end) if wake.ready_by else None,
            wake.ready_by,
            wake.failed,
            Decimal(length(subtract(intersect(alive, union([wake.interval])), vm.busy))).scaleb(-6),
            Decimal(costs[wake.start]).scaleb(-15),
        )
        for wake in wakes
    ]


def _parks(line: StateLine, day: Interval) -> list[tuple[Any, ...]]:
    """Give a row for each time on the day at which the machine left ACTIVE."""
    stops = [stop for _, stop, _ in line.active_runs(day[1]) if day[0] <= stop < day[1]]
    return [(_instant(at), line.at(at), _found_by(line, at)) for at in stops if line.at(at) != ACTIVE]


def _found_by(line: StateLine, at: int) -> str:
    return "gap_middle" if at in line.unexplained else "event"


def _instant(microseconds: int) -> datetime:
    return _EPOCH + timedelta(microseconds=microseconds)
