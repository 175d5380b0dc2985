"""Which machines serve which model, as the operator says in SPOTINFERENCE_MODELS: a setting that SQL can read.

Owns validated.served_models and nothing of what a model costs (sql/metric/model_costs.sql). The setting holds for every
day whose metrics are built from then on.
"""

from collections.abc import Mapping, Sequence

import polars as pl

from spotinference_pipeline.batch import to_frame
from spotinference_pipeline.warehouse import Warehouse

TABLE = "validated.served_models"


def record(warehouse: Warehouse, models: Mapping[str, Sequence[int]]) -> None:
    """Let the table say what the setting says, and no more."""
    rows = sorted({(model, vm_id) for model, vm_ids in models.items() for vm_id in vm_ids})
    if warehouse.query(f"select model, vm_id from {TABLE} order by all").rows() == rows:  # noqa: S608
        return
    with warehouse.transaction():
        warehouse.execute(f"delete from {TABLE}")  # noqa: S608
        warehouse.append(TABLE, to_frame(rows, {"model": pl.String, "vm_id": pl.Int64}))
