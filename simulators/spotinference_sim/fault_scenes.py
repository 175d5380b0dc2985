"""The scenario as the API shows it under some faults: more things that cost nothing, and wakes that fail.

Owns faults that are events rather than forms of an answer. Each leaves the money as it is, to the
femto-dollar: what is added is free or excluded, and RESTORING bills like HIBERNATED.
"""

from dataclasses import replace

from spotinference_sim.chances import pick
from spotinference_sim.faults import Faults
from spotinference_sim.instants import DAY_S, FOREVER_S, HOUR_S
from spotinference_sim.kinds import FILESYSTEM
from spotinference_sim.resources import Other, Spell, Vm, VmEvent, Volume
from spotinference_sim.scenario import Scenario

EXCLUDED_ID = 39_001
FREE_ID = 39_002
LONG_ENOUGH_S = 2 * HOUR_S
"""Shorter stretches of HIBERNATED see no failing wake."""


def as_seen(scenario: Scenario, faults: Faults) -> Scenario:
    """Add what the faults add."""
    if faults.exclude_billing:
        spell = Spell(scenario.start_s + 137, FOREVER_S, "AVAILABLE", (("disk", 2_700),))
        gift = Volume(EXCLUDED_ID, "vendor-owned", (spell,), excluded=True, size=100)
        scenario = replace(scenario, volumes=(*scenario.volumes, gift))
    if faults.unknown_type:
        free = Other(
            FREE_ID, "shared-home", (Spell(scenario.start_s + 149, FOREVER_S, "READY", ()),), type_word=FILESYSTEM
        )
        scenario = replace(scenario, others=(*scenario.others, free))
    if faults.failing_restore:
        until_s = scenario.end_s + 2 * DAY_S
        scenario = replace(scenario, vms=tuple(_restless(vm, scenario.seed, until_s) for vm in scenario.vms))
    return scenario


def _restless(vm: Vm, seed: int, until_s: int) -> Vm:
    """Let a machine fail to wake once in each long stretch of HIBERNATED."""
    spells: list[Spell] = []
    events = list(vm.events)
    for spell in vm.spells:
        room_s = min(spell.end_s, until_s) - spell.start_s
        if spell.status != "HIBERNATED" or room_s < LONG_ENOUGH_S:
            spells.append(spell)
            continue
        tried_s = spell.start_s + room_s // 2
        failed_s = tried_s + pick(61, 240, seed, "failing_restore", vm.id, spell.start_s)
        events += [
            VmEvent(tried_s, "RestoreHibernationInstanceRequest"),
            VmEvent(failed_s, "RestoreHibernationInstanceFailed"),
        ]
        spells += [
            replace(spell, end_s=tried_s),
            replace(spell, start_s=tried_s, end_s=failed_s, status="RESTORING"),
            replace(spell, start_s=failed_s),
        ]
    return replace(vm, spells=tuple(spells), events=tuple(sorted(events, key=lambda event: event.at_s)))
