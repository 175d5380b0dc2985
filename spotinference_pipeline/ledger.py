"""From counters to a ledger: what each resource cost on one UTC day, and what for.

Owns which validated rows a day needs (the last before it and the first after it included) and how the lives of a
resource add up to its day. What the rows say is `charges`' and `states`'; the arithmetic is `meter`'s, in integers, so
the parts of a day add up to the difference of its counters exactly. Definitions: docs/method.md, "Paid" and "Parts".

Writes rollup.resource_days, rollup.cost_days and rollup.vm_days.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

import polars as pl

from spotinference_pipeline.batch import to_frame
from spotinference_pipeline.charges import Reading, VmFacts, build_meter, split_day
from spotinference_pipeline.meter import Interval, Meter, intersect, length, subtract, union
from spotinference_pipeline.states import Readiness, Sight, StateLine, find_cold_starts
from spotinference_pipeline.warehouse import Warehouse
from spotinference_pipeline.windows import Window, day_window, to_microseconds

TABLES = ("rollup.resource_days", "rollup.cost_days", "rollup.vm_days")
_MONEY, _SECONDS = pl.Decimal(38, 15), pl.Decimal(18, 6)
_RESOURCE = {"utc_day": pl.Date, "resource_type": pl.String, "resource_id": pl.Int64}
_SCHEMAS: dict[str, dict[str, Any]] = {
    "rollup.resource_days": _RESOURCE
    | {"resource_name": pl.String}
    | dict.fromkeys(("cost_usd", "edge_usd", "outside_usd"), _MONEY)
    | {"readings": pl.Int64, "is_excluded": pl.Boolean},
    "rollup.cost_days": _RESOURCE | {"cost_kind": pl.String, "cost_usd": _MONEY},
    "rollup.vm_days": {"utc_day": pl.Date, "vm_id": pl.Int64, "gpu_count": pl.Int64}
    | dict.fromkeys(("alive_seconds", "active_seconds", "busy_seconds", "cold_start_seconds"), _SECONDS)
    | dict.fromkeys(("wakes", "failed_wakes", "unexplained_changes"), pl.Int64),
}
LOOK_AROUND = timedelta(days=1)
"""How far before and after the day's readings states are read: longer than any cold start."""


@dataclass
class Life:
    """One resource from its creation to its end: an id that is created anew is another life."""

    resource_type: str
    resource_id: int
    name: str | None
    readings: list[Reading]
    is_excluded: bool


@dataclass
class _ResourceDay:
    """What all lives of one resource add up to on the day."""

    name: str | None
    is_excluded: bool
    kinds: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    edge: int = 0
    outside: int = 0
    readings: int = 0

    def add(self, life: Life, meter: Meter, parts: Mapping[str, int], day: Interval) -> None:
        """Add one life. Excluded resources cost nothing and stay visible."""
        self.readings += sum(day[0] <= reading.at < day[1] and reading.rate is not None for reading in life.readings)
        if life.is_excluded:
            return
        for kind, amount in parts.items():
            self.kinds[kind] += amount
        for leg in {meter.straddling(instant) for instant in day} - {None}:
            assert leg is not None
            inside = meter.between(max(leg.start, day[0]), min(leg.end, day[1]))
            self.edge += inside
            self.outside += leg.amount - inside


@dataclass(frozen=True)
class Course:
    """One life with the course of its counter, the credits taken out of it, and its machine's states if it is one."""

    life: Life
    vm: VmFacts | None
    meter: Meter
    credits: list[tuple[int, int]]


@dataclass(frozen=True)
class DayFacts:
    """All that the day's rows are made of: every life that touches it, and every machine's states around it."""

    courses: list[Course]
    vms: dict[int, VmFacts]


def read_day(warehouse: Warehouse, utc_day: date) -> DayFacts:
    """Read what the day's rows are made of, for this module and `wakes`."""
    window = day_window(utc_day)
    start, end = to_microseconds(window.start), to_microseconds(window.end)
    lives = _read_lives(warehouse, window.start, window.end)
    reach = (
        min([start, *(life.readings[0].at for life in lives)]),
        max([end, *(life.readings[-1].at for life in lives)]),
    )
    facts = _read_vm_facts(warehouse, _instant(reach[0]) - LOOK_AROUND, _instant(reach[1]) + LOOK_AROUND, window)
    ip_rate = _read_public_ip_rate(warehouse, window.end)
    courses = []
    for life in lives:
        vm = facts.get(life.resource_id) if life.resource_type == "vm" else None
        courses.append(Course(life, vm, *build_meter(life.readings, vm, ip_rate)))
    return DayFacts(courses, facts)


def build_day(warehouse: Warehouse, utc_day: date, facts: DayFacts | None = None) -> dict[str, int]:
    """Build the day's rows of the three ledger tables; give their numbers by table.

    The same validated rows give the same result, whatever was built before. `facts`: what `read_day` gave, if it is at hand.
    """
    facts = facts or read_day(warehouse, utc_day)
    window = day_window(utc_day)
    start, end = to_microseconds(window.start), to_microseconds(window.end)
    resources: dict[tuple[str, int], _ResourceDay] = {}
    for course in facts.courses:
        life = course.life
        parts = split_day(life.resource_type, course.meter, course.vm, start, end)
        parts["credit"] += sum(amount for at, amount in course.credits if start <= at < end)
        key = life.resource_type, life.resource_id
        day = resources.setdefault(key, _ResourceDay(life.name, life.is_excluded))
        day.add(life, course.meter, parts, (start, end))
    vm_lives = [course.life for course in facts.courses if course.life.resource_type == "vm"]
    vms = [_vm_row(utc_day, vm_id, facts.vms[vm_id], vm_lives, (start, end)) for vm_id in sorted(facts.vms)]
    return _store(warehouse, utc_day, resources, vms)


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


def _read_vm_facts(warehouse: Warehouse, low: datetime, high: datetime, day: Window) -> dict[int, VmFacts]:
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
        facts[vm_id] = VmFacts(line, ips[vm_id], colds, union(busy[vm_id]), gpus.get(vm_id))
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


def _store(
    warehouse: Warehouse,
    utc_day: date,
    resources: Mapping[tuple[str, int], _ResourceDay],
    vms: Sequence[tuple[Any, ...]],
) -> dict[str, int]:
    resource_rows: list[tuple[Any, ...]] = []
    cost_rows: list[tuple[Any, ...]] = []
    for key, day in sorted(resources.items()):
        spent = {kind: amount for kind, amount in day.kinds.items() if amount}
        amounts = (_usd(amount) for amount in (sum(spent.values()), day.edge, day.outside))
        resource_rows.append((utc_day, *key, day.name, *amounts, day.readings, day.is_excluded))
        cost_rows += [(utc_day, *key, kind, _usd(spent[kind])) for kind in sorted(spent)]
    rows = zip(TABLES, (resource_rows, cost_rows, vms), strict=True)
    return {table: warehouse.replace_day(table, utc_day, to_frame(some, _SCHEMAS[table])) for table, some in rows}


def _femto(usd: Decimal) -> int:
    return int(usd.scaleb(15).to_integral_value())


def _usd(femto: int) -> Decimal:
    return Decimal(femto).scaleb(-15)


def _seconds(microseconds: int) -> Decimal:
    return Decimal(microseconds).scaleb(-6)


def _instant(microseconds: int) -> datetime:
    return datetime.fromisoformat("1970-01-01T00:00:00+00:00") + timedelta(microseconds=microseconds)
