"""What state a VM was in at each instant, and which of its time was a cold start. Pure.

A state is known where the fleet list showed it and where an event told it. A change that an event explains happened at
the event's second; one that none explains is put in the middle of the gap in which it must have happened, and counted.
Units: microseconds since 1970 UTC, intervals half-open.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from spotinference_pipeline.meter import Interval

ACTIVE = "ACTIVE"


@dataclass(frozen=True, slots=True)
class Sight:
    """A status known at an instant: from the fleet list, or from an event."""

    at: int
    status: str
    is_event: bool
    has_public_ip: bool | None = None


class StateLine:
    """The statuses of one VM along time. Before the first sight the status is unknown (None)."""

    def __init__(self, sights: Iterable[Sight]) -> None:
        self._starts: list[int] = []
        self._statuses: list[str] = []
        self.unexplained: list[int] = []
        previous_at: int | None = None
        for sight in sorted(sights, key=lambda s: (s.at, not s.is_event)):
            if not self._statuses:
                self._change(sight.at, sight.status)
            elif sight.status != self._statuses[-1]:
                if sight.is_event or previous_at is None:
                    self._change(sight.at, sight.status)
                else:
                    middle = (previous_at + sight.at) // 2
                    self.unexplained.append(middle)
                    self._change(middle, sight.status)
            previous_at = sight.at

    def _change(self, at: int, status: str) -> None:
        if self._starts and self._starts[-1] == at:
            self._statuses[-1] = status
        else:
            self._starts.append(at)
            self._statuses.append(status)

    def at(self, instant: int) -> str | None:
        """Give the status that holds from this instant on."""
        position = bisect_right(self._starts, instant) - 1
        return self._statuses[position] if position >= 0 else None

    def pieces(self, start: int, end: int) -> list[tuple[int, int, str | None]]:
        """Tile [start, end) by status."""
        cuts = [start, *self._starts[bisect_right(self._starts, start) : bisect_left(self._starts, end)], end]
        return [(low, high, self.at(low)) for low, high in pairwise(cuts)]

    def active_runs(self, end: int) -> list[tuple[int, int, bool]]:
        """Give each ACTIVE stretch up to `end`, and whether its beginning, a wake, was seen."""
        runs: list[tuple[int, int, bool]] = []
        for place, (start, status) in enumerate(zip(self._starts, self._statuses, strict=True)):
            if status == ACTIVE and start < end and (place == 0 or self._statuses[place - 1] != ACTIVE):
                stop = next(
                    (s for s, t in zip(self._starts[place:], self._statuses[place:], strict=True) if t != ACTIVE),
                    end,
                )
                runs.append((start, min(stop, end), place > 0))
        return runs


@dataclass(frozen=True)
class Readiness:
    """What the request log knows of one VM: probes (instant, ready), sorted, and the instants of first bytes, sorted."""

    probes: Sequence[tuple[int, bool]] = ()
    first_bytes: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class ColdStart:
    """The time from a wake until the engine was ready, or until the wake was over without that.

    `ready_by` is `probe` or `first_byte`; None where it was not ready.
    """

    start: int
    end: int
    failed: bool
    ready_by: str | None = field(default=None, compare=False)

    @property
    def interval(self) -> Interval:
        return self.start, self.end


def find_cold_starts(line: StateLine, readiness: Readiness, end: int) -> list[ColdStart]:
    """Give the cold start of each wake that was seen before `end`.

    Ready is the first healthy probe since the wake, else the first byte of an answer. A machine that the proxy never
    probed nor used during the run serves no model: it has no cold start.
    """
    found = []
    for start, stop, wake_seen in line.active_runs(end):
        if not wake_seen:
            continue
        probes = readiness.probes[
            bisect_left(readiness.probes, (start, False)) : bisect_left(readiness.probes, (stop, False))
        ]
        ready, ready_by = next((at for at, is_ready in probes if is_ready), None), "probe"
        if ready is None:
            place = bisect_left(readiness.first_bytes, start)
            byte = readiness.first_bytes[place] if place < len(readiness.first_bytes) else None
            ready, ready_by = byte if byte is not None and byte < stop else None, "first_byte"
        if ready is not None:
            found.append(ColdStart(start, ready, failed=False, ready_by=ready_by))
        elif probes:
            found.append(ColdStart(start, stop, failed=line.at(stop) != ACTIVE))
    return found
