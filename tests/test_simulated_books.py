"""The books of simulated days: an independent balance, and wakes, against what the simulator did."""

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

from spotinference_pipeline import transform, validated
from spotinference_pipeline.storage import Storage
from spotinference_pipeline.warehouse import Warehouse, open_scratch

pytestmark = pytest.mark.no_cover  # whole simulated days: tracing would double their time


@pytest.fixture(scope="module")
def books(simulated_days: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warehouse]:
    folder = tmp_path_factory.mktemp("books") / "data"
    simulated_days.copy_to(folder)
    with open_scratch() as warehouse:
        validated.ingest(warehouse, folder / "raw" / "hyperstack", Storage(str(folder / "request_log")))
        for day in simulated_days.days:
            transform.build_rollups(warehouse, day)
        yield warehouse


def test_the_balance_drifts_by_less_than_the_seconds_between_two_calls(books: Warehouse) -> None:
    days = books.query("from rollup.credit_days order by utc_day").rows(named=True)
    assert [day["topped_up_usd"] for day in days] == [0, 0, 0]
    assert all(abs(day["drift_usd"]) < Decimal("0.05") for day in days)
    assert all(day["usage_usd"] > 1 for day in days)


def test_the_wakes_of_a_day_are_its_cold_starts(books: Warehouse) -> None:
    wakes = books.query("from rollup.wakes")
    machines = books.query("select sum(wakes), sum(failed_wakes), sum(cold_start_seconds) from rollup.vm_days").row(0)
    assert wakes.height > 0
    assert (wakes.height, wakes["is_failed"].sum(), sum(wakes["cold_seconds"].to_list())) == machines
    cold = books.query("select sum(cost_usd) from rollup.cost_days where cost_kind = 'cold_start'").item()
    assert sum(wakes["cost_usd"].to_list()) == cold
    assert sum(wakes["served_tokens"].to_list()) > 0
