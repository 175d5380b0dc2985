"""From our own ledger of a day and Hyperstack's books of it to what counts: the bill, and a reason for each difference.

Owns the adjustment rows and their reasons, and how a bill is divided among the kinds of cost. Pure, in femto-dollars.
The first book's difference from our ledger is booked with the reason that explains it, later books' as corrections, and
what the organisation was billed beyond its lines as a line of its own. Afterwards the day's costs are the newest book's
to the last digit. Nothing is too small to be booked: tolerance decides the reason. Definitions: docs/method.md,
"Reconciliation".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from spotinference_pipeline.books import Book, Key, Line
from spotinference_pipeline.charges import Share, add_shares, kind_of
from spotinference_pipeline.meter import Interval, apportion

UNATTRIBUTED: Key = ("unattributed", 0)
BOUNDARY_SECONDS = 120
"""How much of its price a closed day's bill may be off for where it was cut: the vendor's counters of one row are sampled
apart. The price is the day's highest or the line's: that one is the present price, 0 of what has ended since."""
NOISE = 10**9
"""Femto-dollars (1e-6 USD) that are always within tolerance."""
HOLE = 900_000_000
"""Microseconds between two readings from which time counts as unseen: minutes are missed now and then."""
MOST_RESIDUAL_USD, MOST_RESIDUAL_PART = 50 * 10**13, 1000
"""Our counters agree with a book up to 0.50 USD or a thousandth of the bill, whichever is more ..."""
MOST_UNATTRIBUTED_PART = 100
"""... and lines with the organisation's total up to a hundredth of it. Beyond that somebody must look."""
EXPLAINED = frozenset({"gap", "unseen"})
"""Reasons of the first book that say that nobody looked: they tell nothing of whether our counters are right."""


@dataclass
class OwnDay:
    """What our own counters say of one resource on the day; a day with books may have been read beyond its readings."""

    shares: list[Share] = field(default_factory=list)
    holes: list[Interval] = field(default_factory=list)
    amount: int = 0
    """What the counters moved by, credits apart."""
    credit: int = 0
    billed_credit: int = 0
    """The credits that a bill of the day holds: those that our counters or, where nobody looked, a graph showed in it."""
    readings: int = 0
    network: int | None = None
    """What Hyperstack bills for public IPs, where it was asked because nobody looked."""
    is_cut_unseen: bool = False
    """Whether a hole lies over an end of the day: what it moved by on either side, no reading says."""
    hourly: int = 0
    """The highest price that our readings around the day show, femto-dollars an hour."""

    @property
    def total(self) -> int:
        return self.amount + self.credit


@dataclass(frozen=True)
class Adjustment:
    """One booked difference: femto-dollars, the reason, and when the book that brought it was read."""

    key: Key
    reason: str
    amount: int
    booked_at: datetime
    tolerance: int
    name: str | None = None
    """What the line is called, where our counters may not know it."""


def settle(own: Mapping[Key, OwnDay], books: Sequence[Book], listed_types: frozenset[str]) -> list[Adjustment]:
    """Give the adjustments that turn our own totals into the newest book's; zero ones are left out.

    `listed_types` are the resource types that a book has lines of: others keep our own amounts, which then are no part
    of what is unattributed; where the day cuts their counters, that may be off by as much as a line may.
    """
    apart = [day for key, day in own.items() if key[0] not in listed_types]
    unlisted = sum(day.total for day in apart)
    prices = {key: day.hourly for key, day in own.items()} | {UNATTRIBUTED: sum(day.hourly for day in apart)}
    adjustments = []
    before = {key: day.total for key, day in own.items() if key[0] in listed_types}
    for number, book in enumerate(books):
        after = {key: line.bill for key, line in book.lines.items()} | {UNATTRIBUTED: book.unattributed - unlisted}
        for key in sorted(before.keys() | after.keys()):
            difference = after.get(key, 0) - before.get(key, 0)
            line = book.lines.get(key, Line(0))
            tolerance = max(line.hourly, prices.get(key, 0)) * BOUNDARY_SECONDS // 3600 + NOISE
            if difference:
                reason = "correction" if number else _explain(key, own.get(key), difference, tolerance)
                adjustments.append(Adjustment(key, reason, difference, book.observed_at, tolerance))
        before = after
    return adjustments


def is_agreed(adjustments: Sequence[Adjustment], books: Sequence[Book]) -> bool:
    """Tell whether our counters agree with the first book where somebody looked, and the newest book with itself."""
    bill, first = books[-1].organisation, books[0].observed_at
    residual = sum(
        abs(one.amount)
        for one in adjustments
        if one.key != UNATTRIBUTED and one.booked_at == first and one.reason not in EXPLAINED
    )
    unattributed = sum(one.amount for one in adjustments if one.key == UNATTRIBUTED)
    noise = max((one.tolerance for one in adjustments if one.key == UNATTRIBUTED), default=NOISE)
    most = max(MOST_RESIDUAL_USD, abs(bill) // MOST_RESIDUAL_PART)
    return residual <= most and -noise <= unattributed <= max(abs(bill) // MOST_UNATTRIBUTED_PART, noise)


def _explain(key: Key, own: OwnDay | None, difference: int, tolerance: int) -> str:
    if key == UNATTRIBUTED:
        return "unattributed"
    if own is None or not (own.readings or own.amount):
        return "unseen"
    if own.is_cut_unseen:
        return "gap"
    if abs(difference) <= tolerance:
        return "boundary"
    return "correction" if own.credit else "rate"


def divide(resource_type: str, own: OwnDay, bill: int) -> dict[str, int]:
    """Divide a bill among the kinds of cost, in proportion to our own shares; the parts add up to it exactly.

    Credits stay as they were seen. Hours that were seen keep their amounts and what is left goes to the hours that were
    not; where that cannot be, all hours give or take alike.
    """
    spent = bill - own.billed_credit
    if spent < 0:
        return {"credit": bill}
    shares = _fill(own, spent)
    parts = add_shares(shares)
    positive = {kind: amount for kind, amount in parts.items() if amount > 0}
    if sum(positive.values()) != spent:
        weights = positive or {kind_of(resource_type): 1}
        positive = dict(zip(weights, apportion(spent, list(weights.values())), strict=True))
    if own.network is not None:
        positive = _with_network(positive, min(own.network, spent), kind_of(resource_type))
    return positive | ({"credit": own.billed_credit} if own.billed_credit else {})


def divide_list_price(parts: Mapping[str, int], listed: int | None) -> dict[str, int]:
    """Divide a bill at list prices like the bill's own parts; credits are what they are. Nothing where that cannot be."""
    credit = parts.get("credit", 0)
    others = {kind: amount for kind, amount in parts.items() if kind != "credit" and amount}
    if listed is None or not others or listed < credit:
        return {}
    divided = apportion(listed - credit, list(others.values()))
    return dict(zip(others, divided, strict=True)) | ({"credit": credit} if credit else {})


def _with_network(parts: Mapping[str, int], network: int, kind: str) -> dict[str, int]:
    """Give so much of the parts to the network; the other parts share what is left in proportion."""
    others = {name: amount for name, amount in parts.items() if name != "network" and amount} or {kind: 1}
    left = apportion(sum(parts.values()) - network, list(others.values()))
    return dict(zip(others, left, strict=True)) | {"network": network}


def _fill(own: OwnDay, spent: int) -> list[Share]:
    """Give the shares with what is left of `spent` divided among those that touch a hole, in proportion."""
    unseen = [_touches(share, own.holes) for share in own.shares]
    left = spent - sum(share.amount for share, is_unseen in zip(own.shares, unseen, strict=True) if not is_unseen)
    amounts = [max(share.amount, 0) for share, is_unseen in zip(own.shares, unseen, strict=True) if is_unseen]
    if left < 0 or not any(amounts):
        return own.shares
    parts = iter(apportion(left, amounts))
    return [
        Share(share.start, share.end, next(parts), share.weights) if is_unseen else share
        for share, is_unseen in zip(own.shares, unseen, strict=True)
    ]


def _touches(share: Share, holes: Sequence[Interval]) -> bool:
    return any(start < share.end and end > share.start for start, end in holes)
