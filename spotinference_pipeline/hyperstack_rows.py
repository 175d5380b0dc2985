"""From one HTTP exchange with Hyperstack to rows. Vendor words stop here.

Owns the translation of names and units, and the one named rounding of money: running counters are read at
nano-dollars, which takes off the noise of binary floats (1e-9 and below) and nothing else.
"""

import hashlib
import re
from collections.abc import Callable
from datetime import timedelta
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
_SUB_RESOURCES = re.compile(answers.SUB_RESOURCES.format(vm_id=r"(\d+)"))


def add_exchange(batch: Batch, exchange: Exchange, file: str, line: int) -> tuple[Any, ...]:
    """Add an exchange's items to the batch; give its own row for `validated.exchanges`."""
    problem, items, drift = exchange.error, None, None
    if exchange.status == 404 and _is_empty_list(exchange):
        items = 0
    elif exchange.status is not None and exchange.status != 200:
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
                problem = _add_item(batch, exchange, item, (file, line), position) or problem
    batch.keep(file)
    return (
        exchange.scheduled_at,
        exchange.observed_at,
        exchange.endpoint,
        "&".join(f"{name}={text}" for name, text in exchange.query.items()),
        exchange.status,
        exchange.status is not None and problem is None,
        items,
        problem,
        clock_skew_seconds(exchange),
        drift,
        file,
        line,
    )


def _is_empty_list(exchange: Exchange) -> bool:
    try:
        return answers.is_empty_list(exchange.endpoint, exchange.body_bytes() or b"")
    except RawFileError:
        return False


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
) -> str | None:
    """Add an item's rows, or refuse it; give the reason where it makes the whole answer doubtful."""
    if isinstance(item, answers.BadItem):
        batch.refuse(*source, item.position, exchange.endpoint, item.reason, item.content)
        return None
    if (currency := answers.foreign_currency(item)) is not None:
        reason = f"currency: expected usd, found {currency[:20]!r}"
        batch.refuse(*source, f"item {position}", _READERS[type(item)][0], reason, msgspec.json.encode(item))
        return reason
    table, to_rows = _READERS[type(item)]
    try:
        rows = to_rows(exchange, item)
    except (ArithmeticError, LookupError, ValueError) as error:
        detail = str(error)[:80] if isinstance(error, ValueError) else type(error).__name__
        reason = f"value out of range ({detail})"
        batch.refuse(*source, f"item {position}", table, reason, msgspec.json.encode(item))
        return None
    for row in rows:
        batch.add(table, (*row, *source))
    return None


def _usage_rows(exchange: Exchange, item: answers.UsageItem) -> list[tuple[Any, ...]]:
    rate = item.bill_per_minute
    return [
        (
            exchange.observed_at,
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
    ]


def _fleet_rows(exchange: Exchange, item: answers.VirtualMachine) -> list[tuple[Any, ...]]:
    flavor = item.flavor or answers.Flavor()
    has_public_ip = item.floating_ip is not None and item.floating_ip_status in (None, "ATTACHED")
    seen = (exchange.observed_at, item.id, "fleet", item.status, None, None, has_public_ip)
    return [(*seen, flavor.gpu or None, flavor.gpu_count)]


def _vm_event_rows(_: Exchange, item: answers.VmEvent) -> list[tuple[Any, ...]]:
    status = status_of_event(item.reason)
    told = (answers.utc(item.time), item.instance_id, "event", status, item.reason)
    return [(*told, None, None, None, None)]


def _price_rows(exchange: Exchange, item: answers.Price) -> list[tuple[Any, ...]]:
    listed = item.original_value
    price = _round(item.value, RATE_UNIT)
    return [(exchange.observed_at, item.name, price, None if listed is None else _round(listed, RATE_UNIT))]


def _credit_rows(exchange: Exchange, item: answers.Credit) -> list[tuple[Any, ...]]:
    return [(exchange.observed_at, _round(item.credit, NANO_DOLLAR))]


def _payment_rows(exchange: Exchange, item: answers.Payment) -> list[tuple[Any, ...]]:
    tax = None if item.tax_amount is None else _round(item.tax_amount, NANO_DOLLAR)
    about = item.payment_id, answers.utc(item.created_at), item.status
    return [(exchange.observed_at, *about, _round(item.amount, NANO_DOLLAR), tax)]


def _graph_rows(exchange: Exchange, item: answers.GraphPoint) -> list[tuple[Any, ...]]:
    _, kind, resource_id, _ = exchange.endpoint.removeprefix(answers.HISTORY).split("/")
    bucket = (answers.utc(item.datetime), item.granularity, _round(item.value, HISTORY_UNIT))
    return [(exchange.observed_at, type_of_list(kind), int(resource_id), *bucket)]


def _billing_event_rows(exchange: Exchange, item: answers.BillingEvent) -> list[tuple[Any, ...]]:
    price = item.price_per_hour
    vm_id = int(exchange.endpoint.split("/")[-2])
    rate = None if price is None else _round(price, RATE_UNIT)
    return [(exchange.observed_at, vm_id, answers.utc(item.start), item.event, rate)]


def type_of_list(kind: str) -> str:
    """Give our resource type of a history list: that of the running counters, where they have one."""
    return "vm" if kind == "virtual-machine" else kind


def _history_rows(exchange: Exchange, item: answers.BillingRow) -> list[tuple[Any, ...]]:
    """Give one row per amount of money; other figures of the answer stay in the raw file.

    Raises: ValueError when a line of a list, or the total, has no bill: that is not a bill of 0.
    """
    part_of_vm = _SUB_RESOURCES.fullmatch(exchange.endpoint)
    kind = "vm" if part_of_vm else exchange.endpoint.removeprefix(answers.HISTORY).strip("/") or "organisation"
    start, end = (parse_instant(exchange.query[name]) for name in ("start_date", "end_date"))
    if end - start < timedelta(0):
        raise ValueError("window runs backwards")
    about, amounts = item.about, item.amounts()
    if answers.is_history_list(exchange.endpoint) and "incurred_bill" not in amounts:
        raise ValueError("no incurred_bill")
    return [
        (
            exchange.observed_at,
            start,
            end,
            type_of_list(kind),
            int(part_of_vm[1]) if part_of_vm else None if kind == "organisation" else _resource_id(about),
            about.id if kind == "organisation" else item.identity,
            about.resource_name,
            figure,
            _round(amount, HISTORY_UNIT),
        )
        for figure, amount in amounts.items()
    ]


def _resource_id(about: answers.BillingAttributes) -> int:
    """Give Hyperstack's number of a line; where it has none, one made of the billing system's id, far above all others.

    Raises: ValueError when the line has neither.
    """
    if about.infrahub_id is not None:
        return about.infrahub_id
    if about.id is None:
        raise ValueError("line without an id")
    return 2**60 + int.from_bytes(hashlib.sha256(about.id.encode()).digest()[:7])


def _round(amount: Decimal, unit: Decimal) -> Decimal:
    """Round an amount; a string such as "NaN" reads as a decimal but is none, and polars panics on it."""
    if not amount.is_finite():
        raise ValueError("expected a finite number")
    return amount.quantize(unit)


_READERS: dict[type, tuple[str, Callable[[Exchange, Any], list[tuple[Any, ...]]]]] = {
    answers.UsageItem: ("validated.billing_snapshots", _usage_rows),
    answers.VirtualMachine: ("validated.vm_states", _fleet_rows),
    answers.VmEvent: ("validated.vm_states", _vm_event_rows),
    answers.Price: ("validated.prices", _price_rows),
    answers.Credit: ("validated.credit_balances", _credit_rows),
    answers.Payment: ("validated.payments", _payment_rows),
    answers.BillingRow: ("validated.billing_history", _history_rows),
    answers.GraphPoint: ("validated.billing_graphs", _graph_rows),
    answers.BillingEvent: ("validated.billing_events", _billing_event_rows),
}
"""The table of each kind of item, and how it becomes rows of it."""
