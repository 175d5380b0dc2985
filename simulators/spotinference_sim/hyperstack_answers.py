"""Answer any question to the simulated Hyperstack: a pure function of scenario, path, query and instant.

Owns the routes. The HTTP server (`hyperstack_app`) and laying down past days (`lay_down`) both ask here, so
that they cannot disagree. State-changing paths do not exist here: a reader that calls them gets 404.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from spotinference_sim.hyperstack_billing import HyperstackBilling
from spotinference_sim.hyperstack_calls import Call, RefusalError, not_found
from spotinference_sim.hyperstack_core import HyperstackCore
from spotinference_sim.hyperstack_history import HyperstackHistory
from spotinference_sim.hyperstack_meters import HyperstackMeters
from spotinference_sim.scenario import Scenario

Route = Callable[[Call], Any]

AI_KINDS = "serverless_inference|image_generation|fine_tuning|model_evaluation|data_synthesis"


@dataclass(frozen=True, slots=True)
class Answer:
    """HTTP status and the exact bytes of the body."""

    status: int
    body: bytes


class HyperstackAnswers:
    """All endpoints of one scenario; paths are without `/v1`."""

    def __init__(self, scenario: Scenario, lag: bool = False) -> None:
        meters = HyperstackMeters(scenario, lag)
        self.core = HyperstackCore(scenario)
        self._routes = _routes(HyperstackBilling(scenario, meters), HyperstackHistory(scenario, meters), self.core)

    def answer(self, path: str, query: Mapping[str, str], now_us: int) -> Answer:
        """Answer a GET at an instant; refusals come as the error envelope."""
        try:
            for pattern, route in self._routes:
                if match := pattern.fullmatch(path):
                    return Answer(200, msgspec.json.encode(route(Call(match.groupdict(), query, now_us))))
            raise not_found("The requested URL was not found on the server.")
        except RefusalError as refusal:
            return Answer(refusal.status, msgspec.json.encode(refusal.body))


def _routes(
    billing: HyperstackBilling, history: HyperstackHistory, core: HyperstackCore
) -> list[tuple[re.Pattern[str], Route]]:
    kinds = "(?P<kind>virtual-machine|volume|snapshot|bucket)"
    absent = f"(?P<kind>cluster|contract|{AI_KINDS})"
    number = r"(?P<id>\d{1,15})"
    priced = "(?P<kind>virtual-machine|instance|volume|cluster)"
    table: dict[str, Route] = {
        "/billing/billing/usage": billing.usage,
        "/billing/billing/history": billing.organisation,
        "/billing/billing/last-day-cost": billing.last_day,
        "/billing/user-credit/credit": billing.credit,
        "/billing/payment/payment-details": billing.payments,
        "/billing/alive": lambda _call: {"message": "alive"},
        f"/billing/billing/history/{kinds}": history.listed,
        f"/billing/billing/history/{absent}": history.absent,
        f"/billing/billing/history/{kinds}/{number}": history.detail,
        f"/billing/billing/history/{kinds}/{number}/graph": history.graph,
        f"/billing/billing/(?P<kind>virtual-machine|volume)/{number}/billing-events": history.billing_events,
        f"/billing/billing/(?P<kind>virtual-machine)/{number}/sub-resource": history.sub_resources,
        "/pricebook": core.price_book,
        "/pricebook/contracts": core.contracts,
        f"/pricebook/calculate/resource/{priced}/{number}": core.calculate,
        "/core/virtual-machines": core.vms,
        f"/core/virtual-machines/{number}": core.vm,
        f"/core/virtual-machines/{number}/events": core.vm_events,
        "/core/volumes": core.volumes,
        f"/core/volumes/{number}": core.volume,
        "/core/snapshots": core.snapshots,
        "/core/flavors": core.flavors,
        "/core/environments": core.environments,
        "/core/regions": core.regions,
    }
    return [(re.compile(pattern), route) for pattern, route in table.items()]
