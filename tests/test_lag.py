"""With the API's usual lag between counters a day's cost stays within the tolerance of one resource, added up."""

from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from spotinference_sim.lay_down import lay_down_raw
from spotinference_sim.request_log import lay_down_log
from spotinference_sim.scenario import Scenario
from spotinference_sim.truth import truth

from spotinference_pipeline import backfill, validated
from spotinference_pipeline.storage import Storage
from spotinference_pipeline.warehouse import open_warehouse

pytestmark = pytest.mark.no_cover  # whole simulated days: tracing would double their time

FIRST = date(2026, 11, 14)
DAYS = [FIRST + timedelta(days=day) for day in range(4)]
TOLERATED_MINUTES = 2
"""Of each resource's price, for a closed day: the counters of one row are sampled apart."""
FLOAT_NOISE_USD = Decimal("0.000001")


def test_lagging_counters_move_no_day_and_no_part_by_more_than_two_minutes_of_each_price(tmp_path: Path) -> None:
    scenario = Scenario.generate(7, FIRST, len(DAYS))
    lay_down_raw(scenario, tmp_path, scenario.end_s + 900, lag=True)
    lay_down_log(scenario, tmp_path / "request_log", scenario.end_s + 900)
    with open_warehouse(tmp_path / "warehouse.duckdb") as warehouse:
        validated.ingest(warehouse, tmp_path / "raw" / "hyperstack", Storage(str(tmp_path / "request_log")))
        assert not any(day.broken for day in backfill.build(warehouse, DAYS))
        (tolerance,) = warehouse.query(
            """
            select sum(price * $minutes + $noise)
            from (
                select max(rate_usd_per_minute) as price
                from validated.billing_snapshots
                group by resource_type, resource_id
            )
            """,
            {"minutes": TOLERATED_MINUTES, "noise": FLOAT_NOISE_USD},
        ).row(0)
        kinds = "select cost_kind, sum(cost_usd) from rollup.cost_days where utc_day = $day group by cost_kind"
        found = {day: dict(warehouse.query(kinds, {"day": day}).rows()) for day in DAYS}
    differs = False
    for day, parts in found.items():
        expected = truth(scenario, day)["days"][day.isoformat()]
        assert abs(sum(parts.values()) - Decimal(expected["paid_usd"])) <= tolerance, day
        differs = differs or sum(parts.values()) != Decimal(expected["paid_usd"])
        for kind, amount in expected["paid_usd_by_kind"].items():
            assert abs(parts.get(kind, 0) - Decimal(amount)) <= tolerance, (day, kind)
    assert differs, "the lag must be felt, or this test shows nothing"
