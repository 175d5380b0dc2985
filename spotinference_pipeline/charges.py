"""What a counter's readings and a machine's states say of one resource: its course, its credits, its parts. Pure.

Owns the expected rate at each instant (which status holds, whether a public IP is attached, when a rate changed), what a
falling counter means, and which cost_kind a second belongs to. The arithmetic is `meter`'s, in the same units. Where the
facts come from is `ledger`. Definitions: docs/method.md, "Paid" and "Parts".
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from spotinference_pipeline.meter import (
    Interval,
    Leg,
    Meter,
    Stretch,
    apportion,
    change_of_rate,
    intersect,
    length,
    subtract,
    union,
)
from spotinference_pipeline.states import ColdStart, StateLine

HOUR = 3_600_000_000
STORAGE_TYPES = frozenset({"volume", "snapshot", "bucket"})
"""Resource types that are storage whatever their state; `vm` is split by state; all others are `other`."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One observation of a running counter, in the meter's units. The rate is None at a creation, where it is not shown."""

    at: int
    total: int
    rate: int | None


@dataclass(frozen=True)
class VmFacts:
    """What is known about one VM's states around the day."""

    line: StateLine
    public_ips: Sequence[tuple[int, bool]]
    cold_starts: Sequence[ColdStart]
    busy: list[Interval]
    gpu_count: int | None
    rates: Mapping[str, int] = field(default_factory=dict)
    """The rate last shown in each status: for time in which nobody looked."""

    def has_public_ip(self, instant: int) -> bool:
        """Tell what the fleet list nearest to an instant showed."""
        place = bisect_left(self.public_ips, (instant, False))
        near = self.public_ips[max(place - 1, 0) : place + 1]
        return min(near, key=lambda seen: abs(seen[0] - instant))[1] if near else False


def build_meter(readings: Sequence[Reading], vm: VmFacts | None, ip_rate: int) -> tuple[Meter, list[tuple[int, int]]]:
    """Build a counter's course from its readings, and the credits (instant seen, negative amount) taken out of it.

    A counter that falls was credited by the fall plus what it should have earned meanwhile.
    """
    legs, credits = [], []
    for before, after in pairwise(readings):
        if before.at == after.at:
            continue
        amount = after.total - before.total
        stretches = _stretches(before, after, max(amount, 0), vm, ip_rate)
        if amount < 0:
            expected = sum(stretch.weight for stretch in stretches) // 60_000_000
            credits.append((after.at - 1, amount - expected))
            amount = expected
        legs.append(Leg(before.at, after.at, amount, stretches))
    return Meter(legs), credits


def extend(readings: Sequence[Reading], until: int, vm: VmFacts | None, ip_rate: int) -> list[Reading]:
    """Go on from the last reading at the rate of each status, for time in which a life went on and nobody looked."""
    last = readings[-1]
    status = vm.line.at(until - 1) if vm else None
    rate = (vm.rates.get(status) if vm and status else None) or last.rate or 1
    expected = sum(s.weight for s in _stretches(last, Reading(until, last.total, rate), 0, vm, ip_rate)) // 60_000_000
    return [*readings, Reading(until, last.total + expected, rate)]


@dataclass(frozen=True, slots=True)
class Share:
    """Part of a day: what the counter moved by in it, and the expected cost by kind that divides this amount."""

    start: int
    end: int
    amount: int
    weights: Mapping[str, int]


def share_day(resource_type: str, meter: Meter, vm: VmFacts | None, start: int, end: int) -> list[Share]:
    """Part [start, end) into shares: hours for a machine of known states, else one. Each amount is the counter's own."""
    if vm is None:
        return [Share(start, end, meter.between(start, end), {kind_of(resource_type): 1})]
    cold = union(cold.interval for cold in vm.cold_starts)
    shares = []
    for hour in range(start, end, HOUR):
        stretches = meter.stretches(hour, hour + HOUR)
        weights = _weigh(stretches, vm.busy, cold)
        if not any(weights.values()):
            weights = _weigh([replace(s, rate=1, network_rate=0) for s in stretches], vm.busy, cold)
        if any(weights.values()):
            shares.append(Share(hour, hour + HOUR, meter.between(hour, hour + HOUR), weights))
    return shares


def add_shares(shares: Iterable[Share]) -> dict[str, int]:
    """Divide each share by its weights, and add up by kind; the parts add up to the shares exactly."""
    parts: dict[str, int] = defaultdict(int)
    for share in shares:
        for kind, part in zip(share.weights, apportion(share.amount, list(share.weights.values())), strict=True):
            parts[kind] += part
    return parts


def kind_of(resource_type: str) -> str:
    """Give the kind of a resource about whose states nothing is known."""
    return "storage" if resource_type in STORAGE_TYPES else "idle" if resource_type == "vm" else "other"


def _weigh(stretches: Iterable[Stretch], busy: Sequence[Interval], cold: Sequence[Interval]) -> dict[str, int]:
    """Give the expected cost of stretches by kind: network first, then busy before cold start before idle."""
    weights = dict.fromkeys(("busy", "cold_start", "idle", "parked", "network"), 0)
    for stretch in stretches:
        whole = [(stretch.start, stretch.end)]
        network_rate = min(stretch.network_rate, stretch.rate)
        rate = stretch.rate - network_rate
        weights["network"] += network_rate * (stretch.end - stretch.start)
        if stretch.status not in ("ACTIVE", None):
            weights["parked"] += rate * (stretch.end - stretch.start)
            continue
        busy_time = intersect(whole, busy)
        cold_time = subtract(intersect(whole, cold), busy_time)
        weights["busy"] += rate * length(busy_time)
        weights["cold_start"] += rate * length(cold_time)
        weights["idle"] += rate * (stretch.end - stretch.start - length(busy_time) - length(cold_time))
    return weights


def _stretches(before: Reading, after: Reading, amount: int, vm: VmFacts | None, ip_rate: int) -> tuple[Stretch, ...]:
    """Tile the time between two readings by expected rate and status."""
    rate_after = after.rate or 0
    if vm is None:
        return (Stretch(before.at, after.at, before.rate or rate_after),)
    first, last = vm.line.at(before.at), vm.line.at(after.at)
    ip_after = ip_rate if vm.has_public_ip(after.at) else 0
    if before.rate is not None:
        rate_before, ip_before = before.rate, ip_rate if vm.has_public_ip(before.at) else 0
    else:
        rate_before, ip_before = (rate_after, ip_after) if first in (None, last) else (vm.rates.get(first or "", 0), 0)
    pieces = vm.line.pieces(before.at, after.at)
    if len(pieces) == 1 and first == last and (rate_before, ip_before) != (rate_after, ip_after):
        change = change_of_rate(before.at, after.at, amount, rate_before, rate_after)
        pieces = [piece for piece in ((before.at, change, first), (change, after.at, "")) if piece[0] < piece[1]]
    stretches = []
    for start, end, status in pieces:
        if start == before.at and status == first:
            rate, ip = rate_before, ip_before
        elif status in (last, ""):
            rate, ip = rate_after, ip_after
        elif status == first:
            rate, ip = rate_before, ip_before
        else:
            rate, ip = vm.rates.get(status or "", min(rate_before, rate_after)), min(ip_before, ip_after)
        stretches.append(Stretch(start, end, rate, ip, status or last))
    return tuple(stretches)
