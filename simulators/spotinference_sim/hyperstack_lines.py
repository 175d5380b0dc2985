"""One line of the simulated billing history: a resource's attributes, and its money and seconds in a window.

Owns the members of a row for every type, and list prices beside paid ones. Does not own lists, pages and
envelopes (`hyperstack_history`) or how late counters are (`hyperstack_meters`).

Source: Hyperstack API, billing history, as documented and seen in examples of 2026-11.
"""

from uuid import NAMESPACE_URL, uuid5

from spotinference_sim.chances import chance, pick
from spotinference_sim.faults import Faults
from spotinference_sim.hyperstack_calls import Json
from spotinference_sim.hyperstack_meters import HyperstackMeters, number
from spotinference_sim.instants import DAY_S, HOUR_S, SECOND_US
from spotinference_sim.kinds import SERVERLESS
from spotinference_sim.prices import NANO, usd_per_hour
from spotinference_sim.resources import Other, Resource, Spell, Vm, Volume

STATE_TIMES = ("ACTIVE", "SHUTOFF", "HIBERNATED")
TOKEN_PARTS = ("input", "output")
TOKEN_NANOS = {"input": 200, "output": 800}
"""Nano-dollars for one token of a serverless model."""


def list_factor(resource: Resource, faults: Faults) -> float:
    """Tell how many times the paid price the list price is."""
    return resource.list_percent / 100 * (100 / (100 - faults.discount_percent))


def seconds_in(spell: Spell, start_us: int, end_us: int) -> int:
    """Count the seconds of a spell that lie in a window."""
    end_s, start_s = min(spell.end_s, end_us // SECOND_US), max(spell.start_s, start_us // SECOND_US)
    return max(0, end_s - start_s)


class HyperstackLines:
    """Makes rows; windows end at now at the latest."""

    def __init__(self, seed: int, meters: HyperstackMeters, faults: Faults) -> None:
        self._seed = seed
        self._meters = meters
        self._faults = faults

    def attributes(self, resource: Resource, now_us: int) -> Json:
        """Say who it is, with its present name and status."""
        now_s = now_us // SECOND_US
        spell = resource.spell_at(now_s)
        again = f"/{resource.incarnation}" if resource.incarnation > 1 else ""
        about = {
            "id": str(uuid5(NAMESPACE_URL, f"{self._seed}/{resource.kind}/{resource.id}{again}")),
            "infrahub_id": resource.id,
            "resource_name": resource.name_at(now_s),
            "status": spell.status if spell else "DELETED",
        }
        if resource.kind == SERVERLESS:
            model = {"base_model": resource.name, "base_model_display_name": resource.name.title()}
            return {name: text for name, text in about.items() if name != "id"} | model | {"lora_adapter": None}
        if resource.kind == "contract":
            return about | {"description": "Reserved capacity", "gpu_type": "H100-80G-SXM5"}
        return about | {"contract_id": resource.contract_id}

    def row(self, resource: Resource, start_us: int, end_us: int, now_us: int) -> Json:
        """Make the line of a list."""
        spell = resource.spell_at(now_us // SECOND_US)
        price = number(usd_per_hour(spell.rate)) if spell else 0
        factor = list_factor(resource, self._faults)
        listed = self._meters.cost(resource, start_us, end_us, now_us, "non_discounted_bill")
        if resource.excluded:
            listed = resource.meter.dollars(min(end_us, now_us)) - resource.meter.dollars(start_us)
        metrics: Json = {
            "incurred_bill": number(self._meters.cost(resource, start_us, end_us, now_us)),
            "non_discounted_bill": number(listed if factor == 1 else listed * factor),
        }
        if resource.kind == SERVERLESS:
            metrics |= self._tokens(resource, start_us, end_us, now_us)
        else:
            seconds = self.seconds(resource, start_us, end_us, now_us)
            metrics |= {
                "price_per_hour": price,
                "non_discounted_price_per_hour": price if factor == 1 else number(price * factor),
                "usage_time": self.spelt(seconds),
            }
        if resource.kind == "bucket" and isinstance(resource, Other):
            metrics["size"] = resource.size
        return {"attributes": self.attributes(resource, now_us), "metrics": metrics}

    def detail(self, resource: Resource, start_us: int, end_us: int, now_us: int) -> Json:
        """Make the line of a detail answer: sizes, time per state, nodes."""
        row = self.row(resource, start_us, end_us, now_us)
        if isinstance(resource, Volume) or resource.kind == "snapshot":
            size = resource.size if isinstance(resource, Volume | Other) else 0
            row["attributes"] |= {"subresource_type": "Cloud-SSD", "subresource_amount": size}
        elif isinstance(resource, Vm):
            row["metrics"] |= self._state_times(resource, start_us, end_us)
        elif resource.kind == "cluster":
            node = {"infrahub_id": resource.id * 10 + 1, "resource_name": f"{resource.name}-worker-0"}
            row["nodes"] = [{"attributes": row["attributes"] | node, "metrics": dict(row["metrics"])}]
        return row

    def seconds(self, resource: Resource, start_us: int, end_us: int, now_us: int) -> int:
        """Count `usage_time`, as late as that counter is."""
        if self._faults.history_lag_s:
            end_us = max(start_us, self._meters.reaches_us(resource, end_us, now_us, "usage_time"))
        spells = resource.between(start_us // SECOND_US, -(-end_us // SECOND_US))
        return sum(seconds_in(spell, start_us, end_us) for spell in spells)

    def spelt(self, seconds: int) -> float | int:
        """Spell a duration: seconds, or hours as the documentation has it."""
        return number(seconds / HOUR_S) if self._faults.usage_hours else seconds

    def _state_times(self, resource: Resource, start_us: int, end_us: int) -> Json:
        times: dict[str, int] = dict.fromkeys(STATE_TIMES, 0)
        for spell in resource.between(start_us // SECOND_US, -(-end_us // SECOND_US)):
            if spell.status in times:
                times[spell.status] += seconds_in(spell, start_us, end_us)
        if self._faults.odd_state_times:
            about = (self._seed, "odd_state_times", resource.id, start_us // SECOND_US // DAY_S)
            if chance(*about) < 0.5:
                del times["HIBERNATED"]
            for status, seconds in times.items():
                if seconds < HOUR_S:
                    times[status] = seconds - pick(1, 12, *about, status)
        return {f"usage_time_{status}": self.spelt(seconds) for status, seconds in times.items()}

    def _tokens(self, resource: Resource, start_us: int, end_us: int, now_us: int) -> Json:
        """Split the money of a serverless model into tokens read and written, as its parts are."""
        end_us = max(start_us, self._meters.reaches_us(resource, end_us, now_us, "incurred_bill"))
        factor = list_factor(resource, self._faults)
        nanos = dict.fromkeys(TOKEN_PARTS, 0)
        for spell in resource.between(start_us // SECOND_US, -(-end_us // SECOND_US)):
            for name, rate in spell.parts:
                nanos[name] += rate * seconds_in(spell, start_us, end_us)
        metrics: Json = {f"{name}_tokens": nanos[name] // TOKEN_NANOS[name] for name in TOKEN_PARTS}
        for name in TOKEN_PARTS:
            metrics[f"{name}_tokens_incurred_bill"] = number(nanos[name] / NANO)
            metrics[f"{name}_tokens_non_discounted_bill"] = number(nanos[name] / NANO * factor)
        return metrics
