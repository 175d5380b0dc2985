"""The steps of the benchmark, each in a process of its own, so that its processor time and its peak memory are its own."""

import multiprocessing
import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb

from benchmarks.ingest.segments import DAY, VMS
from spotinference_pipeline import checks, contracts, transform, validated
from spotinference_pipeline.batch import to_frame
from spotinference_pipeline.storage import Storage
from spotinference_pipeline.warehouse import open_warehouse

COLUMNS = {
    "v": "bigint",
    "k": "varchar",
    "n": "bigint",
    "request_id": "varchar",
    "started_at": "timestamptz",
    "endpoint": "varchar",
    "requested_model": "varchar",
    "stream": "boolean",
    "vm_id": "bigint",
    "key_id": "varchar",
    "canary": "boolean",
    "model": "varchar",
    "finished_at": "timestamptz",
    "first_byte_at": "timestamptz",
    "status": "bigint",
    "upstream_status": "bigint",
    "end_reason": "varchar",
    "usage_source": "varchar",
    "prompt_tokens": "bigint",
    "completion_tokens": "bigint",
    "cached_tokens": "bigint",
    "reasoning_tokens": "bigint",
    "choices": "bigint",
    "at": "timestamptz",
    "c": "varchar",
}
"""What DuckDB's reader is told of the lines: every member of the three kinds of which there are many."""


@dataclass(frozen=True)
class Step:
    """What a step took: seconds of the clock and of the processor, the most memory it held, and what it found."""

    wall_seconds: float
    cpu_seconds: float
    peak_mib: float
    found: Any


def measured(step: Callable[..., Any], *arguments: Any) -> Step:
    """Run a step in a new process; its imports are part of the memory and not of the time."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(_measure, step, *arguments).result()


def _measure(step: Callable[..., Any], *arguments: Any) -> Step:
    wall, cpu = time.monotonic(), time.process_time()
    found = step(*arguments)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return Step(time.monotonic() - wall, time.process_time() - cpu, peak, found)


def ingest(folder: Path) -> int:
    """Read every segment: checksums, digests, records, contracts, rows."""
    with open_warehouse(folder / "warehouse.duckdb") as warehouse:
        done = validated.ingest(warehouse, folder / "raw", Storage(str(folder / "log")))
    if done.rows_accepted != done.rows_read:
        raise SystemExit(f"ingest: expected every row accepted, found {done}")
    return done.rows_read


def scan(folder: Path) -> int:
    """Let DuckDB read all members of the same files."""
    columns = ", ".join(f"'{name}': '{kind}'" for name, kind in COLUMNS.items())
    files = f"read_json('{folder / 'log'}/*.jsonl', format = 'newline_delimited', columns = {{{columns}}})"
    counts = ", ".join(f'count("{name}")' for name in COLUMNS)
    with duckdb.connect(":memory:") as connection:
        connection.execute("set enable_progress_bar = false")
        row = connection.execute(f"select count(*), {counts} from {files}").fetchone()  # noqa: S608
    return int(row[0]) if row else 0


def add_machines(folder: Path) -> None:
    """Put the machines' states and counters beside the requests: the ledger divides their cost by the requests' time."""
    start = datetime(DAY.year, DAY.month, DAY.day, tzinfo=UTC)
    hours = [start + timedelta(hours=hour) for hour in range(25)]
    counters: list[tuple[Any, ...]] = []
    states: list[tuple[Any, ...]] = []
    for vm_id in VMS:
        rate = Decimal("0.05"), False, "bench", 1
        counters += [
            (at, "vm", vm_id, "bench", start, None, rate[0], Decimal(3 * hour), True, *rate[1:])
            for hour, at in enumerate(hours)
        ]
        states += [(at, vm_id, "fleet", "ACTIVE", None, None, False, "H100", 8, "bench", 1) for at in hours]
    with open_warehouse(folder / "warehouse.duckdb") as warehouse:
        for table, rows in (("validated.billing_snapshots", counters), ("validated.vm_states", states)):
            warehouse.append(table, to_frame(rows, contracts.polars_schema(table)))


def build(folder: Path) -> tuple[int, int, dict[str, float]]:
    """Build the day's rollups, ledger, metrics and checks; give requests, tokens and the seconds of each."""
    seconds: dict[str, float] = {}
    with open_warehouse(folder / "warehouse.duckdb") as warehouse:
        for table in (*transform.ROLLUPS, "ledger", *transform.METRICS):
            began = time.monotonic()
            if table == "ledger":
                transform.build_ledger(warehouse, DAY)
            else:
                transform.build_table(warehouse, table, DAY)
            seconds[table] = time.monotonic() - began
        began = time.monotonic()
        broken = [
            finding for finding in checks.run(warehouse, DAY) if finding.blocks
        ]  # the laid-down engines stand still: a warning
        seconds["checks"] = time.monotonic() - began
        row = warehouse.query("select requests, served_tokens from metric.cost_per_mtok").row(0)
    if broken:
        raise SystemExit(
            f"checks: expected no blocking rule to be broken, found {[finding.name for finding in broken]}"
        )
    return row[0], row[1], seconds
