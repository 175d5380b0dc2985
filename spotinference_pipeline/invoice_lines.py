"""An invoice as an operator writes it down: the columns of the CSV, and what is wrong with it, by line. Pure.

Owns the form that docs/invoice.md describes. A file is read as a whole or not at all. Amounts are decimals from the
first byte on. How a file is kept is `raw_invoices`'; what its lines match in the ledger is sql/metric/invoice_residuals.sql.
"""

import csv
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal

from spotinference_pipeline.errors import InvoiceFormError
from spotinference_pipeline.windows import parse_day

REQUIRED = ("line", "description", "usd")
TARGETS = ("resource_type", "resource_id", "category")
PERIOD = ("period_start", "period_end")
COLUMNS = (*REQUIRED, *TARGETS, "quantity", "unit", *PERIOD)
CATEGORIES = ("vm", "volume", "snapshot", "bucket", "cluster", "contract", "other", "tax")
MOST_BYTES = 8 * 2**20
MOST_CHARACTERS = 300
"""Longest text of one cell."""
MOST_USD, MOST_QUANTITY = 10**9, 10**12
_DECIMAL = re.compile(r"-?[0-9]{1,12}(\.[0-9]{1,9})?", re.ASCII)
_NUMBER = re.compile(r"[1-9][0-9]{0,17}", re.ASCII)
_TYPE = re.compile(r"[a-z][a-z0-9_]{0,63}", re.ASCII)
Period = tuple[date, date]
"""The first billed UTC day, and the first day after the last one."""


@dataclass(frozen=True)
class InvoiceLine:
    """One line: it bills a resource, or a category, or it is tax (the category `tax`)."""

    line: int
    description: str
    resource_type: str | None
    resource_id: int | None
    category: str | None
    quantity: Decimal | None
    unit: str | None
    usd: Decimal
    period: Period


class _Faults(list[str]):
    """What is wrong, in the order of the file."""

    def add(self, line: int, column: str, expected: str, found: str) -> None:
        self.append(f"line {line}, column {column}: expected {expected}, found {found[:80]!r}")


def parse_lines(content: bytes, period: Period | None) -> list[InvoiceLine]:
    """Read the lines of an invoice, which are all of `period`, or each of its own if that is None.

    Raises: InvoiceFormError naming the first fault by its line in the file, and how many more there are.
    """
    rows = list(_read_rows(content))
    if not rows:
        raise InvoiceFormError("line 1: expected the names of the columns, found an empty file; see docs/invoice.md")
    (_, header), *body = rows
    _check_header(header, period)
    faults, lines = _Faults(), []
    seen: dict[int, int] = {}
    for number, cells in body:
        if len(cells) != len(header):
            faults.append(f"line {number}: expected {len(header)} columns as in the first line, found {len(cells)}")
            continue
        count = len(faults)
        read = _read_line(number, dict(zip(header, cells, strict=True)), period, faults)
        if read is None or len(faults) > count:
            continue
        if (first := seen.setdefault(read.line, number)) != number:
            faults.add(number, "line", f"a number of its own, line {first} of the file has it too", str(read.line))
        lines.append(read)
    if not body:
        faults.append("line 2: expected a line of the invoice, found the end of the file")
    if faults:
        more = f" ({len(faults) - 1} more faults)" if len(faults) > 1 else ""
        raise InvoiceFormError(f"{faults[0]}{more}; correct the file and load it again, nothing was loaded", faults)
    return lines


def _read_rows(content: bytes) -> Iterator[tuple[int, list[str]]]:
    """Give each row's first line in the file and its cells; rows without any text are left out."""
    if len(content) > MOST_BYTES:
        raise InvoiceFormError(f"file: expected at most {MOST_BYTES} bytes, found {len(content)}; is it an invoice?")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InvoiceFormError(f"line {line}: expected UTF-8, found other bytes; save the file as CSV UTF-8") from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    line = 1
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                yield line, [cell.strip() for cell in row]
            line = reader.line_num + 1
    except csv.Error as error:
        raise InvoiceFormError(
            f"line {line}: expected comma-separated values, found {error}; correct the quotes and load the file again"
        ) from None


def _check_header(header: list[str], period: Period | None) -> None:
    form = "see docs/invoice.md for the columns"
    unknown = [name for name in header if name not in COLUMNS]
    if unknown:
        raise InvoiceFormError(f"line 1: expected the columns {', '.join(COLUMNS)}, found {unknown[0][:80]!r}; {form}")
    if len(set(header)) < len(header):
        twice = next(name for name in header if header.count(name) > 1)
        raise InvoiceFormError(f"line 1: expected each column once, found {twice!r} twice; take one of them out")
    missing = [name for name in REQUIRED if name not in header]
    if "category" not in header and not {"resource_type", "resource_id"} <= set(header):
        missing.append("category, or resource_type and resource_id")
    if missing:
        raise InvoiceFormError(f"line 1: expected a column {missing[0]}, found none; {form}")
    dated = [name for name in PERIOD if name in header]
    if period is None and len(dated) < 2:
        raise InvoiceFormError(
            "line 1: expected the billed period, found neither --period nor the columns period_start and period_end; "
            "load it with --period YYYY-MM if it bills one month"
        )
    if period is not None and dated:
        raise InvoiceFormError(
            f"line 1: expected the billed period once, found --period and the column {dated[0]}; leave out --period"
        )


def _read_line(number: int, cells: Mapping[str, str], period: Period | None, faults: _Faults) -> InvoiceLine | None:
    """Read one line of the file; None when it cannot be one. Everything wrong with it is added to the faults."""
    for column, text in cells.items():
        if len(text) > MOST_CHARACTERS or not text.isprintable():
            faults.add(number, column, f"printable text of at most {MOST_CHARACTERS} characters", text)
            return None
    for column in REQUIRED:
        if not cells[column]:
            faults.add(number, column, "a value", "")
            return None
    if not _NUMBER.fullmatch(cells["line"]):
        faults.add(number, "line", "a whole number from 1", cells["line"])
        return None
    target = _read_target(number, cells, faults)
    if cells.get("quantity") and not cells.get("unit"):
        faults.add(number, "unit", "the unit of the quantity", "")
    quantity = _read_decimal(number, "quantity", cells.get("quantity", ""), MOST_QUANTITY, faults)
    usd = _read_decimal(number, "usd", cells["usd"], MOST_USD, faults)
    billed = period or _read_period(number, cells, faults)
    if usd is None or billed is None or target is None:
        return None
    unit = cells.get("unit") or None
    return InvoiceLine(int(cells["line"]), cells["description"], *target, quantity, unit, usd, billed)


def _read_target(
    number: int, cells: Mapping[str, str], faults: _Faults
) -> tuple[str | None, int | None, str | None] | None:
    kind, resource_id, category = (cells.get(name, "") for name in TARGETS)
    if category and (kind or resource_id):
        faults.add(number, "category", "nothing beside a resource", category)
    elif category:
        if category in CATEGORIES:
            return None, None, category
        faults.add(number, "category", f"one of {', '.join(CATEGORIES)}", category)
    elif not kind and not resource_id:
        faults.add(number, "category", "a category, or resource_type and resource_id", "")
    elif not _TYPE.fullmatch(kind):
        faults.add(number, "resource_type", "a type of resource such as vm or volume", kind)
    elif not _NUMBER.fullmatch(resource_id):
        faults.add(number, "resource_id", "Hyperstack's number of the resource", resource_id)
    else:
        return kind, int(resource_id), None
    return None


def _read_decimal(number: int, column: str, text: str, most: int, faults: _Faults) -> Decimal | None:
    if not text:
        return None
    if not _DECIMAL.fullmatch(text) or abs(Decimal(text)) > most:
        faults.add(number, column, "a decimal such as 1234.56", text)
        return None
    return Decimal(text)


def _read_period(number: int, cells: Mapping[str, str], faults: _Faults) -> Period | None:
    days = []
    for column in PERIOD:
        try:
            day = parse_day(cells[column])
        except ValueError:
            day = date.min
        if not 2015 <= day.year < 2100:
            faults.add(number, column, "a UTC day such as 2026-11-01", cells[column])
            return None
        days.append(day)
    start, end = days
    if start >= end:
        faults.add(number, "period_end", f"the first day after the period, later than {start}", str(end))
        return None
    return start, end
