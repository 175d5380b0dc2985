"""What an analyst sees beside an asset: row counts, samples, columns, the number. Turns results into Dagster's words."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from spotinference_pipeline.checks import Finding
from spotinference_pipeline.column_lineage import read_origins
from spotinference_pipeline.orchestration import markdown
from spotinference_pipeline.orchestration.steps import IngestReport, Written
from spotinference_pipeline.publication import Published
from spotinference_pipeline.reconciliation import Fetched
from spotinference_pipeline.warehouse import Column, describe_tables

LATE_DAYS = "late_days"


def table_schema(columns: Sequence[Column]) -> dg.TableSchema:
    """Give a table's columns with types and comments."""
    return dg.TableSchema([dg.TableColumn(column.name, column.type, description=column.comment) for column in columns])


def sql_text(sql: str) -> dg.MetadataValue[str]:
    """Give the SQL as it runs."""
    return dg.MetadataValue.md(f"```sql\n{sql}\n```")


def description_of_sql(sql: str) -> str:
    """Give the comment that a SQL file begins with."""
    lines: list[str] = []
    for line in sql.splitlines():
        if not line.startswith("--"):
            break
        lines.append(line.removeprefix("--").strip())
    return " ".join(lines)


def record_ingest(context: dg.AssetExecutionContext, report: IngestReport) -> None:
    """Put an ingest's numbers beside each validated table."""
    done = report.done
    for table, rows in report.rows.items():
        context.add_asset_metadata(
            {
                "dagster/row_count": rows,
                "files_read": done.files,
                "rows_read": done.rows_read,
                "rows_accepted": done.rows_accepted,
                "rows_quarantined": done.rows_quarantined,
                "rows_repeated": done.rows_repeated,
                LATE_DAYS: dg.MetadataValue.json([day.isoformat() for day in report.late_days]),
            },
            asset_key=table.split("."),
        )


def late_days(ingest: dg.AssetMaterialization | None) -> list[date]:
    """Give the days built before that an ingest brought rows about, as `record_ingest` put them beside it."""
    noted = ingest.metadata.get(LATE_DAYS) if ingest else None
    return [date.fromisoformat(day) for day in noted.value] if isinstance(noted, dg.JsonMetadataValue) else []  # type: ignore[union-attr]


def record_books(context: dg.AssetExecutionContext, books: Sequence[Fetched]) -> None:
    """Put each day's raw file beside its partition, a month's beside its last day, or the last day of this run."""
    keys = sorted(context.partition_keys)
    for book in books:
        day, of = book.utc_day.isoformat(), "" if book.window.days == 1 else "month_"
        context.add_asset_metadata(
            {
                f"{of}file": dg.MetadataValue.path(str(book.path)),
                f"{of}answers": book.exchanges,
                f"{of}failed": book.failed,
            },
            partition_key=day if day in keys else keys[-1],
        )


def copied_list_prices(path: Path | None, problem: str | None) -> dg.MaterializeResult[Any]:
    """Report the day's copy, or that there was one, or as a broken rule that only warns why there is none."""
    file = dg.MetadataValue.path(str(path)) if path else problem or "today has its copy"
    result = dg.AssetCheckResult(passed=problem is None, severity=dg.AssetCheckSeverity.WARN, description=problem)
    return dg.MaterializeResult(metadata={"file": file}, check_results=[result])


def column_lineage(table: str) -> dict[str, dg.TableColumnLineage | dg.TableSchema]:
    """Give what each column of a SQL table is made of, read from its SQL, and the table's columns with that in words.

    The open UI (1.13) keeps column lineage for its API and shows only the words.
    """
    origins = read_origins(table)
    deps = {
        column: [dg.TableColumnDep(dg.AssetKey(upstream.split(".")), name) for upstream, name in found]
        for column, found in origins.items()
    }
    columns = [
        replace(column, comment="; ".join(filter(None, [column.comment, _in_words(origins[column.name])])) or None)
        for column in describe_tables()[table]
    ]
    return {"dagster/column_lineage": dg.TableColumnLineage(deps), "dagster/column_schema": table_schema(columns)}


def _in_words(origins: Sequence[tuple[str, str]]) -> str:
    return "from " + ", ".join(f"{upstream}.{name}" for upstream, name in origins) if origins else ""


def links(location: str) -> dict[str, dg.MetadataValue[Any]]:
    """Give the way to the published page and to the newest published file."""
    return {
        "published_page": _link(f"{location}/economics/index.html"),
        "published_file": _link(f"{location}/economics/latest.json"),
    }


def record_tables(
    context: dg.AssetExecutionContext, tables: Sequence[Written], lineage: Mapping[str, Any] | None = None
) -> None:
    """Put each day's row count, rows, drawings and single figures beside its partition; Dagster plots figures over days."""
    for written in tables:
        context.add_asset_metadata(
            {
                "dagster/partition_row_count": written.rows,
                **_shown(written),
                **_figures(written),
                **(lineage or {}),
            },
            asset_key=written.table.split("."),
            partition_key=written.utc_day.isoformat(),
        )


def record_view(context: dg.AssetExecutionContext, rows: int, sample: pl.DataFrame, lineage: Mapping[str, Any]) -> None:
    """Put what a view says now beside its asset."""
    shown = dg.MetadataValue.md(markdown.lying(sample))
    context.add_asset_metadata({"dagster/row_count": rows, "rows": shown, **lineage})


def record_publications(context: dg.AssetExecutionContext, days: Sequence[Published], location: str) -> None:
    """Put each day's published revision beside its partition."""
    for day in days:
        figure = day.usd_per_million_tokens
        context.add_asset_metadata(
            {
                "status": day.status,
                "revision": day.revision,
                "is_new": day.is_new,
                "file": _link(f"{location}/economics/days/{day.utc_day}/r{day.revision}.json"),
                "page": _link(f"{location}/economics/index.html"),
                "usd_per_million_tokens": "withheld" if figure is None else float(figure),
            },
            partition_key=day.utc_day.isoformat(),
        )


def checked(broken: Sequence[Finding], meaning: str, *, blocks: bool) -> dg.AssetCheckResult:
    """Report a rule: passed when no day breaks it."""
    rows = pl.concat([finding.broken for finding in broken]) if broken else pl.DataFrame()
    return dg.AssetCheckResult(
        passed=not broken,
        severity=dg.AssetCheckSeverity.ERROR if blocks else dg.AssetCheckSeverity.WARN,
        description=meaning,
        metadata={"broken_rows": rows.height, "rows": dg.MetadataValue.md(markdown.lying(rows.head(20)))},
    )


def _shown(written: Written) -> dict[str, dg.MetadataValue[Any]]:
    """Give a day's drawing, rows and trends, those that there are."""
    one_a_day = written.trend.height > 0
    texts = {
        "plot": markdown.plot(written),
        "rows": markdown.upright(written.sample) if one_a_day else markdown.lying(written.sample),
        "trends": markdown.trends(written.trend) if written.trend.height > 1 else "",
    }
    return {name: dg.MetadataValue.md(text) for name, text in texts.items() if text}


def _figures(written: Written) -> dict[str, float]:
    """Give every figure of a table that has one row a day."""
    if not written.trend.height:
        return {}
    row = written.sample.row(0, named=True)
    return {
        name: float(figure)
        for name, figure in row.items()
        if name in markdown.measures(written.sample) and figure is not None
    }


def _link(location: str) -> dg.MetadataValue[Any]:
    return dg.MetadataValue.url(location) if "://" in location else dg.MetadataValue.path(location)
