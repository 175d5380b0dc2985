"""The prices of the simulated Hyperstack: price book, rate of one resource, contracts.

Owns `/pricebook`. What is paid is `value`; with a discount the list price `original_value` is larger.

Source: Hyperstack API, price book, as documented in 2026-11; texts and missing envelope as seen in examples.
"""

from spotinference_sim.faults import Faults
from spotinference_sim.hyperstack_calls import Call, Json, not_found
from spotinference_sim.hyperstack_lines import list_factor
from spotinference_sim.instants import DAY_S, text_s
from spotinference_sim.prices import price_text, usd_per_hour
from spotinference_sim.resources import Other, Resource
from spotinference_sim.scenario import ORG_ID, Scenario

PRICED = {"virtual-machine": "vm", "instance": "vm", "volume": "volume", "cluster": "cluster"}


class HyperstackPrices:
    """Answers about what things cost."""

    def __init__(self, scenario: Scenario, faults: Faults) -> None:
        self._scenario = scenario
        self._faults = faults

    def price_book(self, call: Call) -> list[Json]:
        """List all prices: a bare array with money as text."""
        percent = self._faults.discount_percent
        rows: list[Json] = []
        for place, name in enumerate(self._scenario.prices.names(), start=1):
            nanos = self._scenario.prices.nanos(name, call.now_s)
            row = {
                "id": place,
                "name": name,
                "value": price_text(nanos),
                "original_value": price_text(nanos * 100 // (100 - percent)),
                "discount_applied": percent > 0,
            }
            rows.append(row | {"start_time": None, "end_time": None})
        return rows

    def contracts(self, call: Call) -> Json:
        """List the contracts."""
        rows = [self._contract(r) for r in self._scenario.others if _is_contract(r, call.now_s)]
        head = {"status": True, "message": "Contracts retrieved successfully"}
        return head | {"contracts": rows, "count": len(rows)}

    def contract(self, call: Call) -> Json:
        """Show one contract."""
        for resource in self._scenario.others:
            if resource.id == call.id and _is_contract(resource, call.now_s):
                return {"status": True, "message": "Contract retrieved", "contracts": self._contract(resource)}
        raise not_found(f"Contract {call.id} does not exist.")

    def calculate(self, call: Call) -> Json:
        """Show the present rate of one resource by part: list prices, and what is paid."""
        word = call.groups["kind"]
        for resource in self._scenario.resources:
            if resource.kind == PRICED[word] and resource.id == call.id and resource.spell_at(call.now_s):
                wrapped = {"org_id": ORG_ID, "resource": self._rate(resource, word, call.now_s)}
                return {"status": True, "message": "Calculated", "calculated_resource_bills": wrapped}
        raise not_found(f"{word} {call.id} does not exist.")

    def _rate(self, resource: Resource, word: str, now_s: int) -> Json:
        spell = resource.spell_at(now_s)
        assert spell is not None
        factor = list_factor(resource, self._faults)
        parts = []
        for name, nanos in spell.parts:
            paid = usd_per_hour(nanos)
            rates = {"rate": paid * factor, "discounted_rate": paid, "price": paid * factor, "actual_price": paid}
            parts.append({"type": name, "name": name, "amount": 1} | rates)
        return {
            "type": word,
            "name": resource.name_at(now_s),
            "infrahub_id": resource.id,
            "status": spell.status,
            "host": None,
            "price": usd_per_hour(spell.rate) * factor,
            "actual_price": usd_per_hour(spell.rate),
            "resources": parts,
        }

    def _contract(self, contract: Other) -> Json:
        return {
            "id": contract.id,
            "org_id": ORG_ID,
            "description": contract.name,
            "status": "active",
            "start_date": text_s(contract.created_s) + "Z",
            "end_date": text_s(contract.created_s + 365 * DAY_S) + "Z",
            "expiration_policy": 1,
            "created_at": text_s(contract.created_s) + "Z",
            "discounts": [],
        }


def _is_contract(resource: Other, now_s: int) -> bool:
    return resource.kind == "contract" and resource.spell_at(now_s) is not None
