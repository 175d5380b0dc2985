"""The simulated billing history: lists, details, graphs, billing events and sub-resources.

Owns the wrapper keys that real answers carry (they differ from the published schemas), what a list without
rows answers, and graphs. `usage_time` is in seconds. Rows are made in `hyperstack_lines`, pages cut in
`hyperstack_pages`.

Source: Hyperstack API, billing history, as documented and seen in examples of 2026-11.
"""

from collections.abc import Sequence

from spotinference_sim.faults import Faults
from spotinference_sim.hyperstack_calls import Call, Json, not_found
from spotinference_sim.hyperstack_lines import HyperstackLines, list_factor, seconds_in
from spotinference_sim.hyperstack_meters import HyperstackMeters, number
from spotinference_sim.hyperstack_pages import HistoryPages
from spotinference_sim.instants import DAY_S, HOUR_S, SECOND_US, text_s
from spotinference_sim.kinds import KINDS, SERVERLESS, Kind
from spotinference_sim.prices import usd_per_hour
from spotinference_sim.resources import Resource
from spotinference_sim.scenario import ORG_ID, Scenario

PARTS = ("gpu", "cpu", "ram", "disk", "ephemeral", "publicip")
BY_PATH = {kind.path: kind for kind in KINDS.values() if kind.path}
EMPTY_AS_LIST = ("vm", "volume", "snapshot", "bucket")
"""Types whose list without rows is an empty list; all others answer 404."""
MISSPELT = {"model_evaluation": "model_evalutation"}
AI_TYPES = (SERVERLESS, "image_generation", "fine_tuning", "model_evaluation", "data_synthesis")


def list_wrapper(path: str) -> str:
    """Name the member that holds a list; all kinds of AI tokens share one."""
    if path in AI_TYPES and path != "fine_tuning":
        return f"billing_history_{SERVERLESS}"
    return f"billing_history_{'vm' if path == 'virtual-machine' else path}"


def detail_wrapper(path: str) -> str:
    """Name the member that holds a detail or graph."""
    return f"billing_history_{'vm' if path == 'virtual-machine' else MISSPELT.get(path, path)}_details"


class HyperstackHistory:
    """Answers about money in a window."""

    def __init__(self, scenario: Scenario, meters: HyperstackMeters, faults: Faults) -> None:
        self._scenario = scenario
        self._meters = meters
        self._faults = faults
        self._lines = HyperstackLines(scenario.seed, meters, faults)
        self._pages = HistoryPages(scenario.seed, faults)
        self._by_kind: dict[str, list[Resource]] = {}
        for resource in scenario.resources:
            self._by_kind.setdefault(resource.kind, []).append(resource)

    def listed(self, call: Call) -> Json:
        """Answer with one line per resource that existed in the window.

        Raises: RefusalError 404 for some types when there is none.
        """
        start_us, end_us = call.window()
        path = call.groups["kind"]
        end_us = min(end_us, call.now_us)
        rows = [self._lines.row(r, start_us, end_us, call.now_us) for r in self._within(path, start_us, end_us)]
        if not rows:
            self._refuse_empty(call, path)
        search = call.query.get("search", "").lower()
        rows = [row for row in rows if search in row["attributes"]["resource_name"].lower()]
        title = BY_PATH[path].title if path in BY_PATH else path.title()
        message = f"Billing History for {title} Retrieved Successfully."
        page = (
            self._pages.cut(call, rows) if path != "contract" else {"billing_history": rows, "total_count": len(rows)}
        )
        return {"success": True, "message": message, list_wrapper(path): {"org_id": ORG_ID, **page}}

    def detail(self, call: Call) -> Json:
        """Answer with one resource's line, with the time in each state for machines; a line for each life under the id."""
        start_us, end_us = call.window()
        end_us = min(end_us, call.now_us)
        lives = self._lives(call, start_us, end_us)
        rows = [self._lines.detail(resource, start_us, end_us, call.now_us) for resource in lives]
        return self._detail_envelope(call, {"billing_history": rows, "total_count": len(rows)})

    def graph(self, call: Call) -> Json:
        """Answer with the cost by hour, or by day for more than two days; empty buckets are missing. AI has no points."""
        if call.groups["kind"] in AI_TYPES:
            return self.detail(call)
        start_us, end_us = call.window()
        step_s = self._granularity(start_us, end_us)
        rows: list[Json] = []
        for resource in self._lives(call, start_us, min(end_us, call.now_us)):
            row = self._lines.row(resource, start_us, min(end_us, call.now_us), call.now_us)
            points = self._points(resource, start_us, end_us, call.now_us, step_s)
            row["metrics"] = {"incurred_bill": row["metrics"]["incurred_bill"], "incurred_bill_graph": points}
            rows.append(row)
        return self._detail_envelope(call, {"billing_history": rows, "total_count": len(rows), "granularity": step_s})

    def billing_events(self, call: Call) -> Json:
        """Answer with the spells that overlap the window, each with its cost in it."""
        start_us, end_us = call.window()
        end_us = min(end_us, call.now_us)
        events: list[Json] = []
        for resource in self._lives(call, start_us, end_us):
            for spell in () if self._faults.empty_events else resource.between(start_us // SECOND_US, call.now_s + 1):
                if seconds := seconds_in(spell, start_us, end_us):
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
        end_us = min(end_us, call.now_us)
        rows: list[Json] = []
        for resource in self._lives(call, start_us, end_us):
            costs = self._by_part(resource, start_us, end_us)
            metrics = {f"{name}_incurred_bill": number(round(cost, 15)) for name, cost in costs.items()}
            factor = list_factor(resource, self._faults)
            if factor != 1:
                metrics |= {
                    f"{name}_non_discounted_bill": number(round(costs[name] * factor, 15)) for name in PARTS[1:4]
                }
            rows.append({"attributes": self._named(resource, call.now_us), "metrics": metrics})
        message = "Sub resources costs for the Virtual Machine Retrieved Successfully."
        wrapped = {"org_id": ORG_ID, "billing_history": rows, "total_count": len(rows)}
        return {"status": True, "message": message, "sub_resources_costs": wrapped}

    def sub_resource_graph(self, call: Call) -> Json:
        """Answer with the cost by part and bucket; parts that cost nothing are missing."""
        start_us, end_us = call.window()
        step_us = self._granularity(start_us, end_us) * SECOND_US
        rows: list[Json] = []
        for resource in self._lives(call, start_us, min(end_us, call.now_us)):
            metrics: Json = {}
            for at_us in range(start_us, min(end_us, call.now_us), step_us):
                costs = self._by_part(resource, at_us, min(at_us + step_us, end_us, call.now_us))
                for name, cost in costs.items():
                    if cost:
                        point = {"datetime": text_s(at_us // SECOND_US) + "Z", "value": round(cost, 15)}
                        metrics.setdefault(f"{name}_incurred_bill_graph", []).append(point)
            totals = self._by_part(resource, start_us, min(end_us, call.now_us))
            metrics |= {f"{name}_incurred_bill": number(round(cost, 15)) for name, cost in totals.items()}
            rows.append({"attributes": self._named(resource, call.now_us), "metrics": metrics})
        wrapped: Json = {"org_id": ORG_ID, "billing_history": rows, "total_count": len(rows)}
        wrapped["granularity"] = step_us // SECOND_US
        message = "Sub resources costs datapoints for the Virtual Machine Retrieved Successfully."
        return {"status": True, "message": message, "sub_resources_costs": wrapped}

    def _named(self, resource: Resource, now_us: int) -> Json:
        about = self._lines.attributes(resource, now_us)
        return {name: about[name] for name in ("id", "infrahub_id", "resource_name")}

    def _granularity(self, start_us: int, end_us: int) -> int:
        is_short = end_us - start_us <= 2 * DAY_S * SECOND_US
        return HOUR_S if is_short and not self._faults.coarse_graphs else DAY_S

    def _points(self, resource: Resource, start_us: int, end_us: int, now_us: int, step_s: int) -> list[Json]:
        points: list[Json] = []
        for at_us in range(start_us, end_us, step_s * SECOND_US):
            cost = self._meters.cost(resource, at_us, min(at_us + step_s * SECOND_US, end_us), now_us)
            if cost:
                points.append({"datetime": text_s(at_us // SECOND_US) + "Z", "value": cost})
        return points

    def _by_part(self, resource: Resource, start_us: int, end_us: int) -> dict[str, float]:
        costs = dict.fromkeys(PARTS, 0.0)
        for spell in resource.between(start_us // SECOND_US, -(-end_us // SECOND_US)):
            seconds = seconds_in(spell, start_us, end_us)
            for name, nanos in spell.parts:
                costs[name] += usd_per_hour(nanos) * seconds / HOUR_S
        return costs

    def _of(self, path: str) -> Sequence[Resource]:
        kind: Kind | None = BY_PATH.get(path)
        if kind is None or (kind.word == "cluster" and self._faults.cluster_remainder == "list"):
            return ()
        return self._by_kind.get(kind.word, ())

    def _within(self, path: str, start_us: int, end_us: int) -> list[Resource]:
        return [r for r in self._of(path) if r.created_s * SECOND_US < end_us and r.ended_s * SECOND_US > start_us]

    def _lives(self, call: Call, start_us: int, end_us: int) -> list[Resource]:
        """Find the lives under an id that overlap the window, else the latest of them."""
        known = [r for r in self._of(call.groups["kind"]) if r.id == call.id and r.created_s <= call.now_s]
        if not known:
            kind = BY_PATH.get(call.groups["kind"])
            raise not_found(f"{kind.title if kind else 'Resource'} {call.id} does not exist.")
        within = [r for r in known if r.created_s * SECOND_US < end_us and r.ended_s * SECOND_US > start_us]
        return within or known[-1:]

    def _refuse_empty(self, call: Call, path: str) -> None:
        how = self._faults.empty_lists
        is_list = BY_PATH[path].word in EMPTY_AS_LIST if path in BY_PATH else False
        if how == "empty" or (how == "real" and is_list):
            return
        if path == "contract":
            raise not_found("Billing History for Contracts does not exist.")
        dates = [call.query.get(name) for name in ("start_date", "end_date")]
        raise not_found(f"No {path} data found for {dates[0]} - {dates[1]} ")

    def _detail_envelope(self, call: Call, wrapped: Json) -> Json:
        path = call.groups["kind"]
        title = BY_PATH[path].title
        message = f"Biling Details  for the {title} Retrieved Successfully."
        return {"status": True, "message": message, detail_wrapper(path): {"org_id": ORG_ID, **wrapped}}
