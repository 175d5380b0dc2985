"""A seeded scenario: the event-level truth of some days, from which every answer and every figure is derived.

Owns the whole: machines, volumes, prices and requests. The same seed, start and number of days give the
same scenario on every machine. LEAD_DAYS more days are made after the asked ones, so that a live
simulator goes on.
"""

from dataclasses import dataclass, field
from datetime import date
from functools import cached_property
from random import Random

from spotinference_sim.fleet import Calendar, build_prices, build_vms, build_volumes
from spotinference_sim.instants import DAY_S, day_start_s
from spotinference_sim.prices import PriceBook
from spotinference_sim.request import Request
from spotinference_sim.resources import Resource, Vm, Volume
from spotinference_sim.traffic import build_requests

LEAD_DAYS = 2
ORG_ID = 4242
CREDIT_BALANCE_NANOS = 5_000 * 10**9
"""Prepaid balance at the start: falls with every cost, rises with every credit."""


@dataclass(frozen=True)
class Scenario:
    """Everything that happens. A test may write one by hand."""

    seed: int
    start_day: date
    days: int
    vms: tuple[Vm, ...] = ()
    volumes: tuple[Volume, ...] = ()
    requests: tuple[Request, ...] = ()
    prices: PriceBook = field(default_factory=PriceBook)

    @classmethod
    def generate(cls, seed: int, start_day: date, days: int) -> "Scenario":
        """Make the demo scenario.

        Raises: ValueError when there is no day to make.
        """
        if days < 1:
            raise ValueError(f"a scenario needs at least one day, asked for {days}")
        calendar = Calendar(day_start_s(start_day), days, days + LEAD_DAYS)
        prices = build_prices(calendar)
        fleet_rng, traffic_rng = Random(f"{seed}/fleet"), Random(f"{seed}/traffic")  # noqa: S311 seeded on purpose
        vms = build_vms(fleet_rng, calendar, prices)
        requests = build_requests(traffic_rng, calendar.starts(), vms)
        return cls(seed, start_day, days, vms, build_volumes(calendar, prices), requests, prices)

    @property
    def start_s(self) -> int:
        """First second."""
        return day_start_s(self.start_day)

    @property
    def end_s(self) -> int:
        """End of the days that were asked for; the lead comes after it."""
        return self.start_s + self.days * DAY_S

    @property
    def resources(self) -> tuple[Resource, ...]:
        """All machines and volumes."""
        return (*self.vms, *self.volumes)

    @cached_property
    def vm_by_id(self) -> dict[int, Vm]:
        """Machines by id."""
        return {vm.id: vm for vm in self.vms}
