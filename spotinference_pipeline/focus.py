"""Our own spend as FOCUS 1.2, the FinOps Open Cost and Usage Specification: one row per day, resource and charge.

Owns the names and order of the columns, and the two files. What each column says is sql/publication/focus_charges.sql and
docs/focus.md. It is a view of the ledger: what was first billed stays as it is, corrections are rows of their own.
Source: https://focus.finops.org/focus-specification/v1-2/
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from pathlib import Path

import polars as pl

from spotinference_pipeline.errors import SettingsError, WarehouseError
from spotinference_pipeline.warehouse import Warehouse, read_sql

ACCOUNT_TYPE = "Organisation"
_INSTANT = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True)
class Exported:
    """What was written: the files, their rows, and what these add up to."""

    files: list[Path]
    rows: int
    billed_usd: Decimal


def export(warehouse: Warehouse, days: Sequence[date], folder: Path, account: str) -> Exported:
    """Write the charges of built days to `focus.<first>.<last>.parquet` and `.csv`; the same rows give the same bytes.

    Raises: SettingsError when a day is not built or nothing is known of it, or there is no account to name; WarehouseError
    when the charges are not what the ledger says.
    """
    if not account.strip():
        raise SettingsError("--account: expected a BillingAccountId, found none; give your organisation's number")
    _check_days(warehouse, days)
    frame = read_charges(warehouse, days, account)
    _check_sums(warehouse, days, frame)
    folder.mkdir(parents=True, exist_ok=True)
    stem = folder / f"focus.{days[0]}.{days[-1]}"
    parquet, csv = stem.with_name(f"{stem.name}.parquet"), stem.with_name(f"{stem.name}.csv")
    aside = stem.with_name(f"{stem.name}.{os.getpid()}.open")
    frame.write_parquet(aside, compression="zstd", statistics=False)
    aside.replace(parquet)
    frame.write_csv(aside, datetime_format=_INSTANT)
    aside.replace(csv)
    return Exported([parquet, csv], frame.height, sum(frame["BilledCost"].to_list(), Decimal(0)))


def read_charges(warehouse: Warehouse, days: Sequence[date], account: str) -> pl.DataFrame:
    """Give the charges of the days under the specification's names, in the order of its columns (by alphabet, `x_` last)."""
    sql = read_sql("publication.focus_charges")
    frame = pl.concat([warehouse.query(sql, {"utc_day": day}) for day in days])
    account_columns = {
        "billing_account_id": account,
        "billing_account_name": None,
        "billing_account_type": ACCOUNT_TYPE,
    }
    frame = frame.with_columns(pl.lit(text, pl.String).alias(name) for name, text in account_columns.items())
    frame = frame.rename({name: _focus_name(name) for name in frame.columns})
    own = sorted(name for name in frame.columns if name.startswith("x_"))
    return frame.select(sorted(set(frame.columns) - set(own)) + own)


def _check_days(warehouse: Warehouse, days: Sequence[date]) -> None:
    built = set(warehouse.query("select utc_day from rollup.snapshot_days")["utc_day"].to_list())
    known = set(warehouse.query("from rollup.known_days")["utc_day"].to_list())
    for day in days:
        if day not in built:
            raise SettingsError(f"day {day}: expected it to be built, found none; run `spotinference build {day}`")
        if day not in known:
            raise SettingsError(
                f"day {day}: expected snapshots or a book of it, found neither, so it costs nothing here; "
                f"run `spotinference reconcile {day}`"
            )


def _check_sums(warehouse: Warehouse, days: Sequence[date], frame: pl.DataFrame) -> None:
    """Hold the charges against the ledger: a day that an earlier version built has no charges, though it cost something."""
    sql = "select cast(coalesce(sum(cost_usd), 0) as decimal(38, 15)) from rollup.cost_days where utc_day = $utc_day"
    billed = dict.fromkeys(days, Decimal(0))
    for start, amount in frame.select("ChargePeriodStart", "BilledCost").iter_rows():
        billed[start.date()] += amount
    for day, found in billed.items():
        cost = warehouse.query(sql, {"utc_day": day}).item()
        if found != cost:
            raise WarehouseError(
                f"day {day}: expected charges that add up to the ledger's {cost} USD, found {found}; "
                f"run `spotinference build {day}`"
            )


def _focus_name(column: str) -> str:
    """Give the specification's name: `billed_cost` is BilledCost, our own `x_cost_kind` is x_CostKind."""
    custom, name = ("x_", column[2:]) if column.startswith("x_") else ("", column)
    return custom + "".join(word.capitalize() for word in name.split("_"))
