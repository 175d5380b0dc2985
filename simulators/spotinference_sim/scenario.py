"""A seeded scenario: the event-level truth of some days, from which every answer and every figure is derived.

Owns the whole: machines, volumes, prices and requests. The same seed, start and number of days give the
same scenario on every machine. LEAD_DAYS more days are made after the asked ones, so that a live
simulator goes on.
"""

from dataclasses import dataclass, field
from datetime import date
from functools import cached_property
from random import Random

from spotinference_sim.features import Features, Fleet, dressed
from spotinference_sim.fleet import Calendar, build_prices, build_vms, build_volumes
from spotinference_sim.instants import DAY_S, day_start_s
from spotinference_sim.long_fleet import build_long_fleet, build_long_prices
from spotinference_sim.payments import Payment
from spotinference_sim.prices import PriceBook
from spotinference_sim.request import Request
from spotinference_sim.resources import Other, Resource, Vm, Volume
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
    others: tuple[Other, ...] = ()
    payments: tuple[Payment, ...] = ()
    past_the_proxy: tuple[Request, ...] = ()
    """Requests that engines worked on and no proxy saw: in their counters alone."""

    @classmethod
    def generate(cls, seed: int, start_day: date, days: int, features: Features | None = None) -> "Scenario":
        """Make the demo scenario, and what the features add; they leave machines, volumes and requests as they are.

        Raises: ValueError when there is no day to make.
        """
        calendar = _calendar(start_day, days)
        prices = build_prices(calendar)
        fleet_rng, traffic_rng = Random(f"{seed}/fleet"), Random(f"{seed}/traffic")  # noqa: S311 seeded on purpose
        vms = build_vms(fleet_rng, calendar, prices)
        requests = build_requests(traffic_rng, calendar.starts(), vms)
        fleet = dressed(Fleet(vms, build_volumes(calendar, prices)), calendar, prices, features or Features())
        return cls(seed, start_day, days, fleet.vms, fleet.volumes, requests, prices, fleet.others, fleet.payments)

    @classmethod
    def long(
        cls, seed: int, start_day: date, days: int, size: tuple[int, int] = (10, 10), features: Features | None = None
    ) -> "Scenario":
        """Make many days cheaply: so many machines and volumes that come, sleep and go, and no requests.

        Raises: ValueError when there is no day to make.
        """
        calendar = _calendar(start_day, days)
        prices = build_long_prices(calendar)
        rng = Random(f"{seed}/long")  # noqa: S311 seeded on purpose
        fleet = dressed(build_long_fleet(rng, calendar, prices, size), calendar, prices, features or Features())
        return cls(seed, start_day, days, fleet.vms, fleet.volumes, (), prices, fleet.others, fleet.payments)

    @property
    def start_s(self) -> int:
        """First second."""
        return day_start_s(self.start_day)

    @property
    def end_s(self) -> int:
        """End of the days that were asked for; the lead comes after it."""
        return self.start_s + self.days * DAY_S

    @cached_property
    def resources(self) -> tuple[Resource, ...]:
        """Everything that costs, machines and volumes first."""
        return (*self.vms, *self.volumes, *self.others)

    @cached_property
    def vm_by_id(self) -> dict[int, Vm]:
        """Machines by id; the latest where an id was used twice."""
        return {vm.id: vm for vm in self.vms}


def _calendar(start_day: date, days: int) -> Calendar:
    if days < 1:
        raise ValueError(f"a scenario needs at least one day, asked for {days}")
    return Calendar(day_start_s(start_day), days, days + LEAD_DAYS)
