"""Invoices against the ledger: loading a file as a new revision, and reading what its lines match.

Owns what a repeated and a corrected file mean. The form of a file is `invoice_lines`', the raw file `raw_invoices`', the
matching sql/metric/invoice_residuals.sql. Loading writes a raw file and nothing else; ingest reads it like any other.
"""

import hashlib
from dataclasses import dataclass
from datetime import date, datetime
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

import polars as pl

from spotinference_pipeline.errors import InvoiceError, InvoiceFormError
from spotinference_pipeline.invoice_lines import InvoiceLine, Period, parse_lines
from spotinference_pipeline.raw_invoices import NUMBER, RawInvoice, append_invoice, find_newest
from spotinference_pipeline.warehouse import Warehouse
from spotinference_pipeline.windows import ONE_DAY, last_closed_day

CENT = Decimal("0.01")


@dataclass(frozen=True)
class Given:
    """What an operator hands over: the file, and what is told beside it. Without a number it is called by its period."""

    path: Path
    number: str | None = None
    period: Period | None = None
    is_correction: bool = False


@dataclass(frozen=True)
class Loaded:
    """What became of a file: the revision that has its bytes, and whether this call made it."""

    number: str
    revision: int
    is_new: bool
    lines: int
    usd: Decimal


def load(folder: Path, given: Given, now: datetime) -> Loaded:
    """Keep an invoice's file as a new revision, if all of it can be read. The same file again changes nothing.

    Raises: InvoiceFormError when the file is not in its form or bills days that are not over; InvoiceError when an invoice
    of that number was loaded with other content and this is not said to be its correction.
    """
    content = given.path.read_bytes()
    try:
        lines = parse_lines(content, given.period)
        _check_is_over(lines, last_closed_day(now))
        number = _number_of(given, lines)
    except InvoiceFormError as error:
        raise InvoiceFormError(f"invoice {given.path}: {error}", error.faults) from None
    newest = find_newest(folder, number)
    invoice = RawInvoice(
        number=number,
        revision=1 if newest is None else newest.revision + 1,
        loaded_at=now,
        file_name=given.path.name,
        period_start=given.period[0] if given.period else None,
        period_end=given.period[1] if given.period else None,
        sha256=hashlib.sha256(content).hexdigest(),
        body=content.decode(),
    )
    usd = sum((line.usd for line in lines), Decimal(0))
    if newest is not None and (newest.sha256, newest.period) == (invoice.sha256, invoice.period):
        return Loaded(number, newest.revision, False, len(lines), usd)
    if newest is not None and not given.is_correction:
        raise InvoiceError(
            f"invoice {number}: expected the file of revision {newest.revision} ({newest.file_name}), found another; "
            "load it with --replace if it corrects that one, or with another --number"
        )
    append_invoice(folder, invoice)
    return Loaded(number, invoice.revision, True, len(lines), usd)


@dataclass(frozen=True)
class Comparison:
    """One invoice against the ledger: its lines, what no line bills, and the sums. Money is USD."""

    number: str
    revision: int
    period: Period
    period_days: int
    built_days: int
    lines: pl.DataFrame
    billed_usd: Decimal
    tax_usd: Decimal
    ledger_usd: Decimal
    residual_usd: Decimal

    @property
    def residual_cents(self) -> int:
        """The residual of the whole invoice, rounded once; rounded lines may add up to a few cents more or less."""
        return int((self.residual_usd / CENT).to_integral_value(ROUND_HALF_UP))


def read_comparisons(warehouse: Warehouse) -> list[Comparison]:
    """Compare every loaded invoice with the ledger as it is now, the earliest period first."""
    rows = warehouse.query("from metric.invoice_residuals")
    found = [_compare(lines) for lines in rows.partition_by("invoice_number", maintain_order=True)]
    return sorted(found, key=lambda comparison: (comparison.period, comparison.number))


def _compare(lines: pl.DataFrame) -> Comparison:
    first = lines.row(0, named=True)
    taxed, other = (lines.filter(pl.col("line_kind") == "tax"), lines.filter(pl.col("line_kind") != "tax"))

    def add(frame: pl.DataFrame, column: str) -> Decimal:
        return sum(frame[column].to_list(), Decimal(0))

    return Comparison(
        first["invoice_number"],
        first["revision"],
        (min(lines["period_start"].to_list()), max(lines["period_end"].to_list())),
        first["period_days"],
        first["built_days"],
        lines,
        add(other, "billed_usd"),
        add(taxed, "billed_usd"),
        add(other, "ledger_usd"),
        add(other, "residual_usd"),
    )


def _check_is_over(lines: list[InvoiceLine], last_day: date) -> None:
    end = max(line.period[1] for line in lines)
    if end - ONE_DAY > last_day:
        raise InvoiceFormError(
            f"period: expected UTC days that are over, the last is {last_day}, found {end - ONE_DAY}; correct the "
            "period, or load it when the period is over"
        )


def _number_of(given: Given, lines: list[InvoiceLine]) -> str:
    """Give the invoice's number, by default its period: `2026-11`, or `2026-11-01..2026-11-15`."""
    if given.number is not None:
        if not NUMBER.fullmatch(given.number) or given.number != given.number.strip():
            raise InvoiceFormError(
                f"number: expected at most 64 printable ASCII characters from a letter or digit on, found {given.number[:80]!r}"
            )
        return given.number
    start, end = min(line.period[0] for line in lines), max(line.period[1] for line in lines)
    is_month = start.day == 1 and end == (start + 31 * ONE_DAY).replace(day=1)
    return f"{start:%Y-%m}" if is_month else f"{start}..{end - ONE_DAY}"
