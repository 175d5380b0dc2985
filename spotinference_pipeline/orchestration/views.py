"""Assets of the tables that are views: questions asked anew at each reading. Materializing one shows what it says now.

They have no partitions: rows of any later day, or a newly loaded invoice, change what they say of earlier ones.
"""

import dagster as dg

from spotinference_pipeline import warehouse
from spotinference_pipeline.orchestration import reports, steps
from spotinference_pipeline.orchestration.assets import OWNERS, POOL, key
from spotinference_pipeline.settings import Settings


def build_views(settings: Settings) -> list[dg.AssetsDefinition]:
    """Build the asset of every view; its lineage is read from its SQL."""
    columns = {table: reports.table_schema(described) for table, described in warehouse.describe_tables().items()}
    return [_view(settings, columns[table], table) for table in warehouse.VIEWS]


def _view(settings: Settings, columns: dg.TableSchema, table: str) -> dg.AssetsDefinition:
    sql = warehouse.read_sql(table)

    @dg.asset(
        key=key(table),
        deps=[key(upstream) for upstream in warehouse.read_upstreams(table)],
        group_name=table.partition(".")[0],
        owners=OWNERS,
        kinds={"sql", "duckdb"},
        description=reports.description_of_sql(sql),
        metadata={"dagster/column_schema": columns, "dagster/table_name": table, "sql": reports.sql_text(sql)},
        pool=POOL,
    )
    def read_view(context: dg.AssetExecutionContext) -> None:
        reports.record_view(context, *steps.read_view(settings, table), reports.column_lineage(table))

    return read_view
