"""What an accountant must find: each resource's exact cost of a UTC day, and the organisation's.

Owns the truth of billing history as femto-dollars, as first billed and after late corrections. Shares `truth`'s
arithmetic on spells, reads no answer and knows no fault. What no request can change (busy against idle) is
split by the scenario's requests unless others are given.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from typing import Any

from spotinference_sim.instants import DAY_S, FOREVER_S, SECOND_US, day_start_s
from spotinference_sim.kinds import CATEGORIES, KINDS
from spotinference_sim.rates import decimal_text
from spotinference_sim.request import Request
from spotinference_sim.resources import FEMTO, Resource
from spotinference_sim.scenario import Scenario
from spotinference_sim.truth import NANO_FEMTOS, bill, busy_spans

Key = tuple[str, int]
"""`resource_type` and id, as in usage; two lives under one id are one key."""
PLACES = len(str(FEMTO)) - 1


@dataclass(frozen=True)
class ResourceTruth:
    """One resource and UTC day: femto-dollars by cost kind (credits too), and what was corrected later.

    `excluded_femtos` is what the counter of usage shows although nobody pays. `listed`: it has a history line.
    """

    kind: str
    id: int
    names: tuple[str, ...]
    femtos_by_kind: dict[str, int]
    revision_femtos: int = 0
    excluded_femtos: int = 0

    @property
    def first_femtos(self) -> int:
        """Tell what the day cost as long as nobody corrected it."""
        return sum(self.femtos_by_kind.values())

    @property
    def final_femtos(self) -> int:
        """Tell what it cost in the end."""
        return self.first_femtos + self.revision_femtos

    @property
    def listed(self) -> bool:
        """Tell whether billing history has a list with it."""
        return KINDS[self.kind].path is not None

    @property
    def category(self) -> str | None:
        """Name its field of the organisation's total."""
        return KINDS[self.kind].category


@dataclass(frozen=True)
class OrganisationTruth:
    """A UTC day of the organisation, in femto-dollars as first billed; `final_femtos` after corrections.

    `unattributed_femtos` are of resources without a history line, `uncategorised_femtos` of those without a category
    (which the former are, too).
    """

    first_femtos: int
    final_femtos: int
    by_category: dict[str, int]
    uncategorised_femtos: int
    unattributed_femtos: int
    excluded_femtos: int
    credit_femtos: int


def truth_by_resource(
    scenario: Scenario, day: date, requests: Iterable[Request] | None = None
) -> dict[Key, ResourceTruth]:
    """Work out a UTC day for every resource that existed in it."""
    start_s = day_start_s(day)
    busy = busy_spans(scenario.requests if requests is None else requests)
    found: dict[Key, ResourceTruth] = {}
    for resource in scenario.resources:
        if resource.created_s < start_s + DAY_S and resource.ended_s > start_s:
            key = resource.kind, resource.id
            one = _one(resource, busy.get(resource.id, []) if resource.kind == "vm" else [], start_s)
            found[key] = _joined(found[key], one) if key in found else one
    return found


def _one(resource: Resource, busy: list[tuple[int, int]], start_s: int) -> ResourceTruth:
    start_us, end_us = start_s * SECOND_US, (start_s + DAY_S) * SECOND_US
    borne = [resource.name_at(max(start_s, resource.created_s))]
    borne += [rename.name for rename in resource.renames if start_s < rename.at_s < start_s + DAY_S]
    money = {kind: femtos for kind, femtos in bill(resource, busy, start_us, end_us).paid.items() if femtos}
    return ResourceTruth(
        resource.kind,
        resource.id,
        tuple(borne),
        money,
        0 if resource.excluded else resource.revised(start_us, end_us, FOREVER_S * SECOND_US) * NANO_FEMTOS,
        resource.meter.femtos(end_us) - resource.meter.femtos(start_us) if resource.excluded else 0,
    )


def _joined(first: ResourceTruth, then: ResourceTruth) -> ResourceTruth:
    money = dict(first.femtos_by_kind)
    for kind, femtos in then.femtos_by_kind.items():
        money[kind] = money.get(kind, 0) + femtos
    return ResourceTruth(
        first.kind,
        first.id,
        (*first.names, *(name for name in then.names if name not in first.names)),
        money,
        first.revision_femtos + then.revision_femtos,
        first.excluded_femtos + then.excluded_femtos,
    )


def organisation_truth(scenario: Scenario, day: date) -> OrganisationTruth:
    """Add a UTC day up."""
    rows = truth_by_resource(scenario, day).values()
    return OrganisationTruth(
        sum(row.first_femtos for row in rows),
        sum(row.final_femtos for row in rows),
        {name: sum(row.first_femtos for row in rows if row.category == name) for name in CATEGORIES},
        sum(row.first_femtos for row in rows if row.category is None),
        sum(row.first_femtos for row in rows if not row.listed),
        sum(row.excluded_femtos for row in rows),
        sum(row.femtos_by_kind.get("credit", 0) for row in rows),
    )


def render_books(scenario: Scenario, day: date) -> dict[str, Any]:
    """Render a day's books with money as decimal texts of 15 places."""
    whole = organisation_truth(scenario, day)
    return {
        "day": day.isoformat(),
        "organisation": {
            "first_usd": _usd(whole.first_femtos),
            "final_usd": _usd(whole.final_femtos),
            "by_category_usd": {name: _usd(femtos) for name, femtos in whole.by_category.items()},
            "uncategorised_usd": _usd(whole.uncategorised_femtos),
            "unattributed_usd": _usd(whole.unattributed_femtos),
            "excluded_usd": _usd(whole.excluded_femtos),
            "credit_usd": _usd(whole.credit_femtos),
        },
        "resources": [
            {
                "resource_type": row.kind,
                "resource_id": row.id,
                "names": row.names,
                "first_usd": _usd(row.first_femtos),
                "final_usd": _usd(row.final_femtos),
                "usd_by_kind": {kind: _usd(femtos) for kind, femtos in row.femtos_by_kind.items()},
                "excluded_usd": _usd(row.excluded_femtos),
                "category": row.category,
                "listed": row.listed,
            }
            for row in truth_by_resource(scenario, day).values()
        ],
    }


def _usd(femtos: int) -> str:
    return decimal_text(femtos, PLACES)
