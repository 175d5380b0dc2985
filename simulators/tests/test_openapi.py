"""The simulator's answers beside the vendor's own description of the API, where that lies beside the checkout.

The description is never part of this repository: set SPOTINFERENCE_HYPERSTACK_OPENAPI to its path, or keep it at
../shared/hyperstack/openapi.json. It is wrong in places; KNOWN_WRONG lists each, with what is right and why. An entry
that nothing needs any more fails the test, so the list shrinks with a better description. `ref` names sections of the
project's API reference.
"""

import json
import os
import re
from dataclasses import dataclass, replace
from datetime import date
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
from spotinference_sim import features
from spotinference_sim.faults import Faults
from spotinference_sim.features import Features
from spotinference_sim.fleet import H100_ID
from spotinference_sim.hyperstack_answers import HyperstackAnswers
from spotinference_sim.instants import HOUR_S, SECOND_US
from spotinference_sim.scenario import Scenario

BESIDE = Path(__file__).parents[3] / "shared" / "hyperstack" / "openapi.json"
_ZONED = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d+)?(Z|[+-]\d{2}:\d{2})")
_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
}


@dataclass(frozen=True, order=True)
class Finding:
    """A difference: the operation, the member with `[]` for list items, and what is wrong with it."""

    operation: str
    member: str
    kind: str


class Description:
    """One description; operations are GETs with status 200 unless told otherwise."""

    def __init__(self, document: dict[str, Any]) -> None:
        self._document = document
        self._paths = sorted(document["paths"], key=lambda path: path.count("{"))

    def operation(self, path: str) -> str | None:
        """Name the operation of a concrete path; the one with the fewest parameters wins."""
        for template in self._paths:
            pattern = "".join(
                "[^/]+" if part.startswith("{") else re.escape(part) for part in re.split(r"(\{[^}]+\})", template)
            )
            if re.fullmatch(pattern, path) and "get" in self._document["paths"][template]:
                return str(template)
        return None

    def parameters(self, operation: str) -> set[str]:
        """Name the query parameters."""
        declared = self._document["paths"][operation]["get"].get("parameters", [])
        return {parameter["name"] for parameter in declared if parameter["in"] == "query"}

    def differences(self, operation: str, body: Any, status: int = 200) -> set[Finding]:
        """Walk an answer beside the schema."""
        answers = self._document["paths"][operation]["get"]["responses"]
        if str(status) not in answers:
            return {Finding(operation, "", f"status {status}")}
        schema = answers[str(status)].get("content", {}).get("application/json", {}).get("schema")
        if schema is None:
            return {Finding(operation, "", "no schema")}
        return {Finding(operation, member, kind) for member, kind in self._walk(schema, body, "", True)}

    def _walk(self, schema: dict[str, Any], value: Any, member: str, is_envelope: bool = False) -> set[tuple[str, str]]:
        while "$ref" in schema:
            schema = self._document["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
        kind = schema.get("type", "object" if "properties" in schema else None)
        if value is None:
            return set() if schema.get("nullable") else {(member, "null")}
        if kind in _TYPES and (
            not isinstance(value, _TYPES[kind])
            or (kind != "boolean" and value in (True, False) and isinstance(value, bool))
        ):
            return {(member, "type")}
        found: set[tuple[str, str]] = set()
        if kind == "string" and schema.get("format") == "date-time" and not _ZONED.fullmatch(value):
            found.add((member, "format"))
        if kind == "array":
            for item in value:
                found |= self._walk(schema.get("items", {}), item, f"{member}[]")
        properties = schema.get("properties")
        if isinstance(value, dict) and properties:
            for name, inner in value.items():
                place = f"{member}.{name}".lstrip(".")
                found |= self._walk(properties[name], inner, place) if name in properties else {(place, "undeclared")}
            found |= {(name, "missing") for name in properties if is_envelope and name not in value}
        return found


@dataclass(frozen=True)
class Wrong:
    """What the description says, what is right, and where that is written; patterns as of file names."""

    operation: str
    member: str
    kind: str
    described: str
    right: str
    ref: str


HISTORY = "/billing/billing/history"
LISTS = f"{HISTORY}/[vsbc]*"
KNOWN_WRONG = (
    Wrong("*", "*", "null", "nothing is nullable", "any member may be null", "3, 4.1"),
    Wrong("/[bc]*", "*", "format", "instants with zone", "with and without zone, mixed", "1.2, 10"),
    Wrong(LISTS, "success", "undeclared", "lists answer `status`", "lists answer `success`", "1.5, 3.3"),
    Wrong(LISTS, "status", "missing", "lists answer `status`", "lists answer `success`", "1.5, 3.3"),
    Wrong(LISTS, "*.metrics.non_discounted_*", "undeclared", "paid price only", "list price beside it", "3.3, 10"),
    Wrong(f"{HISTORY}/bucket", "*.metrics.size", "undeclared", "no size", "buckets show GB", "3.3"),
    Wrong(HISTORY, "*.metrics.bucket_cost", "undeclared", "six metrics", "nine metrics", "3.2, 10"),
    Wrong(HISTORY, "*.metrics.ais_*_cost", "undeclared", "six metrics", "nine metrics", "3.2, 10"),
    Wrong(f"{HISTORY}/snapshot", "billing_history_*", "*", "key of volumes", "billing_history_snapshot", "3.4"),
    Wrong(f"{HISTORY}/snapshot/{{snapshot_id}}", "billing_history_*_details", "*", "key of volumes", "own key", "3.4"),
    Wrong(f"{HISTORY}/volume/*/graph", "billing_history_*_details", "*", "key of snapshots", "own key", "3.4"),
    Wrong(f"{HISTORY}/bucket/{{bucket_id}}", "*_details.*", "undeclared", "one object", "a list as elsewhere", "3.4"),
    Wrong(f"{HISTORY}/bucket/*/graph", "*", "*", "no envelope", "envelope as elsewhere", "3.4"),
    Wrong(f"{HISTORY}/cluster/{{cluster_id}}", "*_details.*", "undeclared", "one object", "a list as elsewhere", "3.4"),
    Wrong(f"{HISTORY}/*/{{*}}*", "*.attributes.status", "undeclared", "no status", "present status", "3.5, 3.6"),
    Wrong(f"{HISTORY}/*/{{*}}*", "*.attributes.contract_id", "undeclared", "no contract", "contract or null", "3.5"),
    Wrong(f"{HISTORY}/contract", "", "status 200", "no answer but errors", "rows of contracts", "3.4"),
    Wrong("/billing/alive", "", "no schema", "nothing", "a message", "1.5"),
    Wrong("*/sub-resource", "*", "*", "bare, with granularity", "enveloped, without", "3.8, 10"),
    Wrong("/pricebook", "[].*value", "type", "money as numbers", "money as texts", "3.12, 10"),
    Wrong("/core/virtual-machines*", "*.cluster_id", "undeclared", "no such member", "number or null", "4.1"),
    Wrong("/core/virtual-machines*", "*.is_snapshotting", "undeclared", "no such member", "true or false", "4.1"),
    Wrong("/core/snapshots/{id}", "status", "type", "true or false", "the number 200", "1.5"),
)


@pytest.fixture(scope="module")
def description() -> Description:
    path = Path(os.environ.get("SPOTINFERENCE_HYPERSTACK_OPENAPI") or BESIDE)
    if not path.is_file():
        pytest.skip(
            f"no description of Hyperstack's API at {path}: set SPOTINFERENCE_HYPERSTACK_OPENAPI to check against it"
        )
    return Description(json.loads(path.read_bytes()))


@pytest.fixture(scope="module")
def scenario() -> Scenario:
    return Scenario.generate(7, date(2026, 11, 20), 3, features=Features.all())


IDS = {
    "virtual-machine": H100_ID,
    "volume": 38111,
    "snapshot": features.SNAPSHOT_IDS[0],
    "bucket": features.BUCKET_ID,
    "cluster": features.CLUSTER_ID,
    "serverless_inference": features.AI_ID,
}
DATED = (
    HISTORY,
    *(f"{HISTORY}/{kind}" for kind in (*IDS, "contract", "fine_tuning")),
    *(f"{HISTORY}/{kind}/{number}" for kind, number in IDS.items()),
    *(f"{HISTORY}/{kind}/{number}/graph" for kind, number in IDS.items()),
    f"/billing/billing/virtual-machine/{H100_ID}/billing-events",
    f"/billing/billing/virtual-machine/{H100_ID}/sub-resource",
    f"/billing/billing/virtual-machine/{H100_ID}/sub-resource/graph",
    "/billing/billing/volume/38111/billing-events",
)
PRESENT = (
    "/billing/billing/usage",
    "/billing/billing/last-day-cost",
    "/billing/user-credit/credit",
    "/billing/payment/payment-details",
    "/billing/alive",
    "/pricebook",
    "/pricebook/contracts",
    f"/pricebook/contracts/{features.CONTRACT_ID}",
    f"/pricebook/calculate/resource/virtual-machine/{H100_ID}",
    "/core/virtual-machines",
    f"/core/virtual-machines/{H100_ID}",
    f"/core/virtual-machines/{H100_ID}/events",
    f"/core/virtual-machines/contract/{features.CONTRACT_ID}/virtual-machines",
    "/core/volumes",
    "/core/volumes/38111",
    "/core/snapshots",
    f"/core/snapshots/{features.SNAPSHOT_IDS[0]}",
    "/core/flavors",
    "/core/environments",
    "/core/regions",
)
DATES = {"start_date": "2026-11-20T00:00:00", "end_date": "2026-11-22T00:00:00"}
ASKED = {"search", "per_page", "page", "start_date", "end_date"}


def _found(description: Description, scenario: Scenario, faults: Faults, **query: str) -> set[Finding]:
    answers = HyperstackAnswers(scenario, faults=faults)
    found: set[Finding] = set()
    for path in (*DATED, *PRESENT):
        dates = DATES if path in DATED and not query else {}
        answer = answers.answer(path, {**dates, **query}, (scenario.end_s - HOUR_S) * SECOND_US)
        operation = description.operation(path)
        assert operation is not None, f"{path} is not described"
        found |= description.differences(operation, json.loads(answer.body), answer.status)
    return found


def _matches(wrong: Wrong, finding: Finding) -> bool:
    parts = (finding.operation, finding.member, finding.kind)
    # in patterns of file names a bracket opens a set, in members it is a list item
    patterns = (wrong.operation, wrong.member.replace("[]", "[[]]"), wrong.kind)
    return all(fnmatchcase(text, pattern) for text, pattern in zip(parts, patterns, strict=True))


def test_answers_are_as_described_but_where_the_description_is_wrong(
    description: Description, scenario: Scenario
) -> None:
    faults = replace(Faults.none(), cluster_remainder="category")
    found = _found(description, scenario, faults)
    unknown = sorted(f for f in found if not any(_matches(wrong, f) for wrong in KNOWN_WRONG))
    assert unknown == []
    idle = [wrong for wrong in KNOWN_WRONG if not any(_matches(wrong, f) for f in found)]
    assert idle == []


def test_refusals_are_as_described(description: Description, scenario: Scenario) -> None:
    answers = HyperstackAnswers(scenario)
    for path, query, status in (
        (HISTORY, {}, 400),
        (f"{HISTORY}/cluster/1", DATES, 404),
        (f"{HISTORY}/fine_tuning", DATES, 404),
    ):
        answer = answers.answer(path, query, scenario.end_s * SECOND_US)
        assert answer.status == status
        assert description.differences(description.operation(path) or "", json.loads(answer.body), status) == set()


def test_every_question_is_a_described_one(description: Description) -> None:
    assert description.parameters(f"{HISTORY}/volume") >= ASKED
    assert {"deleted"} <= description.parameters("/billing/billing/usage")
    assert {"page", "pageSize", "search"} <= description.parameters("/core/virtual-machines")


def test_the_fault_of_the_schemas_keys_answers_with_the_described_keys(
    description: Description, scenario: Scenario
) -> None:
    found = _found(description, scenario, Faults.worst("schema_keys"))
    wrapped = {
        f for f in found if f.kind == "missing" or (f.member.startswith("billing_history_") and "." not in f.member)
    }
    assert wrapped == {Finding("/billing/billing/virtual-machine/{vm_id}/sub-resource", "granularity", "missing")}
