"""The lines of the simulated billing history: lists, details, graphs, billing events and sub-resources.

Owns the wrapper keys that real answers carry (they differ from the published schemas). `usage_time` is in
seconds.

Source: Hyperstack API, billing history, as documented and seen in examples of 2026-11; AI, cluster and
contract types are empty here and answer 404 as the examples do.
"""

from collections.abc import Sequence
from uuid import NAMESPACE_URL, uuid5

from spotinference_sim.hyperstack_calls import Call, Json, history_page, not_found
from spotinference_sim.hyperstack_meters import HyperstackMeters, number
from spotinference_sim.instants import DAY_S, HOUR_S, SECOND_US, text_s
from spotinference_sim.prices import usd_per_hour
from spotinference_sim.resources import Resource, Spell, Vm, Volume
from spotinference_sim.scenario import ORG_ID, Scenario

STATE_TIMES = ("ACTIVE", "SHUTOFF", "HIBERNATED")
TITLES = {"virtual-machine": "Virtual Machine", "volume": "Volume"}
PARTS = ("gpu", "cpu", "ram", "disk", "ephemeral", "publicip")


def _seconds_in(spell: Spell, start_us: int, end_us: int) -> int:
    end_s, start_s = min(spell.end_s, end_us // SECOND_US), max(spell.start_s, start_us // SECOND_US)
    return max(0, end_s - start_s)


class HyperstackHistory:
    """Answers about money in a window."""

    def __init__(self, scenario: Scenario, meters: HyperstackMeters) -> None:
        self._scenario = scenario
        self._meters = meters

    def listed(self, call: Call) -> Json:
        """Answer with one line per resource that existed in the window; snapshots and buckets are none."""
        start_us, end_us = call.window()
        kind = call.groups["kind"]
        end_us = min(end_us, call.now_us)
        rows = [
            self._row(r, start_us, end_us, call.now_us)
            for r in self._of(kind)
            if r.created_s * SECOND_US < end_us and r.ended_s * SECOND_US > start_us
        ]
        search = call.query.get("search", "").lower()
        rows = [row for row in rows if search in row["attributes"]["resource_name"].lower()]
        message = f"Billing History for {TITLES.get(kind, kind.title())} Retrieved Successfully."
        wrapper = f"billing_history_{'vm' if kind == 'virtual-machine' else kind}"
        return {"success": True, "message": message, wrapper: {"org_id": ORG_ID, **history_page(call, rows)}}

    def absent(self, call: Call) -> Json:
        """Answer that there are no clusters, contracts or AI jobs.

        Raises: RefusalError 404, always, as the real service does.
        """
        call.window()
        kind = call.groups["kind"]
        if kind == "contract":
            raise not_found("Billing History for Contracts does not exist.")
        start, end = call.query["start_date"], call.query["end_date"]
        raise not_found(f"No {kind} data found for {start} - {end} ")

    def detail(self, call: Call) -> Json:
        """Answer with one resource's line, with the time in each state for machines."""
        start_us, end_us = call.window()
        resource = self._find(call)
        row = self._row(resource, start_us, min(end_us, call.now_us), call.now_us)
        if isinstance(resource, Volume):
            row["attributes"] |= {"subresource_type": "Cloud-SSD", "subresource_amount": resource.size}
        else:
            for status in STATE_TIMES:
                within = (s for s in resource.spells if s.status == status)
                seconds = sum(_seconds_in(s, start_us, min(end_us, call.now_us)) for s in within)
                row["metrics"][f"usage_time_{status}"] = seconds
        return self._detail_envelope(call, {"billing_history": [row], "total_count": 1})

    def graph(self, call: Call) -> Json:
        """Answer with the cost by hour, or by day for more than two days; empty buckets are missing."""
        start_us, end_us = call.window()
        resource = self._find(call)
        step_s = HOUR_S if end_us - start_us <= 2 * DAY_S * SECOND_US else DAY_S
        points: list[Json] = []
        for at_us in range(start_us, end_us, step_s * SECOND_US):
            cost = self._meters.cost(resource, at_us, min(at_us + step_s * SECOND_US, end_us), call.now_us)
            if cost:
                points.append({"datetime": text_s(at_us // SECOND_US) + "Z", "value": cost})
        row = self._row(resource, start_us, min(end_us, call.now_us), call.now_us)
        bill = row["metrics"]["incurred_bill"]
        row["metrics"] = {"incurred_bill": bill, "incurred_bill_graph": points}
        return self._detail_envelope(call, {"billing_history": [row], "total_count": 1, "granularity": step_s})

    def billing_events(self, call: Call) -> Json:
        """Answer with the spells that overlap the window, each with its cost in it."""
        start_us, end_us = call.window()
        resource = self._find(call)
        events: list[Json] = []
        for spell in resource.spells:
            seconds = _seconds_in(spell, start_us, min(end_us, call.now_us))
            if seconds:
                events.append(
                    {
                        "start": text_s(max(spell.start_s, start_us // SECOND_US)),
                        "event": spell.status,
                        "event_duration": seconds,
                        "price_per_hour": number(usd_per_hour(spell.rate)),
                        "total_cost": number(usd_per_hour(spell.rate) * seconds / HOUR_S),
                    }
                )
        about = f"{call.groups['kind'].replace('-', '_')} {call.id}"
        message = f"{about} Billing Events History Retrieved Successfully."
        return {"status": True, "message": message, "billing_events_history": events}

    def sub_resources(self, call: Call) -> Json:
        """Answer with a machine's cost by part, rounded to 15 decimals."""
        start_us, end_us = call.window()
        resource = self._find(call)
        costs = dict.fromkeys(PARTS, 0.0)
        for spell in resource.spells:
            seconds = _seconds_in(spell, start_us, min(end_us, call.now_us))
            for name, nanos in spell.parts:
                costs[name] += usd_per_hour(nanos) * seconds / HOUR_S
        metrics = {f"{name}_incurred_bill": number(round(cost, 15)) for name, cost in costs.items()}
        row = {"attributes": self._attributes(resource, call.now_us), "metrics": metrics}
        message = "Sub resources costs for the Virtual Machine Retrieved Successfully."
        wrapped = {"org_id": ORG_ID, "billing_history": [row], "total_count": 1}
        return {"status": True, "message": message, "sub_resources_costs": wrapped}

    def _of(self, kind: str) -> Sequence[Resource]:
        by_kind: dict[str, Sequence[Resource]] = {
            "virtual-machine": self._scenario.vms,
            "volume": self._scenario.volumes,
        }
        return by_kind.get(kind, ())

    def _find(self, call: Call) -> Resource:
        for resource in self._of(call.groups["kind"]):
            if resource.id == call.id and resource.created_s <= call.now_s:
                return resource
        raise not_found(f"{TITLES.get(call.groups['kind'], 'Resource')} {call.id} does not exist.")

    def _detail_envelope(self, call: Call, wrapped: Json) -> Json:
        kind = call.groups["kind"]
        wrapper = f"billing_history_{'vm' if kind == 'virtual-machine' else kind}_details"
        message = f"Biling Details  for the {TITLES[kind]} Retrieved Successfully."
        return {"status": True, "message": message, wrapper: {"org_id": ORG_ID, **wrapped}}

    def _attributes(self, resource: Resource, now_us: int) -> Json:
        spell = resource.spell_at(now_us // SECOND_US)
        kind = "vm" if isinstance(resource, Vm) else "volume"
        return {
            "id": str(uuid5(NAMESPACE_URL, f"{self._scenario.seed}/{kind}/{resource.id}")),
            "infrahub_id": resource.id,
            "resource_name": resource.name,
            "status": spell.status if spell else "DELETED",
            "contract_id": None,
        }

    def _row(self, resource: Resource, start_us: int, end_us: int, now_us: int) -> Json:
        spell = resource.spell_at(now_us // SECOND_US)
        price = number(usd_per_hour(spell.rate)) if spell else 0
        cost = number(self._meters.cost(resource, start_us, end_us, now_us))
        metrics = {
            "incurred_bill": cost,
            "non_discounted_bill": cost,
            "price_per_hour": price,
            "non_discounted_price_per_hour": price,
            "usage_time": sum(_seconds_in(spell, start_us, end_us) for spell in resource.spells),
        }
        return {"attributes": self._attributes(resource, now_us), "metrics": metrics}
