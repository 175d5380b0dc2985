"""The FOCUS 1.2 export against the rules of the specification, written as code."""

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
from spotinference_pipeline.errors import SettingsError
from spotinference_pipeline.warehouse import Warehouse, open_scratch

DOCUMENT = Path(__file__).parents[1] / "docs" / "focus.md"
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
        "list cost of a charge without unit price": row["ListCost"] == row["BilledCost"] == row["ContractedCost"],
        "no empty text": "" not in row.values(),
    }
    return [rule for rule, holds in rules.items() if not holds]


@pytest.fixture
def ledger(scratch: Warehouse, insert: Callable[..., None]) -> Warehouse:
    fill(scratch, insert, {("vm", "busy"): Decimal("2.123456789012345"), ("vm", "credit"): Decimal(-1)})
    return scratch


def fill(warehouse: Warehouse, insert: Callable[..., None], costs: dict[tuple[str, str], Decimal]) -> None:
    for day in DAYS:
        insert(warehouse, "rollup.snapshot_days", [{"utc_day": day}])
        insert(warehouse, "rollup.vm_days", [{"utc_day": day, "vm_id": 7, "active_seconds": 60, "alive_seconds": 90}])
        rows = [
            {"utc_day": day, "resource_type": kind, "resource_id": 7, "cost_kind": cost_kind, "cost_usd": usd}
            for (kind, cost_kind), usd in costs.items()
        ]
        insert(warehouse, "rollup.cost_days", rows)


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
    """The ledger holds the changes: a month's as a kind of its own, a later book's somewhere in its kinds."""
    costs = {key: Decimal(-femto if key[1] == "credit" else femto).scaleb(-15) for key, femto in charges.items()}
    first_at = datetime(2026, 11, 2, 2, tzinfo=UTC)
    booked = []
    for kind, reason, femto, days in changes:
        usd, later = Decimal(femto).scaleb(-15), days
        if reason == "month_boundary":
            key, later = (kind, "credit" if usd < 0 else "other"), abs(days) + 1
            costs[key] = costs.get(key, Decimal(0)) + usd
        about = {"utc_day": DAYS[1], "resource_type": kind, "resource_id": 7, "reason": reason}
        booked.append({**about, "cost_usd": usd, "booked_at": first_at + timedelta(days=later)})
    with open_scratch() as warehouse:
        fill(warehouse, insert, costs)
        insert(warehouse, "rollup.reconciliation_days", [{"utc_day": DAYS[1], "first_book_at": first_at}])
        insert(warehouse, "rollup.adjustments", booked)
        frame = focus.read_charges(warehouse, DAYS[1:], "4242")
    assert broken_rules(frame) == []
    assert sum(frame["BilledCost"].to_list()) == sum(costs.values())
    later = [row for row in booked if row["booked_at"] > first_at]
    shown = frame.filter(pl.col("ChargeCategory") == "Adjustment")
    assert sorted(shown["BilledCost"].to_list()) == sorted(row["cost_usd"] for row in later)
    of_past_month = sum(row["booked_at"] >= datetime(2026, 12, 1, tzinfo=UTC) for row in later)
    assert frame["ChargeClass"].drop_nulls().to_list() == ["Correction"] * of_past_month


@pytest.mark.parametrize(
    ("changed", "rule"),
    [
        ({"PricingQuantity": None}, "usage has a pricing quantity"),
        ({"SkuId": None}, "usage has a SKU and a price"),
        ({"ChargeCategory": "Fee"}, "ChargeCategory is Fee"),
        ({"ProviderName": None}, "ProviderName is null"),
        ({"ServiceSubcategory": "Bots"}, "subcategory of its category"),
        ({"ListCost": Decimal(9)}, "list cost of a charge without unit price"),
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
