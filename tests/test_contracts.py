"""What a plausible row looks like."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import polars as pl
import pytest
from pandera.errors import SchemaErrors

from spotinference_pipeline import contracts
from spotinference_pipeline.batch import to_frame
from spotinference_pipeline.warehouse import Warehouse

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
SNAPSHOT = {
    "observed_at": NOON,
    "resource_type": "vm",
    "resource_id": 1,
    "resource_name": None,
    "created_at": NOON,
    "terminated_at": None,
    "rate_usd_per_minute": None,
    "total_bill_usd": Decimal("-1.5"),
    "is_active": True,
    "is_excluded": False,
}
REQUEST = {
    "request_id": "a",
    "started_at": NOON,
    "first_byte_at": None,
    "finished_at": NOON,
    "endpoint": "/v1/completions",
    "requested_model": None,
    "model": None,
    "is_stream": False,
    "is_canary": False,
    "vm_id": None,
    "key_id": None,
    "http_status": None,
    "upstream_status": None,
    "end_reason": "complete",
    "usage_source": "engine_final",
    "prompt_tokens": 100,
    "completion_tokens": 50,
    "cached_tokens": None,
    "reasoning_tokens": None,
    "choices": None,
    "is_recovered": False,
}
EVENT = {
    "observed_at": NOON,
    "vm_id": 1,
    "source": "event",
    "vm_status": "ACTIVE",
    "reason": "InstanceStartSuccess",
    "is_ready": None,
    "has_public_ip": None,
    "gpu_name": None,
    "gpu_count": None,
}
GOOD = {
    "validated.billing_snapshots": SNAPSHOT,
    "validated.requests": REQUEST,
    "validated.vm_states": EVENT,
}


def frame(table: str, *changes: dict[str, Any]) -> pl.DataFrame:
    source = {"source_file": "file"}
    rows = [GOOD[table] | source | {"source_line": n} | change for n, change in enumerate(changes, start=1)]
    schema = contracts.polars_schema(table)
    return to_frame([tuple(row[name] for name in schema) for row in rows], schema)


@pytest.mark.parametrize("table", GOOD)
def test_plausible_rows_are_accepted_and_none_is_rejected(table: str) -> None:
    rows = frame(table, {}, {})
    accepted, rejected = contracts.split(table, rows)
    assert accepted.equals(rows)
    assert rejected.height == 0
    assert rejected.columns == [*rows.columns, "broken_rules"]


BROKEN: list[tuple[str, dict[str, Any], str]] = [
    ("validated.billing_snapshots", {"created_at": datetime(2014, 12, 31, tzinfo=UTC)}, "created_at"),
    ("validated.billing_snapshots", {"observed_at": datetime(2100, 1, 1, tzinfo=UTC)}, "observed_at"),
    ("validated.billing_snapshots", {"observed_at": None}, "observed_at"),
    ("validated.billing_snapshots", {"resource_id": 0}, "resource_id"),
    ("validated.billing_snapshots", {"rate_usd_per_minute": Decimal("-0.01")}, "rate_usd_per_minute"),
    ("validated.billing_snapshots", {"total_bill_usd": Decimal("1000000001")}, "total_bill_usd"),
    ("validated.billing_snapshots", {"resource_name": "x" * 16_385}, "resource_name"),
    (
        "validated.billing_snapshots",
        {"terminated_at": datetime(2026, 11, 22, 11, tzinfo=UTC)},
        "created_at at or before terminated_at",
    ),
    (
        "validated.requests",
        {"finished_at": datetime(2026, 11, 22, 11, tzinfo=UTC)},
        "started_at at or before finished_at",
    ),
    ("validated.requests", {"prompt_tokens": -1}, "prompt_tokens"),
    ("validated.requests", {"completion_tokens": 10**15 + 1}, "completion_tokens"),
    ("validated.requests", {"cached_tokens": 101}, "cached_tokens at most prompt_tokens"),
    ("validated.requests", {"reasoning_tokens": 51}, "reasoning_tokens at most completion_tokens"),
    ("validated.requests", {"usage_source": "none"}, "tokens are null exactly when usage_source is none"),
    (
        "validated.requests",
        {"prompt_tokens": None, "completion_tokens": None},
        "tokens are null exactly when usage_source is none",
    ),
    ("validated.requests", {"usage_source": "estimated"}, "usage_source"),
    ("validated.requests", {"end_reason": "bored"}, "end_reason"),
    ("validated.requests", {"http_status": 99}, "http_status"),
    ("validated.requests", {"key_id": "sk-a-raw-key"}, "key_id"),
    ("validated.requests", {"is_stream": None}, "is_stream: expected not_nullable, found null"),
    ("validated.vm_states", {"gpu_count": 4097}, "gpu_count"),
    ("validated.vm_states", {"vm_id": None, "reason": None}, "vm_id: expected not_nullable, found null"),
    ("validated.vm_states", {"source": "rumour"}, "source"),
]


@pytest.mark.parametrize(
    ("table", "change", "reason"), BROKEN, ids=[f"{name} {change}"[:60] for name, change, _ in BROKEN]
)
def test_a_row_that_breaks_a_rule_is_rejected_with_the_rule(table: str, change: dict[str, Any], reason: str) -> None:
    rows = frame(table, {}, change, {})
    accepted, rejected = contracts.split(table, rows)
    assert accepted["source_line"].to_list() == [1, 3]
    assert rejected["source_line"].to_list() == [2]
    assert reason in rejected["broken_rules"].item()


def test_a_row_that_breaks_several_rules_is_rejected_once_with_all_of_them() -> None:
    rows = frame("validated.requests", {"prompt_tokens": -1, "end_reason": "bored"}, {})
    accepted, rejected = contracts.split("validated.requests", rows)
    assert (accepted.height, rejected.height) == (1, 1)
    assert "prompt_tokens" in rejected["broken_rules"].item()
    assert "end_reason" in rejected["broken_rules"].item()


def test_tokens_of_which_only_one_kind_is_known_are_no_contradiction() -> None:
    rows = frame("validated.requests", {"completion_tokens": None, "usage_source": "engine_partial"})
    assert contracts.split("validated.requests", rows)[0].height == 1


def test_a_missing_or_unknown_column_is_a_bug_and_raises() -> None:
    rows = frame("validated.requests", {})
    for wrong in (rows.drop("endpoint"), rows.with_columns(pl.lit(1).alias("mood"))):
        with pytest.raises(SchemaErrors):
            contracts.split("validated.requests", wrong)


def test_a_column_of_another_type_is_a_bug_and_raises() -> None:
    with pytest.raises(SchemaErrors):
        contracts.split("validated.requests", frame("validated.requests", {}).cast({"vm_id": pl.String}))


@pytest.mark.parametrize("table", sorted(contracts.CONTRACTS))
def test_every_contract_has_the_columns_of_its_table(table: str, scratch: Warehouse) -> None:
    stored = scratch.query(f"from {table}")
    assert set(stored.columns) == set(contracts.polars_schema(table))


def test_the_largest_plausible_amounts_fit_their_types(scratch: Warehouse) -> None:
    billion = Decimal(10**9)
    rows = frame("validated.billing_snapshots", {"total_bill_usd": billion, "rate_usd_per_minute": Decimal(10**6)})
    accepted, _ = contracts.split("validated.billing_snapshots", rows)
    scratch.append("validated.billing_snapshots", accepted)
    assert scratch.query("select total_bill_usd from validated.billing_snapshots").item() == billion
