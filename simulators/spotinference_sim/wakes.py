"""The true wake ledger: each run of ACTIVE, what its cold start took and cost, and what it served until parked.

Owns nothing but the view: wakes are the scenario's, money is counted as in `truth` (busy before cold).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from spotinference_sim.instants import SECOND_US
from spotinference_sim.request import Request
from spotinference_sim.scenario import Scenario
from spotinference_sim.truth import bill, busy_spans


@dataclass(frozen=True)
class WakeTruth:
    """One wake; `ready_s` is None where the engine never came up, `until_s` is FOREVER_S while it runs.

    Seconds are those that are cold, femto-dollars their price without the public IP.
    """

    vm_id: int
    active_s: int
    ready_s: int | None
    until_s: int
    cold_micros: int
    cold_femtos: int
    served_tokens: int


def true_wakes(scenario: Scenario, requests: Sequence[Request] | None = None) -> list[WakeTruth]:
    """List the wakes of all machines up to the end of the asked days, oldest first."""
    played = scenario.requests if requests is None else requests
    busy = busy_spans(played)
    found: list[WakeTruth] = []
    for vm in scenario.vms:
        served = [(r.started_us // SECOND_US, _tokens(r)) for r in played if r.vm_id == vm.id and not r.canary]
        for wake in vm.wakes:
            if wake.active_s >= scenario.end_s:
                continue
            cold_until_s = min(wake.ready_s or wake.until_s, scenario.end_s)
            cold = bill(vm, busy.get(vm.id, []), wake.active_s * SECOND_US, cold_until_s * SECOND_US)
            tokens = sum(count for at_s, count in served if wake.active_s <= at_s < wake.until_s)
            money = cold.paid["cold_start"], tokens
            found.append(WakeTruth(vm.id, wake.active_s, wake.ready_s, wake.until_s, cold.micros["cold_start"], *money))
    return sorted(found, key=lambda wake: (wake.active_s, wake.vm_id))


def _tokens(request: Request) -> int:
    return (request.prompt_tokens or 0) + (request.completion_tokens or 0)
