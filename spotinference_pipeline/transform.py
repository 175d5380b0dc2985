"""One day through the tables that are SQL: each is one SELECT in `sql/`, run as it is.

Owns the order of the tables; what they mean is in their files. The ledger's three tables, which are arithmetic on
counters, are `ledger`'s.
"""

from collections.abc import Mapping
from datetime import date

from spotinference_pipeline import ledger
from spotinference_pipeline.warehouse import Warehouse

ROLLUPS = ("rollup.snapshot_days", "rollup.token_days")
METRICS = (
    "metric.inputs",
    "metric.paid",
    "metric.served",
    "metric.cost_per_mtok",
    "metric.cost_parts",
    "metric.figures",
)


def build_rollups(warehouse: Warehouse, utc_day: date) -> Mapping[str, int]:
    """Build the day's rows of every rollup; give their numbers by table. A second call changes nothing."""
    built = ledger.build_day(warehouse, utc_day)
    return built | {table: warehouse.build_day(table, utc_day) for table in ROLLUPS}


def build_metrics(warehouse: Warehouse, utc_day: date) -> Mapping[str, int]:
    """Build the day's rows of every metric from the rollups of its seven days; give their numbers by table."""
    return {table: warehouse.build_day(table, utc_day) for table in METRICS}
