"""The whole graph on one page, in stage order: raw, validated, rollup, metric, publication.

An asset's body calls one function and reports what it wrote. Tables that are SQL become assets by one factory; their
lineage is read from the SQL. Everything that opens the warehouse shares a pool of one.
"""

from collections.abc import Iterator
from datetime import date
from typing import Any

import dagster as dg

from spotinference_pipeline import transform, warehouse
from spotinference_pipeline.orchestration import reports, steps
from spotinference_pipeline.settings import Settings
from spotinference_pipeline.windows import BOUNDED_DAYS, TRAILING_DAYS

Results = Iterator[dg.MaterializeResult[Any]]
POOL = "duckdb_writer"
OWNERS = ["team:finance-data"]
VALIDATED = {
    "validated.exchanges": "Every HTTP exchange with Hyperstack, failed ones too. No row for a minute: nobody asked.",
    "validated.billing_snapshots": "Running counters of every billed resource, once a minute: USD since its creation.",
    "validated.billing_history": "Hyperstack's own bills: the organisation's total each minute, every line of closed days.",
    "validated.billing_graphs": "What a machine cost by the hour in Hyperstack's books, where nobody looked.",
    "validated.billing_events": "From when a machine was billed in which state, where nobody looked.",
    "validated.credit_balances": "The prepaid balance, once a minute.",
    "validated.payments": "What was paid into the prepaid balance, read with each day's books.",
    "validated.prices": "The price book, once an hour.",
    "validated.vm_states": "What each machine's state was: from the fleet list, from events, from the proxy's probes.",
    "validated.requests": "Every request that ended, with the tokens that vLLM itself reported. No prompts, no answers.",
    "validated.request_begins": "Requests that began in a segment of the log and did not end in it.",
    "validated.log_segments": "The sealed segments of the request log: their chain, and what is missing in them.",
    "validated.engine_counters": "vLLM's own token counters, scraped by the proxy once a minute: a second witness.",
    "validated.invoice_lines": "The lines of invoices as the operator loaded them, every revision.",
    "validated.list_prices": "Our own copy of hosted APIs' list prices, one a day: basket, member, tier, package version.",
    "validated.served_models": "Which machines serve which model, as SPOTINFERENCE_MODELS says.",
    "validated.ingested_files": "Every raw file and log segment that was read, with its digest and what became of its rows.",
    "validated.quarantine": "What could not be read or broke a contract, with the reason. Nothing disappears silently.",
}
LEDGER = {
    "rollup.resource_days": "What each resource cost on a day: its bill where there is a book, else what its counter moved by.",
    "rollup.cost_days": "The ledger: what each resource cost on a day, and what for: busy, idle, cold start, parked, storage ...",
    "rollup.wake_days": "What each wake of a machine cost on a day until its engine was ready. rollup/wakes has whole wakes.",
    "rollup.parks": "When machines left ACTIVE on a day.",
    "rollup.vm_days": "Where each machine's time went on a day: alive, on, busy, starting.",
}
LEDGER |= {
    "rollup.adjustments": "Every difference between our own ledger and Hyperstack's books, with the reason it was booked for.",
    "rollup.reconciliation_days": "How a day's books compare with our own ledger: bill, residual, what no line explains.",
    "rollup.charge_days": "What each resource cost on a day as first billed, and at list prices. Later books edit no row of it.",
}
BOOKS = dg.AssetKey(["raw", "billing_history"])
SOURCES = {
    "validated.requests": ["request_log"],
    "validated.request_begins": ["request_log"],
    "validated.log_segments": ["request_log"],
    "validated.engine_counters": ["request_log"],
    "validated.vm_states": ["hyperstack", "request_log"],
    "validated.billing_history": ["hyperstack", "billing_history"],
    "validated.billing_graphs": ["hyperstack", "billing_history"],
    "validated.payments": ["billing_history"],
    "validated.billing_events": ["hyperstack", "billing_history"],
    "validated.invoice_lines": ["invoices"],
    "validated.list_prices": ["list_prices"],
    "validated.served_models": [],
    "validated.ingested_files": ["hyperstack", "request_log", "invoices", "list_prices"],
    "validated.quarantine": ["hyperstack", "request_log", "invoices", "list_prices"],
}
"""The raw files a table is read from, where these are not Hyperstack's answers alone."""
WINDOWED = frozenset(
    {
        "metric.paid",
        "metric.served",
        "metric.cost_parts",
        "metric.vm_costs",
        "metric.model_costs",
        "metric.figures",
        "metric.coverage",
        "metric.bounds",
        "metric.list_price_comparison",
        "metric.list_price_baskets",
        "metric.load_costs",
    }
)
"""Metrics that read the seven days that end with theirs (bounds: ten), from rollups and inputs, whose rows are about one
day each."""
WAITS_FOR = {"metric.inputs": "rollup.snapshot_days", "metric.request_percentiles": "rollup.snapshot_days"}
"""What a table's SQL does not read, but must come after: a day is rolled up when its minutes are counted."""
PUBLISHED = (
    *(
        "cost_per_mtok",
        "cost_parts",
        "request_percentiles",
        "model_costs",
        "figures",
        "coverage",
        "bounds",
        "invoice_residuals",
    ),
    *("list_price_comparison", "list_price_baskets", "break_even", "load_costs", "what_if"),
)
"""Metrics that a published day is made of, beside the inputs of its seven days."""
SEVEN_DAYS, TEN_DAYS = (
    dg.TimeWindowPartitionMapping(start_offset=1 - days, allow_nonexistent_upstream_partitions=True)
    for days in (TRAILING_DAYS, BOUNDED_DAYS)
)


def key(table: str) -> dg.AssetKey:
    """Give the asset key of a table: the same name, by its parts."""
    return dg.AssetKey(table.split("."))


def build_assets(settings: Settings, first_day: date) -> list[dg.AssetsDefinition | dg.AssetSpec]:
    """Build every asset for these settings; partitions are closed UTC days from `first_day` on."""
    days = dg.DailyPartitionsDefinition(start_date=first_day.isoformat(), timezone="UTC")
    columns = {table: reports.table_schema(described) for table, described in warehouse.describe_tables().items()}
    return [
        *_raw_specs(),
        _books(settings, days),
        _validated(settings, columns),
        _ledger(settings, columns, days),
        *[_sql_table(settings, columns, days, table) for table in (*transform.ROLLUPS, *transform.METRICS)],
        _publication(settings, days),
    ]


def _raw_specs() -> list[dg.AssetSpec]:
    return [
        dg.AssetSpec(
            ["raw", "hyperstack"],
            group_name="raw",
            owners=OWNERS,
            kinds={"json", "rest"},
            description="Hyperstack's answers, byte for byte, one file a minute, landed by `minute_snapshot`.",
        ),
        dg.AssetSpec(
            ["raw", "request_log"],
            group_name="raw",
            owners=OWNERS,
            kinds={"json"},
            description="Sealed segments of the proxy's request log: one line per begin, usage and end of each request.",
        ),
        dg.AssetSpec(
            ["raw", "invoices"],
            group_name="raw",
            owners=OWNERS,
            kinds={"csv"},
            description="Invoices, byte for byte, one file per revision, landed by `spotinference invoice load`.",
        ),
    ]


def _books(settings: Settings, days: dg.DailyPartitionsDefinition) -> dg.AssetsDefinition:
    @dg.asset(
        key=BOOKS,
        group_name="raw",
        owners=OWNERS,
        kinds={"json", "rest"},
        description=(
            "Hyperstack's own books of closed days, byte for byte: the organisation's total and every line. Choose days and "
            "launch to read them again, or to make up for time that nobody watched; `late_data` then builds these days anew."
        ),
        partitions_def=days,
        backfill_policy=dg.BackfillPolicy.single_run(),
        pool=POOL,
    )
    def fetch_books(context: dg.AssetExecutionContext) -> None:
        reports.record_books(context, steps.fetch_books(settings, steps.days_of(context.partition_keys)))

    return fetch_books


def _validated(settings: Settings, columns: dict[str, dg.TableSchema]) -> dg.AssetsDefinition:
    def spec(table: str, description: str) -> dg.AssetSpec:
        return dg.AssetSpec(
            key(table),
            deps=[dg.AssetKey(["raw", source]) for source in SOURCES.get(table, ["hyperstack"])],
            group_name="validated",
            owners=OWNERS,
            kinds={"python", "polars", "pandera", "duckdb"},
            description=description,
            metadata={"dagster/column_schema": columns[table], "dagster/table_name": table},
        )

    @dg.multi_asset(name="validated", specs=[spec(*entry) for entry in VALIDATED.items()], pool=POOL)
    def validated(context: dg.AssetExecutionContext) -> Results:
        reports.record_ingest(context, steps.ingest(settings, list(VALIDATED)))
        yield from (dg.MaterializeResult(asset_key=key(table)) for table in VALIDATED)

    return validated


def _ledger(
    settings: Settings, columns: dict[str, dg.TableSchema], days: dg.DailyPartitionsDefinition
) -> dg.AssetsDefinition:
    upstream = [
        "validated.billing_snapshots",
        "validated.billing_history",
        "validated.billing_graphs",
        "validated.billing_events",
        "validated.vm_states",
        "validated.requests",
        "validated.prices",
    ]

    @dg.multi_asset(
        name="ledger",
        specs=[
            dg.AssetSpec(
                key(table),
                deps=[key(name) for name in upstream],
                group_name="rollup",
                owners=OWNERS,
                kinds={"python", "duckdb"},
                description=description,
                metadata={"dagster/column_schema": columns[table], "dagster/table_name": table},
            )
            for table, description in LEDGER.items()
        ],
        partitions_def=days,
        backfill_policy=dg.BackfillPolicy.single_run(),
        pool=POOL,
    )
    def build_ledger(context: dg.AssetExecutionContext) -> Results:
        reports.record_tables(context, steps.build_ledger(settings, steps.days_of(context.partition_keys)))
        yield from (dg.MaterializeResult(asset_key=key(table)) for table in LEDGER)

    return build_ledger


def _sql_table(
    settings: Settings, columns: dict[str, dg.TableSchema], days: dg.DailyPartitionsDefinition, table: str
) -> dg.AssetsDefinition:
    sql, upstreams = warehouse.read_sql(table), warehouse.read_upstreams(table)
    if table in WAITS_FOR:
        upstreams.append(WAITS_FOR[table])

    def dependency(upstream: str) -> dg.AssetDep:
        is_window = table in WINDOWED and (upstream.startswith("rollup.") or upstream == "metric.inputs")
        read_days = TEN_DAYS if table == "metric.bounds" else SEVEN_DAYS
        return dg.AssetDep(key(upstream), partition_mapping=read_days if is_window else None)

    @dg.asset(
        key=key(table),
        deps=[dependency(upstream) for upstream in upstreams],
        group_name=table.partition(".")[0],
        owners=OWNERS,
        kinds={"sql", "duckdb"},
        description=reports.description_of_sql(sql),
        metadata={
            "dagster/column_schema": columns[table],
            "dagster/table_name": table,
            "sql": reports.sql_text(sql),
            **reports.links(settings.published),
        },
        partitions_def=days,
        backfill_policy=dg.BackfillPolicy.single_run(),
        pool=POOL,
    )
    def build_table(context: dg.AssetExecutionContext) -> None:
        written = steps.build_table(settings, table, steps.days_of(context.partition_keys))
        reports.record_tables(context, written, reports.column_lineage(table))

    return build_table


def _publication(settings: Settings, days: dg.DailyPartitionsDefinition) -> dg.AssetsDefinition:
    @dg.asset(
        key=["publication", "economics"],
        deps=[key(f"metric.{name}") for name in PUBLISHED]
        + [dg.AssetDep(key("metric.inputs"), partition_mapping=SEVEN_DAYS)],
        group_name="publication",
        owners=OWNERS,
        kinds={"json", "html"},
        description=(
            "The number as outsiders see it: an immutable revision of the day, its inputs, both queries verbatim, the pages, "
            "and last the pointer latest.json. A day whose figures did not change gets no new revision."
        ),
        metadata=reports.links(settings.published),
        partitions_def=days,
        backfill_policy=dg.BackfillPolicy.single_run(),
        pool=POOL,
    )
    def publish(context: dg.AssetExecutionContext) -> None:
        days = steps.days_of(context.partition_keys)
        reports.record_publications(context, steps.publish(settings, days), settings.published)

    return publish
