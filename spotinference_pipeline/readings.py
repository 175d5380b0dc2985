"""What the validated tables say of one UTC day's resources: their readings, and the states of machines.

Owns which validated rows a day needs: the last reading before it and the first after it included, states as far around
as a cold start can reach. Turns money into femto-dollars and instants into microseconds, the meter's units. What the
rows add up to is `ledger`'s.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal

from spotinference_pipeline.answers import HISTORY
from spotinference_pipeline.charges import Reading, VmFacts
from spotinference_pipeline.flights import read_busy, read_first_bytes
from spotinference_pipeline.states import Readiness, Sight, StateLine, find_cold_starts
from spotinference_pipeline.warehouse import Warehouse
from spotinference_pipeline.windows import Window, to_microseconds

LOOK_AROUND = timedelta(days=1)
"""How far before and after the day's readings states are read: longer than any cold start."""

UNBILLED: Mapping[str, int] = {"DELETED": 0}
"""Statuses whose rate nobody has to see."""


@dataclass
class Life:
    """One resource from its creation to its end: an id that is created anew is another life."""

    resource_type: str
    resource_id: int
    name: str | None
    readings: list[Reading]
    is_excluded: bool
    is_ended: bool = False


def read_lives(warehouse: Warehouse, start: datetime, end: datetime) -> list[Life]:
    """Read every life's readings in the day, and the last before and the first after it.

    A life that was not seen to end comes also when its last reading is before the day. Answers from after its end that
    still call it active are stale, and left out.
    """
    frame = warehouse.query(
        """
        with ends as (
            select
                resource_type,
                resource_id,
                created_at,
                max(terminated_at) as ended_at
            from validated.billing_snapshots
            where not is_active
            group by resource_type, resource_id, created_at
        ),

        readings as (
            select
                shots.*,
                case
                    when shots.is_active or shots.terminated_at is null then shots.observed_at
                    else shots.terminated_at
                end as read_at
            from validated.billing_snapshots as shots
            left join ends
                on
                    shots.resource_type = ends.resource_type
                    and shots.resource_id = ends.resource_id
                    and shots.created_at = ends.created_at
            where
                shots.created_at < $end
                and (not shots.is_active or ends.ended_at is null or shots.observed_at <= ends.ended_at)
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
            readings.is_excluded,
            readings.is_active
        from readings
        inner join bounds
            on
                readings.resource_type = bounds.resource_type
                and readings.resource_id = bounds.resource_id
                and readings.created_at = bounds.created_at
        where
            readings.read_at >= coalesce(bounds.first_at, readings.created_at)
            and readings.read_at <= coalesce(bounds.last_at, $end)
        -- an ended counter that was corrected is read twice at its end: the later answer counts
        qualify row_number() over (
            partition by readings.resource_type, readings.resource_id, readings.created_at, readings.read_at
            order by readings.observed_at desc
        ) = 1
        order by 1, 2, 3, 4
        """,
        {"start": start, "end": end},
    )
    lives: dict[tuple[str, int, datetime], Life] = {}
    for kind, resource_id, created_at, read_at, total, rate, name, excluded, active in frame.iter_rows():
        life = lives.get((kind, resource_id, created_at))
        if life is None:
            life = lives[kind, resource_id, created_at] = Life(kind, resource_id, name, [], excluded)
            if read_at > max(created_at, start):
                life.readings.append(Reading(to_microseconds(created_at), 0, None))
        life.name, life.is_ended = name, not active
        life.readings.append(Reading(to_microseconds(read_at), to_femto(total), 0 if rate is None else to_femto(rate)))
    return [life for life in lives.values() if not life.is_ended or life.readings[-1].at > to_microseconds(start)]


def read_vm_facts(warehouse: Warehouse, low: datetime, high: datetime, day: Window) -> dict[int, VmFacts]:
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
    busy, rates = read_busy(warehouse, day), _read_event_rates(warehouse, sights, low, high)
    lines = {vm_id: StateLine(seen) for vm_id, seen in sights.items()}
    runs = [
        (vm_id, start, stop)
        for vm_id, line in lines.items()
        for start, stop, is_wake in line.active_runs(to_microseconds(high))
        if is_wake and not any(is_ready and start <= at < stop for at, is_ready in probes[vm_id])
    ]
    first_bytes = read_first_bytes(warehouse, low, high, runs)
    facts = {}
    for vm_id, line in lines.items():
        told = [*(at for at, _ in probes[vm_id][-1:]), *first_bytes[vm_id][-1:]]
        known_until = max(to_microseconds(day.end), sights[vm_id][-1].at, *(at + 1 for at in told))
        colds = find_cold_starts(line, Readiness(sorted(probes[vm_id]), first_bytes[vm_id]), known_until)
        facts[vm_id] = VmFacts(line, ips[vm_id], colds, busy[vm_id], gpus.get(vm_id), rates[vm_id])
    return facts


def learn_rates(facts: Mapping[int, VmFacts], lives: Iterable[Life]) -> dict[int, VmFacts]:
    """Give the facts with the rates that the lives' readings show in each status; they outrank those of billing events."""
    shown: dict[int, dict[str, int]] = defaultdict(dict)
    for life in lives:
        vm = facts.get(life.resource_id) if life.resource_type == "vm" else None
        for reading in life.readings if vm else ():
            status = vm.line.at(reading.at) if vm else None
            if status is not None and reading.rate:
                shown[life.resource_id][status] = reading.rate
    return {vm_id: replace(vm, rates={**UNBILLED, **vm.rates, **shown[vm_id]}) for vm_id, vm in facts.items()}


def read_graphs(warehouse: Warehouse, day: Window) -> dict[tuple[str, int], dict[int, int]]:
    """Give what each hour of the day cost by Hyperstack's newest word, for each resource of which there is one.

    From graphs by the hour, and from lists of single hours where a file has all 24 of them.
    """
    frame = warehouse.query(
        """
        with asked as (
            select source_file, left(query, length('start_date=') + 19) as hour, bool_or(is_good) as is_good
            from validated.exchanges
            where
                endpoint = $list and observed_at >= $end and starts_with(query, $dates)
                and datediff('hour', substr(query, 12, 19)::timestamp, substr(query, 41, 19)::timestamp) = 1
            group by source_file, query
        ),

        whole as (
            select source_file from asked group by source_file having bool_and(is_good) and count(distinct hour) = 24
        ),

        hours as (
            select resource_type, resource_id, bucket_start, amount_usd, observed_at
            from validated.billing_graphs
            where bucket_start >= $start and bucket_start < $end and bucket_seconds = 3600

            union all

            select resource_type, resource_id, window_start, sum(amount_usd), max(observed_at)
            from (
                select distinct on (source_file, window_start, billing_id)
                    source_file, resource_type, resource_id, window_start, amount_usd, observed_at
                from validated.billing_history
                semi join whole using (source_file)
                where
                    resource_type = 'vm' and figure = 'incurred_bill' and window_start >= $start and window_end <= $end
                    and window_end = window_start + interval 1 hour
                order by observed_at desc
            )
            group by source_file, resource_type, resource_id, window_start
        )

        select resource_type, resource_id, bucket_start, max_by(amount_usd, observed_at) as amount_usd
        from hours
        group by resource_type, resource_id, bucket_start
        order by resource_type, resource_id, bucket_start
        """,
        {
            "start": day.start,
            "end": day.end,
            "list": f"{HISTORY}/virtual-machine",
            "dates": f"start_date={day.start:%Y-%m-%dT}",
        },
    )
    graphs: dict[tuple[str, int], dict[int, int]] = defaultdict(dict)
    for resource_type, resource_id, bucket_start, amount in frame.iter_rows():
        graphs[resource_type, resource_id][to_microseconds(bucket_start)] = to_femto(amount)
    return graphs


def read_public_ip_bills(warehouse: Warehouse, day: Window) -> dict[int, int]:
    """Give what Hyperstack's newest answers bill for public IPs on the day, for each machine that was asked about."""
    frame = warehouse.query(
        """
        select resource_id, max_by(bill_usd, observed_at) as bill_usd
        from (
            select resource_id, observed_at, sum(amount_usd) as bill_usd
            from validated.billing_history
            where
                resource_type = 'vm' and figure = 'publicip_incurred_bill'
                and window_start = $start and window_end = $end
            group by resource_id, observed_at
        )
        group by resource_id
        """,
        {"start": day.start, "end": day.end},
    )
    return {vm_id: max(to_femto(bill), 0) for vm_id, bill in frame.iter_rows()}


def _read_event_rates(
    warehouse: Warehouse, sights: dict[int, list[Sight]], low: datetime, high: datetime
) -> dict[int, dict[str, int]]:
    """Add what billing events say of states to the sights; give the rates that they show."""
    frame = warehouse.query(
        """
        select distinct started_at, vm_id, vm_status, usd_per_hour
        from validated.billing_events
        where started_at >= $low and started_at < $high
        order by vm_id, started_at, vm_status, usd_per_hour
        """,
        {"low": low, "high": high},
    )
    rates: dict[int, dict[str, int]] = defaultdict(dict)
    for started_at, vm_id, status, usd_per_hour in frame.iter_rows():
        sights[vm_id].append(Sight(to_microseconds(started_at), status, is_event=True))
        if usd_per_hour is not None:
            rates[vm_id][status] = to_femto(usd_per_hour) // 60
    return rates


def read_public_ip_rate(warehouse: Warehouse, end: datetime) -> int:
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
    return 0 if price is None else to_femto(price) // 60


def to_femto(usd: Decimal) -> int:
    """Give whole femto-dollars."""
    return int(usd.scaleb(15).to_integral_value())
