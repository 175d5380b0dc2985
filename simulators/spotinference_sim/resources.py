"""Machines, volumes and other things that cost: what state each was in at every second, and the meter that its bill follows.

Owns the exact counters. Does not own which states happen (`fleet`) or how answers spell them
(`hyperstack_*`). A spell is a stretch of time in which neither state nor price change. Half-open, whole
seconds.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from spotinference_sim.instants import FOREVER_S, HOUR_S, SECOND_US
from spotinference_sim.prices import NANO, Flavor

FEMTO = 10**15


@dataclass(frozen=True, slots=True)
class Spell:
    """One state at one price; `parts` are nano-dollars per second by sub-resource name."""

    start_s: int
    end_s: int
    status: str
    parts: tuple[tuple[str, int], ...]

    @property
    def rate(self) -> int:
        """Nano-dollars per second, the public IP included."""
        return sum(nanos for _, nanos in self.parts)

    @property
    def ip_rate(self) -> int:
        """Nano-dollars per second of the attached public IP."""
        return dict(self.parts).get("publicip", 0)


@dataclass(frozen=True, slots=True)
class Credit:
    """At `at_s` the counter falls by `nanos` nano-dollars."""

    at_s: int
    nanos: int


class Meter:
    """A running counter of dollars since creation, exact, and as a sum of binary floats."""

    def __init__(self, spells: Sequence[Spell], credits: Sequence[Credit] = ()) -> None:
        self._starts = [spell.start_s for spell in spells]
        self._spells = [(spell.start_s, spell.end_s, spell.rate) for spell in spells]
        self._credits = [(credit.at_s * SECOND_US, credit.nanos) for credit in credits]
        self._exact = [0]
        self._floats = [0.0]
        for start_s, end_s, rate in self._spells[:-1]:
            self._exact.append(self._exact[-1] + rate * (end_s - start_s) * SECOND_US)
            self._floats.append(_add_hours(self._floats[-1], rate, end_s - start_s))

    def femtos(self, at_us: int) -> int:
        """Read the counter exactly, in femto-dollars; 0 before creation."""
        place = bisect_right(self._starts, at_us // SECOND_US) - 1
        if place < 0:
            return 0
        start_s, end_s, rate = self._spells[place]
        spent = self._exact[place] + rate * (min(at_us, end_s * SECOND_US) - start_s * SECOND_US)
        return spent - sum(nanos * SECOND_US for since_us, nanos in self._credits if since_us <= at_us)

    def dollars(self, at_us: int) -> float:
        """Read the counter as Hyperstack prints it: a sum of floats, off by some 1e-13 to 1e-11."""
        place = bisect_right(self._starts, at_us // SECOND_US) - 1
        if place < 0:
            return 0.0
        start_s, end_s, rate = self._spells[place]
        elapsed_us = min(at_us, end_s * SECOND_US) - start_s * SECOND_US
        spent = self._floats[place] + rate * 3600 / NANO * (elapsed_us / SECOND_US / HOUR_S)
        for since_us, nanos in self._credits:
            if since_us <= at_us:
                spent -= nanos / NANO
        return spent


def _add_hours(before: float, rate: int, seconds: int) -> float:
    """Add hour by hour, as a billing job does, so that the noise of binary floats piles up."""
    whole, rest = divmod(seconds, HOUR_S)
    for _ in range(whole):
        before += rate * 3600 / NANO
    return before + rate * 3600 / NANO * (rest / HOUR_S)


NO_FLAVOR = Flavor(0, "", 0, 0, 0, 0, "", 0)


@dataclass(frozen=True, slots=True)
class Wake:
    """One run of ACTIVE; `ready_s` is the first healthy probe, None when the engine never came up.

    `is_restart`: only the engine's process began anew while the machine stayed ACTIVE, so that it is no wake of the machine.
    """

    active_s: int
    ready_s: int | None
    until_s: int
    process_started_s: int
    is_restart: bool = False


@dataclass(frozen=True, slots=True)
class VmEvent:
    """A line of the machine's event list."""

    at_s: int
    reason: str


@dataclass(frozen=True, slots=True)
class Rename:
    """From `at_s` on the resource bears another name."""

    at_s: int
    name: str


@dataclass(frozen=True, slots=True)
class Revision:
    """A late correction: history has `nanos` more at `charged_s`, but only those who ask from `known_s` on see it.

    The running counter of usage never moves by it.
    """

    charged_s: int
    known_s: int
    nanos: int


@dataclass(frozen=True)
class Resource:
    """What everything that costs has in common.

    `excluded`: counted by usage, charged by nobody. `list_percent`: the list price in percent of what is paid.
    `incarnation` tells two lives under the same id apart.
    """

    id: int
    name: str
    spells: tuple[Spell, ...]
    credits: tuple[Credit, ...] = ()
    renames: tuple[Rename, ...] = ()
    revisions: tuple[Revision, ...] = ()
    excluded: bool = False
    list_percent: int = 100
    incarnation: int = 1
    contract_id: int | None = None

    @property
    def kind(self) -> str:
        """Name the type as usage does."""
        raise NotImplementedError

    @property
    def created_s(self) -> int:
        """First second."""
        return self.spells[0].start_s

    @property
    def ended_s(self) -> int:
        """Second of deletion; FOREVER_S while it exists."""
        return self.spells[-1].end_s

    @cached_property
    def meter(self) -> Meter:
        """The resource's bill."""
        return Meter(self.spells, self.credits)

    @cached_property
    def _starts(self) -> list[int]:
        return [spell.start_s for spell in self.spells]

    def spell_at(self, at_s: int) -> Spell | None:
        """Find the spell of a second; None when the resource does not exist then."""
        place = bisect_right(self._starts, at_s) - 1
        return self.spells[place] if place >= 0 and at_s < self.spells[place].end_s else None

    def between(self, start_s: int, end_s: int) -> tuple[Spell, ...]:
        """Find the spells that may overlap a window, without looking at all of them."""
        first = max(0, bisect_right(self._starts, start_s) - 1)
        return self.spells[first : bisect_left(self._starts, end_s)]

    def has_ended(self, at_s: int) -> bool:
        """Tell whether it was deleted by then."""
        return self.ended_s < FOREVER_S and at_s >= self.ended_s

    def name_at(self, at_s: int) -> str:
        """Tell the name that it bears at a second."""
        return next((r.name for r in reversed(self.renames) if r.at_s <= at_s), self.name)

    def revised(self, start_us: int, end_us: int, now_us: int) -> int:
        """Sum the corrections of a window that are known by now, in nano-dollars."""
        return sum(
            r.nanos
            for r in self.revisions
            if start_us <= r.charged_s * SECOND_US < end_us and r.known_s * SECOND_US <= now_us
        )


@dataclass(frozen=True)
class Vm(Resource):
    """A machine; `model` is None when it serves none."""

    flavor: Flavor = NO_FLAVOR
    model: str | None = None
    retain_ip: bool = False
    wakes: tuple[Wake, ...] = ()
    events: tuple[VmEvent, ...] = ()

    @property
    def kind(self) -> str:
        """Name the type."""
        return "vm"

    def wake_at(self, at_s: int) -> Wake | None:
        """Find the run of ACTIVE in which the engine is ready at that second."""
        for wake in self.wakes:
            if wake.ready_s is not None and wake.ready_s <= at_s < wake.until_s:
                return wake
        return None


@dataclass(frozen=True)
class Volume(Resource):
    """A Cloud-SSD volume of `size` GB, attached to a machine or not."""

    size: int = 0
    attached_to: int | None = None

    @property
    def kind(self) -> str:
        """Name the type."""
        return "volume"


@dataclass(frozen=True)
class Other(Resource):
    """A snapshot, bucket, cluster, contract, AI model or thing of an unknown type; `size` in GB where it has one."""

    type_word: str = ""
    size: int = 0
    vm_id: int | None = None

    @property
    def kind(self) -> str:
        """Name the type."""
        return self.type_word
