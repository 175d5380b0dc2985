"""Days in order through books, rollups, metrics and checks: what the daily jobs do, for any days, by hand.

Owns the order and what a late change touches: a day's rollup is part of the seven windows that contain it and of the
bounds of three more, so the metrics of the nine days after it are built again when they exist. Dagster orders the same
steps by partitions instead.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime

from spotinference_pipeline import checks, reconciliation, transform, validated
from spotinference_pipeline.books import FINAL, SETTLE, read_books
from spotinference_pipeline.hyperstack import Hyperstack
from spotinference_pipeline.pacing import Pace
from spotinference_pipeline.reconciliation import Fetched
from spotinference_pipeline.settings import Settings
from spotinference_pipeline.storage import Storage
from spotinference_pipeline.warehouse import Warehouse, open_warehouse, read_sql
from spotinference_pipeline.windows import Window, day_window, days_between, days_resting_on, month_window


@dataclass(frozen=True)
class BuiltDay:
    """A day whose metrics were built, and the rules that it breaks."""

    utc_day: date
    broken: list[checks.Finding]


def fetch_books(
    settings: Settings, days: Sequence[date], connect: Callable[..., Hyperstack] = Hyperstack
) -> Iterator[Fetched]:
    """Read what has landed, then fetch the books of closed days, oldest first, each as one raw file.

    Then those of the days' months that are over and settled, where every day has its book: a month's bill may differ
    from the sum of its days. The warehouse is not held open meanwhile. `connect` makes the client of one book.
    Raises: SettingsError for a day whose bills still move, before anything is asked.
    """
    for day in days:
        reconciliation.check_settled(day, settings.clock())
    with open_warehouse(settings.warehouse_path) as warehouse:
        validated.ingest(warehouse, settings.raw_dir, Storage(settings.request_log))
        known = {day: reconciliation.read_known(warehouse, day) for day in days}
        months = {
            month.last_day: reconciliation.read_known_of_month(warehouse, month.last_day)
            for month in _settled_months(warehouse, days, settings.clock())
        }
    pace = Pace(most_per_minute=settings.reconcile_requests_per_minute, key_changed_at=settings.key_changed_at())
    books = [(reconciliation.take, day, known[day]) for day in sorted(days)]
    told: frozenset[int] = frozenset()
    for take, day, expected in books + [(reconciliation.take_month, day, months[day]) for day in sorted(months)]:
        with connect(
            settings.hyperstack_url,
            settings.api_key(),
            settings.clock,
            budget_seconds=reconciliation.BUDGET_SECONDS,
            pace=pace,
            patience_seconds=reconciliation.PATIENCE_SECONDS,
        ) as hyperstack:
            fetched = take(hyperstack, settings.raw_dir, settings.clock, day, replace(expected, told_vms=told))
        told |= fetched.told_vms
        yield fetched


def _settled_months(warehouse: Warehouse, days: Sequence[date], now: datetime) -> set[Window]:
    """Give the months of these days that ended two days ago or more and will have a book of each of their days."""
    booked = {*days, *warehouse.query("select utc_day from rollup.reconciliation_days")["utc_day"].to_list()}
    return {
        month
        for month in map(month_window, days)
        if now >= month.end + FINAL and booked.issuperset(days_between(month.start.date(), month.last_day))
    }


def is_whole(warehouse: Warehouse, fetched: Fetched) -> bool:
    """Tell whether a fetched file, once it was ingested, counts as a book of its day or month."""
    return any(book.source_file == fetched.source_file for book in read_books(warehouse, fetched.window))


def fetch_unknown(
    settings: Settings, days: Sequence[date], connect: Callable[..., Hyperstack] = Hyperstack
) -> list[Fetched]:
    """Fetch the books of those settled days of which there are neither good snapshots nor a book, as `fetch_books` does.

    Without a key nothing is asked, and of days that are known nothing either.
    """
    if not settings.has_api_key:
        return []
    now, minutes = settings.clock(), read_sql("rollup.snapshot_days")
    with open_warehouse(settings.warehouse_path) as warehouse:
        validated.ingest(warehouse, settings.raw_dir, Storage(settings.request_log))
        unknown = [
            day
            for day in days
            if now >= day_window(day).end + SETTLE
            and not warehouse.query(minutes, {"utc_day": day})["minutes_good"].item()
            and not read_books(warehouse, day_window(day))
        ]
    return list(fetch_books(settings, unknown, connect)) if unknown else []


def without_data(warehouse: Warehouse, days: Sequence[date]) -> list[date]:
    """Give the days, once they are built, of which there are neither snapshots nor books."""
    return sorted(set(days) - set(warehouse.query("from rollup.known_days")["utc_day"].to_list()))


def build(
    warehouse: Warehouse,
    days: Sequence[date],
    progress: Callable[[date], None] = lambda _: None,
    *,
    force: bool = False,
) -> list[BuiltDay]:
    """Build the rollups of the given days, then the metrics of every day that rests on one of them.

    Days after the given ones are rebuilt only where they were built before. Twice gives the same rows.
    Raises: WarehouseError when a day would lose minutes that it had, unless forced.
    """
    for day in sorted(days):
        with warehouse.transaction():
            transform.build_rollups(warehouse, day, force=force)
        progress(day)
    built = set(warehouse.query("select utc_day from metric.cost_per_mtok")["utc_day"].to_list())
    windows = sorted(set(days) | (days_resting_on(days) & built))
    for day in windows:
        with warehouse.transaction():
            transform.build_metrics(warehouse, day)
    found = checks.run_days(warehouse, windows)
    return [BuiltDay(day, [finding for finding in found[day] if not finding.passed]) for day in windows]
