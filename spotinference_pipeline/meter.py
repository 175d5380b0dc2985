"""The arithmetic of the meter: from running counters to exact parts. Pure, integers only.

Units: money in femto-dollars (1e-15 USD), instants in microseconds since 1970 UTC, expected rates in femto-dollars a
minute. A counter is known at its readings; between two readings its course is taken to follow the expected rate, scaled
so that it meets both. So any amount between two instants is a difference of two values of one function: leaving out
readings moves money inside the gap, never in or out of it.

Does not own where readings, rates and kinds come from: that is `ledger`.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

Interval = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Stretch:
    """Time between two readings in which the expected rate does not change."""

    start: int
    end: int
    rate: int
    network_rate: int = 0
    status: str | None = None

    @property
    def weight(self) -> int:
        return self.rate * (self.end - self.start)


@dataclass(frozen=True, slots=True)
class Leg:
    """What happened between two neighbouring readings: the amount, and the stretches that tile the time."""

    start: int
    end: int
    amount: int
    stretches: tuple[Stretch, ...]

    def until(self, instant: int) -> int:
        """Give the part of the amount that falls before an instant inside the leg."""
        if instant <= self.start:
            return 0
        if instant >= self.end:
            return self.amount
        total = sum(stretch.weight for stretch in self.stretches)
        if total == 0:
            return self.amount * (instant - self.start) // (self.end - self.start)
        before = sum(s.rate * (min(s.end, instant) - s.start) for s in self.stretches if s.start < instant)
        return self.amount * before // total


class Meter:
    """The course of one counter over its legs, which must tile time."""

    def __init__(self, legs: Sequence[Leg]) -> None:
        self.legs = legs
        self._starts = [leg.start for leg in legs]
        self._totals = [0]
        for leg in legs:
            self._totals.append(self._totals[-1] + leg.amount)

    def until(self, instant: int) -> int:
        """Give the amount from the first reading up to an instant; flat outside the readings."""
        position = bisect_right(self._starts, instant) - 1
        if position < 0:
            return 0
        return self._totals[position] + self.legs[position].until(instant)

    def between(self, start: int, end: int) -> int:
        """Give the amount of [start, end). Neighbouring windows add up exactly."""
        return self.until(end) - self.until(start)

    def straddling(self, instant: int) -> Leg | None:
        """Give the leg that has the instant strictly inside it, if any."""
        position = bisect_right(self._starts, instant) - 1
        if position < 0:
            return None
        leg = self.legs[position]
        return leg if leg.start < instant < leg.end else None

    def stretches(self, start: int, end: int) -> list[Stretch]:
        """Give the stretches inside [start, end), cut at its ends, like neighbours joined."""
        joined: list[Stretch] = []
        first = max(bisect_right(self._starts, start) - 1, 0)
        for leg in self.legs[first:]:
            if leg.start >= end:
                break
            for s in leg.stretches:
                low, high = max(s.start, start), min(s.end, end)
                if low >= high:
                    continue
                last = joined[-1] if joined else None
                if last and (last.end, last.rate, last.network_rate, last.status) == (
                    low,
                    s.rate,
                    s.network_rate,
                    s.status,
                ):
                    joined[-1] = Stretch(last.start, high, s.rate, s.network_rate, s.status)
                else:
                    joined.append(Stretch(low, high, s.rate, s.network_rate, s.status))
        return joined


def apportion(amount: int, weights: Sequence[int]) -> list[int]:
    """Split an amount in proportion to weights (none negative, not all zero); the parts add up to it exactly."""
    total = sum(weights)
    edges = [0]
    running = 0
    for weight in weights:
        running += weight
        edges.append(amount * running // total)
    return [high - low for low, high in pairwise(edges)]


def change_of_rate(start: int, end: int, amount: int, before: int, after: int) -> int:
    """Find when the rate went from `before` to `after`, if the counter moved by `amount`; kept inside [start, end].

    The counter says it itself: amount is before times the first part plus after times the rest.
    """
    minute = 60_000_000
    if before == after:
        return end
    first_part = (amount * minute - after * (end - start)) // (before - after)
    return min(max(start + first_part, start), end)


def union(intervals: Iterable[Interval]) -> list[Interval]:
    """Join overlapping or touching intervals; the result is sorted and disjoint, empty ones are left out."""
    joined: list[Interval] = []
    for start, end in sorted(intervals):
        if start >= end:
            continue
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end))
        else:
            joined.append((start, end))
    return joined


def intersect(first: Sequence[Interval], second: Sequence[Interval]) -> list[Interval]:
    """Give the time that lies in both of two sorted, disjoint lists."""
    common: list[Interval] = []
    i = j = 0
    while i < len(first) and j < len(second):
        low, high = max(first[i][0], second[j][0]), min(first[i][1], second[j][1])
        if low < high:
            common.append((low, high))
        if first[i][1] <= second[j][1]:
            i += 1
        else:
            j += 1
    return common


def subtract(first: Sequence[Interval], second: Sequence[Interval]) -> list[Interval]:
    """Give the time of the first sorted, disjoint list that is not in the second."""
    rest: list[Interval] = []
    for start, end in first:
        low = start
        for cut_start, cut_end in second[max(bisect_right(second, (start, start)) - 1, 0) :]:
            if cut_start >= end:
                break
            if cut_end <= low:
                continue
            if cut_start > low:
                rest.append((low, cut_start))
            low = max(low, cut_end)
        if low < end:
            rest.append((low, end))
    return rest


def length(intervals: Iterable[Interval]) -> int:
    """Give the total microseconds of disjoint intervals."""
    return sum(end - start for start, end in intervals)
