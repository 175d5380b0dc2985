"""When machines had requests in flight, and when their first answers came: what the ledger needs of the request log.

Worked out by DuckDB, in integers, because a day may have ten million requests: only joined intervals come out.
"""

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime

import polars as pl

from spotinference_pipeline.meter import Interval
from spotinference_pipeline.warehouse import Warehouse
from spotinference_pipeline.windows import Window


def read_busy(warehouse: Warehouse, day: Window) -> dict[int, list[Interval]]:
    """Read when each machine had a request in flight that touches the day: sorted, joined where they overlap or touch.

    Joined by DuckDB, because a day may have ten million requests. A sum numbers the joined ones: a count with `filter`
    over the same window takes the square of the time.
    """
    frame = warehouse.query(
        """
        with flights as (
            select
                vm_id,
                epoch_us(started_at) as started_us,
                epoch_us(finished_at) as finished_us
            from validated.requests
            where vm_id is not null and finished_at > $start and started_at < $end and started_at < finished_at
        ),

        marked as (
            select
                vm_id,
                started_us,
                finished_us,
                coalesce(
                    started_us > max(finished_us) over (
                        partition by vm_id
                        order by started_us
                        rows between unbounded preceding and 1 preceding
                    ),
                    true
                ) as begins
            from flights
        ),

        numbered as (
            select
                vm_id,
                started_us,
                finished_us,
                sum(cast(begins as bigint)) over (
                    partition by vm_id
                    order by started_us
                    rows between unbounded preceding and current row
                ) as place
            from marked
        )

        select
            vm_id,
            min(started_us) as started_us,
            max(finished_us) as finished_us
        from numbered
        group by vm_id, place
        order by vm_id, started_us
        """,
        {"start": day.start, "end": day.end},
    )
    busy: dict[int, list[Interval]] = defaultdict(list)
    for vm_id, started_us, finished_us in frame.iter_rows():
        busy[vm_id].append((started_us, finished_us))
    return busy


def read_first_bytes(
    warehouse: Warehouse, low: datetime, high: datetime, runs: Sequence[tuple[int, int, int]]
) -> dict[int, list[int]]:
    """Read the first byte of an answer in each run, (vm, start, end): only where no probe says when the engine was ready."""
    if not runs:
        return defaultdict(list)
    frame = warehouse.query(
        """
        select
            source.vm_id,
            min(epoch_us(requests.first_byte_at)) as first_byte_us
        from source
        inner join validated.requests as requests
            on
                source.vm_id = requests.vm_id
                and epoch_us(requests.first_byte_at) >= source.start_us
                and epoch_us(requests.first_byte_at) < source.end_us
        where requests.finished_at >= $low and requests.started_at < $high
        group by source.vm_id, source.start_us
        order by source.vm_id, first_byte_us
        """,
        {"low": low, "high": high},
        source=pl.DataFrame(runs, schema=dict.fromkeys(("vm_id", "start_us", "end_us"), pl.Int64), orient="row"),
    )
    first_bytes: dict[int, list[int]] = defaultdict(list)
    for vm_id, first_byte in frame.iter_rows():
        first_bytes[vm_id].append(first_byte)
    return first_bytes
