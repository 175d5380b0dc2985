"""The live counters of the simulated Hyperstack: usage, organisation total, credit, payments.

Owns the minute snapshot's billing endpoints. Lines of history are in `hyperstack_history`.

Source: Hyperstack API, billing endpoints, as documented in 2026-11.
"""

from collections.abc import Iterable
from uuid import NAMESPACE_URL, uuid5

from spotinference_sim.chances import chance
from spotinference_sim.faults import Faults
from spotinference_sim.hyperstack_calls import Call, Json
from spotinference_sim.hyperstack_lines import list_factor
from spotinference_sim.hyperstack_meters import HyperstackMeters, number
from spotinference_sim.instants import DAY_S, SECOND_US, text_s
from spotinference_sim.kinds import CATEGORIES, KINDS
from spotinference_sim.payments import Payment
from spotinference_sim.prices import NANO, usd_per_hour
from spotinference_sim.resources import Resource
from spotinference_sim.scenario import ORG_ID, Scenario


class HyperstackBilling:
    """Answers about money as it runs."""

    def __init__(self, scenario: Scenario, meters: HyperstackMeters, faults: Faults) -> None:
        self._scenario = scenario
        self._meters = meters
        self._faults = faults

    def usage(self, call: Call) -> Json:
        """Answer with the active resources, or with the deleted ones only."""
        deleted = call.query.get("deleted", "false").lower() == "true"
        existing = [r for r in self._scenario.resources if KINDS[r.kind].in_usage and r.created_s <= call.now_s]
        rows = [self._usage_row(r, call) for r in existing if r.has_ended(call.now_s) == deleted]
        share = self._faults.empty_usage_share
        if share and chance(self._scenario.seed, "empty_usage_share", deleted, call.now_us) < share:
            rows = []
        return {"message": "Successful", "status": True, "data": rows}

    def _usage_row(self, resource: Resource, call: Call) -> Json:
        spell = resource.spell_at(call.now_s)
        return {
            "resource_id": resource.id,
            "resource_type": resource.kind,
            "name": resource.name_at(call.now_s),
            "organization_id": ORG_ID,
            "bill_per_minute": number(usd_per_hour(spell.rate) / 60) if spell else None,
            "create_time": text_s(resource.created_s),
            "terminate_time": None if spell else text_s(resource.ended_s) + "Z",
            "total_up_time": self._meters.up_minutes(resource, call.now_us),
            "total_bill": number(self._meters.bill(resource, call.now_us)),
            "active": spell is not None,
            "exclude_billing": resource.excluded,
        }

    def organisation(self, call: Call) -> Json:
        """Answer with the organisation's total of a window, by category; some types have none and are in the total only."""
        start_us, end_us = call.window()
        costs = dict.fromkeys(CATEGORIES, 0.0)
        total = more = 0.0
        for resource in reversed(self._scenario.resources):
            counter = "organisation" if self._faults.history_lag_s else "incurred_bill"
            cost = self._meters.cost(resource, start_us, end_us, call.now_us, counter)
            more += cost * (list_factor(resource, self._faults) - 1)
            category = KINDS[resource.kind].category
            if resource.kind == "cluster" and self._faults.cluster_remainder == "off":
                category = "cluster_cost"
            if category:
                costs[category] = costs.get(category, 0.0) + cost
            else:
                total += cost
        total += costs["vm_cost"] + sum(cost for name, cost in costs.items() if name != "vm_cost")
        metrics = {"incurred_bill": number(total), "non_discounted_bill": number(total + more)}
        metrics |= {name: number(cost) for name, cost in costs.items()}
        row = {"attributes": {"id": str(uuid5(NAMESPACE_URL, f"org/{ORG_ID}"))}, "metrics": metrics}
        history = {"org_id": ORG_ID, "billing_history": [row], "total_count": 1}
        message = "Biling History Retrieved Successfully."
        return {"status": True, "message": message, "billing_history": history}

    def credit(self, call: Call) -> Json:
        """Answer with the prepaid balance."""
        balance = {"credit": self._meters.balance(call.now_us), "threshold": 0, "can_create_instance": True}
        return {"message": "Success", "status": True, "data": balance}

    def last_day(self, call: Call) -> Json:
        """Answer with the cost of the previous UTC day: machines, volumes and clusters only."""
        end_us = call.now_s // DAY_S * DAY_S * SECOND_US
        start_us = end_us - DAY_S * SECOND_US
        names = {"vm": "instances_cost", "volume": "volumes_cost", "cluster": "clusters_cost"}
        costs = {
            name: self._sum(
                (r for r in reversed(self._scenario.resources) if r.kind == kind), start_us, end_us, call.now_us
            )
            for kind, name in names.items()
        }
        shown = {name: number(cost) for name, cost in costs.items()}
        return {"message": "Successful", "status": True, "data": shown | {"total_cost": number(sum(costs.values()))}}

    def payments(self, call: Call) -> Json:
        """Answer with the money that was paid in so far, with its tax."""
        rows = [self._payment(payment, place) for place, payment in enumerate(self._scenario.payments, start=1)]
        paid = zip(self._scenario.payments, rows, strict=True)
        data = [row for payment, row in paid if payment.at_s <= call.now_s]
        return {"status": True, "message": "Payment details retrieved successfully", "data": data}

    def _payment(self, payment: Payment, place: int) -> Json:
        number_of = f"{self._scenario.seed}/payment/{place}"
        return {
            "payment_id": str(uuid5(NAMESPACE_URL, number_of)),
            "transaction_id": f"pi_{uuid5(NAMESPACE_URL, number_of + '/transaction').hex}",
            "amount": number(payment.nanos / NANO),
            "tax_amount": number(payment.tax_nanos / NANO),
            "currency": "usd",
            "status": "success",
            "payment_type": "stripe",
            "paid_from": "card",
            "description": "Top-up",
            "gateway_response": "",
            "invoice": f"INV-{place:04d}",
            "auto_topup_id": None,
            "attempt_number": 1,
            "max_attempts": 1,
            "created_at": text_s(payment.at_s),
            "updated_at": text_s(payment.at_s) + "Z",
        }

    def _sum(self, resources: Iterable[Resource], start_us: int, end_us: int, now_us: int) -> float:
        return sum((self._meters.cost(r, start_us, end_us, now_us) for r in resources), 0.0)
