"""What Hyperstack's counters show at an instant: the scenario's meters, as floats, on time or lagging.

Owns lateness and falsehood of counters. Honest: exact at the instant of the question, with the noise of binary
floats. With faults `total_bill` moves once in a while at a second of its own for each resource, may stand still or fall,
and a row of history lags while its window is open; a deleted resource shows its final value at once.
"""

from zlib import crc32

from spotinference_sim.chances import chance, pick
from spotinference_sim.faults import Faults
from spotinference_sim.instants import DAY_S, HOUR_S, MINUTE_S, SECOND_US
from spotinference_sim.kinds import KINDS
from spotinference_sim.prices import NANO
from spotinference_sim.resources import Resource
from spotinference_sim.scenario import CREDIT_BALANCE_NANOS, Scenario

SETTLED_AFTER_US = 2 * HOUR_S * SECOND_US
LONG_WINDOW_US = 7 * DAY_S * SECOND_US
STUCK_SHARE = 0.2
"""Share of resources that have a stuck counter on a day."""
STEP_DOWN = 0.05
"""Dollars by which a counter falls, or half of it where it shows less."""


def number(amount: float) -> float | int:
    """Print zero as the integer that Hyperstack prints."""
    return amount or 0


class HyperstackMeters:
    """Counters of one scenario."""

    def __init__(self, scenario: Scenario, faults: Faults) -> None:
        self._scenario = scenario
        self._faults = faults
        self._falls_at_us = scenario.start_s * SECOND_US
        self._falls: Resource | None = None
        if faults.negative_step:
            self._place_step()

    def bill(self, resource: Resource, at_us: int) -> float:
        """Read `total_bill`, in dollars."""
        shown_us = self._shown_us(resource, at_us, "bill")
        bill = resource.meter.dollars(shown_us)
        if resource is self._falls and shown_us >= self._falls_at_us:
            bill -= min(STEP_DOWN, resource.meter.dollars(self._falls_at_us) / 2)
        return bill

    def up_minutes(self, resource: Resource, at_us: int) -> int:
        """Read `total_up_time`, in whole minutes since creation."""
        counter = "up time" if self._faults.out_of_step else "bill"
        shown_s = self._shown_us(resource, at_us, counter) // SECOND_US
        return max(0, min(shown_s, resource.ended_s) - resource.created_s) // MINUTE_S

    def cost(
        self, resource: Resource, start_us: int, end_us: int, now_us: int, counter: str = "incurred_bill"
    ) -> float:
        """Read what a window of history cost; nothing is billed after now, and nothing at all when excluded."""
        if resource.excluded:
            return 0.0
        end_us = max(start_us, self.reaches_us(resource, end_us, now_us, counter))
        cost = resource.meter.dollars(end_us) - resource.meter.dollars(start_us)
        if self._faults.month_boundary and end_us - start_us >= LONG_WINDOW_US:
            about = (self._scenario.seed, "month_boundary", resource.kind, resource.id, resource.incarnation)
            cost *= 1 + pick(-MINUTE_S, MINUTE_S, *about) * SECOND_US / (end_us - start_us)
        return cost + resource.revised(start_us, end_us, now_us) / NANO if resource.revisions else cost

    def reaches_us(self, resource: Resource, end_us: int, now_us: int, counter: str) -> int:
        """Tell up to which instant a counter of a history row has counted."""
        most_s = self._faults.history_lag_s
        if not most_s:
            return min(end_us, self._shown_us(resource, now_us, "bill"))
        if now_us >= end_us + SETTLED_AFTER_US and not self._faults.never_settle:
            return end_us
        about = (resource.kind, resource.id, resource.incarnation, counter, end_us // SECOND_US // DAY_S)
        return min(end_us, now_us) - pick(0, most_s, self._scenario.seed, "history_lag_s", *about) * SECOND_US

    def balance(self, at_us: int) -> float:
        """Read the prepaid balance, in dollars."""
        start_us = self._scenario.start_s * SECOND_US
        payers = [r for r in self._scenario.resources if not r.excluded]
        revised = sum(r.revised(start_us, at_us, at_us) for r in payers)
        spent = sum(r.meter.dollars(self._shown_us(r, at_us, "bill", may_stick=False)) for r in payers)
        paid_in = sum(payment.nanos for payment in self._scenario.payments if payment.at_s * SECOND_US <= at_us)
        return (CREDIT_BALANCE_NANOS + paid_in) / NANO - spent - revised / NANO

    def _shown_us(self, resource: Resource, at_us: int, counter: str, may_stick: bool = True) -> int:
        if resource.has_ended(at_us // SECOND_US):
            return at_us
        if self._faults.stuck_counter and may_stick and counter == "bill":
            at_us = self._stuck_us(resource, at_us)
        step_s = self._faults.refresh_s
        if not step_s:
            return at_us
        phase_s = crc32(f"{self._scenario.seed}/{counter}/{resource.id}/{resource.name}".encode()) % step_s
        shown_s = (at_us // SECOND_US - phase_s) // step_s * step_s + phase_s
        return max(shown_s, resource.created_s) * SECOND_US

    def _stuck_us(self, resource: Resource, at_us: int) -> int:
        """Stand still since the beginning of the stretch that holds the instant, which may cross midnight."""
        at_s = at_us // SECOND_US
        for day in (at_s // DAY_S - 1, at_s // DAY_S):
            about = (self._scenario.seed, "stuck_counter", resource.kind, resource.id, day)
            if chance(*about) < STUCK_SHARE:
                start_s = day * DAY_S + pick(0, DAY_S - 1, *about, "start")
                if start_s <= at_s < start_s + pick(HOUR_S, 6 * HOUR_S, *about, "length"):
                    return start_s * SECOND_US
        return at_us

    def _place_step(self) -> None:
        """Choose whose counter falls, and when: in the middle part of the asked days."""
        scenario = self._scenario
        third_s = scenario.days * DAY_S // 3
        falls_at_s = scenario.start_s + pick(third_s, 2 * third_s, scenario.seed, "negative_step")
        running = [
            r
            for r in scenario.resources
            if KINDS[r.kind].in_usage and (spell := r.spell_at(falls_at_s)) and spell.rate and r.created_s < falls_at_s
        ]
        if running:
            self._falls = running[pick(0, len(running) - 1, scenario.seed, "negative_step", "who")]
            self._falls_at_us = falls_at_s * SECOND_US
