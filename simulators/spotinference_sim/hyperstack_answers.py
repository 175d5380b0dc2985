"""Answer any question to the simulated Hyperstack: a pure function of scenario, faults, path, query and instant.

Owns the routes. What stands between a client and these answers (key, limits, outages, latency) is in
`hyperstack_gate`; the HTTP server and laying down past days both ask there, so that they cannot disagree.
State-changing paths do not exist here: a reader that calls them gets 404.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from spotinference_sim.fault_scenes import as_seen
from spotinference_sim.faults import Faults
from spotinference_sim.hyperstack_billing import HyperstackBilling
from spotinference_sim.hyperstack_calls import Call, RefusalError, not_found
from spotinference_sim.hyperstack_core import HyperstackCore
from spotinference_sim.hyperstack_history import AI_TYPES, HyperstackHistory
from spotinference_sim.hyperstack_meters import HyperstackMeters
from spotinference_sim.hyperstack_prices import HyperstackPrices
from spotinference_sim.hyperstack_rewrites import rewritten
from spotinference_sim.scenario import Scenario

Route = Callable[[Call], Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """HTTP status and the exact bytes of the body."""

    status: int
    body: bytes
    content_type: str = "application/json"
    retry_after_s: int | None = None


class HyperstackAnswers:
    """All endpoints of one scenario; paths are without `/v1`. `scenario` is as the API shows it."""

    def __init__(self, scenario: Scenario, lag: bool = False, faults: Faults | None = None) -> None:
        self.faults = faults or (Faults.lag() if lag else Faults.none())
        self.scenario = as_seen(scenario, self.faults)
        meters = HyperstackMeters(self.scenario, self.faults)
        self.core = HyperstackCore(self.scenario, self.faults)
        self._routes = _routes(
            HyperstackBilling(self.scenario, meters, self.faults),
            HyperstackHistory(self.scenario, meters, self.faults),
            self.core,
            HyperstackPrices(self.scenario, self.faults),
        )

    def answer(self, path: str, query: Mapping[str, str], now_us: int) -> Answer:
        """Answer a GET at an instant; refusals come as the error envelope."""
        try:
            for pattern, route in self._routes:
                if match := pattern.fullmatch(path):
                    body = route(Call(match.groupdict(), query, now_us, self.faults.dates_optional))
                    return Answer(200, msgspec.json.encode(rewritten(self.faults, path, body)))
            raise not_found("The requested URL was not found on the server.")
        except RefusalError as refusal:
            return Answer(refusal.status, msgspec.json.encode(refusal.body))


def _routes(
    billing: HyperstackBilling, history: HyperstackHistory, core: HyperstackCore, prices: HyperstackPrices
) -> list[tuple[re.Pattern[str], Route]]:
    kinds = f"(?P<kind>virtual-machine|volume|snapshot|bucket|cluster|{'|'.join(AI_TYPES)})"
    number = r"(?P<id>\d{1,15})"
    priced = "(?P<kind>virtual-machine|instance|volume|cluster)"
    parts = f"/billing/billing/(?P<kind>virtual-machine)/{number}/sub-resource"
    table: dict[str, Route] = {
        "/billing/billing/usage": billing.usage,
        "/billing/billing/history": billing.organisation,
        "/billing/billing/last-day-cost": billing.last_day,
        "/billing/user-credit/credit": billing.credit,
        "/billing/payment/payment-details": billing.payments,
        "/billing/alive": lambda _call: {"message": "alive"},
        "/billing/billing/history/(?P<kind>contract)": history.listed,
        f"/billing/billing/history/{kinds}": history.listed,
        f"/billing/billing/history/{kinds}/{number}": history.detail,
        f"/billing/billing/history/{kinds}/{number}/graph": history.graph,
        f"/billing/billing/(?P<kind>virtual-machine|volume)/{number}/billing-events": history.billing_events,
        parts: history.sub_resources,
        f"{parts}/graph": history.sub_resource_graph,
        "/pricebook": prices.price_book,
        "/pricebook/contracts": prices.contracts,
        f"/pricebook/contracts/{number}": prices.contract,
        f"/pricebook/calculate/resource/{priced}/{number}": prices.calculate,
        "/core/virtual-machines": core.vms,
        f"/core/virtual-machines/{number}": core.vm,
        f"/core/virtual-machines/{number}/events": core.vm_events,
        f"/core/virtual-machines/contract/{number}/virtual-machines": core.contract_vms,
        "/core/volumes": core.volumes,
        f"/core/volumes/{number}": core.volume,
        "/core/snapshots": core.snapshots,
        f"/core/snapshots/{number}": core.snapshot,
        "/core/flavors": core.flavors,
        "/core/environments": core.environments,
        "/core/regions": core.regions,
    }
    return [(re.compile(pattern), route) for pattern, route in table.items()]
