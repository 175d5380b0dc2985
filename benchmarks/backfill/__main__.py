"""Make many days that nobody watched from Hyperstack's own books, and print what it took beside what the same must cost.

Hyperstack is the simulator, asked in this process without a socket; its own time is taken out. Waiting is done by a virtual
clock, so that the pace of the books (requests a minute, out of politeness) is told apart from the work. The limits are
measured in the same run: the same raw files written and synced, the same lines read and checked, the same tables scanned.
"""

import argparse
import resource
import tempfile
import time
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path

from spotinference_sim.books import organisation_truth
from spotinference_sim.scenario import Scenario

from benchmarks.backfill.floor import measure_floor
from benchmarks.backfill.service import Service, VirtualSettings
from spotinference_pipeline import backfill, raw, snapshot, validated
from spotinference_pipeline.storage import Storage
from spotinference_pipeline.warehouse import open_warehouse

FIRST = date(2025, 10, 1)
DAYS = 400
SIZE = (10, 10)


class Watch:
    """Takes the wall and processor time of each step, less what the simulator took of both."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self.steps: dict[str, tuple[float, float]] = {}
        self._lap()

    def _lap(self) -> None:
        self._began = time.monotonic(), time.process_time(), self._service.own_wall, self._service.own_seconds

    def end(self, step: str) -> None:
        wall, cpu, own_wall, own_cpu = self._began
        self.steps[step] = (
            time.monotonic() - wall - (self._service.own_wall - own_wall),
            time.process_time() - cpu - (self._service.own_seconds - own_cpu),
        )
        self._lap()


def watch_now_and_then(settings: VirtualSettings, service: Service, days: list[date], each_hours: int) -> None:
    """Take a snapshot every so many hours of the days."""
    for day in days:
        for hour in range(0, 24, each_hours):
            service.go_to(day, hour)
            with service.connect("https://hyperstack.test/v1", "key", settings.clock) as api:
                snapshot.take(api, settings.raw_dir, settings.clock)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.backfill", description=__doc__)
    parser.add_argument("--days", type=int, default=DAYS, help=f"how many ({DAYS})")
    parser.add_argument("--snapshots", type=int, default=0, metavar="HOURS", help="also a snapshot every so many hours")
    options = parser.parse_args()
    days = [FIRST + number * timedelta(days=1) for number in range(options.days)]
    with tempfile.TemporaryDirectory() as folder:
        service = Service(Scenario.long(7, FIRST, options.days, SIZE))
        settings = service.settings(Path(folder))
        if options.snapshots:
            watch_now_and_then(settings, service, days, options.snapshots)
            service.requests = 0
        service.go_to(days[-1] + timedelta(days=3), 3)
        report(settings, service, days)


def make_days(settings: VirtualSettings, service: Service, days: list[date]) -> Watch:
    """Do what `spotinference reconcile` does for the days; give its times. Days that are not the truth end the benchmark."""
    watch = Watch(service)
    fetched = list(backfill.fetch_books(settings, days, service.connect))
    watch.end("fetch")
    with open_warehouse(settings.warehouse_path) as warehouse:
        validated.ingest(warehouse, settings.raw_dir, Storage(settings.request_log))
        watch.end("ingest")
        built = backfill.build(warehouse, days)
        watch.end("ledger, rollups, metrics, checks")
        assert all(backfill.is_whole(warehouse, book) for book in fetched)
        assert not any(day.broken for day in built)
        costs = warehouse.query("select utc_day, sum(cost_usd) as cost_usd from rollup.cost_days group by utc_day")
    found = dict(costs.iter_rows())
    for day in days:
        assert found[day] == Decimal(organisation_truth(service.scenario, day).final_femtos).scaleb(-15), day
    return watch


def report(settings: VirtualSettings, service: Service, days: list[date]) -> None:
    """Make the days and print what it took."""
    number, began, before, laid = len(days), service.now, peak_memory(), raw_bytes(settings)
    watch = make_days(settings, service, days)
    waited, peak, kept = service.now - began, peak_memory(), raw_bytes(settings) - laid
    wall, cpu = (sum(times) for times in zip(*watch.steps.values(), strict=True))
    lines = [
        ("days", f"{number}, each with the simulator's cost to the last digit"),
        ("all", f"{wall:.1f} s, {cpu:.1f} CPU seconds ({1000 * cpu / number:.0f} ms a day)"),
        *((f"  {step}", tell(times)) for step, times in watch.steps.items()),
        *((f"limit: {what}", tell(times)) for what, times in measure_floor(settings).items()),
        ("requests", f"{service.requests / number:.1f} a day, {service.requests} in all"),
        (
            "  at the pace of the books, a minute",
            f"{settings.reconcile_requests_per_minute}, so {str(waited).partition('.')[0]} beside the above",
        ),
        (
            "bytes a day",
            f"{kept // number:,} raw, {settings.warehouse_path.stat().st_size // number:,} in the warehouse",
        ),
        ("peak memory", f"{peak:.0f} MiB, {before:.0f} before the first day"),
    ]
    for name, told in lines:
        print(f"{name:<48}{told}")


def tell(times: tuple[float, float]) -> str:
    return f"{times[0]:.1f} s, {times[1]:.1f} CPU seconds"


def raw_bytes(settings: VirtualSettings) -> int:
    return sum(file.stat().st_size for file in raw.list_files(settings.raw_dir))


def peak_memory() -> float:
    """Give the most memory that this process has held so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
