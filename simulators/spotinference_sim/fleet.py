"""The machines and volumes of the demo scenario: who exists, when each wakes and sleeps, and what goes wrong.

Owns the calendar. Does not own state rules (`timeline`) or requests (`traffic`). Mishaps are placed in
proportion to the number of days, so that nine days hold all of them inside the last seven.
"""

from dataclasses import dataclass
from random import Random

from spotinference_sim.instants import DAY_S, FOREVER_S, HOUR_S, day_of
from spotinference_sim.prices import FLAVORS, PriceBook, PriceChange
from spotinference_sim.resources import Credit, Spell, Vm, Volume
from spotinference_sim.timeline import Timeline

ORCHESTRATOR_ID = 700100
H100_ID = 700101
A100_ID = 700102
L40_ID = 700103
OLD_ID = 700104
NEW_ID = 700105

LLAMA = "llama-3.3-70b-instruct"
QWEN_30B = "qwen3-30b-a3b"
QWEN_8B = "qwen3-8b"

CREDIT_NANOS = 7_250_000_000


@dataclass(frozen=True)
class Calendar:
    """The days of a scenario: `days` are the demo's, `all_days` include the lead after them."""

    start_s: int
    days: int
    all_days: int

    def at(self, share: float, clock: float) -> int:
        """Name the second at `clock` hours of the day that lies at `share` of the scenario."""
        return self.start_s + round(share * (self.days - 1)) * DAY_S + round(clock * HOUR_S)

    def starts(self) -> list[int]:
        """List the first seconds of all days."""
        return [self.start_s + number * DAY_S for number in range(self.all_days)]


def is_weekend(day_s: int) -> bool:
    """Tell whether the UTC day is a Saturday or a Sunday."""
    return day_of(day_s).weekday() >= 5


def build_prices(calendar: Calendar) -> PriceBook:
    """Make the price book: one GPU gets cheaper in the middle of a day."""
    return PriceBook((PriceChange(calendar.at(0.65, 13 + 37 / 60), "H100-80G-SXM5", 833_000),))


def build_vms(rng: Random, calendar: Calendar, prices: PriceBook) -> tuple[Vm, ...]:
    """Make all machines, oldest first."""
    credit = Credit(calendar.at(0.55, 11 + 23 / 60) + 17, CREDIT_NANOS)
    orchestrator = Timeline(rng, FLAVORS["n2-cpu-2"], prices, has_engine=False)
    orchestrator.create(calendar.start_s)
    return (
        orchestrator.finish(ORCHESTRATOR_ID, "orchestrator", None),
        _big(rng, calendar, prices).finish(H100_ID, "vllm-h100-a", LLAMA, (credit,)),
        _middle(rng, calendar, prices).finish(A100_ID, "vllm-a100-a", QWEN_30B),
        _steady(rng, calendar, prices).finish(L40_ID, "vllm-l40-a", QWEN_8B),
        _old(rng, calendar, prices).finish(OLD_ID, "vllm-a6000-old", QWEN_8B),
        _new(rng, calendar, prices).finish(NEW_ID, "vllm-a6000-new", QWEN_8B),
    )


def _jitter(rng: Random) -> int:
    return rng.randint(-400, 400)


def _big(rng: Random, calendar: Calendar, prices: PriceBook) -> Timeline:
    """Sleep every night and longer at weekends; the IP is released."""
    line = Timeline(rng, FLAVORS["n3-H100-SXM5x1"], prices)
    for day_s in calendar.starts():
        weekend = is_weekend(day_s)
        if day_s == calendar.start_s:
            line.create(day_s + 600 + rng.randint(0, 59))
        else:
            line.restore(day_s + (9 * HOUR_S if weekend else 7 * HOUR_S) + _jitter(rng))
        line.hibernate(day_s + (20 * HOUR_S if weekend else 21 * HOUR_S) + _jitter(rng))
    return line


def _middle(rng: Random, calendar: Calendar, prices: PriceBook) -> Timeline:
    """Sleep from one to seven with the IP kept; one wake fails and is tried again."""
    line = Timeline(rng, FLAVORS["n3-A100x1"], prices, retain_ip=True)
    line.create(calendar.start_s + 300 + rng.randint(0, 59))
    fails_on = calendar.at(0.5, 0)
    for day_s in calendar.starts():
        line.hibernate(day_s + HOUR_S + rng.randint(0, 400))
        wake_s = day_s + 7 * HOUR_S + _jitter(rng)
        if day_s == fails_on:
            line.restore(wake_s, fails=True)
            line.hibernate(wake_s + 1500 + rng.randint(0, 59))
            wake_s += 2400
        line.restore(wake_s)
    return line


def _steady(rng: Random, calendar: Calendar, prices: PriceBook) -> Timeline:
    """Run day and night, but for one stop."""
    line = Timeline(rng, FLAVORS["n3-L40x1"], prices)
    line.create(calendar.start_s + 121)
    stop_s = calendar.at(0.75, 13) + rng.randint(0, 599)
    line.stop(stop_s)
    line.start(stop_s + 2 * HOUR_S + rng.randint(0, 599))
    return line


def _old(rng: Random, calendar: Calendar, prices: PriceBook) -> Timeline:
    """Run until deleted for good."""
    line = Timeline(rng, FLAVORS["n3-A6000x1"], prices)
    line.create(calendar.start_s + 183)
    line.delete(calendar.at(0.6, 15 + 47 / 60) + 29)
    return line


def _new(rng: Random, calendar: Calendar, prices: PriceBook) -> Timeline:
    """Come into being in the middle of the scenario, sleep at night."""
    line = Timeline(rng, FLAVORS["n3-A6000x1"], prices)
    created_s = calendar.at(0.4, 10.2) + 13
    line.create(created_s)
    for day_s in calendar.starts():
        if day_s > created_s:
            line.restore(day_s + 8 * HOUR_S + _jitter(rng))
        if day_s + DAY_S > created_s:
            line.hibernate(day_s + 23 * HOUR_S + _jitter(rng))
    return line


def build_volumes(calendar: Calendar, prices: PriceBook) -> tuple[Volume, ...]:
    """Make all volumes; one has the numeric id of a machine."""
    start_s = calendar.start_s
    return (
        _volume(prices, (38111, "weights-70b"), 500, (start_s + 61, FOREVER_S), H100_ID),
        _volume(prices, (38112, "weights-30b"), 300, (start_s + 75, FOREVER_S), A100_ID),
        _volume(prices, (L40_ID, "weights-8b"), 100, (start_s + 90, FOREVER_S), L40_ID),
        _volume(prices, (38114, "scratch"), 250, (start_s + 95, calendar.at(0.7, 9.4) + 41), None),
        _volume(prices, (38115, "datasets"), 200, (calendar.at(0.45, 14.6) + 7, FOREVER_S), None),
    )


def _volume(
    prices: PriceBook, about: tuple[int, str], size: int, life: tuple[int, int], attached_to: int | None
) -> Volume:
    status = "IN-USE" if attached_to else "AVAILABLE"
    parts = (("disk", prices.nanos("Cloud-SSD", life[0]) * size),)
    return Volume(*about, (Spell(*life, status, parts),), size=size, attached_to=attached_to)
