"""What an asset's body does, as plain functions without Dagster: open the warehouse, call the stage, count."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import polars as pl

from spotinference_pipeline import (
    backfill,
    checks,
    list_prices,
    publication,
    raw,
    served_models,
    snapshot,
    sources,
    transform,
    validated,
)
from spotinference_pipeline.hyperstack import Hyperstack, minute_of
from spotinference_pipeline.pacing import Pace
from spotinference_pipeline.reconciliation import Fetched
from spotinference_pipeline.settings import Settings
from spotinference_pipeline.storage import Storage
from spotinference_pipeline.warehouse import Warehouse, open_warehouse

SAMPLE_ROWS, VIEW_ROWS = 30, 50
TREND_DAYS = 28


@dataclass(frozen=True)
class Written:
    """What a step wrote to one table for one day: the number of rows, and the first few as a sample.

    `trend`: the rows of the last 28 days, oldest first, where the table has at most one a day; else none.
    """

    table: str
    utc_day: date
    rows: int
    sample: pl.DataFrame
    trend: pl.DataFrame


@dataclass(frozen=True)
class IngestReport:
    """What an ingest did, the rows of each table in all, and the days built before which new rows now change."""

    done: validated.Ingested
    rows: dict[str, int]
    late_days: list[date]


def days_of(partition_keys: Sequence[str]) -> list[date]:
    """Give the UTC days of partition keys, oldest first."""
    return sorted(date.fromisoformat(partition_key) for partition_key in partition_keys)


def has_snapshot(settings: Settings) -> bool:
    """Tell whether a snapshot of the present minute has landed."""
    return raw.has_minute(settings.raw_dir, minute_of(settings.clock()))


def take_snapshot(settings: Settings) -> snapshot.Snapshot:
    """Take one snapshot of Hyperstack now."""
    key, pace = settings.api_key(), Pace(key_changed_at=settings.key_changed_at())
    with Hyperstack(settings.hyperstack_url, key, settings.clock, pace=pace) as hyperstack:
        return snapshot.take(hyperstack, settings.raw_dir, settings.clock)


def sealed_segments(settings: Settings) -> list[str]:
    """Give the names of the sealed log segments."""
    return sources.segment_names(Storage(settings.request_log))


def fetch_books(settings: Settings, days: Sequence[date]) -> list[Fetched]:
    """Fetch Hyperstack's books of the closed days."""
    return list(backfill.fetch_books(settings, days))


def copy_list_prices(settings: Settings) -> Path | None:
    """Copy today's list prices; None when today has its copy."""
    return list_prices.copy_prices(settings.list_prices_dir, settings.clock())


def ingest(settings: Settings, tables: Sequence[str]) -> IngestReport:
    """Read new files; count the rows of each table."""
    with open_warehouse(settings.warehouse_path) as warehouse:
        done = validated.ingest(warehouse, settings.raw_dir, Storage(settings.request_log))
        served_models.record(warehouse, settings.models)
        rows = {table: warehouse.query(f"select count(*) from {table}").item() for table in tables}  # noqa: S608
        late_days = _only_rolled_up(warehouse, sorted(done.days))
    return IngestReport(done, rows, late_days)


def build_ledger(settings: Settings, days: Sequence[date]) -> list[Written]:
    """Build the ledger's tables for the days."""
    with open_warehouse(settings.warehouse_path) as warehouse:
        return [
            _written(warehouse, table, day, rows)
            for day in days
            for table, rows in transform.build_ledger(warehouse, day).items()
        ]


def build_table(settings: Settings, table: str, days: Sequence[date]) -> list[Written]:
    """Build one SQL table for the days, a metric only for those that are rolled up.

    Dagster extends a backfill to the nine days after it, whose figures or bounds it changes; some may never have been built.
    """
    with open_warehouse(settings.warehouse_path) as warehouse:
        wanted = _only_rolled_up(warehouse, days) if table in transform.METRICS else days
        return [_written(warehouse, table, day, transform.build_table(warehouse, table, day)) for day in wanted]


def read_view(settings: Settings, table: str) -> tuple[int, pl.DataFrame]:
    """Count the rows of a view and give its last ones, the newest where it is in order of time."""
    with open_warehouse(settings.warehouse_path) as warehouse:
        rows = warehouse.query(f"from {table}")
    return rows.height, rows.tail(VIEW_ROWS)


def run_check(settings: Settings, name: str, days: Sequence[date]) -> list[tuple[date, checks.Finding]]:
    """Run one rule for the days; give the findings that do not pass."""
    with open_warehouse(settings.warehouse_path) as warehouse:
        found = [(day, finding) for day in days for finding in checks.run(warehouse, day, [name])]
    return [(day, finding) for day, finding in found if not finding.passed]


def publish(settings: Settings, days: Sequence[date]) -> list[publication.Published]:
    """Publish those of the days that are rolled up, then renew the analysts' copy of the warehouse."""
    with open_warehouse(settings.warehouse_path) as warehouse:
        wanted = _only_rolled_up(warehouse, days)
        done = publication.publish(warehouse, Storage(settings.published), settings, wanted)
        warehouse.copy_for_analysts()
    return done


def _written(warehouse: Warehouse, table: str, utc_day: date, rows: int) -> Written:
    day = {"utc_day": utc_day}
    sample = warehouse.query(f"select * from {table} where utc_day = $utc_day limit {SAMPLE_ROWS}", day)  # noqa: S608
    trend = sample.clear()
    if rows == 1:
        trend = warehouse.query(
            f"select * from {table} where utc_day > $utc_day - {TREND_DAYS} and utc_day <= $utc_day order by utc_day",  # noqa: S608
            day,
        )
    return Written(table, utc_day, rows, sample, trend if trend["utc_day"].is_unique().all() else trend.clear())


def _only_rolled_up(warehouse: Warehouse, days: Sequence[date]) -> list[date]:
    known = set(warehouse.query("select utc_day from rollup.snapshot_days")["utc_day"].to_list())
    return [day for day in days if day in known]
