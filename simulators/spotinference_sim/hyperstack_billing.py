"""The live counters of the simulated Hyperstack: usage, organisation total, credit, payments.

Owns the minute snapshot's billing endpoints. Lines of history are in `hyperstack_history`.

Source: Hyperstack API, billing endpoints, as documented in 2026-11.
"""

from collections.abc import Sequence
from uuid import NAMESPACE_URL, uuid5

from spotinference_sim.hyperstack_calls import Call, Json
from spotinference_sim.hyperstack_meters import HyperstackMeters, number
from spotinference_sim.instants import DAY_S, SECOND_US, text_s
from spotinference_sim.prices import usd_per_hour
from spotinference_sim.resources import Resource, Vm
from spotinference_sim.scenario import ORG_ID, Scenario


class HyperstackBilling:
    """Answers about money as it runs."""

    def __init__(self, scenario: Scenario, meters: HyperstackMeters) -> None:
        self._scenario = scenario
        self._meters = meters

    def usage(self, call: Call) -> Json:
        """Answer with the active resources, or with the deleted ones only."""
        deleted = call.query.get("deleted", "false").lower() == "true"
        existing = [r for r in self._scenario.resources if r.created_s <= call.now_s]
        rows = [self._usage_row(r, call) for r in existing if r.has_ended(call.now_s) == deleted]
        return {"message": "Successful", "status": True, "data": rows}

    def _usage_row(self, resource: Resource, call: Call) -> Json:
        spell = resource.spell_at(call.now_s)
        return {
            "resource_id": resource.id,
            "resource_type": "vm" if isinstance(resource, Vm) else "volume",
            "name": resource.name,
            "organization_id": ORG_ID,
            "bill_per_minute": number(usd_per_hour(spell.rate) / 60) if spell else None,
            "create_time": text_s(resource.created_s),
            "terminate_time": None if spell else text_s(resource.ended_s) + "Z",
            "total_up_time": self._meters.up_minutes(resource, call.now_us),
            "total_bill": number(self._meters.bill(resource, call.now_us)),
            "active": spell is not None,
            "exclude_billing": False,
        }

    def organisation(self, call: Call) -> Json:
        """Answer with the organisation's total of a window, by category."""
        start_us, end_us = call.window()
        vms = self._sum(self._scenario.vms, start_us, end_us, call.now_us)
        volumes = self._sum(self._scenario.volumes, start_us, end_us, call.now_us)
        metrics = {
            "incurred_bill": number(vms + volumes),
            "non_discounted_bill": number(vms + volumes),
            "vm_cost": number(vms),
            "volume_cost": number(volumes),
            "snapshot_cost": 0,
            "bucket_cost": 0,
            "contract_cost": 0,
            "ais_token_cost": 0,
            "ais_workload_cost": 0,
        }
        row = {"attributes": {"id": str(uuid5(NAMESPACE_URL, f"org/{ORG_ID}"))}, "metrics": metrics}
        history = {"org_id": ORG_ID, "billing_history": [row], "total_count": 1}
        message = "Biling History Retrieved Successfully."
        return {"status": True, "message": message, "billing_history": history}

    def credit(self, call: Call) -> Json:
        """Answer with the prepaid balance."""
        balance = {"credit": self._meters.balance(call.now_us), "threshold": 0, "can_create_instance": True}
        return {"message": "Success", "status": True, "data": balance}

    def last_day(self, call: Call) -> Json:
        """Answer with the cost of the previous UTC day."""
        end_us = call.now_s // DAY_S * DAY_S * SECOND_US
        start_us = end_us - DAY_S * SECOND_US
        vms = self._sum(self._scenario.vms, start_us, end_us, call.now_us)
        volumes = self._sum(self._scenario.volumes, start_us, end_us, call.now_us)
        costs = {"instances_cost": number(vms), "volumes_cost": number(volumes)}
        costs |= {"clusters_cost": 0, "total_cost": number(vms + volumes)}
        return {"message": "Successful", "status": True, "data": costs}

    def payments(self, _call: Call) -> Json:
        """Answer that nothing was ever paid in."""
        return {"status": True, "message": "Payment details retrieved successfully", "data": []}

    def _sum(self, resources: Sequence[Resource], start_us: int, end_us: int, now_us: int) -> float:
        return sum((self._meters.cost(r, start_us, end_us, now_us) for r in reversed(resources)), 0.0)
