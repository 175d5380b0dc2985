"""Every figure of unusual weeks, from raw files to the published document, equal to the simulator's own to the last digit."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from spotinference_sim import variants
from spotinference_sim.figures import costs_by_machine, costs_by_model, figures, usd_per_million
from spotinference_sim.fleet import A100_ID, H100_ID, L40_ID, LLAMA, NEW_ID, OLD_ID, QWEN_8B, QWEN_30B
from spotinference_sim.instants import HOUR_S
from spotinference_sim.lay_down import lay_down_raw, now_and_then
from spotinference_sim.rates import decimal_text
from spotinference_sim.request_log import lay_down_log
from spotinference_sim.scenario import Scenario
from spotinference_sim.truth import truth

from spotinference_pipeline import checks, publication, served_models, transform, validated
from spotinference_pipeline.settings import Settings
from spotinference_pipeline.storage import Storage
from spotinference_pipeline.warehouse import Warehouse, open_scratch
from spotinference_pipeline.windows import days_between

pytestmark = pytest.mark.no_cover  # whole simulated days: tracing would double their time

PROBED_EVERY_S = 600
"""Often enough that an engine which never became ready was seen not to be."""
MODELS = {LLAMA: [H100_ID], QWEN_30B: [A100_ID], QWEN_8B: [L40_ID, OLD_ID, NEW_ID]}
SHARED = {LLAMA: [H100_ID, A100_ID], QWEN_30B: [A100_ID], "never asked": [L40_ID, 1]}


def last_day(scenario: Scenario) -> date:
    return scenario.start_day + timedelta(days=scenario.days - 1)


@contextmanager
def built(scenario: Scenario, folder: Path) -> Iterator[Warehouse]:
    """Lay a week down, read it, and build its window."""
    until_s = scenario.end_s + 900
    lay_down_raw(scenario, folder, until_s, watches=now_and_then(scenario, HOUR_S))
    lay_down_log(scenario, folder / "request_log", until_s, every_s=PROBED_EVERY_S)
    with open_scratch() as warehouse:
        done = validated.ingest(warehouse, folder / "raw" / "hyperstack", Storage(str(folder / "request_log")))
        assert done.rows_quarantined == 0
        for day in days_between(scenario.start_day, last_day(scenario)):
            transform.build_rollups(warehouse, day)
            transform.build_table(warehouse, "metric.inputs", day)
        yield warehouse


def published(warehouse: Warehouse, scenario: Scenario, folder: Path, models: dict[str, list[int]]) -> dict[str, Any]:
    """Publish the window's figures with these machines serving these models."""
    day = last_day(scenario)
    served_models.record(warehouse, models)
    transform.build_metrics(warehouse, day)
    assert [finding.name for finding in checks.run(warehouse, day) if finding.blocks] == []
    now = f"{day + timedelta(days=1)}T02:10:00Z"
    open_gates = dict.fromkeys(("min_snapshot_coverage", "min_exact_usage", "min_token_coverage"), 0)
    settings = Settings.model_validate({"data_dir": folder, "now": now} | open_gates)
    publication.publish(warehouse, Storage(settings.published), settings, [day])
    document: dict[str, Any] = json.loads(Storage(settings.published).read(publication.LATEST))
    return document


@pytest.mark.parametrize("name", variants.NAMES)
def test_every_figure_of_a_week_is_the_simulators_own(name: str, tmp_path: Path) -> None:
    scenario = variants.week(name)
    day = last_day(scenario)
    expected = truth(scenario, day)
    with built(scenario, tmp_path) as warehouse:
        shared = published(warehouse, scenario, tmp_path, SHARED)
        document = published(warehouse, scenario, tmp_path, MODELS)
        machines = warehouse.query("from metric.vm_costs where utc_day = $utc_day", {"utc_day": day}).rows(named=True)

    for member in ("paid_usd", "served_tokens", "requests", "usd_per_million_tokens"):
        assert document[member] == expected[member], member
    if expected["served_tokens"]:
        assert document["usd_per_million_by_part"] == expected["usd_per_million_by_part"]
    own = figures(scenario, day)
    if document["status"] == "withheld":
        own |= dict.fromkeys(each for each in own if each.startswith("usd_per"))
    assert document["figures"] == own
    assert_machines_are(machines, scenario)
    assert_models_are(document, scenario, MODELS)
    assert_models_are(shared, scenario, SHARED)


def assert_machines_are(machines: list[dict[str, Any]], scenario: Scenario) -> None:
    """Costs by machine are the simulator's."""
    by_machine = costs_by_machine(scenario, last_day(scenario))
    assert {row["vm_id"] for row in machines} == by_machine.keys()
    for row in machines:
        femtos, tokens, requests = by_machine[row["vm_id"]]
        assert (row["cost_usd"], row["served_tokens"], row["requests"]) == (
            Decimal(decimal_text(femtos, 15)),
            tokens,
            requests,
        )
        figure = usd_per_million(femtos, tokens) if row["vm_id"] else None
        assert row["usd_per_million_tokens"] == (None if figure is None else Decimal(figure))


def assert_models_are(document: dict[str, Any], scenario: Scenario, models: dict[str, list[int]]) -> None:
    """Costs by model are the simulator's, and add up to what was paid."""
    day = last_day(scenario)
    costs = costs_by_model(scenario, day, models)
    tokens = truth(scenario, day)["served_tokens_by_model"]
    found = {entry["model"]: entry for entry in document["by_model"]}
    assert sorted(found) == sorted({*models, *(model for model, served in tokens.items() if served)})
    for model, entry in found.items():
        served = tokens.get(model, 0)
        cost = sum(costs[model]) if model in costs else None
        assert entry["served_tokens"] == served
        assert entry["paid_usd"] == (None if cost is None else decimal_text(cost, 15))
        figure = None if cost is None or document["status"] == "withheld" else usd_per_million(cost, served)
        assert entry["usd_per_million_tokens"] == figure
    paid = [Decimal(entry["paid_usd"]) for entry in document["by_model"] if entry["paid_usd"]]
    assert sum(paid) == Decimal(document["paid_usd"])
