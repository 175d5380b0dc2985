"""Days in order through rollups, metrics and checks: what the daily job does, for any days, by hand.

Owns the order and what a late change touches: a day's rollup is part of the seven windows that contain it, so the
metrics of the six days after it are built again when they exist. Dagster orders the same steps by partitions instead.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date

from spotinference_pipeline import checks, transform
from spotinference_pipeline.warehouse import Warehouse
from spotinference_pipeline.windows import ONE_DAY, TRAILING_DAYS


@dataclass(frozen=True)
class BuiltDay:
    """A day whose metrics were built, and the rules that it breaks."""

    utc_day: date
    broken: list[checks.Finding]


def build(
    warehouse: Warehouse,
    days: Sequence[date],
    progress: Callable[[date], None] = lambda _: None,
    *,
    force: bool = False,
) -> list[BuiltDay]:
    """Build the rollups of the given days, then the metrics of every window that contains one of them.

    Windows after the given days are rebuilt only where they were built before. Twice gives the same rows.
    Raises: WarehouseError when a day would lose minutes that it had, unless forced.
    """
    for day in sorted(days):
        transform.build_rollups(warehouse, day, force=force)
        progress(day)
    built = set(warehouse.query("select utc_day from metric.cost_per_mtok")["utc_day"].to_list())
    later = {day + offset * ONE_DAY for day in days for offset in range(TRAILING_DAYS)} & built
    windows = sorted(set(days) | later)
    for day in windows:
        transform.build_metrics(warehouse, day)
    return [BuiltDay(day, [finding for finding in checks.run(warehouse, day) if not finding.passed]) for day in windows]
