"""How the lives of a resource add up to its day: what its counters moved by, and which hours that fills.

Owns what a life adds to its resource's day, where the sides of midnight are inferred, and which time of a day with a book
nobody looked at. The arithmetic is `meter`'s, a counter's course `charges`', what a bill makes of it `settlement`'s.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from spotinference_pipeline.books import Key
from spotinference_pipeline.charges import Share, VmFacts, build_meter, extend, share_day
from spotinference_pipeline.meter import Interval, intersect, union
from spotinference_pipeline.readings import Life
from spotinference_pipeline.settlement import HOLE, OwnDay


@dataclass
class ResourceDay:
    """What all lives of one resource come to on the day."""

    name: str | None = None
    is_excluded: bool = False
    own: OwnDay = field(default_factory=OwnDay)
    kinds: Mapping[str, int] = field(default_factory=dict)
    first_kinds: Mapping[str, int] = field(default_factory=dict)
    """As the day's first book billed it; where there is none, the same as `kinds`."""
    listed_kinds: Mapping[str, int] = field(default_factory=dict)
    """The first bill at list prices, where it says that."""
    edge: int = 0
    outside: int = 0
    source: str = "counters"


@dataclass(frozen=True)
class Measure:
    """What one day's resources are measured with.

    `billed_types`: the types whose amounts the day's book gives, none without a book. Of them, what only other days show is used.
    """

    start: int
    end: int
    facts: Mapping[int, VmFacts]
    ip_rate: int
    graphs: Mapping[Key, Mapping[int, int]]
    billed_types: frozenset[str]
    ip_bills: Mapping[int, int] = field(default_factory=dict)
    """What Hyperstack bills for public IPs of machines that it was asked about."""

    def add(self, resource: ResourceDay, life: Life) -> None:
        """Add one life. Excluded resources cost nothing and stay visible."""
        own = resource.own
        own.readings += sum(self.start <= r.at < self.end and r.rate is not None for r in life.readings)
        resource.name, resource.is_excluded = life.name, life.is_excluded
        if life.is_excluded:
            return
        own.hourly = max(own.hourly, *(60 * (reading.rate or 0) for reading in life.readings))
        known = self.facts.get(life.resource_id) if life.resource_type == "vm" else None
        vm = replace(known, rates={}) if known else None  # what other days show moves nothing over midnight
        meter, credits = build_meter(life.readings, vm, self.ip_rate)
        own.amount += meter.between(self.start, self.end)
        own.credit += sum(amount for at, amount in credits if self.start <= at < self.end)
        for leg in {meter.straddling(instant) for instant in (self.start, self.end)} - {None}:
            assert leg is not None
            inside = meter.between(max(leg.start, self.start), min(leg.end, self.end))
            credit = sum(amount for at, amount in credits if leg.start < at < leg.end)
            is_inside = self.start < leg.end <= self.end
            resource.edge += inside - (0 if is_inside else credit)
            resource.outside += leg.amount - inside - (credit if is_inside else 0)
        if life.resource_type in self.billed_types:
            self._look_beyond(own, life, known, [one for one in credits if self.start <= one[0] < self.end])
        else:
            own.shares += share_day(life.resource_type, meter, vm, self.start, self.end)

    def _look_beyond(self, own: OwnDay, life: Life, vm: VmFacts | None, credits: Sequence[tuple[int, int]]) -> None:
        """Take the shares as far as the life goes, with the graph's amounts where nobody looked."""
        readings = life.readings
        if not life.is_ended and readings[-1].at < self.end:
            readings = extend(readings, self.end, vm, self.ip_rate)
        gaps = [(before.at, after.at) for before, after in pairwise(readings) if after.at - before.at >= HOLE]
        holes = intersect(union(gaps), [(self.start, self.end)])
        unread = {self.start, self.end} - {reading.at for reading in life.readings}
        own.is_cut_unseen |= any(low < instant <= high for instant in unread for low, high in gaps)
        meter, _ = build_meter(readings, vm, self.ip_rate)
        shares = share_day(life.resource_type, meter, vm, self.start, self.end)
        graph = self.graphs.get((life.resource_type, life.resource_id))
        if graph and vm and holes:
            credits = [one for one in credits if not _touches(one[0], one[0] + 1, holes)]
            charged = [_charge(share, graph, credits, holes) for share in shares]
            own.billed_credit += sum(credit for _, credit in charged)
            shares = [share for share, _ in charged]
        own.shares += shares
        own.holes = union([*own.holes, *holes])
        own.network = self.ip_bills.get(life.resource_id) if own.holes and life.resource_type == "vm" else None
        own.billed_credit += sum(amount for _, amount in credits)


def _charge(
    share: Share, graph: Mapping[int, int], credits: Sequence[tuple[int, int]], holes: Sequence[Interval]
) -> tuple[Share, int]:
    """Give an unseen share with its bucket of the graph, and the credit that a bucket below zero must hold."""
    if not _touches(share.start, share.end, holes):
        return share, 0
    amount = graph.get(share.start, 0) - sum(credit for at, credit in credits if share.start <= at < share.end)
    expected = sum(share.weights.values()) // 60_000_000
    credit = amount - expected if amount < 0 else 0
    return Share(share.start, share.end, amount - credit, share.weights), credit


def _touches(start: int, end: int, holes: Sequence[Interval]) -> bool:
    return any(low < end and high > start for low, high in holes)
