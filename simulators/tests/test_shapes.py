"""The shapes of the billing answers in our own words, checked always: exact members, exact types.

Amounts are numbers, zero often an integer. `test_openapi` compares with the vendor's description where there is one.
"""

from datetime import date
from typing import Annotated, Any

import msgspec
import pytest
from spotinference_sim import features
from spotinference_sim.features import Features
from spotinference_sim.fleet import H100_ID
from spotinference_sim.hyperstack_answers import HyperstackAnswers
from spotinference_sim.instants import SECOND_US
from spotinference_sim.scenario import Scenario

Number = int | float
Instant = Annotated[str, msgspec.Meta(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ?$")]
Uuid = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]
Money = Annotated[str, msgspec.Meta(pattern=r"^(\d+\.\d{9}|0E-9)$")]


class Strict(msgspec.Struct, forbid_unknown_fields=True):
    """No member more."""


class Usage(Strict):
    resource_id: int
    resource_type: str
    name: str
    organization_id: int
    bill_per_minute: Number | None
    create_time: Instant
    terminate_time: Instant | None
    total_up_time: Number
    total_bill: Number
    active: bool
    exclude_billing: bool


class Attributes(Strict):
    id: Uuid
    infrahub_id: int
    resource_name: str
    status: str
    contract_id: int | None


class SizedAttributes(Attributes):
    subresource_type: str
    subresource_amount: int


class Metrics(Strict):
    incurred_bill: Number
    non_discounted_bill: Number
    price_per_hour: Number
    non_discounted_price_per_hour: Number
    usage_time: int


class BucketMetrics(Metrics):
    size: int


class VmMetrics(Metrics):
    usage_time_active: int = msgspec.field(name="usage_time_ACTIVE")
    usage_time_shutoff: int = msgspec.field(name="usage_time_SHUTOFF")
    usage_time_hibernated: int = msgspec.field(name="usage_time_HIBERNATED")


class AiAttributes(Strict):
    base_model: str
    base_model_display_name: str
    lora_adapter: str | None
    infrahub_id: int
    resource_name: str
    status: str


class AiMetrics(Strict):
    input_tokens: int
    output_tokens: int
    input_tokens_incurred_bill: Number
    input_tokens_non_discounted_bill: Number
    output_tokens_incurred_bill: Number
    output_tokens_non_discounted_bill: Number
    incurred_bill: Number
    non_discounted_bill: Number


class ContractAttributes(Strict):
    id: Uuid
    infrahub_id: int
    resource_name: str
    status: str
    description: str
    gpu_type: str


class Point(Strict):
    datetime: Instant
    value: float


class GraphMetrics(Strict):
    incurred_bill: Number
    incurred_bill_graph: list[Point]


class OrganisationMetrics(Strict):
    incurred_bill: Number
    non_discounted_bill: Number
    vm_cost: Number
    volume_cost: Number
    snapshot_cost: Number
    bucket_cost: Number
    contract_cost: Number
    ais_token_cost: Number
    ais_workload_cost: Number
    cluster_cost: Number


class Event(Strict):
    start: Instant
    event: str
    event_duration: int
    price_per_hour: Number
    total_cost: Number


class Price(Strict):
    id: int
    name: str
    value: Money
    original_value: Money
    discount_applied: bool
    start_time: Instant | None
    end_time: Instant | None


HISTORY = "/billing/billing/history"
DATES = {"start_date": "2026-11-20T00:00:00", "end_date": "2026-11-22T00:00:00"}
LISTED = {
    "virtual-machine": ("billing_history_vm", Attributes, Metrics),
    "volume": ("billing_history_volume", Attributes, Metrics),
    "snapshot": ("billing_history_snapshot", Attributes, Metrics),
    "bucket": ("billing_history_bucket", Attributes, BucketMetrics),
    "cluster": ("billing_history_cluster", Attributes, Metrics),
    "contract": ("billing_history_contract", ContractAttributes, Metrics),
    "serverless_inference": ("billing_history_serverless_inference", AiAttributes, AiMetrics),
}
DETAILED = {
    f"virtual-machine/{H100_ID}": ("billing_history_vm_details", Attributes, VmMetrics),
    "volume/38111": ("billing_history_volume_details", SizedAttributes, Metrics),
    f"snapshot/{features.SNAPSHOT_IDS[0]}": ("billing_history_snapshot_details", SizedAttributes, Metrics),
    f"virtual-machine/{H100_ID}/graph": ("billing_history_vm_details", Attributes, GraphMetrics),
    f"bucket/{features.BUCKET_ID}/graph": ("billing_history_bucket_details", Attributes, GraphMetrics),
    f"cluster/{features.CLUSTER_ID}/graph": ("billing_history_cluster_details", Attributes, GraphMetrics),
}


@pytest.fixture(scope="module")
def scenario() -> Scenario:
    return Scenario.generate(7, date(2026, 11, 20), 3, features=Features.all())


def read(scenario: Scenario, path: str, **query: str) -> Any:
    answer = HyperstackAnswers(scenario).answer(path, query, scenario.end_s * SECOND_US)
    assert answer.status == 200
    return msgspec.json.decode(answer.body)


def check_rows(rows: Any, attributes: Any, metrics: Any) -> None:
    assert rows
    for row in rows:
        msgspec.convert(row["attributes"], attributes)
        msgspec.convert(row["metrics"], metrics)


@pytest.mark.parametrize("kind", LISTED)
def test_lists(kind: str, scenario: Scenario) -> None:
    wrapper, attributes, metrics = LISTED[kind]
    body = read(scenario, f"{HISTORY}/{kind}", **DATES)
    assert set(body) == {"success", "message", wrapper}
    paged = {"pagination"} if kind != "contract" else set()
    assert set(body[wrapper]) == {"org_id", "billing_history", "total_count"} | paged
    check_rows(body[wrapper]["billing_history"], attributes, metrics)


@pytest.mark.parametrize("path", DETAILED)
def test_details_and_graphs(path: str, scenario: Scenario) -> None:
    wrapper, attributes, metrics = DETAILED[path]
    body = read(scenario, f"{HISTORY}/{path}", **DATES)
    assert set(body) == {"status", "message", wrapper}
    granularity = {"granularity"} if path.endswith("graph") else set()
    assert set(body[wrapper]) == {"org_id", "billing_history", "total_count"} | granularity
    check_rows(body[wrapper]["billing_history"], attributes, metrics)


def test_usage_total_events_and_prices(scenario: Scenario) -> None:
    for deleted in ("false", "true"):
        assert msgspec.convert(read(scenario, "/billing/billing/usage", deleted=deleted)["data"], list[Usage])
    total = read(scenario, HISTORY, **DATES)["billing_history"]["billing_history"][0]
    msgspec.convert(total["metrics"], OrganisationMetrics)
    path = f"/billing/billing/virtual-machine/{H100_ID}/billing-events"
    assert msgspec.convert(read(scenario, path, **DATES)["billing_events_history"], list[Event])
    assert msgspec.convert(read(scenario, "/pricebook"), list[Price])


def test_snapshots_and_contracts(scenario: Scenario) -> None:
    (kept,) = read(scenario, "/core/snapshots")["snapshots"]
    one = read(scenario, f"/core/snapshots/{kept['id']}")
    assert one["status"] == 200
    assert (one["snapshot"]["size"], one["snapshot"]["vm_id"]) == (kept["size"], H100_ID) == (100, H100_ID)
    (contract,) = read(scenario, "/pricebook/contracts")["contracts"]
    assert read(scenario, f"/pricebook/contracts/{contract['id']}")["contracts"] == contract
    (vm,) = read(scenario, f"/core/virtual-machines/contract/{contract['id']}/virtual-machines")["instances"]
    assert (vm["id"], vm["status"], vm["gpu_count"]) == (features.CONTRACT_VM_ID, "ACTIVE", 1)
    for path in ("/core/snapshots/1", "/pricebook/contracts/1"):
        assert HyperstackAnswers(scenario).answer(path, {}, scenario.end_s * SECOND_US).status == 404
