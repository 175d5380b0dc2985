"""Invoices from the file to the residual: kept as raw files, read by ingest, matched with the ledger."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spotinference_pipeline import checks, invoices, raw, raw_invoices, validated
from spotinference_pipeline.errors import InvoiceError, RawFileError
from spotinference_pipeline.invoices import Given, Loaded
from spotinference_pipeline.warehouse import open_scratch

NOW = datetime(2026, 12, 3, 9, tzinfo=UTC)
MONTH = date(2026, 11, 1), date(2026, 12, 1)
HEADER = "line,description,resource_type,resource_id,category,usd\n"
Insert = Callable[..., None]


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Given]:
    """Writes an invoice's file of November."""

    def written(*lines: str, name: str = "november.csv", **more: Any) -> Given:
        path = tmp_path / name
        path.write_text(HEADER + "".join(f"{line}\n" for line in lines))
        return Given(path, **({"period": MONTH} | more))

    return written


def test_the_same_file_again_changes_nothing(tmp_path: Path, write: Callable[..., Given]) -> None:
    file = write("1,machine,vm,7,,12.5", "2,VAT,,,tax,2.5")
    assert invoices.load(tmp_path, file, NOW) == Loaded("2026-11", 1, True, 2, Decimal(15))
    assert invoices.load(tmp_path, file, NOW) == Loaded("2026-11", 1, False, 2, Decimal(15))
    assert invoices.load(tmp_path, replace(file, is_correction=True), NOW).is_new is False
    (landed,) = raw_invoices.list_files(tmp_path)
    assert landed == tmp_path / "2026-11" / "r1.jsonl"
    ((_, kept),) = raw_invoices.read_invoices(landed.read_bytes())
    assert isinstance(kept, raw_invoices.RawInvoice)
    assert kept.body_bytes() == file.path.read_bytes()


def test_another_file_of_the_same_number_is_a_correction_only_when_it_is_said_to_be(
    tmp_path: Path, write: Callable[..., Given]
) -> None:
    invoices.load(tmp_path, write("1,machine,vm,7,,12.5"), NOW)
    other = write("1,machine,vm,7,,11", name="corrected.csv")
    with pytest.raises(InvoiceError, match=r"invoice 2026-11: expected the file of revision 1 \(november.csv\)"):
        invoices.load(tmp_path, other, NOW)
    assert invoices.load(tmp_path, replace(other, is_correction=True), NOW).revision == 2
    assert invoices.load(tmp_path, replace(other, number="INV/7"), NOW).revision == 1
    names = [str(path.relative_to(tmp_path)) for path in raw_invoices.list_files(tmp_path)]
    assert names == ["2026-11/r1.jsonl", "2026-11/r2.jsonl", "INV%2F7/r1.jsonl"]


def test_a_revision_that_is_there_is_never_replaced(tmp_path: Path, write: Callable[..., Given]) -> None:
    invoices.load(tmp_path, write("1,machine,vm,7,,12.5"), NOW)
    found = raw_invoices.find_newest(tmp_path, "2026-11")
    assert found is not None
    with pytest.raises(RawFileError, match="could not be written, found File exists"):
        raw_invoices.append_invoice(tmp_path, found)
    assert [path.name for path in (tmp_path / "2026-11").iterdir()] == ["r1.jsonl"]


@pytest.mark.parametrize("number", ["../evil", ".hidden", "", " 7", "7 ", "é", "7" * 65, "a\nb"])
def test_a_number_that_cannot_name_a_folder_is_refused(
    tmp_path: Path, write: Callable[..., Given], number: str
) -> None:
    with pytest.raises(InvoiceError, match="number: expected at most 64 printable ASCII characters"):
        invoices.load(tmp_path, write("1,machine,vm,7,,12.5", number=number), NOW)


def test_days_that_are_not_over_are_not_billed_yet(tmp_path: Path, write: Callable[..., Given]) -> None:
    with pytest.raises(InvoiceError, match="the last is 2026-11-29, found 2026-11-30"):
        invoices.load(tmp_path, write("1,machine,vm,7,,1"), datetime(2026, 11, 30, 23, tzinfo=UTC))
    assert not raw_invoices.list_files(tmp_path)


def test_an_invoice_of_other_days_than_a_month_is_called_by_them(tmp_path: Path) -> None:
    path = tmp_path / "half.csv"
    path.write_text("line,description,category,usd,period_start,period_end\n1,a,vm,1,2026-11-01,2026-11-16\n")
    assert invoices.load(tmp_path, Given(path), NOW).number == "2026-11-01..2026-11-15"


def test_ingest_reads_every_revision_once_and_accounts_for_every_line(desk: Any, write: Callable[..., Given]) -> None:
    folder = raw_invoices.folder_beside(desk.raw_dir)
    invoices.load(folder, write("1,machine,vm,7,,12.5", "2,VAT,,,tax,2.5"), NOW)
    invoices.load(folder, write("1,machine,vm,7,,12.25", is_correction=True), NOW)
    done = desk.ingest()
    assert (done.files, done.rows_accepted, done.rows_quarantined) == (2, 3, 0)
    assert done.days == {date(2026, 11, day) for day in range(1, 31)}
    assert desk.ingest() == validated.Ingested()
    assert desk.rows("select revision, line, billed_usd from validated.invoice_lines order by all") == [
        (1, 1, Decimal("12.5")),
        (1, 2, Decimal("2.5")),
        (2, 1, Decimal("12.25")),
    ]
    (finding,) = checks.run(desk.warehouse, MONTH[0], ["every_row_is_accounted_for"])
    assert finding.passed


def test_a_spoilt_raw_file_is_quarantined_and_bills_nothing(desk: Any, write: Callable[..., Given]) -> None:
    folder = raw_invoices.folder_beside(desk.raw_dir)
    invoices.load(folder, write("1,machine,vm,7,,12.5"), NOW)
    (landed,) = raw_invoices.list_files(folder)
    content = landed.read_bytes()
    document = content.rpartition(b',"c":')[0] + b"}"
    (folder / "2026-11" / "r2.jsonl").write_bytes(content.replace(b"12.5", b"99.5"))
    (folder / "2026-11" / "r3.jsonl").write_bytes(raw.frame(document.replace(b"12.5", b"99.5")))
    (folder / "2026-11" / "r4.jsonl").write_bytes(raw.frame(b'{"v":1}'))
    (folder / "2026-11" / "r5.jsonl").write_bytes(b"")
    desk.ingest()
    assert desk.count("invoice_lines") == 1
    reasons = [reason for (reason,) in desk.rows("select reason from validated.quarantine order by source_file")]
    assert [reason.partition(":")[0] for reason in reasons] == ["checksum", "body", "invoice", "empty file"]
    (folder / "2026-11" / "r1.jsonl").unlink()
    (folder / "2026-11" / "r6.jsonl").write_bytes(b"")
    with pytest.raises(RawFileError, match=r"r6\.jsonl: expected an invoice, found none"):
        raw_invoices.find_newest(folder, "2026-11")


def test_a_copy_of_a_revision_adds_only_repeats(desk: Any, write: Callable[..., Given]) -> None:
    folder = raw_invoices.folder_beside(desk.raw_dir)
    invoices.load(folder, write("1,machine,vm,7,,12.5"), NOW)
    (landed,) = raw_invoices.list_files(folder)
    (folder / "2026-11" / "r9.jsonl").write_bytes(landed.read_bytes())
    assert desk.ingest().rows_repeated == 1


DAYS = [date(2026, 11, 20) + timedelta(days=day) for day in range(4)]
TYPES = ("vm", "volume", "inference")
_AMOUNT = st.integers(-(10**12), 10**12).map(lambda nano: Decimal(nano).scaleb(-9))
_LEDGER = st.dictionaries(st.tuples(st.sampled_from(DAYS), st.sampled_from(TYPES), st.integers(1, 3)), _AMOUNT)
_RESOURCE = st.tuples(st.sampled_from(TYPES), st.integers(1, 4)).map(
    lambda resource: {"resource_type": resource[0], "resource_id": resource[1], "category": None}
)
_CATEGORY = st.sampled_from(["vm", "volume", "other", "snapshot", "tax"]).map(
    lambda category: {"resource_type": None, "resource_id": None, "category": category}
)
_PERIOD = st.sampled_from([(start, end) for start in range(4) for end in range(start + 1, 5)]).map(
    lambda period: {"period_start": DAYS[0] + timedelta(period[0]), "period_end": DAYS[0] + timedelta(period[1])}
)
_LINE = st.tuples(_RESOURCE | _CATEGORY, _PERIOD, _AMOUNT, st.sampled_from("ab")).map(
    lambda made: made[0] | made[1] | {"billed_usd": made[2], "invoice_number": made[3], "revision": 1}
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(ledger=_LEDGER, lines=st.lists(_LINE, min_size=1, max_size=8))
def test_every_dollar_of_the_ledger_is_matched_once(
    insert: Insert, ledger: dict[tuple[date, str, int], Decimal], lines: list[dict[str, Any]]
) -> None:
    with open_scratch() as warehouse:
        costs = [
            {"utc_day": day, "resource_type": kind, "resource_id": number, "cost_kind": "other", "cost_usd": usd}
            for (day, kind, number), usd in ledger.items()
        ]
        insert(warehouse, "rollup.cost_days", costs)
        insert(warehouse, "validated.invoice_lines", [line | {"line": n} for n, line in enumerate(lines, start=1)])
        compared = invoices.read_comparisons(warehouse)
    periods = {
        number: (min(line["period_start"] for line in own), max(line["period_end"] for line in own))
        for number in "ab"
        if (own := [line for line in lines if line["invoice_number"] == number])
    }
    inside = [usd for (day, _, _), usd in ledger.items() if any(start <= day < end for start, end in periods.values())]
    billed = sum(line["billed_usd"] for line in lines if line["category"] != "tax")
    assert sum(each.ledger_usd for each in compared) == sum(inside)
    assert sum(each.billed_usd for each in compared) == billed
    assert sum(each.residual_usd for each in compared) == billed - sum(inside)
    assert {each.number: each.period for each in compared} == periods


def test_the_residual_of_an_invoice_is_rounded_once(scratch: Any, insert: Insert) -> None:
    line = {"invoice_number": "a", "category": "vm", "period_start": DAYS[0], "period_end": DAYS[1], "revision": 1}
    amounts = {1: "vm", 2: "volume", 3: "bucket"}
    insert(
        scratch,
        "validated.invoice_lines",
        [line | {"line": n, "category": kind, "billed_usd": Decimal("0.004")} for n, kind in amounts.items()],
    )
    (compared,) = invoices.read_comparisons(scratch)
    assert compared.lines["residual_cents"].to_list() == [0, 0, 0]
    assert (compared.residual_cents, compared.residual_usd) == (1, Decimal("0.012"))
    assert (compared.period_days, compared.built_days) == (1, 0)
