"""What Hyperstack's answers mean: exact bytes in, typed items out, one reason for each item that cannot be read.

Owns the vendor's field names, wrapper keys and quirks: `success` against `status`, two possible wrapper keys, prices as
strings, instants with and without zone, integer zeros, amounts as binary floats. Numbers become Decimal straight from
the text. NaN, Infinity, lone surrogates and endless nesting are refused by the JSON reader. Does not own which rows are
plausible: that is `contracts`.

Source: the vendor's API description of 2026, its examples and its SDKs; facts that only examples show are in the tests.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any

import msgspec

from spotinference_pipeline.errors import HyperstackError

USAGE = "/billing/billing/usage"
HISTORY = "/billing/billing/history"
CREDIT = "/billing/user-credit/credit"
VIRTUAL_MACHINES = "/core/virtual-machines"
VOLUMES = "/core/volumes"
SNAPSHOTS = "/core/snapshots"
PAYMENTS = "/billing/payment/payment-details"
PRICE_BOOK = "/pricebook"
VM_EVENTS = "/core/virtual-machines/{vm_id}/events"
BILLING_EVENTS = "/billing/billing/virtual-machine/{vm_id}/billing-events"
SUB_RESOURCES = "/billing/billing/virtual-machine/{vm_id}/sub-resource"
GRAPH = HISTORY + "/{kind}/{resource_id}/graph"
HISTORY_LISTS = {
    "virtual-machine": True,
    "volume": True,
    "snapshot": True,
    "cluster": True,
    "bucket": True,
    "contract": True,
    "serverless_inference": False,
    "image_generation": False,
    "fine_tuning": False,
    "model_evaluation": False,
    "data_synthesis": False,
}
"""The lists of the billing history, and whether a day's book needs each: AI lists are asked for only where the
organisation's total shows AI costs."""

Count = Annotated[int, msgspec.Meta(ge=-(2**62), le=2**62)]
_ENVELOPE = frozenset({"status", "success", "message", "error_reason", "page", "page_size", "count"})


class UsageItem(msgspec.Struct, frozen=True):
    """A resource's running counters. `total_bill` is USD since `create_time`; `bill_per_minute` is null once it ended."""

    resource_id: Count
    resource_type: str
    total_bill: Decimal
    create_time: datetime
    active: bool
    name: str | None = None
    bill_per_minute: Decimal | None = None
    terminate_time: datetime | None = None
    exclude_billing: bool = False
    currency: str | None = None


class Flavor(msgspec.Struct, frozen=True):
    """What a VM is made of; `gpu` is empty for CPU flavors."""

    name: str | None = None
    gpu: str | None = None
    gpu_count: Count | None = None


class VirtualMachine(msgspec.Struct, frozen=True):
    """A machine of the fleet; `status` is upper case, unknown words are kept."""

    id: Count
    status: str
    name: str | None = None
    flavor: Flavor | None = None
    floating_ip: str | None = None
    floating_ip_status: str | None = None


class VmEvent(msgspec.Struct, frozen=True):
    """Something that happened to a machine, to the second."""

    instance_id: Count
    time: datetime
    reason: str


class Price(msgspec.Struct, frozen=True):
    """A price per unit-hour in USD: `value` after discount, `original_value` at list price. Both come as strings."""

    name: str
    value: Decimal
    original_value: Decimal | None = None
    currency: str | None = None


class Credit(msgspec.Struct, frozen=True):
    """The prepaid balance in USD; may be below zero."""

    credit: Decimal
    currency: str | None = None


class Payment(msgspec.Struct, frozen=True):
    """Money paid into the prepaid balance in USD, its tax apart; `status` is a word that nobody documents."""

    payment_id: str
    amount: Decimal
    created_at: datetime
    tax_amount: Decimal | None = None
    status: str | None = None
    currency: str | None = None


class GraphPoint(msgspec.Struct, frozen=True):
    """What one bucket of a graph cost in USD; `granularity` is its length in seconds."""

    datetime: datetime
    value: Decimal
    granularity: Annotated[int, msgspec.Meta(gt=0, le=10**8)]


class BillingEvent(msgspec.Struct, frozen=True):
    """From when a machine was billed in which state, and at which price an hour; the first start is cut at the window."""

    start: datetime
    event: str
    price_per_hour: Decimal | None = None


class BillingAttributes(msgspec.Struct, frozen=True):
    id: str | None = None
    infrahub_id: Count | None = None
    resource_name: str | None = None
    status: str | None = None


class BillingRow(msgspec.Struct, frozen=True):
    """A row of the billing history: one resource, or the organisation, in the window that was asked for."""

    metrics: dict[str, msgspec.Raw]
    attributes: dict[str, msgspec.Raw] = {}
    currency: str | None = None

    def __post_init__(self) -> None:
        """Refuse a row whose attributes cannot be read.

        Raises: ValueError when one that is known has another type.
        """
        _ATTRIBUTES.decode(msgspec.json.encode(self.attributes))

    @property
    def about(self) -> BillingAttributes:
        """Give the attributes that are known."""
        return _ATTRIBUTES.decode(msgspec.json.encode(self.attributes))

    @property
    def identity(self) -> str:
        """Give the row's id in the billing system; without one, a digest of all that is said about it but its status.

        Amounts are no part of it: a row that is read again with another amount is the same row.
        """
        said = {name: raw for name, raw in self.attributes.items() if name != "status"}
        return self.about.id or hashlib.sha256(msgspec.json.encode(said, order="sorted")).hexdigest()

    def amounts(self) -> dict[str, Decimal]:
        """Give the row's amounts of money by their names; a figure that is null is left out.

        Raises: ValueError when an amount is not a number.
        """
        amounts = {name: _AMOUNT.decode(raw) for name, raw in self.metrics.items() if name.endswith(_MONEY)}
        return {name: amount for name, amount in amounts.items() if amount is not None}


_MONEY = ("_bill", "_cost", "_per_hour")
_ATTRIBUTES = msgspec.json.Decoder(BillingAttributes)
_AMOUNT: msgspec.json.Decoder[Decimal | None] = msgspec.json.Decoder(Decimal | None)


@dataclass(frozen=True)
class BadItem:
    """An item that cannot be read, its place in the answer, and its bytes."""

    position: str
    reason: str
    content: bytes


_DECODERS: dict[type, msgspec.json.Decoder[Any]] = {
    kind: msgspec.json.Decoder(kind)
    for kind in (UsageItem, VirtualMachine, VmEvent, Price, Credit, Payment, BillingRow, GraphPoint, BillingEvent)
}
Item = UsageItem | VirtualMachine | VmEvent | Price | Credit | Payment | BillingRow | GraphPoint | BillingEvent


def read_items(endpoint: str, content: bytes) -> list[Item | BadItem]:
    """Read an answer with status 200 into the items of its endpoint.

    Endpoints that the pipeline keeps but does not read give no items.
    Raises: HyperstackError when the answer as a whole cannot be read: not JSON, no wrapper, `status` false.
    """
    item_type, raws = raw_items(endpoint, content)
    decoder = _DECODERS.get(item_type)
    return [] if decoder is None else [_read_item(decoder, position, raw) for position, raw in enumerate(raws)]


def raw_items(endpoint: str, content: bytes) -> tuple[type, list[msgspec.Raw]]:
    """Take an answer apart: the type of its items, and the bytes of each; none where nothing is read.

    Raises: HyperstackError when the answer as a whole cannot be read.
    """
    reader = _reader(endpoint)
    if reader is None:
        _decode(content, msgspec.Raw)
        return object, []
    wrapper, item_type = reader
    return item_type, wrapper(content)


def is_history_list(endpoint: str) -> bool:
    """Tell whether a path is the organisation's billing history, or a list of its lines."""
    return endpoint == HISTORY or endpoint.removeprefix(HISTORY + "/") in HISTORY_LISTS


def is_empty_list(endpoint: str, content: bytes) -> bool:
    """Tell whether an answer with status 404 is how a list of the billing history says that it has no line."""
    if endpoint.removeprefix(HISTORY + "/") not in HISTORY_LISTS:
        return False
    try:
        members = _decode(content, dict[str, msgspec.Raw])
    except HyperstackError:
        return False
    return bytes(members.get("error_reason", b"")) == b'"not_found"'


def foreign_currency(item: Item) -> str | None:
    """Give the currency of an item whose money is not US dollars; Hyperstack names none in these answers, as yet."""
    currency = item.currency if isinstance(item, UsageItem | Price | Credit | Payment | BillingRow) else None
    return None if currency is None or currency.lower() == "usd" else currency


def utc(instant: datetime) -> datetime:
    """Read a vendor's instant: without a zone it is UTC."""
    if instant.tzinfo is None:
        return instant.replace(tzinfo=UTC)
    try:
        return instant.astimezone(UTC)
    except OverflowError:
        return instant.replace(tzinfo=UTC)  # at either end of the calendar, where every contract refuses it


def _read_item(decoder: msgspec.json.Decoder[Any], position: int, raw: msgspec.Raw) -> Item | BadItem:
    try:
        item: Item = decoder.decode(raw)
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        return BadItem(f"item {position}", str(error), bytes(raw))
    return item


Wrapper = Callable[[bytes], list[msgspec.Raw]]


def _reader(endpoint: str) -> tuple[Wrapper, type[Item]] | None:
    if endpoint.startswith(VIRTUAL_MACHINES + "/") and endpoint.endswith("/events"):
        return (lambda content: _list_of(_envelope(content), "instance_events", "virtual_machine_events")), VmEvent
    if endpoint.endswith("/billing-events"):
        return (lambda content: _list_of(_envelope(content), "billing_events_history")), BillingEvent
    if endpoint.startswith(HISTORY) and endpoint.endswith("/graph"):
        return _graph_points, GraphPoint
    if is_history_list(endpoint) or endpoint.endswith("/sub-resource"):
        return _history_rows, BillingRow
    readers: dict[str, tuple[Wrapper, type[Item]]] = {
        USAGE: ((lambda content: _list_of(_envelope(content), "data")), UsageItem),
        VIRTUAL_MACHINES: ((lambda content: _list_of(_envelope(content), "instances")), VirtualMachine),
        PRICE_BOOK: ((lambda content: _decode(content, list[msgspec.Raw])), Price),
        PAYMENTS: ((lambda content: _list_of(_envelope(content), "data")), Payment),
        CREDIT: ((lambda content: [_member(_envelope(content), "data")]), Credit),
    }
    return readers.get(endpoint)


def _decode(content: bytes, kind: type[Any]) -> Any:
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        start = content[:40].decode(errors="replace")
        raise HyperstackError(f"body: expected JSON of this endpoint, found {start!r} ({error})") from None


def _envelope(content: bytes) -> dict[str, msgspec.Raw]:
    members: dict[str, msgspec.Raw] = _decode(content, dict[str, msgspec.Raw])
    for flag in ("status", "success"):
        if flag in members and bytes(members[flag]) == b"false":
            raise HyperstackError(f"body: expected {flag} true, found false")
    return members


def _member(members: dict[str, msgspec.Raw], *names: str) -> msgspec.Raw:
    for name in names:
        if name in members:
            return members[name]
    raise HyperstackError(f"body: expected the member {names[0]!r}, found {sorted(members)}")


def _list_of(members: dict[str, msgspec.Raw], *names: str) -> list[msgspec.Raw]:
    rows: list[msgspec.Raw] = _decode(bytes(_member(members, *names)), list[msgspec.Raw])
    return rows


def _history_rows(content: bytes) -> list[msgspec.Raw]:
    """Find the rows whatever the wrapper is called, or without one; a single object with `metrics` is one row."""
    whole = _envelope(content)
    if bytes(whole.get("billing_history", b"")).startswith(b"["):
        return _list_of(whole, "billing_history")
    for wrapper in _objects(whole):
        members = _decode(wrapper, dict[str, msgspec.Raw])
        if "billing_history" in members:
            return _list_of(members, "billing_history")
        if "metrics" in members:
            return [msgspec.Raw(wrapper)]
    raise HyperstackError("body: expected an object with 'billing_history' or 'metrics', found none")


def _graph_points(content: bytes) -> list[msgspec.Raw]:
    """Find the buckets of the one resource that a graph is about, each with the graph's granularity."""
    for wrapper in _objects(_envelope(content)):
        members = _decode(wrapper, dict[str, msgspec.Raw])
        rows = _list_of(members, "billing_history")
        granularity = _member(members, "granularity")
        points = [
            point
            for row in rows
            for point in _decode(
                bytes(
                    _member(
                        _decode(
                            bytes(_member(_decode(bytes(row), dict[str, msgspec.Raw]), "metrics")),
                            dict[str, msgspec.Raw],
                        ),
                        "incurred_bill_graph",
                    )
                ),
                list[dict[str, msgspec.Raw]],
            )
        ]
        return [msgspec.Raw(msgspec.json.encode(point | {"granularity": granularity})) for point in points]
    raise HyperstackError("body: expected an object with 'billing_history', found none")


def _objects(members: dict[str, msgspec.Raw]) -> Iterator[bytes]:
    for name, raw in members.items():
        content = bytes(raw)
        if name not in _ENVELOPE and content.startswith(b"{"):
            yield content
