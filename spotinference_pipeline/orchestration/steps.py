"""What an asset's body does, as plain functions without Dagster: open the warehouse, call the stage, count."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date

import polars as pl

from spotinference_pipeline import checks, ledger, publication, snapshot, validated
from spotinference_pipeline.hyperstack import Hyperstack
from spotinference_pipeline.settings import Settings
from spotinference_pipeline.storage import Storage
from spotinference_pipeline.warehouse import Warehouse, copy_for_analysts, open_warehouse

SAMPLE_ROWS = 8


@dataclass(frozen=True)
class Written:
    """What a step wrote to one table: rows of the days, rows in all, and the newest few as a sample."""

    table: str
    rows: int
    sample: pl.DataFrame = field(default_factory=pl.DataFrame)


@dataclass(frozen=True)
class IngestReport:
    """What an ingest did, rows per table in all, and the days built before which new rows now change."""

    done: validated.Ingested
    written: list[Written]
    late_days: list[date]


def days_of(partition_keys: Sequence[str]) -> list[date]:
    """Give the UTC days of partition keys, oldest first."""
    return sorted(date.fromisoformat(partition_key) for partition_key in partition_keys)


def take_snapshot(settings: Settings) -> snapshot.Snapshot:
    """Take one snapshot of Hyperstack now."""
    with Hyperstack(settings.hyperstack_url, settings.api_key(), settings.clock, attempts=1) as hyperstack:
        return snapshot.take(hyperstack, settings.raw_dir, settings.clock)


def sealed_segments(settings: Settings) -> list[str]:
    """Give the names of the sealed log segments."""
    return validated.segment_names(Storage(settings.request_log))


def ingest(settings: Settings, tables: Sequence[str]) -> IngestReport:
    """Read new files; count the rows of each table."""
    with open_warehouse(settings.warehouse_path) as warehouse:
        done = validated.ingest(warehouse, settings.raw_dir, Storage(settings.request_log))
        written = [Written(table, warehouse.query(f"select count(*) from {table}").item()) for table in tables]  # noqa: S608
        built = set(warehouse.query("select utc_day from rollup.snapshot_days")["utc_day"].to_list())
    return IngestReport(done, written, sorted(done.days & built))


def build_ledger(settings: Settings, days: Sequence[date], tables: Sequence[str]) -> list[Written]:
    """Build the ledger of the days."""
    with open_warehouse(settings.warehouse_path) as warehouse:
        counts = [ledger.build_day(warehouse, day) for day in days]
        return [
            Written(table, sum(count[table] for count in counts), _sample(warehouse, table, days[-1])) for table in tables
        ]


def build_table(settings: Settings, table: str, days: Sequence[date]) -> Written:
    """Build one SQL table for the days."""
    with open_warehouse(settings.warehouse_path) as warehouse:
        rows = sum(warehouse.build_day(table, day) for day in days)
        return Written(table, rows, _sample(warehouse, table, days[-1]))


def run_check(settings: Settings, name: str, days: Sequence[date]) -> list[tuple[date, checks.Finding]]:
    """Run one rule for the days; give the findings that do not pass."""
    with open_warehouse(settings.warehouse_path) as warehouse:
        found = [(day, finding) for day in days for finding in checks.run(warehouse, day, [name])]
    return [(day, finding) for day, finding in found if not finding.passed]


def publish(settings: Settings, days: Sequence[date]) -> list[publication.Published]:
    """Publish the days, then renew the analysts' copy of the warehouse."""
    with open_warehouse(settings.warehouse_path) as warehouse:
        done = publication.publish(warehouse, Storage(settings.published), settings, days)
    copy_for_analysts(settings.warehouse_path)
    return done


def _sample(warehouse: Warehouse, table: str, utc_day: date) -> pl.DataFrame:
    sql = f"select * from {table} where utc_day = $utc_day limit {SAMPLE_ROWS}"  # noqa: S608
    return warehouse.query(sql, {"utc_day": utc_day})
