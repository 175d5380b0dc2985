"""Build the life of one machine, step by step: states, prices, wakes and events that fit together.

Owns the rules of which state follows which and what is billed in it. Does not own when it happens (`fleet`).

Source: Hyperstack's documentation of states and billing as of 2026-11. Not documented and chosen here:
HIBERNATING and RESTORING bill like HIBERNATED, CREATING is free, STOPPING, STARTING and DELETING bill like
the full machine.
"""

from dataclasses import dataclass, field
from random import Random

from spotinference_sim.instants import FOREVER_S
from spotinference_sim.prices import Flavor, PriceBook
from spotinference_sim.resources import Credit, Spell, Vm, VmEvent, Wake

FREE = ("CREATING",)
SAVED = ("HIBERNATING", "HIBERNATED", "RESTORING")
TRANSITION_S = (61, 150)
"""A transitional state outlasts a minute, so that a snapshot a minute sees it."""
COLD_START_S = (90, 400)
PROCESS_START_S = 15
"""From ACTIVE to the start of the engine's process."""


@dataclass
class Timeline:
    """A machine in the making; each method takes the second in which the step is asked for."""

    rng: Random
    flavor: Flavor
    prices: PriceBook
    retain_ip: bool = False
    has_engine: bool = True
    changes: list[tuple[int, str, bool]] = field(default_factory=list)
    events: list[VmEvent] = field(default_factory=list)
    wakes: list[Wake] = field(default_factory=list)

    def create(self, at_s: int) -> None:
        """Begin in CREATING, then run."""
        self._event(at_s, "InstanceCreationRequest")
        self.changes.append((at_s, "CREATING", False))
        self._run(at_s + self._transition(), "InstanceCreationSuccess")

    def hibernate(self, at_s: int) -> None:
        """Leave ACTIVE; the public IP goes at once unless it is retained."""
        self._sleep(at_s)
        self._event(at_s, "HibernateInstanceRequest")
        self.changes.append((at_s, "HIBERNATING", self.retain_ip))
        done_s = at_s + self._transition()
        self._event(done_s, "HibernateInstanceSuccess")
        self.changes.append((done_s, "HIBERNATED", self.retain_ip))

    def restore(self, at_s: int, fails: bool = False) -> None:
        """Wake from HIBERNATED; a failing wake is ACTIVE, but its engine never gets ready."""
        self._event(at_s, "RestoreHibernationInstanceRequest")
        self.changes.append((at_s, "RESTORING", self.retain_ip))
        self._run(at_s + self._transition(), "RestoreHibernationInstanceSuccess", fails)

    def stop(self, at_s: int) -> None:
        """Shut down; billed in full all the while."""
        self._sleep(at_s)
        self._event(at_s, "InstanceStopRequest")
        self.changes.append((at_s, "STOPPING", True))
        done_s = at_s + self._transition()
        self._event(done_s, "InstanceStopSuccess")
        self.changes.append((done_s, "SHUTOFF", True))

    def start(self, at_s: int) -> None:
        """Start again after a stop."""
        self._event(at_s, "InstanceStartRequest")
        self.changes.append((at_s, "STARTING", True))
        self._run(at_s + self._transition(), "InstanceStartSuccess")

    def delete(self, at_s: int) -> None:
        """Delete for good."""
        self._sleep(at_s)
        self._event(at_s, "InstanceDeleteRequest")
        self.changes.append((at_s, "DELETING", True))
        done_s = at_s + self._transition()
        self._event(done_s, "InstanceDeleteSuccess")
        self.changes.append((done_s, "DELETED", False))

    def finish(self, vm_id: int, name: str, model: str | None, credits: tuple[Credit, ...] = ()) -> Vm:
        """Close the life and price it."""
        return Vm(
            vm_id,
            name,
            tuple(self._spells()),
            credits,
            flavor=self.flavor,
            model=model,
            retain_ip=self.retain_ip,
            wakes=tuple(self.wakes) if self.has_engine else (),
            events=tuple(self.events),
        )

    def _transition(self) -> int:
        return self.rng.randint(*TRANSITION_S)

    def _event(self, at_s: int, reason: str) -> None:
        self.events.append(VmEvent(at_s, reason))

    def _run(self, at_s: int, reason: str, fails: bool = False) -> None:
        self._event(at_s, reason)
        self.changes.append((at_s, "ACTIVE", True))
        ready_s = None if fails else at_s + self.rng.randint(*COLD_START_S)
        self.wakes.append(Wake(at_s, ready_s, FOREVER_S, at_s + PROCESS_START_S))

    def _sleep(self, at_s: int) -> None:
        last = self.wakes[-1]
        self.wakes[-1] = Wake(last.active_s, last.ready_s, at_s, last.process_started_s)

    def _spells(self) -> list[Spell]:
        spells: list[Spell] = []
        ends = [at_s for at_s, _, _ in self.changes[1:]] + [FOREVER_S]
        for (start_s, status, has_ip), end_s in zip(self.changes, ends, strict=True):
            if status == "DELETED":
                break
            cuts = sorted({c.at_s for c in self.prices.changes if start_s < c.at_s < end_s})
            for first_s, last_s in zip([start_s, *cuts], [*cuts, end_s], strict=True):
                spells.append(Spell(first_s, last_s, status, self._parts(status, has_ip, first_s)))
        return spells

    def _parts(self, status: str, has_ip: bool, at_s: int) -> tuple[tuple[str, int], ...]:
        if status in FREE:
            return ()
        saved = status in SAVED
        parts = (self.flavor.saved_nanos if saved else self.flavor.compute_nanos)(self.prices, at_s)
        ip = {"publicip": self.prices.nanos("PublicIP", at_s)} if has_ip else {}
        return tuple((parts | ip).items())
