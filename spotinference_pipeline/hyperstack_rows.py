"""From one HTTP exchange with Hyperstack to rows. Vendor words stop here.

Owns the translation of names and units, and the one named rounding of money: running counters are read at
nano-dollars, which takes off the noise of binary floats (1e-9 and below) and nothing else.
"""

import re
from datetime import datetime, timedelta
from decimal import Decimal
from email.utils import parsedate_to_datetime
from typing import Any

import msgspec
import polars as pl

from spotinference_pipeline import answers
from spotinference_pipeline.batch import Batch
from spotinference_pipeline.errors import HyperstackError, RawFileError
from spotinference_pipeline.raw import Exchange
from spotinference_pipeline.schema_drift import unknown_fields
from spotinference_pipeline.windows import parse_instant

EXCHANGE_SCHEMA = {
    "scheduled_at": pl.Datetime("us", "UTC"),
    "observed_at": pl.Datetime("us", "UTC"),
    "endpoint": pl.String,
    "query": pl.String,
    "http_status": pl.Int64,
    "is_good": pl.Boolean,
    "items": pl.Int64,
    "problem": pl.String,
    "clock_skew_seconds": pl.Int64,
    "schema_drift": pl.String,
    "source_file": pl.String,
    "source_line": pl.Int64,
}
NANO_DOLLAR = Decimal("1e-9")
RATE_UNIT = Decimal("1e-15")
HISTORY_UNIT = Decimal("1e-18")

_OPERATION_STATUSES = {
    "InstanceCreation": ("CREATING", "ACTIVE", "ERROR"),
    "InstanceStart": ("STARTING", "ACTIVE", "SHUTOFF"),
    "InstanceStop": ("STOPPING", "SHUTOFF", "ACTIVE"),
    "InstanceReboot": ("REBOOTING", "ACTIVE", "ERROR"),
    "InstanceDelete": ("DELETING", "DELETED", "ERROR"),
    "HibernateInstance": ("HIBERNATING", "HIBERNATED", "ACTIVE"),
    "RestoreHibernationInstance": ("RESTORING", "ACTIVE", "HIBERNATED"),
}
"""Status of a VM after Request, Success, Failed of each operation. Success and Failed are documented callback names;
Request is inferred from `InstanceCreationRequest`, the one event that the vendor shows."""
_REASON = re.compile(r"(\w+?)(Request|Success|Failed)")
_TABLES = {
    answers.UsageItem: "validated.billing_snapshots",
    answers.VirtualMachine: "validated.vm_states",
    answers.VmEvent: "validated.vm_states",
    answers.Price: "validated.prices",
    answers.Credit: "validated.credit_balances",
    answers.BillingRow: "validated.billing_history",
}


def add_exchange(batch: Batch, exchange: Exchange, file: str, line: int) -> tuple[Any, ...]:
    """Add an exchange's items to the batch; give its own row for `validated.exchanges`."""
    problem, items, drift = exchange.error, None, None
    if exchange.status is not None and exchange.status != 200:
        problem = f"status {exchange.status}"
    elif exchange.status == 200:
        content = b""
        try:
            content = exchange.body_bytes() or b""
            found = answers.read_items(exchange.endpoint, content)
        except (HyperstackError, RawFileError) as error:
            problem = str(error)
            batch.refuse(file, line, "body", "validated.exchanges", problem, content)
        else:
            items, drift = len(found), ", ".join(unknown_fields(exchange.endpoint, content)) or None
            for position, item in enumerate(found):
                _add_item(batch, exchange, item, (file, line), position)
    batch.keep(file)
    return (
        exchange.scheduled_at,
        exchange.observed_at,
        exchange.endpoint,
        "&".join(f"{name}={text}" for name, text in exchange.query.items()),
        exchange.status,
        exchange.status == 200 and problem is None,
        items,
        problem,
        clock_skew_seconds(exchange),
        drift,
        file,
        line,
    )


def clock_skew_seconds(exchange: Exchange) -> int | None:
    """Give how far the vendor's clock is ahead of ours, by its `Date` header; None where there is none that can be read."""
    try:
        told = parsedate_to_datetime(exchange.date or "")
    except (TypeError, ValueError, OverflowError):
        return None
    return round((answers.utc(told) - exchange.observed_at).total_seconds())


def status_of_event(reason: str) -> str | None:
    """Give the status that a VM has from an event on; None for events that change none or are unknown."""
    match = _REASON.fullmatch(reason)
    statuses = _OPERATION_STATUSES.get(match[1]) if match else None
    return statuses[("Request", "Success", "Failed").index(match[2])] if match and statuses else None


def _add_item(
    batch: Batch,
    exchange: Exchange,
    item: answers.Item | answers.BadItem,
    source: tuple[str, int],
    position: int,
) -> None:
    if isinstance(item, answers.BadItem):
        batch.refuse(*source, item.position, exchange.endpoint, item.reason, item.content)
        return
    table = _TABLES[type(item)]
    try:
        rows = list(_rows(exchange, item))
    except (ArithmeticError, LookupError, ValueError) as error:
        reason = f"value out of range ({type(error).__name__})"
        batch.refuse(*source, f"item {position}", table, reason, msgspec.json.encode(item))
        return
    for row in rows:
        batch.add(table, (*row, *source))


def _rows(exchange: Exchange, item: answers.Item) -> list[tuple[Any, ...]]:
    at = exchange.observed_at
    match item:
        case answers.UsageItem():
            return [_usage_row(at, item)]
        case answers.VirtualMachine():
            return [_fleet_row(at, item)]
        case answers.VmEvent():
            status = status_of_event(item.reason)
            return [
                (
                    answers.utc(item.time),
                    item.instance_id,
                    "event",
                    status,
                    item.reason,
                    None,
                    None,
                    None,
                    None,
                )
            ]
        case answers.Price():
            listed = item.original_value
            return [
                (
                    at,
                    item.name,
                    _round(item.value, RATE_UNIT),
                    None if listed is None else _round(listed, RATE_UNIT),
                )
            ]
        case answers.Credit():
            return [(at, _round(item.credit, NANO_DOLLAR))]
        case answers.BillingRow():
            return _history_rows(exchange, item)


def _usage_row(at: datetime, item: answers.UsageItem) -> tuple[Any, ...]:
    rate = item.bill_per_minute
    return (
        at,
        item.resource_type,
        item.resource_id,
        item.name,
        answers.utc(item.create_time),
        None if item.terminate_time is None else answers.utc(item.terminate_time),
        None if rate is None else _round(rate, RATE_UNIT),
        _round(item.total_bill, NANO_DOLLAR),
        item.active,
        item.exclude_billing,
    )


def _fleet_row(at: datetime, item: answers.VirtualMachine) -> tuple[Any, ...]:
    flavor = item.flavor or answers.Flavor()
    has_public_ip = item.floating_ip is not None and item.floating_ip_status in (None, "ATTACHED")
    return at, item.id, "fleet", item.status, None, None, has_public_ip, flavor.gpu or None, flavor.gpu_count


def _history_rows(exchange: Exchange, item: answers.BillingRow) -> list[tuple[Any, ...]]:
    """Give one row per amount of money; other figures of the answer stay in the raw file."""
    kind = exchange.endpoint.removeprefix(answers.HISTORY).strip("/").partition("/")[0] or "organisation"
    start, end = (parse_instant(exchange.query[name]) for name in ("start_date", "end_date"))
    if end - start < timedelta(0):
        raise ValueError("window runs backwards")
    return [
        (
            exchange.observed_at,
            start,
            end,
            kind,
            item.attributes.infrahub_id,
            figure,
            _round(amount, HISTORY_UNIT),
        )
        for figure, amount in item.amounts().items()
    ]


def _round(amount: Decimal, unit: Decimal) -> Decimal:
    """Round an amount; a string such as "NaN" reads as a decimal but is none, and polars panics on it."""
    if not amount.is_finite():
        raise ValueError("expected a finite number")
    return amount.quantize(unit)
