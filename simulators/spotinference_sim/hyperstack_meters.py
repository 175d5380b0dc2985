"""What Hyperstack's counters show at an instant: the scenario's meters, as floats, on time or lagging.

Owns quiet and lag mode. Quiet: counters are exact at the instant of the question, with the noise of binary
floats. Lag: `total_bill` moves once a minute at a second of its own for each resource, `total_up_time` at
another; a deleted resource shows its final value at once. History windows follow the same lag only at their
open end.
"""

from zlib import crc32

from spotinference_sim.instants import MINUTE_S, SECOND_US
from spotinference_sim.prices import NANO
from spotinference_sim.resources import Resource
from spotinference_sim.scenario import CREDIT_BALANCE_NANOS, Scenario


def number(amount: float) -> float | int:
    """Print zero as the integer that Hyperstack prints."""
    return amount or 0


class HyperstackMeters:
    """Counters of one scenario."""

    def __init__(self, scenario: Scenario, lag: bool = False) -> None:
        self._scenario = scenario
        self._lag = lag

    def bill(self, resource: Resource, at_us: int) -> float:
        """Read `total_bill`, in dollars."""
        return resource.meter.dollars(self._shown_us(resource, at_us, "bill"))

    def up_minutes(self, resource: Resource, at_us: int) -> int:
        """Read `total_up_time`, in whole minutes since creation."""
        shown_s = self._shown_us(resource, at_us, "up time") // SECOND_US
        return max(0, min(shown_s, resource.ended_s) - resource.created_s) // MINUTE_S

    def cost(self, resource: Resource, start_us: int, end_us: int, now_us: int) -> float:
        """Read what a window of history cost; nothing is billed after now."""
        end_us = max(start_us, min(end_us, self._shown_us(resource, now_us, "bill")))
        return resource.meter.dollars(end_us) - resource.meter.dollars(start_us)

    def balance(self, at_us: int) -> float:
        """Read the prepaid balance, in dollars."""
        return CREDIT_BALANCE_NANOS / NANO - sum(self.bill(r, at_us) for r in self._scenario.resources)

    def _shown_us(self, resource: Resource, at_us: int, counter: str) -> int:
        if not self._lag or resource.has_ended(at_us // SECOND_US):
            return at_us
        phase_s = crc32(f"{self._scenario.seed}/{counter}/{resource.id}/{resource.name}".encode()) % MINUTE_S
        shown_s = (at_us // SECOND_US - phase_s) // MINUTE_S * MINUTE_S + phase_s
        return max(shown_s, resource.created_s) * SECOND_US
