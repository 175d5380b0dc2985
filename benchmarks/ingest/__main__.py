"""A day of the request log from sealed segments to rollup and metric: rows per CPU-second and peak memory of each step.

The limit is measured in the same run: DuckDB's own JSON reader over the same bytes, with the columns given, checking nothing.
"""

import argparse
import tempfile
from pathlib import Path

from benchmarks.ingest.segments import Day, lay_down
from benchmarks.ingest.steps import Step, add_machines, build, ingest, measured, scan

ROWS = 10_000_000


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ingest", description=__doc__)
    parser.add_argument("--rows", type=int, default=ROWS, help="records of the day's log (10,000,000)")
    parser.add_argument("--folder", type=Path, help="where to work; some 500 bytes a record (a temporary folder)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        run(Path(name), arguments.rows)


def run(folder: Path, rows: int) -> None:
    """Run all steps in order and print each as soon as it is done."""
    (folder / "log").mkdir()
    print(f"{'':28}{'rows/CPU-s':>12}{'CPU s':>9}{'clock s':>9}{'peak MiB':>10}")
    laid = measured(lay_down, folder / "log", rows)
    day: Day = laid.found
    line("lay down", day.rows, laid)
    limit = measured(scan, folder)
    line("DuckDB's JSON reader", day.rows, limit)
    read = measured(ingest, folder)
    line("verified ingest", day.rows, read)
    add_machines(folder)
    built = measured(build, folder)
    line("rollup to metric, checks", day.rows, built)
    requests, tokens, seconds = built.found
    if (limit.found, read.found, requests, tokens) != (day.rows, day.rows, day.requests, day.served_tokens):
        raise SystemExit(
            f"expected {day}, found {limit.found} and {read.found} rows, {requests} requests, {tokens} tokens"
        )
    slowest = sorted(seconds.items(), key=lambda entry: -entry[1])[:4]
    print(f"  of these, clock s           {', '.join(f'{table} {took:.1f}' for table, took in slowest)}")
    print(f"records                       {day.rows:,} ({day.requests:,} requests) in {day.segments:,} segments")
    print(f"bytes                         {day.size_bytes:,}")
    size = (folder / "warehouse.duckdb").stat().st_size
    print(f"warehouse                     {size:,} bytes ({size / day.requests:.0f} a request)")
    print(f"ingest against the limit      {limit.cpu_seconds / read.cpu_seconds:.2f} of DuckDB's reader")
    print("every request and every token of the log is in the number")


def line(name: str, rows: int, step: Step) -> None:
    """Print one step."""
    speed = rows / step.cpu_seconds
    print(
        f"{name:28}{speed:>12,.0f}{step.cpu_seconds:>9.1f}{step.wall_seconds:>9.1f}{step.peak_mib:>10,.0f}", flush=True
    )


if __name__ == "__main__":
    main()
