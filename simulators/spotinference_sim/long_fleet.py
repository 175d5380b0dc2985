"""A fleet for long scenarios: any number of machines and volumes over hundreds of days, made in seconds.

Owns four habits of machines, lives of volumes and a price that changes every two months. Does not own state rules
(`timeline`). Machines of all habits are made again and again as others end; none serves a request.
"""

from random import Random

from spotinference_sim.features import Fleet
from spotinference_sim.fleet import LLAMA, Calendar, is_weekend
from spotinference_sim.instants import DAY_S, FOREVER_S, HOUR_S
from spotinference_sim.prices import FLAVORS, PriceBook, PriceChange
from spotinference_sim.resources import Credit, Spell, Vm, Volume
from spotinference_sim.timeline import Timeline

FIRST_VM_ID = 710_001
FIRST_VOLUME_ID = 39_501
PRICE_EVERY_DAYS = 61
FLAVOR_NAMES = ("n3-H100-SXM5x1", "n3-A100x1", "n3-L40x1", "n3-A6000x1")
PRICES = (("H100-80G-SXM5", 833_000, 902_000), ("L40", 264_000, 291_000))
CREDIT = (0.5, 3_170_000_000)
"""Where in the scenario the first machine gets a credit, and of how many nano-dollars."""


def build_long_prices(calendar: Calendar) -> PriceBook:
    """Change a price in the middle of a day every two months, up and down in turn."""
    changes: list[PriceChange] = []
    for number, day_s in enumerate(calendar.starts()[PRICE_EVERY_DAYS // 2 :: PRICE_EVERY_DAYS]):
        name, *levels = PRICES[number % 2]
        changes.append(PriceChange(day_s + 13 * HOUR_S + 37 * 60, name, levels[number // 2 % 2]))
    return PriceBook(tuple(changes))


def build_long_fleet(rng: Random, calendar: Calendar, prices: PriceBook, size: tuple[int, int]) -> Fleet:
    """Make so many machines and volumes; at any time about three quarters of them exist."""
    vms = tuple(_vm(rng, calendar, prices, number) for number in range(size[0]))
    volumes = tuple(_volume(rng, calendar, prices, number) for number in range(size[1]))
    return Fleet(vms, volumes)


def _life(rng: Random, calendar: Calendar, number: int) -> tuple[int, int]:
    """Choose first and last second: the first of four stays for ever, the others come later, end earlier or both."""
    start_s = calendar.start_s + 60 * number + rng.randint(0, 59)
    end_s = FOREVER_S
    if number % 4 in (1, 3):
        start_s = calendar.at(rng.uniform(0.05, 0.3), 11) + rng.randint(0, HOUR_S)
    if number % 4 in (2, 3):
        end_s = calendar.at(rng.uniform(0.6, 0.9), 15) + rng.randint(0, HOUR_S)
    return start_s, max(end_s, start_s + 3 * HOUR_S)


def _vm(rng: Random, calendar: Calendar, prices: PriceBook, number: int) -> Vm:
    start_s, end_s = _life(rng, calendar, number)
    flavor = FLAVORS[FLAVOR_NAMES[number % len(FLAVOR_NAMES)]]
    line = Timeline(rng, flavor, prices, retain_ip=number % 3 == 2)
    line.create(start_s)
    sleeps, stops = number % 3 != 0, number % 3 == 0
    asleep = False
    for day_s in calendar.starts():
        if day_s < start_s + HOUR_S or day_s + DAY_S > end_s:
            continue
        if asleep:
            line.restore(day_s + 7 * HOUR_S + rng.randint(-400, 400))
        if stops and is_weekend(day_s):
            line.stop(day_s + 10 * HOUR_S + rng.randint(0, 400))
            line.start(day_s + 14 * HOUR_S + rng.randint(0, 400))
        if sleeps:
            line.hibernate(day_s + 20 * HOUR_S + rng.randint(-400, 400))
        asleep = sleeps
    if end_s < FOREVER_S:
        line.delete(end_s)
    credits = (Credit(calendar.at(CREDIT[0], 11.4) + 17, CREDIT[1]),) if number == 0 else ()
    return line.finish(FIRST_VM_ID + number, f"long-vm-{number}", LLAMA, credits)


def _volume(rng: Random, calendar: Calendar, prices: PriceBook, number: int) -> Volume:
    start_s, end_s = _life(rng, calendar, number)
    size = 50 * (1 + number % 7)
    attached = FIRST_VM_ID + number if number % 2 == 0 else None
    parts = (("disk", prices.nanos("Cloud-SSD", start_s) * size),)
    spell = Spell(start_s, end_s, "IN-USE" if attached else "AVAILABLE", parts)
    resource_id = FIRST_VM_ID if number == 0 else FIRST_VOLUME_ID + number
    return Volume(resource_id, f"long-volume-{number}", (spell,), size=size, attached_to=attached)
