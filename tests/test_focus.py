"""The FOCUS 1.2 export against the rules of the specification, written as code."""

from collections import Counter
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spotinference_pipeline import focus
from spotinference_pipeline.errors import SettingsError, WarehouseError
from spotinference_pipeline.warehouse import Warehouse, open_scratch

DOCUMENT = Path(__file__).parents[1] / "docs" / "focus.md"
DAY = date(2026, 11, 22)
DAYS = [date(2026, 10, 31), date(2026, 11, 1)]
MANDATORY = {
    "BilledCost", "BillingAccountId", "BillingAccountName", "BillingCurrency", "BillingPeriodEnd", "BillingPeriodStart",
    "ChargeCategory", "ChargeClass", "ChargeDescription", "ChargePeriodEnd", "ChargePeriodStart", "ContractedCost",
    "EffectiveCost", "InvoiceIssuerName", "ListCost", "PricingQuantity", "PricingUnit", "ProviderName", "PublisherName",
    "ServiceCategory", "ServiceName",
}  # fmt: skip
OPTIONAL = {
    "BillingAccountType", "ChargeFrequency", "ConsumedQuantity", "ConsumedUnit", "InvoiceId", "PricingCategory",
    "RegionId", "RegionName", "ResourceId", "ResourceName", "ResourceType", "ServiceSubcategory", "SkuId", "SkuPriceId",
    "SubAccountId", "SubAccountName", "Tags",
}  # fmt: skip
NEVER_NULL = (MANDATORY | {"BillingAccountType", "ChargeFrequency", "ServiceSubcategory"}) - {
    "BillingAccountName", "ChargeClass", "ChargeDescription", "PricingQuantity", "PricingUnit",
}  # fmt: skip
ALLOWED = {
    "ChargeCategory": {"Usage", "Purchase", "Tax", "Credit", "Adjustment"},
    "ChargeClass": {"Correction"},
    "ChargeFrequency": {"One-Time", "Recurring", "Usage-Based"},
    "PricingCategory": {"Standard", "Dynamic", "Committed", "Other"},
    "BillingCurrency": {"USD"},
    "ConsumedUnit": {"Hours", "Days"},
    "PricingUnit": {"Hours", "Days"},
}
SUBCATEGORIES = {
    "Compute": {"Virtual Machines", "Containers", "Other (Compute)"},
    "Storage": {"Block Storage", "Backup Storage", "Object Storage"},
    "Networking": {"Network Infrastructure"},
    "AI and Machine Learning": {"Generative AI", "Machine Learning"},
    "Other": {"Other (Other)"},
}
DECIMALS = {"BilledCost", "ContractedCost", "EffectiveCost", "ListCost", "PricingQuantity", "ConsumedQuantity"}
INSTANTS = {"BillingPeriodStart", "BillingPeriodEnd", "ChargePeriodStart", "ChargePeriodEnd"}


def broken_rules(frame: pl.DataFrame) -> list[str]:
    """Give the rules of FOCUS 1.2 that a dataset breaks, in words."""
    broken = [f"{name} is missing" for name in MANDATORY - set(frame.columns)]
    broken += [f"{n} is no column" for n in frame.columns if n not in MANDATORY | OPTIONAL and not n.startswith("x_")]
    for name in frame.columns:
        kind = frame.schema[name]
        if name in DECIMALS and not isinstance(kind, pl.Decimal):
            broken.append(f"{name} is {kind}")
        if name in INSTANTS and kind != pl.Datetime("us", "UTC"):
            broken.append(f"{name} is {kind}")
    for row in frame.iter_rows(named=True):
        broken += [f"{name} is null" for name in NEVER_NULL if row.get(name) is None]
        broken += [
            f"{name} is {row[name]}"
            for name, words in ALLOWED.items()
            if row.get(name) is not None and row[name] not in words
        ]
        broken += _broken_by(row)
    return broken


def _broken_by(row: dict[str, Any]) -> list[str]:
    used = row["ChargeCategory"] == "Usage"
    plain = used and row["ChargeClass"] is None
    rules = {
        "usage has a pricing quantity": not plain or row["PricingQuantity"] is not None,
        "usage has a consumed quantity": not plain or row["ConsumedQuantity"] is not None,
        "only usage is consumed": used or row["ConsumedQuantity"] is None,
        "usage has a SKU and a price": not plain or None not in (row["SkuId"], row["SkuPriceId"]),
        "a quantity has a unit": (row["PricingQuantity"] is None) == (row["PricingUnit"] is None),
        "what is consumed has a unit": (row["ConsumedQuantity"] is None) == (row["ConsumedUnit"] is None),
        "quantities are not negative": (row["PricingQuantity"] or 0) >= 0,
        "charge period in billing period": row["BillingPeriodStart"] <= row["ChargePeriodStart"]
        and row["ChargePeriodStart"] < row["ChargePeriodEnd"] <= row["BillingPeriodEnd"],
        "subcategory of its category": row["ServiceSubcategory"] in SUBCATEGORIES.get(row["ServiceCategory"], set()),
        "only credits are negative": row["BilledCost"] >= 0 or row["ChargeCategory"] in ("Credit", "Adjustment"),
        "a correction is of a month that is over": row["ChargeClass"] is None or row["x_AdjustmentReason"] is not None,
        "an adjustment has a reason": (row["ChargeCategory"] == "Adjustment")
        == (row["x_AdjustmentReason"] is not None),
        "contracted cost of a charge without unit price": row["ContractedCost"] == row["BilledCost"],
        "list cost of what is not used": used or row["ListCost"] == row["BilledCost"],
        "no empty text": "" not in row.values(),
    }
    return [rule for rule, holds in rules.items() if not holds]


@pytest.fixture
def ledger(scratch: Warehouse, insert: Callable[..., None]) -> Warehouse:
    fill(scratch, insert, {("vm", "busy"): Decimal("2.123456789012345"), ("vm", "credit"): Decimal(-1)})
    return scratch


def fill(warehouse: Warehouse, insert: Callable[..., None], costs: dict[tuple[str, str], Decimal]) -> None:
    for day in DAYS:
        insert(warehouse, "rollup.snapshot_days", [{"utc_day": day, "minutes_good": 1440}])
        insert(warehouse, "rollup.vm_days", [{"utc_day": day, "vm_id": 7, "active_seconds": 60, "alive_seconds": 90}])
        rows = [
            {"utc_day": day, "resource_type": kind, "resource_id": 7, "cost_kind": cost_kind, "cost_usd": usd}
            for (kind, cost_kind), usd in costs.items()
        ]
        insert(warehouse, "rollup.cost_days", rows)
        insert(warehouse, "rollup.charge_days", rows)


def test_the_export_keeps_the_rules_and_adds_up_to_the_ledger(ledger: Warehouse, tmp_path: Path) -> None:
    done = focus.export(ledger, DAYS, tmp_path, "4242")
    assert (done.rows, done.billed_usd) == (4, Decimal("2.246913578024690"))
    parquet, csv = done.files
    frame = pl.read_parquet(parquet)
    assert broken_rules(frame) == []
    assert sum(frame["BilledCost"].to_list()) == done.billed_usd
    assert frame["BillingPeriodStart"].dt.date().to_list() == [date(2026, 10, 1)] * 2 + [date(2026, 11, 1)] * 2
    text = csv.read_text()
    assert text.splitlines()[0] == ",".join(frame.columns)
    assert "2026-10-31T00:00:00Z" in text
    assert "2.123456789012345" in text
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "focus.2026-10-31.2026-11-01.csv",
        "focus.2026-10-31.2026-11-01.parquet",
    ]


def test_the_same_rows_give_the_same_bytes(ledger: Warehouse, tmp_path: Path) -> None:
    first, second = (focus.export(ledger, DAYS, tmp_path / name, "4242") for name in ("a", "b"))
    assert [path.read_bytes() for path in first.files] == [path.read_bytes() for path in second.files]


def test_a_day_that_is_not_built_is_refused(ledger: Warehouse, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="day 2026-11-02: expected it to be built"):
        focus.export(ledger, [*DAYS, date(2026, 11, 2)], tmp_path, "4242")
    with pytest.raises(SettingsError, match="--account: expected a BillingAccountId"):
        focus.export(ledger, DAYS, tmp_path, " ")
    assert list(tmp_path.iterdir()) == []


def test_charges_that_are_not_the_ledger_are_refused(ledger: Warehouse, tmp_path: Path) -> None:
    ledger.execute("delete from rollup.charge_days where utc_day = '2026-11-01' and cost_kind = 'credit'")
    found = (
        r"day 2026-11-01: expected charges that add up to the ledger's 1\.123456789012345 USD, found 2\.123456789012345"
    )
    with pytest.raises(WarehouseError, match=found):
        focus.export(ledger, DAYS, tmp_path, "4242")
    assert list(tmp_path.iterdir()) == []


KINDS = ("busy", "idle", "cold_start", "parked", "storage", "network", "other", "credit")
_CHARGES = st.dictionaries(
    st.tuples(
        st.sampled_from(["vm", "volume", "snapshot", "bucket", "cluster", "contract", "new"]), st.sampled_from(KINDS)
    ),
    st.integers(0, 10**21),
    min_size=1,
    max_size=12,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(charges=_CHARGES)
def test_any_ledger_keeps_the_rules(insert: Callable[..., None], charges: dict[tuple[str, str], int]) -> None:
    costs = {key: Decimal(-femto if key[1] == "credit" else femto).scaleb(-15) for key, femto in charges.items()}
    with open_scratch() as warehouse:
        fill(warehouse, insert, costs)
        frame = focus.read_charges(warehouse, DAYS, "4242")
    assert broken_rules(frame) == []
    assert sum(frame["BilledCost"].to_list()) == 2 * sum(costs.values())


_CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["vm", "volume", "cluster"]),
        st.sampled_from(["correction", "month_boundary"]),
        st.integers(-(10**21), 10**21).filter(bool),
        st.integers(-40, 40),
    ),
    max_size=5,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=12, deadline=None)
@given(charges=_CHARGES, changes=_CHANGES)
def test_F054_what_books_changed_later_are_rows_of_their_own_and_the_sum_stays(
    insert: Callable[..., None], charges: dict[tuple[str, str], int], changes: list[tuple[str, str, int, int]]
) -> None:
    """The first book's own difference from our counters is no change: nobody was billed by our counters."""
    costs = {key: Decimal(-femto if key[1] == "credit" else femto).scaleb(-15) for key, femto in charges.items()}
    first_at = datetime(2026, 11, 2, 2, tzinfo=UTC)
    booked = []
    for kind, reason, femto, days in changes:
        about = {"utc_day": DAYS[1], "resource_type": kind, "resource_id": 7, "reason": reason}
        later = abs(days) if reason == "month_boundary" else days
        booked.append({**about, "cost_usd": Decimal(femto).scaleb(-15), "booked_at": first_at + timedelta(days=later)})
    with open_scratch() as warehouse:
        fill(warehouse, insert, costs)
        insert(warehouse, "rollup.reconciliation_days", [{"utc_day": DAYS[1], "first_book_at": first_at}])
        insert(warehouse, "rollup.adjustments", booked)
        frame = focus.read_charges(warehouse, DAYS[1:], "4242")
    assert broken_rules(frame) == []
    later = [row for row in booked if row["booked_at"] > first_at or row["reason"] == "month_boundary"]
    assert sum(frame["BilledCost"].to_list()) == sum(costs.values()) + sum(row["cost_usd"] for row in later)
    shown = frame.filter(pl.col("ChargeCategory") == "Adjustment")
    assert sorted(shown["BilledCost"].to_list()) == sorted(row["cost_usd"] for row in later)
    of_past_month = sum(row["booked_at"] >= datetime(2026, 12, 1, tzinfo=UTC) for row in later)
    assert frame["ChargeClass"].drop_nulls().to_list() == ["Correction"] * of_past_month


VM, OTHER, DISK = ("vm", 1), ("vm", 2), ("volume", 8)
_BILLS = st.lists(
    st.dictionaries(st.sampled_from([VM, OTHER, DISK]), st.integers(-5000, 90_000), max_size=3), min_size=2, max_size=4
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=15, deadline=None)
@given(bills=_BILLS, is_seen_all_day=st.booleans(), more=st.integers(0, 500))
def test_F054_a_later_book_edits_no_row_and_adds_corrections(
    open_books: Any, bills: list[dict[tuple[str, int], int]], is_seen_all_day: bool, more: int
) -> None:
    """One machine is seen busy, idle, parked and with a public IP and a credit, the others never; bills move, come and go."""
    with open_books() as books:
        books.public_ip_price("00:00", "0.06")
        last = 24 if is_seen_all_day else 11
        for hour in range(last):
            books.reading(f"{hour:02}:30", f"{100 + 3.6 * hour - 5 * (hour > 7):.2f}")
        books.fleet("00:00", ip=True)
        books.fleet("09:00", "HIBERNATED")
        books.request("03:00", "05:15")
        before: Counter[str] = Counter()
        for number, lines in enumerate(bills):
            billed = {key: str(Decimal(milli).scaleb(-3)) for key, milli in lines.items()}
            total = str(Decimal(sum(lines.values()) + more * number).scaleb(-3))
            at = f"2026-11-{23 + number}T02:00"
            books.book(billed, total, at, {key: str(2 * Decimal(bill)) for key, bill in billed.items()})
            books.build()
            frame = focus.read_charges(books.warehouse, [DAY], "4242")
            rows = Counter(frame.write_csv().splitlines()[1:])
            assert before <= rows, "every row is still there, byte for byte"
            assert number == 0 or all(",Adjustment," in row for row in rows - before)
            ledger = books.warehouse.query("select coalesce(sum(cost_usd), 0) from rollup.cost_days").item()
            assert sum(frame["BilledCost"].to_list(), Decimal(0)) == ledger == Decimal(total)
            assert broken_rules(frame) == []
            before = rows


@pytest.mark.parametrize(
    ("changed", "rule"),
    [
        ({"PricingQuantity": None}, "usage has a pricing quantity"),
        ({"SkuId": None}, "usage has a SKU and a price"),
        ({"ChargeCategory": "Fee"}, "ChargeCategory is Fee"),
        ({"ProviderName": None}, "ProviderName is null"),
        ({"ServiceSubcategory": "Bots"}, "subcategory of its category"),
        ({"ContractedCost": Decimal(9)}, "contracted cost of a charge without unit price"),
        ({"ChargeCategory": "Credit", "ListCost": Decimal(9)}, "list cost of what is not used"),
        ({"ChargePeriodEnd": datetime(2026, 12, 2).astimezone()}, "charge period in billing period"),
    ],
)
def test_the_rules_find_what_is_wrong(ledger: Warehouse, changed: dict[str, Any], rule: str) -> None:
    frame = focus.read_charges(ledger, DAYS[:1], "4242").head(1)
    for name, cell in changed.items():
        frame = frame.with_columns(pl.lit(cell).cast(frame.schema[name]).alias(name))
    assert rule in broken_rules(frame)
    assert broken_rules(frame.drop("BilledCost").with_columns(BilledCost=pl.lit(1.0))) != []


def test_every_column_is_documented(ledger: Warehouse) -> None:
    columns = focus.read_charges(ledger, DAYS, "4242").columns
    text = DOCUMENT.read_text()
    assert [name for name in columns if f"`{name}`" not in text] == []
    assert {name for name in columns if not name.startswith("x_")} == MANDATORY | OPTIONAL
    assert timedelta(days=1) == DAYS[1] - DAYS[0]
