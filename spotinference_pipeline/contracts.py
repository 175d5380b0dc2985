"""What a plausible row looks like: one pandera contract per validated table. The only module that knows pandera.

Owns types, ranges and closed lists of words. `split` never loses a row: each is accepted, or rejected with the rules
that it breaks. Missing columns are a bug of ours, not a row's fault, and raise. Uniqueness is not here: exact repeats
are dropped before, by the stage that knows what a repeat is.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pandera.polars as pa
import polars as pl
from pandera.errors import SchemaErrors

INSTANT = pl.Datetime("us", "UTC")
MONEY = pl.Decimal(28, 9)
RATE = pl.Decimal(28, 15)
FINE_MONEY = pl.Decimal(38, 18)

_EARLIEST, _LATEST = datetime(2015, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
_MOST_USD = Decimal(10**9)
_MOST_TOKENS = 10**15


def _instant(nullable: bool = False) -> pa.Column:
    return pa.Column(INSTANT, pa.Check.in_range(_EARLIEST, _LATEST, include_max=False), nullable=nullable)


def _number(dtype: Any, low: Any, high: Any, nullable: bool = False) -> pa.Column:
    return pa.Column(dtype, pa.Check.in_range(low, high), nullable=nullable)


def _text(nullable: bool = False) -> pa.Column:
    return pa.Column(pl.String, pa.Check.str_length(0, 16_384), nullable=nullable)


def _word(*words: str) -> pa.Column:
    return pa.Column(pl.String, pa.Check.isin(words))


def _flag(nullable: bool = False) -> pa.Column:
    return pa.Column(pl.Boolean, nullable=nullable)


def _ordered(first: str, second: str) -> pa.Check:
    return pa.Check(
        lambda data: data.lazyframe.select(
            pl.col(first).is_null() | pl.col(second).is_null() | (pl.col(first) <= pl.col(second))
        ),
        name=f"{first} at or before {second}",
    )


def _at_most(part: str, whole: str) -> pa.Check:
    return pa.Check(
        lambda data: data.lazyframe.select(
            pl.col(part).is_null() | pl.col(whole).is_null() | (pl.col(part) <= pl.col(whole))
        ),
        name=f"{part} at most {whole}",
    )


def _tokens() -> pa.Column:
    return _number(pl.Int64, 0, _MOST_TOKENS, nullable=True)


_SOURCE = {"source_file": _text(), "source_line": _number(pl.Int64, 1, 2**62)}
_ID = _number(pl.Int64, 1, 2**62)
_OPTIONAL_ID = _number(pl.Int64, 1, 2**62, nullable=True)


def _no_usage_means_no_tokens() -> pa.Check:
    return pa.Check(
        lambda data: data.lazyframe.select(
            (pl.col("usage_source") == "none")
            == (pl.col("prompt_tokens").is_null() & pl.col("completion_tokens").is_null())
        ),
        name="tokens are null exactly when usage_source is none",
    )


CONTRACTS: Mapping[str, pa.DataFrameSchema] = {
    "validated.billing_snapshots": pa.DataFrameSchema(
        {
            "observed_at": _instant(),
            "resource_type": _text(),
            "resource_id": _ID,
            "resource_name": _text(nullable=True),
            "created_at": _instant(),
            "terminated_at": _instant(nullable=True),
            "rate_usd_per_minute": _number(RATE, Decimal(0), Decimal(10**6), nullable=True),
            "total_bill_usd": _number(MONEY, -_MOST_USD, _MOST_USD),
            "is_active": _flag(),
            "is_excluded": _flag(),
            **_SOURCE,
        },
        checks=[_ordered("created_at", "terminated_at")],
        strict=True,
    ),
    "validated.billing_history": pa.DataFrameSchema(
        {
            "observed_at": _instant(),
            "window_start": _instant(),
            "window_end": _instant(),
            "resource_type": _text(),
            "resource_id": _OPTIONAL_ID,
            "billing_id": _text(nullable=True),
            "resource_name": _text(nullable=True),
            "figure": _text(),
            "amount_usd": _number(FINE_MONEY, -_MOST_USD, _MOST_USD),
            **_SOURCE,
        },
        checks=[_ordered("window_start", "window_end")],
        strict=True,
    ),
    "validated.billing_graphs": pa.DataFrameSchema(
        {
            "observed_at": _instant(),
            "resource_type": _text(),
            "resource_id": _ID,
            "bucket_start": _instant(),
            "bucket_seconds": _number(pl.Int64, 1, 10**8),
            "amount_usd": _number(FINE_MONEY, -_MOST_USD, _MOST_USD),
            **_SOURCE,
        },
        strict=True,
    ),
    "validated.billing_events": pa.DataFrameSchema(
        {
            "observed_at": _instant(),
            "vm_id": _ID,
            "started_at": _instant(),
            "vm_status": _text(),
            "usd_per_hour": _number(RATE, Decimal(0), Decimal(10**6), nullable=True),
            **_SOURCE,
        },
        strict=True,
    ),
    "validated.credit_balances": pa.DataFrameSchema(
        {"observed_at": _instant(), "balance_usd": _number(MONEY, -_MOST_USD, _MOST_USD), **_SOURCE},
        strict=True,
    ),
    "validated.payments": pa.DataFrameSchema(
        {
            "observed_at": _instant(),
            "payment_id": _text(),
            "paid_at": _instant(),
            "payment_status": _text(nullable=True),
            "amount_usd": _number(MONEY, -_MOST_USD, _MOST_USD),
            "tax_usd": _number(MONEY, -_MOST_USD, _MOST_USD, nullable=True),
            **_SOURCE,
        },
        strict=True,
    ),
    "validated.prices": pa.DataFrameSchema(
        {
            "observed_at": _instant(),
            "price_name": _text(),
            "usd_per_hour": _number(RATE, Decimal(0), Decimal(10**6)),
            "list_usd_per_hour": _number(RATE, Decimal(0), Decimal(10**6), nullable=True),
            **_SOURCE,
        },
        strict=True,
    ),
    "validated.vm_states": pa.DataFrameSchema(
        {
            "observed_at": _instant(),
            "vm_id": _ID,
            "source": _word("fleet", "event", "health"),
            "vm_status": _text(nullable=True),
            "reason": _text(nullable=True),
            "is_ready": _flag(nullable=True),
            "has_public_ip": _flag(nullable=True),
            "gpu_name": _text(nullable=True),
            "gpu_count": _number(pl.Int64, 0, 4096, nullable=True),
            **_SOURCE,
        },
        strict=True,
    ),
    "validated.requests": pa.DataFrameSchema(
        {
            "request_id": _text(),
            "started_at": _instant(),
            "first_byte_at": _instant(nullable=True),
            "finished_at": _instant(),
            "endpoint": _text(),
            "requested_model": _text(nullable=True),
            "model": _text(nullable=True),
            "is_stream": _flag(),
            "is_canary": _flag(),
            "vm_id": _OPTIONAL_ID,
            "key_id": pa.Column(pl.String, pa.Check.str_matches(r"^[0-9a-f]{12}$"), nullable=True),
            "http_status": _number(pl.Int64, 100, 999, nullable=True),
            "upstream_status": _number(pl.Int64, 100, 999, nullable=True),
            "end_reason": _word(
                "complete",
                "client_gone",
                "upstream_error",
                "upstream_timeout",
                "upstream_gone",
                "refused",
                "proxy_stopped",
            ),
            "usage_source": _word("engine_final", "engine_partial", "none"),
            "prompt_tokens": _tokens(),
            "completion_tokens": _tokens(),
            "cached_tokens": _tokens(),
            "reasoning_tokens": _tokens(),
            "choices": _number(pl.Int64, 0, 10**6, nullable=True),
            "is_recovered": _flag(),
            **_SOURCE,
        },
        checks=[
            _ordered("started_at", "finished_at"),
            _at_most("cached_tokens", "prompt_tokens"),
            _at_most("reasoning_tokens", "completion_tokens"),
            _no_usage_means_no_tokens(),
        ],
        strict=True,
    ),
    "validated.engine_counters": pa.DataFrameSchema(
        {
            "observed_at": _instant(),
            "vm_id": _OPTIONAL_ID,
            "upstream": _text(nullable=True),
            "process_started_at": _instant(nullable=True),
            "prompt_tokens_total": _tokens(),
            "generation_tokens_total": _tokens(),
            **_SOURCE,
        },
        strict=True,
    ),
    "validated.log_segments": pa.DataFrameSchema(
        {
            "writer": _text(),
            "started_at": _instant(),
            "ended_at": _instant(),
            "previous": _text(nullable=True),
            "previous_sha256": _text(nullable=True),
            "sealed_by": _text(nullable=True),
            "body_sha256": _text(nullable=True),
            "rows_missing": _number(pl.Int64, 0, 2**62),
            "torn_bytes": _number(pl.Int64, 0, 2**62),
            **_SOURCE,
        },
        strict=True,
    ),
    "validated.request_begins": pa.DataFrameSchema(
        {
            "request_id": _text(),
            "started_at": _instant(),
            "endpoint": _text(),
            "requested_model": _text(nullable=True),
            "is_stream": _flag(),
            "is_canary": _flag(),
            "vm_id": _OPTIONAL_ID,
            "key_id": _text(nullable=True),
            **_SOURCE,
        },
        strict=True,
    ),
    "validated.request_usages": pa.DataFrameSchema(
        {
            "request_id": _text(),
            "observed_at": _instant(),
            "prompt_tokens": _tokens(),
            "completion_tokens": _tokens(),
            **_SOURCE,
        },
        strict=True,
    ),
    "validated.invoice_lines": pa.DataFrameSchema(
        {
            "invoice_number": _text(),
            "revision": _number(pl.Int64, 1, 10**6),
            "loaded_at": _instant(),
            "line": _number(pl.Int64, 1, 10**18),
            "description": _text(),
            "resource_type": _text(nullable=True),
            "resource_id": _OPTIONAL_ID,
            "category": _text(nullable=True),
            "quantity": _number(MONEY, -(10**12), 10**12, nullable=True),
            "unit": _text(nullable=True),
            "billed_usd": _number(MONEY, -_MOST_USD, _MOST_USD),
            "period_start": pa.Column(pl.Date),
            "period_end": pa.Column(pl.Date),
            **_SOURCE,
        },
        checks=[_ordered("period_start", "period_end")],
        strict=True,
    ),
    "validated.list_prices": pa.DataFrameSchema(
        {
            "copied_at": _instant(),
            "utc_day": pa.Column(pl.Date),
            "basket": _text(),
            "basket_version": _number(pl.Int64, 1, 10**6),
            "provider": _text(),
            "model": _text(),
            "model_name": _text(),
            "prices_version": _text(),
            "from_prompt_tokens": _number(pl.Int64, 0, _MOST_TOKENS),
            "input_usd_per_million": _number(MONEY, Decimal(0), Decimal(10**6), nullable=True),
            "cached_input_usd_per_million": _number(MONEY, Decimal(0), Decimal(10**6), nullable=True),
            "output_usd_per_million": _number(MONEY, Decimal(0), Decimal(10**6), nullable=True),
            "unpriced_reason": _text(nullable=True),
            **_SOURCE,
        },
        strict=True,
    ),
    "validated.request_stops": pa.DataFrameSchema({"request_id": _text(), **_SOURCE}, strict=True),
}


DETAILS: Mapping[str, Mapping[str, str]] = {
    "validated.requests": {"cached_tokens": "prompt_tokens", "reasoning_tokens": "completion_tokens"}
}
"""Columns that tell a part of another one apart. vLLM's are estimates and may contradict it; the whole is none."""


def polars_schema(table: str) -> dict[str, Any]:
    """Give column names and polars types of a contract, in order."""
    return {name: column.dtype.type for name, column in CONTRACTS[table].columns.items()}


def without_impossible_details(table: str, frame: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Set details that cannot be part of their whole to null: their rows count, without them.

    Gives the rows, and one of `source_file`, `source_line` and `reason` for each detail that was there.
    """
    doubts = []
    for part, whole in DETAILS.get(table, {}).items():
        is_impossible = ~pl.col(part).is_between(0, pl.min_horizontal(whole, pl.lit(_MOST_TOKENS)))
        found = frame.filter(is_impossible)
        if found.is_empty():
            continue
        told = f"{part}: expected 0 to {whole} {{}}, found {{}}; it is not known, the request counts"
        doubts.append(
            found.select(
                "source_file", "source_line", pl.format(told, pl.col(whole).fill_null("null"), part).alias("reason")
            )
        )
        frame = frame.with_columns(pl.when(is_impossible).then(None).otherwise(pl.col(part)).alias(part))
    none = pl.DataFrame(schema={"source_file": pl.String, "source_line": pl.Int64, "reason": pl.String})
    return frame, pl.concat([none, *doubts])


def split(table: str, frame: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Split a frame into the rows that keep the table's contract and the rows that break it.

    The rejected rows have one more column, `broken_rules`, in words.
    Raises: pandera's SchemaErrors when a column is missing, unknown or of another type, which is a bug here.
    """
    try:
        CONTRACTS[table].validate(frame, lazy=True)
    except SchemaErrors as error:
        failures = error.failure_cases
        if failures["index"].null_count():
            raise
        reasons = (
            failures.select(
                pl.col("index").cast(pl.UInt32),
                pl.format(
                    "{}: expected {}, found {}",
                    pl.col("column").fill_null("row"),
                    pl.col("check"),
                    pl.when(pl.col("schema_context") == "Column")
                    .then(pl.col("failure_case").fill_null("null"))
                    .otherwise(pl.lit("otherwise")),
                ).alias("broken_rules"),
            )
            .group_by("index", maintain_order=True)
            .agg(pl.col("broken_rules").sort().str.join("; "))
        )
        indexed = frame.with_row_index("index")
        rejected = indexed.join(reasons, on="index", how="inner", maintain_order="left").drop("index")
        accepted = indexed.join(reasons, on="index", how="anti", maintain_order="left").drop("index")
        return accepted, rejected
    return frame, frame.clear().with_columns(pl.lit(None, pl.String).alias("broken_rules"))
