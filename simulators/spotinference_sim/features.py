"""What a scenario may hold beside machines and volumes of the ordinary kind: every type that costs money.

Owns the list of features and what each adds to a fleet. Features change the truth; faults (`faults`) never do.
Without features a scenario is what it always was. Amounts are whole nano-dollars per second, as everywhere.
"""

from dataclasses import dataclass, fields, replace

from spotinference_sim.fleet import H100_ID, Calendar
from spotinference_sim.instants import DAY_S, FOREVER_S, HOUR_S
from spotinference_sim.kinds import FILESYSTEM, SERVERLESS
from spotinference_sim.payments import Payment
from spotinference_sim.prices import FLAVORS, NANO, PriceBook
from spotinference_sim.resources import Other, Rename, Revision, Spell, Vm, VmEvent, Volume

SNAPSHOT_IDS = (52_001, 52_002)
BUCKET_ID = 53_001
CLUSTER_ID = 54_001
CONTRACT_ID = 55_001
CONTRACT_VM_ID = 700_201
AI_ID = 56_001
FILESYSTEM_ID = 57_001
EXCLUDED_ID = 38_201
SAME_NAME_IDS = (38_211, 38_212)
SAME_ID = 38_221
SAME_VM_ID = 700_221
UP_NANOS = 1_250_000_000
DOWN_NANOS = -410_000_000
LIST_PERCENT = 125
BUCKET_GROWS_EVERY_DAYS = 3


@dataclass(frozen=True, slots=True)
class Features:
    """Switches; all are off unless asked for."""

    snapshots: bool = False
    """Two snapshots, one of them deleted."""
    buckets: bool = False
    """A bucket that grows, so that its price does."""
    cluster: bool = False
    """A cluster: in its history list and the total, in no category of the total."""
    contract: bool = False
    """Reserved capacity with its own charge, and a machine under it that costs its address only."""
    serverless: bool = False
    """A serverless model, paid by token."""
    unknown_type: bool = False
    """A resource of an undocumented type: in usage and in the total, in no history list."""
    excluded: bool = False
    """A volume with `exclude_billing`."""
    same_name: bool = False
    """A volume deleted, and another made with its name."""
    same_id: bool = False
    """A volume and a machine deleted, and made again under the same id."""
    renamed: bool = False
    """The first machine and the first volume get other names in the middle of a day."""
    discount: bool = False
    """The last machine and the first volume are paid at less than the list price."""
    revisions: bool = False
    """History of a closed day rises for a machine, and of another falls for a volume, both at the start of D+2."""

    payments: bool = False
    """Two top-ups of the balance, one of them with tax."""

    @classmethod
    def all(cls) -> "Features":
        """Switch everything on."""
        return cls(**{each.name: True for each in fields(cls)})


@dataclass(frozen=True, slots=True)
class Fleet:
    """What exists in a scenario."""

    vms: tuple[Vm, ...]
    volumes: tuple[Volume, ...]
    others: tuple[Other, ...] = ()
    payments: tuple[Payment, ...] = ()


def dressed(fleet: Fleet, calendar: Calendar, prices: PriceBook, features: Features) -> Fleet:
    """Add what the features ask for."""
    vms, volumes, others = list(fleet.vms), list(fleet.volumes), _others(calendar, prices, features)
    if features.discount:
        vms[-1] = replace(vms[-1], list_percent=LIST_PERCENT)
        volumes[0] = replace(volumes[0], list_percent=LIST_PERCENT)
    if features.renamed:
        at_s = calendar.at(0.5, 12.3) + 11
        vms[0] = replace(vms[0], renames=(Rename(at_s, f"{vms[0].name}-renamed"),))
        volumes[0] = replace(volumes[0], renames=(Rename(at_s + 61, f"{volumes[0].name}-renamed"),))
    if features.revisions:
        where = min(1, len(vms) - 1)
        vms[where] = replace(vms[where], revisions=(_revision(calendar, 0.3, UP_NANOS),))
        volumes[-1] = replace(volumes[-1], revisions=(_revision(calendar, 0.5, DOWN_NANOS),))
    if features.contract:
        vms.append(_reserved(calendar, prices))
    if features.same_id:
        vms += _twice_a_vm(calendar, prices)
        volumes += _lives(prices, (SAME_ID, SAME_ID), "cache", 80, calendar)
    if features.same_name:
        volumes += _lives(prices, SAME_NAME_IDS, "staging", 120, calendar)
    if features.excluded:
        spell = Spell(calendar.start_s + 191, FOREVER_S, "AVAILABLE", (("disk", 27 * 400),))
        volumes.append(Volume(EXCLUDED_ID, "support-owned", (spell,), excluded=True, size=400))
    return Fleet(tuple(vms), tuple(volumes), (*fleet.others, *others), _payments(calendar) if features.payments else ())


def _payments(calendar: Calendar) -> tuple[Payment, ...]:
    first = Payment(calendar.at(0.2, 9.3) + 5, 250 * NANO, 50 * NANO)
    return first, Payment(calendar.at(0.7, 16.1) + 41, 75 * NANO)


def _revision(calendar: Calendar, share: float, nanos: int) -> Revision:
    day_s = calendar.at(share, 0)
    return Revision(day_s + 12 * HOUR_S, day_s + 2 * DAY_S + HOUR_S, nanos)


def _reserved(calendar: Calendar, prices: PriceBook) -> Vm:
    start_s = calendar.start_s + 233
    spell = Spell(start_s, FOREVER_S, "ACTIVE", (("gpu", 0), ("publicip", prices.nanos("PublicIP", start_s))))
    created = VmEvent(start_s, "InstanceCreationSuccess")
    flavor = FLAVORS["n3-H100-SXM5x1"]
    return Vm(CONTRACT_VM_ID, "reserved-h100", (spell,), contract_id=CONTRACT_ID, flavor=flavor, events=(created,))


def _twice_a_vm(calendar: Calendar, prices: PriceBook) -> list[Vm]:
    """Make a machine, delete it, make it again under its id a day's fraction later."""
    flavor = FLAVORS["n2-cpu-2"]
    lives = ((calendar.at(0.1, 5.1), calendar.at(0.45, 9.7) + 3), (calendar.at(0.6, 10.9) + 29, FOREVER_S))
    vms: list[Vm] = []
    for number, (start_s, end_s) in enumerate(lives, start=1):
        rates = flavor.compute_nanos(prices, start_s) | {"publicip": prices.nanos("PublicIP", start_s)}
        spell = Spell(start_s, end_s, "ACTIVE", tuple(rates.items()))
        events = [VmEvent(start_s, "InstanceCreationSuccess")]
        events += [VmEvent(end_s, "InstanceDeleteSuccess")] if end_s < FOREVER_S else []
        vms.append(Vm(SAME_VM_ID, "runner", (spell,), incarnation=number, flavor=flavor, events=tuple(events)))
    return vms


def _lives(prices: PriceBook, ids: tuple[int, int], name: str, size: int, calendar: Calendar) -> list[Volume]:
    """Make a volume, delete it, make another of its name."""
    lives = ((calendar.start_s + 251, calendar.at(0.4, 8.2) + 17), (calendar.at(0.55, 13.4) + 53, FOREVER_S))
    again = ids[0] == ids[1]
    volumes: list[Volume] = []
    for number, (resource_id, (start_s, end_s)) in enumerate(zip(ids, lives, strict=True), start=1):
        spell = Spell(start_s, end_s, "AVAILABLE", (("disk", prices.nanos("Cloud-SSD", start_s) * size),))
        volumes.append(Volume(resource_id, name, (spell,), incarnation=number if again else 1, size=size))
    return volumes


def _others(calendar: Calendar, prices: PriceBook, features: Features) -> list[Other]:
    start_s = calendar.start_s
    stored = prices.nanos("Cloud-SSD", start_s)
    others: list[Other] = []
    if features.snapshots:
        kept = Spell(start_s + 3 * HOUR_S + 7, FOREVER_S, "SUCCESS", (("disk", stored * 100),))
        gone = Spell(calendar.at(0.3, 16.5), calendar.at(0.8, 7.1) + 43, "SUCCESS", (("disk", stored * 40),))
        others.append(Other(SNAPSHOT_IDS[0], "golden", (kept,), type_word="snapshot", size=100, vm_id=H100_ID))
        others.append(Other(SNAPSHOT_IDS[1], "before-upgrade", (gone,), type_word="snapshot", size=40, vm_id=H100_ID))
    if features.buckets:
        spells = _growing(calendar, prices.nanos("ObjectStorage", start_s))
        others.append(Other(BUCKET_ID, "logs", spells, type_word="bucket", size=20))
    if features.cluster:
        others.append(_steady("cluster", (CLUSTER_ID, "k8s"), start_s + 2 * HOUR_S + 31, (("node", 97_223),)))
    if features.contract:
        others.append(_steady("contract", (CONTRACT_ID, "reserved-2026"), start_s, (("gpu", 611_111),)))
    if features.serverless:
        tokens = (("input", 2_000), ("output", 4_800))
        others.append(_steady(SERVERLESS, (AI_ID, "llama-3.1-8b-hosted"), start_s + HOUR_S + 19, tokens))
    if features.unknown_type:
        others.append(_steady(FILESYSTEM, (FILESYSTEM_ID, "shared-fs"), start_s + 2_011, (("disk", 12_345),)))
    return others


def _steady(word: str, about: tuple[int, str], start_s: int, parts: tuple[tuple[str, int], ...]) -> Other:
    return Other(*about, (Spell(start_s, FOREVER_S, "ACTIVE", parts),), type_word=word)


def _growing(calendar: Calendar, nanos: int) -> tuple[Spell, ...]:
    starts = [day_s + 4_007 for day_s in calendar.starts()[::BUCKET_GROWS_EVERY_DAYS]]
    ends = [*starts[1:], FOREVER_S]
    return tuple(
        Spell(start_s, end_s, "ACTIVE", (("disk", nanos * (20 + 5 * number)),))
        for number, (start_s, end_s) in enumerate(zip(starts, ends, strict=True))
    )
