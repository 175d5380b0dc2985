"""From counters to a ledger: what each resource cost on one UTC day, and what for.

Owns how observations become the meter's legs (first sight, end, credit, unknown changes), what a VM's state was at each
instant, and which cost_kind a second belongs to. The arithmetic is `meter`'s, in integers, so the parts of a day add up
to the difference of its counters exactly. Definitions: docs/method.md, "Paid" and "Parts".

Writes rollup.resource_days, rollup.cost_days and rollup.vm_days.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any

import polars as pl

from spotinference_pipeline.batch import to_frame
from spotinference_pipeline.meter import (
    Interval,
    Leg,
    Meter,
    Stretch,
    apportion,
    change_of_rate,
    intersect,
    length,
    subtract,
    union,
)
from spotinference_pipeline.states import ColdStart, Readiness, Sight, StateLine, find_cold_starts
from spotinference_pipeline.warehouse import Warehouse
from spotinference_pipeline.windows import Window, day_window, to_microseconds

TABLES = ("rollup.resource_days", "rollup.cost_days", "rollup.vm_days")
HOUR = 3_600_000_000
LOOK_AROUND = timedelta(days=1)
"""How far before and after the day's readings states are read: longer than any cold start."""
STORAGE_TYPES = frozenset({"volume", "snapshot", "bucket"})
"""Resource types that are storage whatever their state; `vm` is split by state; all others are `other`."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One observation of a running counter, in the meter's units. The rate is None at a creation, where it is not shown."""

    at: int
    total: int
    rate: int | None


@dataclass
class Life:
    """One resource from its creation to its end: an id that is created anew is another life."""

    resource_type: str
    resource_id: int
    name: str | None
    readings: list[Reading]
    is_excluded: bool


@dataclass(frozen=True)
class _VmFacts:
    """What is known about one VM's states around the day."""

    line: StateLine
    public_ips: Sequence[tuple[int, bool]]
    cold_starts: Sequence[ColdStart]
    busy: list[Interval]
    gpu_count: int | None

    def has_public_ip(self, instant: int) -> bool:
        """Tell what the fleet list nearest to an instant showed."""
        place = bisect_left(self.public_ips, (instant, False))
        near = self.public_ips[max(place - 1, 0) : place + 1]
        return min(near, key=lambda seen: abs(seen[0] - instant))[1] if near else False


@dataclass
class _DayRows:
    resources: list[tuple[Any, ...]] = field(default_factory=list)
    costs: list[tuple[Any, ...]] = field(default_factory=list)
    vms: list[tuple[Any, ...]] = field(default_factory=list)


def build_day(warehouse: Warehouse, utc_day: date) -> dict[str, int]:
    """Build the day's rows of the three ledger tables; give their numbers by table.

    The same validated rows give the same result, whatever was built before.
    """
    window = day_window(utc_day)
    start, end = to_microseconds(window.start), to_microseconds(window.end)
    lives = _read_lives(warehouse, window.start, window.end)
    reach = (
        min([start, *(life.readings[0].at for life in lives)]),
        max([end, *(life.readings[-1].at for life in lives)]),
    )
    facts = _read_vm_facts(warehouse, _instant(reach[0]) - LOOK_AROUND, _instant(reach[1]) + LOOK_AROUND, window)
    ip_rate = _read_public_ip_rate(warehouse, window.end)
    rows = _DayRows()
    kinds: dict[tuple[str, int], dict[str, int]] = defaultdict(lambda: defaultdict(int))
    summaries: dict[tuple[str, int], list[Any]] = {}
    for life in lives:
        vm = facts.get(life.resource_id) if life.resource_type == "vm" else None
        meter, credits = build_meter(life.readings, vm, ip_rate)
        parts = split_day(life.resource_type, meter, vm, start, end)
        parts["credit"] += sum(amount for at, amount in credits if start <= at < end)
        _sum_up(life, meter, parts, kinds[life.resource_type, life.resource_id], summaries, (start, end))
    for (resource_type, resource_id), (name, edge, readings, excluded) in sorted(summaries.items()):
        spent = {kind: amount for kind, amount in kinds[resource_type, resource_id].items() if amount}
        total = sum(spent.values())
        rows.resources.append((utc_day, resource_type, resource_id, name, _usd(total), _usd(edge), readings, excluded))
        rows.costs += [(utc_day, resource_type, resource_id, kind, _usd(spent[kind])) for kind in sorted(spent)]
    vm_lives = [life for life in lives if life.resource_type == "vm"]
    rows.vms = [_vm_row(utc_day, vm_id, facts[vm_id], vm_lives, (start, end)) for vm_id in sorted(facts)]
    return _store(warehouse, utc_day, rows)


def build_meter(readings: Sequence[Reading], vm: _VmFacts | None, ip_rate: int) -> tuple[Meter, list[tuple[int, int]]]:
    """Build a counter's course from its readings, and the credits (instant seen, negative amount) taken out of it.

    A counter that falls was credited by the fall plus what it should have earned meanwhile.
    """
    legs, credits = [], []
    for before, after in pairwise(readings):
        if before.at == after.at:
            continue
        amount = after.total - before.total
        stretches = _stretches(before, after, max(amount, 0), vm, ip_rate)
        if amount < 0:
            expected = sum(stretch.weight for stretch in stretches) // 60_000_000
            credits.append((after.at - 1, amount - expected))
            amount = expected
        legs.append(Leg(before.at, after.at, amount, stretches))
    return Meter(legs), credits


def split_day(resource_type: str, meter: Meter, vm: _VmFacts | None, start: int, end: int) -> dict[str, int]:
    """Split what the counter moved by in [start, end) into cost kinds, hour by hour, in proportion to expected cost.

    Each hour's amount is the counter's own; the rates only divide it.
    """
    parts: dict[str, int] = defaultdict(int)
    if vm is None:
        kind = "storage" if resource_type in STORAGE_TYPES else "idle" if resource_type == "vm" else "other"
        parts[kind] = meter.between(start, end)
        return parts
    cold = union(cold.interval for cold in vm.cold_starts)
    for hour in range(start, end, HOUR):
        amount = meter.between(hour, hour + HOUR)
        stretches = meter.stretches(hour, hour + HOUR)
        weights = _weigh(stretches, vm.busy, cold)
        if not any(weights.values()):
            weights = _weigh([replace(s, rate=1, network_rate=0) for s in stretches], vm.busy, cold)
        if not any(weights.values()):
            continue
        for kind, part in zip(weights, apportion(amount, list(weights.values())), strict=True):
            parts[kind] += part
    return parts


def _weigh(stretches: Iterable[Stretch], busy: Sequence[Interval], cold: Sequence[Interval]) -> dict[str, int]:
    """Give the expected cost of stretches by kind: network first, then busy before cold start before idle."""
    weights = dict.fromkeys(("busy", "cold_start", "idle", "parked", "network"), 0)
    for stretch in stretches:
        whole = [(stretch.start, stretch.end)]
        network_rate = min(stretch.network_rate, stretch.rate)
        rate = stretch.rate - network_rate
        weights["network"] += network_rate * (stretch.end - stretch.start)
        if stretch.status not in ("ACTIVE", None):
            weights["parked"] += rate * (stretch.end - stretch.start)
            continue
        busy_time = intersect(whole, busy)
        cold_time = subtract(intersect(whole, cold), busy_time)
        weights["busy"] += rate * length(busy_time)
        weights["cold_start"] += rate * length(cold_time)
        weights["idle"] += rate * (stretch.end - stretch.start - length(busy_time) - length(cold_time))
    return weights


def _stretches(before: Reading, after: Reading, amount: int, vm: _VmFacts | None, ip_rate: int) -> tuple[Stretch, ...]:
    """Tile the time between two readings by expected rate and status."""
    rate_after = after.rate or 0
    if vm is None:
        return (Stretch(before.at, after.at, before.rate or rate_after),)
    first, last = vm.line.at(before.at), vm.line.at(after.at)
    ip_after = ip_rate if vm.has_public_ip(after.at) else 0
    if before.rate is not None:
        rate_before, ip_before = before.rate, ip_rate if vm.has_public_ip(before.at) else 0
    else:
        rate_before, ip_before = (rate_after, ip_after) if first in (None, last) else (0, 0)
    pieces = vm.line.pieces(before.at, after.at)
    if len(pieces) == 1 and first == last and (rate_before, ip_before) != (rate_after, ip_after):
        change = change_of_rate(before.at, after.at, amount, rate_before, rate_after)
        pieces = [piece for piece in ((before.at, change, first), (change, after.at, "")) if piece[0] < piece[1]]
    stretches = []
    for start, end, status in pieces:
        if start == before.at and status == first:
            rate, ip = rate_before, ip_before
        elif status in (last, ""):
            rate, ip = rate_after, ip_after
        elif status == first:
            rate, ip = rate_before, ip_before
        else:
            rate, ip = min(rate_before, rate_after), min(ip_before, ip_after)
        stretches.append(Stretch(start, end, rate, ip, status or last))
    return tuple(stretches)


def _sum_up(
    life: Life,
    meter: Meter,
    parts: Mapping[str, int],
    kinds: dict[str, int],
    summaries: dict[tuple[str, int], list[Any]],
    day: Interval,
) -> None:
    """Add one life's day to its resource. Excluded resources cost nothing and stay visible."""
    edge = 0
    for instant in day:
        if leg := meter.straddling(instant):
            edge += abs(meter.between(max(leg.start, day[0]), min(leg.end, day[1])))
    if life.is_excluded:
        parts, edge = {}, 0
    for kind, amount in parts.items():
        kinds[kind] += amount
    readings = sum(day[0] <= reading.at < day[1] and reading.rate is not None for reading in life.readings)
    summary = summaries.setdefault((life.resource_type, life.resource_id), [life.name, 0, 0, life.is_excluded])
    summary[1] += edge
    summary[2] += readings


def _vm_row(utc_day: date, vm_id: int, vm: _VmFacts, lives: Sequence[Life], day: Interval) -> tuple[Any, ...]:
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


def _read_lives(warehouse: Warehouse, start: datetime, end: datetime) -> list[Life]:
    """Read every life's readings in the day, and the last before and the first after it."""
    frame = warehouse.query(
        """
        with readings as (
            select
                resource_type,
                resource_id,
                created_at,
                case when is_active or terminated_at is null then observed_at else terminated_at end as read_at,
                total_bill_usd,
                rate_usd_per_minute,
                resource_name,
                is_excluded
            from validated.billing_snapshots
            -- an ended counter that was corrected is read twice at its end: the later answer counts
            qualify row_number() over (
                partition by resource_type, resource_id, created_at, read_at
                order by observed_at desc
            ) = 1
        ),

        bounds as (
            select
                resource_type,
                resource_id,
                created_at,
                max(read_at) filter (where read_at <= $start) as first_at,
                min(read_at) filter (where read_at >= $end) as last_at
            from readings
            group by resource_type, resource_id, created_at
        )

        select
            readings.resource_type,
            readings.resource_id,
            readings.created_at,
            readings.read_at,
            readings.total_bill_usd,
            readings.rate_usd_per_minute,
            readings.resource_name,
            readings.is_excluded
        from readings
        inner join bounds
            on
                readings.resource_type = bounds.resource_type
                and readings.resource_id = bounds.resource_id
                and readings.created_at = bounds.created_at
        where
            readings.created_at < $end
            and readings.read_at >= coalesce(bounds.first_at, readings.created_at)
            and readings.read_at <= coalesce(bounds.last_at, $end)
        order by 1, 2, 3, 4
        """,
        {"start": start, "end": end},
    )
    lives: dict[tuple[str, int, datetime], Life] = {}
    for kind, resource_id, created_at, read_at, total, rate, name, excluded in frame.iter_rows():
        life = lives.get((kind, resource_id, created_at))
        if life is None:
            life = lives[kind, resource_id, created_at] = Life(kind, resource_id, name, [], excluded)
            if read_at > max(created_at, start):
                life.readings.append(Reading(to_microseconds(created_at), 0, None))
        life.name = name
        life.readings.append(Reading(to_microseconds(read_at), _femto(total), 0 if rate is None else _femto(rate)))
    return [life for life in lives.values() if life.readings[-1].at > to_microseconds(start)]


def _read_vm_facts(warehouse: Warehouse, low: datetime, high: datetime, day: Window) -> dict[int, _VmFacts]:
    states = warehouse.query(
        """
        select observed_at, vm_id, source, vm_status, is_ready, has_public_ip, gpu_count
        from validated.vm_states
        where observed_at >= $low and observed_at < $high
        order by vm_id, observed_at, reason like '%Request' desc, reason
        """,
        {"low": low, "high": high},
    )
    sights: dict[int, list[Sight]] = defaultdict(list)
    ips: dict[int, list[tuple[int, bool]]] = defaultdict(list)
    probes: dict[int, list[tuple[int, bool]]] = defaultdict(list)
    gpus: dict[int, int | None] = {}
    for observed_at, vm_id, source, status, ready, public_ip, gpu_count in states.iter_rows():
        at = to_microseconds(observed_at)
        if source == "health":
            probes[vm_id].append((at, ready))
        elif status is not None:
            sights[vm_id].append(Sight(at, status, source == "event"))
        if source == "fleet":
            ips[vm_id].append((at, public_ip))
            gpus[vm_id] = gpu_count
    busy, first_bytes = _read_requests(warehouse, low, high, day)
    facts = {}
    for vm_id, seen in sights.items():
        line = StateLine(seen)
        known_until = max([to_microseconds(day.end), seen[-1].at, *(at for at, _ in probes[vm_id][-1:])])
        colds = find_cold_starts(line, Readiness(sorted(probes[vm_id]), first_bytes[vm_id]), known_until)
        facts[vm_id] = _VmFacts(line, ips[vm_id], colds, union(busy[vm_id]), gpus.get(vm_id))
    return facts


def _read_requests(
    warehouse: Warehouse, low: datetime, high: datetime, day: Window
) -> tuple[dict[int, list[Interval]], dict[int, list[int]]]:
    """Read the in-flight intervals that touch the day, and all first bytes between `low` and `high`."""
    requests = warehouse.query(
        """
        select vm_id, started_at, finished_at, first_byte_at
        from validated.requests
        where vm_id is not null and finished_at >= $low and started_at < $high
        order by vm_id, first_byte_at
        """,
        {"low": low, "high": high},
    )
    busy: dict[int, list[Interval]] = defaultdict(list)
    first_bytes: dict[int, list[int]] = defaultdict(list)
    for vm_id, started_at, finished_at, first_byte_at in requests.iter_rows():
        if finished_at > day.start and started_at < day.end:
            busy[vm_id].append((to_microseconds(started_at), to_microseconds(finished_at)))
        if first_byte_at is not None:
            first_bytes[vm_id].append(to_microseconds(first_byte_at))
    return busy, first_bytes


def _read_public_ip_rate(warehouse: Warehouse, end: datetime) -> int:
    """Give the price of a public IP in femto-dollars a minute: the newest in the price book before the day's end."""
    frame = warehouse.query(
        """
        select max_by(usd_per_hour, observed_at) as usd_per_hour
        from validated.prices
        where price_name = 'PublicIP' and observed_at < $end
        """,
        {"end": end},
    )
    price: Decimal | None = frame.item()
    return 0 if price is None else _femto(price) // 60


def _store(warehouse: Warehouse, utc_day: date, rows: _DayRows) -> dict[str, int]:
    money, seconds = pl.Decimal(38, 15), pl.Decimal(18, 6)
    resource = {"utc_day": pl.Date, "resource_type": pl.String, "resource_id": pl.Int64}
    schemas: dict[str, dict[str, Any]] = {
        "rollup.resource_days": resource
        | {
            "resource_name": pl.String,
            "cost_usd": money,
            "edge_usd": money,
            "readings": pl.Int64,
            "is_excluded": pl.Boolean,
        },
        "rollup.cost_days": resource | {"cost_kind": pl.String, "cost_usd": money},
        "rollup.vm_days": {"utc_day": pl.Date, "vm_id": pl.Int64, "gpu_count": pl.Int64}
        | dict.fromkeys(("alive_seconds", "active_seconds", "busy_seconds", "cold_start_seconds"), seconds)
        | dict.fromkeys(("wakes", "failed_wakes", "unexplained_changes"), pl.Int64),
    }
    tables = zip(TABLES, (rows.resources, rows.costs, rows.vms), strict=True)
    return {
        table: warehouse.replace_day(table, utc_day, to_frame(day_rows, schemas[table])) for table, day_rows in tables
    }


def _femto(usd: Decimal) -> int:
    return int(usd.scaleb(15).to_integral_value())


def _usd(femto: int) -> Decimal:
    return Decimal(femto).scaleb(-15)


def _seconds(microseconds: int) -> Decimal:
    return Decimal(microseconds).scaleb(-6)


def _instant(microseconds: int) -> datetime:
    return datetime.fromisoformat("1970-01-01T00:00:00+00:00") + timedelta(microseconds=microseconds)
