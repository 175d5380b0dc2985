"""The commands of the books: invoices and exports. What each does is the stages'; here are their options and what they print."""

import json
import sys
from collections.abc import Callable, Sequence
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import typer

from spotinference_pipeline import checks, focus, invoices, validated
from spotinference_pipeline.errors import InvoiceFormError, SettingsError
from spotinference_pipeline.exit_codes import GATE, WRONG_USE
from spotinference_pipeline.invoices import Comparison, Given
from spotinference_pipeline.settings import Settings
from spotinference_pipeline.storage import Storage
from spotinference_pipeline.warehouse import Warehouse, open_warehouse
from spotinference_pipeline.windows import ONE_DAY, parse_days, parse_month

SCREEN_LINES = 24
"""Most lines of an invoice that are shown to a person; the largest residuals, if there are more."""
MOST_FAULTS = 20
"""Most faults of an invoice's file that are told."""
Number = Annotated[str | None, typer.Option(help="the invoice's number; default: its period, such as 2026-11")]
Month = Annotated[
    str | None, typer.Option(help="the billed UTC month, such as 2026-11; else the file's columns say it")
]
Replace = Annotated[
    bool, typer.Option("--replace", help="this file corrects the invoice: keep it as its next revision")
]
Days = Annotated[str, typer.Argument(metavar="DAY[..DAY]", help="built UTC days, such as 2026-11-01..2026-11-30")]
Folder = Annotated[Path, typer.Option("--to", help="folder for the two files")]
Account = Annotated[str, typer.Option(help="BillingAccountId: your organisation's number at Hyperstack")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]
_BOOK_FIGURES = {"bill": "billed", "own": "counter", "residual": "residual", "unattributed": "unattributed"}


def add_commands(app: typer.Typer, read_settings: Callable[[], Settings]) -> None:
    """Add the commands to the program's."""
    invoice = typer.Typer(no_args_is_help=True, help="Load invoices, and show what of them the ledger does not say.")

    @invoice.command()
    def load(file: Path, number: Number = None, period: Month = None, replace: Replace = False) -> None:
        """Load an invoice's lines from a CSV file, all or none; docs/invoice.md has its columns."""
        months = None if period is None else parse_month(period)
        _load(read_settings(), Given(file, number, months, replace))

    @invoice.command()
    def show(number: Annotated[str | None, typer.Argument()] = None, as_json: AsJson = False) -> None:
        """Show an invoice, by default the latest, beside the ledger: residuals by line and in total."""
        _show(read_settings(), number, as_json=as_json)

    app.add_typer(invoice, name="invoice")
    export = typer.Typer(no_args_is_help=True, help="Write what was spent for other programs.")

    @export.callback()
    def every_export() -> None:
        """Write what was spent for other programs."""

    @export.command(name="focus")
    def export_focus(days: Days, to: Folder, account: Account = "hyperstack") -> None:
        """Write the spend of built UTC days as FOCUS 1.2, Parquet and CSV; docs/focus.md has the columns."""
        _export_focus(read_settings(), days, to, account)

    app.add_typer(export, name="export")


def describe_books(warehouse: Warehouse, utc_day: date) -> str:
    """Put a reconciled day on one line: the bill, our own ledger, and what was booked between them, by reason."""
    given = {"utc_day": utc_day}
    books = warehouse.query("from rollup.reconciliation_days where utc_day = $utc_day", given).rows(named=True)
    if not books:
        return f"{utc_day} no whole book"
    reasons = warehouse.query(
        """
        select reason, sum(cost_usd) as cost_usd
        from rollup.adjustments
        where utc_day = $utc_day
        group by reason
        order by reason
        """,
        given,
    )
    figures = [f"{name} {books[0][f'{column}_usd']:.6f}" for name, column in _BOOK_FIGURES.items()]
    booked = [f"{reason} {amount:.6f}" for reason, amount in reasons.rows()]
    return f"{utc_day} {' '.join(figures)}: {', '.join(booked) or 'nothing to book'}"


def _export_focus(settings: Settings, days: str, folder: Path, account: str) -> None:
    with open_warehouse(settings.warehouse_path) as warehouse:
        wanted = parse_days(days)
        done = focus.export(warehouse, wanted, folder, account)
        blocking = sorted(set(checks.describe()) - checks.WARNINGS)
        found = checks.run_days(warehouse, wanted, blocking)
    for path in done.files:
        print(path)
    print(f"{done.rows} charges, {done.billed_usd} USD")
    broken = [(day, finding) for day in wanted for finding in found[day] if finding.blocks]
    for day, finding in broken:
        print(finding.describe(day), file=sys.stderr)
    if broken:
        raise typer.Exit(GATE)


def _load(settings: Settings, given: Given) -> None:
    try:
        loaded = invoices.load(settings.invoices_dir, given, settings.clock())
    except InvoiceFormError as error:
        if len(error.faults) < 2:
            raise
        _tell_faults(given.path, error.faults)
        raise typer.Exit(WRONG_USE) from None
    with open_warehouse(settings.warehouse_path) as warehouse:
        validated.ingest(warehouse, settings.raw_dir, Storage(settings.request_log))
        comparisons = invoices.read_comparisons(warehouse)
    became = "loaded" if loaded.is_new else "was loaded before, nothing changed"
    print(f"invoice {loaded.number} r{loaded.revision}: {loaded.lines} lines, {loaded.usd} USD, {became}")
    print(_sum_up(next(each for each in comparisons if each.number == loaded.number)))
    if loaded.is_new:
        print("next: `spotinference invoice show`, then `spotinference publish`")


def _tell_faults(file: Path, faults: Sequence[str]) -> None:
    for fault in faults[:MOST_FAULTS]:
        print(f"invoice {file}: {fault}", file=sys.stderr)
    more = f", {len(faults) - MOST_FAULTS} more than are shown" if len(faults) > MOST_FAULTS else ""
    print(
        f"spotinference: invoice {file}: expected no fault, found {len(faults)}{more}; correct the file and load it again, "
        "nothing was loaded",
        file=sys.stderr,
    )


def _show(settings: Settings, number: str | None, *, as_json: bool) -> None:
    with open_warehouse(settings.warehouse_path) as warehouse:
        comparisons = invoices.read_comparisons(warehouse)
    known = {comparison.number: comparison for comparison in comparisons}
    if number is None and known:
        number = comparisons[-1].number
    if number not in known:
        found = f"found {', '.join(known)}" if known else "found none"
        raise SettingsError(
            f"invoice {number or 'FILE'}: expected it to be loaded, {found}; run `spotinference invoice load FILE.csv`"
        )
    if as_json:
        print(json.dumps(_document(known[number]), indent=1))
    else:
        print("\n".join(_screen(known[number])))


def _sum_up(of: Comparison) -> str:
    built = f"; only {of.built_days} of its {of.period_days} days are built with snapshots or books"
    return (
        f"billed {of.billed_usd:.2f} USD and tax {of.tax_usd:.2f}; ledger {of.ledger_usd:.2f}; "
        f"residual {of.residual_cents} cents{built if of.built_days < of.period_days else ''}"
    )


def _screen(of: Comparison) -> list[str]:
    lines = list(of.lines.iter_rows(named=True))
    shown = lines
    if len(lines) > SCREEN_LINES:
        largest = sorted(lines, key=lambda line: -abs(line["residual_usd"] or 0))[:SCREEN_LINES]
        shown = [line for line in lines if line in largest]
    start, end = of.period
    return [
        f"invoice {of.number} r{of.revision}, {start}..{end - ONE_DAY}",
        f"{'line':>5} {'billed':>12} {'ledger':>12} {'cents':>8}  what",
        *(
            f"{'-' if line['line'] is None else line['line']:>5} {line['billed_usd']:>12.2f} {_usd(line['ledger_usd']):>12} "
            f"{'' if line['residual_cents'] is None else line['residual_cents']:>8}  {_what(line)}"
            for line in shown
        ),
        *([f"{len(lines) - len(shown)} more lines with smaller residuals: --json"] if len(shown) < len(lines) else []),
        _sum_up(of),
    ]


def _what(line: dict[str, Any]) -> str:
    target = line["category"] or f"{line['resource_type']} {line['resource_id']}"
    return f"{target}: {line['description']}"[:60]


def _usd(amount: Decimal | None) -> str:
    return "" if amount is None else f"{amount:.2f}"


def _document(of: Comparison) -> dict[str, Any]:
    lines = [
        {
            name: str(cell)
            if isinstance(cell, Decimal) or name.startswith("period_s") or name == "period_end"
            else cell
            for name, cell in line.items()
        }
        for line in of.lines.iter_rows(named=True)
    ]
    sums = {name: str(getattr(of, name)) for name in ("billed_usd", "tax_usd", "ledger_usd", "residual_usd")}
    return {
        "invoice_number": of.number,
        "revision": of.revision,
        "period_start": of.period[0].isoformat(),
        "period_end": of.period[1].isoformat(),
        "period_days": of.period_days,
        "built_days": of.built_days,
        **sums,
        "residual_cents": of.residual_cents,
        "lines": lines,
    }
