"""One day through the tables that are SQL: each is one SELECT in `sql/`, run as it is.

Owns the order of the tables; what they mean is in their files. The ledger's three tables, which are arithmetic on
counters, are `ledger`'s.
"""

from collections.abc import Mapping
from datetime import date

from spotinference_pipeline import ledger, wakes
from spotinference_pipeline.errors import WarehouseError
from spotinference_pipeline.warehouse import Warehouse, read_sql

ROLLUPS = (
    "rollup.snapshot_days",
    "rollup.token_days",
    "rollup.vm_token_days",
    "rollup.request_size_days",
    "rollup.credit_days",
    "rollup.organisation_days",
    "rollup.engine_days",
    "rollup.log_days",
    "rollup.token_residuals",
)
METRICS = (
    "metric.inputs",
    "metric.paid",
    "metric.served",
    "metric.cost_per_mtok",
    "metric.cost_parts",
    "metric.request_percentiles",
    "metric.vm_costs",
    "metric.model_costs",
    "metric.figures",
    "metric.list_price_comparison",
    "metric.list_price_baskets",
    "metric.load_costs",
    "metric.break_even",
    "metric.what_if",
    "metric.coverage",
    "metric.bounds",
)


def build_rollups(warehouse: Warehouse, utc_day: date, *, force: bool = False) -> Mapping[str, int]:
    """Build the day's rows of every rollup; give their numbers by table. A second call changes nothing.

    Raises: WarehouseError when fewer minutes of the day are known than when it was built before, unless forced.
    """
    coverage = {table: build_table(warehouse, table, utc_day, force=force) for table in ROLLUPS}
    return coverage | build_ledger(warehouse, utc_day)


def build_ledger(warehouse: Warehouse, utc_day: date) -> dict[str, int]:
    """Build the day's rows of the ledger and of the wakes, from one reading of the day; give their numbers by table."""
    facts = ledger.read_day(warehouse, utc_day)
    return ledger.build_day(warehouse, utc_day, facts) | wakes.build_day(warehouse, utc_day, facts)


def build_metrics(warehouse: Warehouse, utc_day: date) -> Mapping[str, int]:
    """Build the day's rows of every metric from the rollups of its seven days; give their numbers by table."""
    return {table: build_table(warehouse, table, utc_day) for table in METRICS}


def build_table(warehouse: Warehouse, table: str, utc_day: date, *, force: bool = False) -> int:
    """Build the day's rows of one SQL table; give their number.

    Raises: WarehouseError when fewer minutes of the day are known than when it was built before, unless forced.
    """
    if table == "rollup.snapshot_days" and not force:
        _refuse_less(warehouse, utc_day)
    return warehouse.build_day(table, utc_day)


def _refuse_less(warehouse: Warehouse, utc_day: date) -> None:
    day = {"utc_day": utc_day}
    stored = warehouse.query("select minutes_good from rollup.snapshot_days where utc_day = $utc_day", day)
    known = warehouse.query(read_sql("rollup.snapshot_days"), day)["minutes_good"].item()
    if not stored.is_empty() and known < stored.item():
        raise WarehouseError(
            f"day {utc_day}: expected at least the {stored.item()} good minutes of the last build, found {known}; "
            f"bring the raw files back, or run `spotinference build {utc_day} --force`"
        )
