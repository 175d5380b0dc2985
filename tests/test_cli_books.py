"""The commands of the books, as somebody types them."""

import json
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from spotinference_pipeline import cli, exit_codes
from spotinference_pipeline.errors import InvoiceError, SettingsError
from spotinference_pipeline.warehouse import open_warehouse

LINES = "line,description,category,usd,period_start,period_end\n"
LINES += "1,all machines,vm,2880.05,2026-11-21,2026-11-23\n2,VAT,tax,10,2026-11-21,2026-11-23\n"


class Desk:
    """A folder with two built days of one machine at $1 a minute, and the commands as somebody types them there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            "SPOTINFERENCE_DATA_DIR": str(folder / "data"),
            "SPOTINFERENCE_NOW": "2026-11-23T02:10:00Z",
            "SPOTINFERENCE_MIN_SNAPSHOT_COVERAGE": "0",
        }

    def type(self, *arguments: str) -> Any:
        return CliRunner().invoke(cli.app, list(arguments), env=self.environment)

    def invoice(self, text: str = LINES) -> str:
        path = self.folder / "invoice.csv"
        path.write_text(text)
        return str(path)


@pytest.fixture
def desk(tmp_path: Path, lay_raw_files: Callable[..., None]) -> Desk:
    desk = Desk(tmp_path)
    for day in (21, 22):
        lay_raw_files(tmp_path / "data", date(2026, 11, day))
    assert desk.type("build", "2026-11-21..2026-11-22").exit_code == 0
    return desk


def test_an_invoice_is_loaded_compared_and_published(desk: Desk) -> None:
    done = desk.type("invoice", "load", desk.invoice())
    assert done.exit_code == 0
    assert done.stdout.splitlines() == [
        "invoice 2026-11-21..2026-11-22 r1: 2 lines, 2890.05 USD, loaded",
        "billed 2880.05 USD and tax 10.00; ledger 2880.00; residual 5 cents",
        "next: `spotinference invoice show`, then `spotinference publish`",
    ]
    again = desk.type("invoice", "load", desk.invoice())
    assert again.stdout.splitlines()[0].endswith("2890.05 USD, was loaded before, nothing changed")
    assert len(again.stdout.splitlines()) == 2


def test_show_has_a_line_for_each_line_of_the_invoice(desk: Desk) -> None:
    desk.type("invoice", "load", desk.invoice())
    assert desk.type("invoice", "show").stdout.splitlines() == [
        "invoice 2026-11-21..2026-11-22 r1, 2026-11-21..2026-11-22",
        " line       billed       ledger    cents  what",
        "    1      2880.05      2880.00        5  vm: all machines",
        "    2        10.00                        tax: VAT",
        "billed 2880.05 USD and tax 10.00; ledger 2880.00; residual 5 cents",
    ]
    document = json.loads(desk.type("invoice", "show", "2026-11-21..2026-11-22", "--json").stdout)
    assert (document["residual_usd"], document["residual_cents"]) == ("0.050000000000000", 5)
    assert document["lines"][0]["billed_usd"] == "2880.050000000"
    assert document["lines"][0]["period_end"] == "2026-11-23"


def test_show_of_a_long_invoice_is_one_screen_of_its_largest_residuals(desk: Desk) -> None:
    lines = "".join(f"{n},disk,volume,{n},2026-11-21,2026-11-23\n" for n in range(3, 60))
    desk.type("invoice", "load", desk.invoice(LINES + lines))
    shown = desk.type("invoice", "show").stdout.splitlines()
    assert len(shown) == 28
    assert shown[-2] == "35 more lines with smaller residuals: --json"


def test_a_month_of_which_only_two_days_are_built_says_so(desk: Desk) -> None:
    desk.environment["SPOTINFERENCE_NOW"] = "2026-12-03T00:00:00Z"
    file = desk.invoice("line,description,category,usd\n1,all,vm,2880\n")
    done = desk.type("invoice", "load", file, "--period", "2026-11", "--number", "INV-7")
    assert done.stdout.splitlines()[1].endswith(
        "residual 0 cents; only 2 of its 30 days are built with snapshots or books"
    )


def test_days_that_were_built_without_any_data_are_not_taken_for_built(desk: Desk) -> None:
    """Nothing is known of the twentieth: it costs nothing in the ledger because nobody looked."""
    assert desk.type("build", "2026-11-20").exit_code == exit_codes.GATE
    refused = desk.type("export", "focus", "2026-11-20..2026-11-22", "--to", str(desk.folder / "out"))
    assert str(refused.exception).startswith("day 2026-11-20: expected snapshots or a book of it, found neither")
    assert not (desk.folder / "out").exists()
    file = desk.invoice(LINES.replace("2026-11-21,", "2026-11-20,"))
    done = desk.type("invoice", "load", file)
    assert done.stdout.splitlines()[1].endswith("; only 2 of its 3 days are built with snapshots or books")


def test_a_corrected_invoice_is_the_next_revision_and_a_rebuild_knows_both(desk: Desk) -> None:
    desk.type("invoice", "load", desk.invoice())
    corrected = desk.invoice(LINES.replace("2880.05", "2880"))
    refused = desk.type("invoice", "load", corrected)
    assert isinstance(refused.exception, InvoiceError)
    assert "--replace" in str(refused.exception)
    done = desk.type("invoice", "load", corrected, "--replace")
    assert done.stdout.splitlines()[:2] == [
        "invoice 2026-11-21..2026-11-22 r2: 2 lines, 2890 USD, loaded",
        "billed 2880.00 USD and tax 10.00; ledger 2880.00; residual 0 cents",
    ]
    before = desk.type("invoice", "show", "--json").stdout
    assert desk.type("rebuild").stdout == "11 files read, 2 days built\n"
    assert desk.type("invoice", "show", "--json").stdout == before


def test_an_invoice_that_was_never_loaded_is_wrong_use(desk: Desk) -> None:
    done = desk.type("invoice", "show")
    assert isinstance(done.exception, SettingsError)
    assert "expected it to be loaded, found none; run `spotinference invoice load FILE.csv`" in str(done.exception)
    desk.type("invoice", "load", desk.invoice())
    assert "found 2026-11-21..2026-11-22" in str(desk.type("invoice", "show", "x").exception)


@pytest.mark.parametrize("month", ["2026-13", "november", "2026-11-01", "0001-01"])
def test_a_month_that_is_none_is_wrong_use(desk: Desk, month: str) -> None:
    done = desk.type("invoice", "load", desk.invoice(), "--period", month)
    assert isinstance(done.exception, SettingsError)
    assert "expected YYYY-MM since 2015" in str(done.exception)


def test_an_invoice_with_a_fault_leaves_nothing_behind(desk: Desk) -> None:
    file = desk.invoice(LINES + "3,disk,volume,free,2026-11-21,2026-11-23\n")
    done = desk.type("invoice", "load", file)
    assert str(done.exception).startswith(f"invoice {file}: line 4, column usd: expected a decimal such as 1234.56")
    assert not (desk.folder / "data" / "raw" / "invoices").exists()


def test_each_fault_of_a_file_is_a_line_and_it_is_wrong_use(desk: Desk) -> None:
    two = desk.invoice(LINES + "3,disk,volume,free,2026-11-21,2026-11-23\n4,disk,gpu,1,2026-11-21,2026-11-23\n")
    done = desk.type("invoice", "load", two)
    assert done.exit_code == exit_codes.WRONG_USE
    first, second, last = done.stderr.splitlines()
    assert first == f"invoice {two}: line 4, column usd: expected a decimal such as 1234.56, found 'free'"
    assert second.startswith(f"invoice {two}: line 5, column category: expected one of vm, ")
    assert last.endswith("found 2; correct the file and load it again, nothing was loaded")
    many = desk.invoice(LINES + "".join(f"{n},disk,volume,free,2026-11-21,2026-11-23\n" for n in range(3, 30)))
    told = desk.type("invoice", "load", many).stderr.splitlines()
    assert len(told) == 21
    assert "found 27, 7 more than are shown;" in told[-1]


def test_a_file_that_is_not_in_its_form_is_wrong_use_and_a_contradiction_fails(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.type("invoice", "load", desk.invoice())
    for name, setting in desk.environment.items():
        monkeypatch.setenv(name, setting)
    for old, new, code in (("usd", "price", 2), ("2880.05", "free", 2), ("2880.05", "1", 1)):
        with pytest.raises(SystemExit) as ended:
            cli.main(["invoice", "load", desk.invoice(LINES.replace(old, new))])
        assert ended.value.code == code


def test_a_publication_has_the_residual_when_its_whole_window_is_billed(
    desk: Desk, lay_raw_files: Callable[..., None]
) -> None:
    desk.type("publish")
    latest = desk.folder / "data" / "published" / "economics" / "latest.json"
    assert json.loads(latest.read_text())["reconciliation"]["invoice_residual_usd"] is None
    for day in range(16, 21):
        lay_raw_files(desk.folder / "data", date(2026, 11, day))
    assert desk.type("build", "2026-11-16..2026-11-22").exit_code == 0
    week = LINES.replace("2026-11-21,", "2026-11-16,")
    desk.type("invoice", "load", desk.invoice(week.replace("2880.05", "17279.98")))
    desk.type("publish")
    found = json.loads(latest.read_text())
    assert found["revision"] > 1
    shown = json.loads(desk.type("invoice", "show", "--json").stdout)
    assert found["reconciliation"]["invoice_residual_usd"] == shown["residual_usd"].removeprefix("-")


def test_export_writes_the_spend_and_says_what_it_adds_up_to(desk: Desk) -> None:
    done = desk.type("export", "focus", "2026-11-21..2026-11-22", "--to", str(desk.folder / "out"), "--account", "4242")
    assert done.exit_code == 0
    assert done.stdout.splitlines() == [
        str(desk.folder / "out" / "focus.2026-11-21.2026-11-22.parquet"),
        str(desk.folder / "out" / "focus.2026-11-21.2026-11-22.csv"),
        "4 charges, 2880.000000000000000 USD",
    ]
    refused = desk.type("export", "focus", "2026-11-20", "--to", str(desk.folder / "out"))
    assert isinstance(refused.exception, SettingsError)


def test_export_of_a_day_that_breaks_a_rule_is_written_and_ends_with_3(desk: Desk) -> None:
    with open_warehouse(desk.folder / "data" / "warehouse.duckdb") as warehouse:
        for table in ("cost_days", "charge_days"):
            warehouse.execute(
                f"update rollup.{table} set cost_usd = -1 where cost_kind = 'idle' and utc_day = '2026-11-22'"
            )
    done = desk.type("export", "focus", "2026-11-21..2026-11-22", "--to", str(desk.folder / "out"))
    assert done.exit_code == exit_codes.GATE
    assert len(list((desk.folder / "out").iterdir())) == 2
    told = [line.partition(":")[0] for line in done.stderr.splitlines()]
    assert "2026-11-22 breaks only_credits_are_negative" in told
    assert not [line for line in told if line.startswith("2026-11-21")]
