"""Days through rollups, metrics and rules: in any order, twice, and again after something came late."""

from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import permutations
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from spotinference_pipeline import backfill, ledger, list_prices, transform, validated, wakes
from spotinference_pipeline.errors import WarehouseError
from spotinference_pipeline.settings import read
from spotinference_pipeline.storage import Storage
from spotinference_pipeline.warehouse import Warehouse, open_scratch, open_warehouse
from spotinference_pipeline.windows import Window, day_window, days_between

DAY = date(2026, 11, 22)
DAYS = [DAY - timedelta(days=2), DAY - timedelta(days=1), DAY]
TABLES = (*ledger.TABLES, *transform.ROLLUPS, *transform.METRICS)
Make = Callable[..., Any]


@pytest.fixture
def three_days(scratch: Warehouse, lay_raw_files: Make, tmp_path: Path) -> Warehouse:
    for day in DAYS:
        lay_raw_files(tmp_path, day)
    list_prices.copy_prices(tmp_path / "raw" / "list_prices", datetime(2026, 11, 23, tzinfo=UTC))
    ingest(scratch, tmp_path)
    return scratch


def ingest(warehouse: Warehouse, data_dir: Path) -> None:
    validated.ingest(warehouse, data_dir / "raw" / "hyperstack", Storage(str(data_dir / "request_log")))


def tables(warehouse: Warehouse) -> dict[str, pl.DataFrame]:
    return {table: warehouse.query(f"from {table} order by all") for table in TABLES}


def same(one: dict[str, pl.DataFrame], two: dict[str, pl.DataFrame]) -> bool:
    return all(one[table].equals(two[table]) for table in TABLES)


def number(warehouse: Warehouse, day: date) -> Decimal:
    given = {"utc_day": day}
    return warehouse.query(
        "select usd_per_million_tokens from metric.cost_per_mtok where utc_day = $utc_day", given
    ).item()


def test_building_fills_every_table_and_breaks_no_rule(three_days: Warehouse) -> None:
    built = backfill.build(three_days, DAYS)
    assert [(day.utc_day, day.broken) for day in built] == [(day, []) for day in DAYS]
    empty = {table for table, frame in tables(three_days).items() if frame.is_empty()}
    no_books, no_counters = (
        {"rollup.adjustments", "rollup.reconciliation_days"},
        {"rollup.engine_days", "rollup.token_residuals"},
    )
    assert empty == no_books | no_counters, "there are neither books nor an engine's counters to compare with"
    # Three days of 1,440 minutes at $1, and a million tokens each day.
    assert [number(three_days, day) for day in DAYS] == [Decimal(1440)] * 3


def test_the_numbers_of_rows_are_told(three_days: Warehouse) -> None:
    assert transform.build_rollups(three_days, DAY).keys() == {*ledger.TABLES, *wakes.TABLES, *transform.ROLLUPS}
    told = transform.build_metrics(three_days, DAY)
    assert list(told) == list(transform.METRICS)
    assert told["metric.cost_parts"] == 8
    assert told["metric.inputs"] == three_days.query("select count(*) as n from metric.inputs").item()


def test_building_twice_is_building_once(three_days: Warehouse) -> None:
    backfill.build(three_days, DAYS)
    once = tables(three_days)
    backfill.build(three_days, DAYS)
    assert same(tables(three_days), once)


@pytest.mark.parametrize("order", list(permutations(range(3)))[1:])
def test_days_built_one_by_one_in_any_order_give_the_same_tables(
    lay_raw_files: Make, tmp_path: Path, order: tuple[int, ...]
) -> None:
    for day in DAYS:
        lay_raw_files(tmp_path, day)
    with open_scratch() as together, open_scratch() as apart:
        ingest(together, tmp_path)
        backfill.build(together, DAYS)
        ingest(apart, tmp_path)
        for place in order:
            backfill.build(apart, [DAYS[place]])
        assert same(tables(apart), tables(together))


def test_days_are_rolled_up_oldest_first(three_days: Warehouse) -> None:
    seen: list[date] = []
    backfill.build(three_days, list(reversed(DAYS)), seen.append)
    assert seen == DAYS


def test_late_logs_of_a_day_move_every_later_window_that_holds_it(three_days: Warehouse, insert: Make) -> None:
    backfill.build(three_days, DAYS)
    late = {"request_id": "late", "vm_id": 11, "usage_source": "engine_final", "prompt_tokens": 1_000_000}
    insert(three_days, "validated.requests", [late | {"finished_at": "2026-11-20T12:00:00Z"}])
    built = backfill.build(three_days, DAYS[:1])
    assert [day.utc_day for day in built] == DAYS
    assert [number(three_days, day) for day in DAYS] == [Decimal(720), Decimal(960), Decimal(1080)]
    assert not any(day.broken for day in built)


def test_windows_that_were_never_built_are_not_built_by_a_late_day(three_days: Warehouse) -> None:
    built = backfill.build(three_days, DAYS[:1])
    assert [day.utc_day for day in built] == DAYS[:1]
    assert three_days.query("select distinct utc_day from metric.cost_per_mtok")["utc_day"].to_list() == DAYS[:1]


def test_a_day_ten_days_later_is_left_alone(three_days: Warehouse) -> None:
    far = DAYS[0] + timedelta(days=10)
    backfill.build(three_days, [far])
    assert [day.utc_day for day in backfill.build(three_days, DAYS[:1])] == DAYS[:1]
    near = DAYS[0] + timedelta(days=9)
    backfill.build(three_days, [near])
    assert [day.utc_day for day in backfill.build(three_days, DAYS[:1])] == [DAYS[0], near]


def test_a_late_log_moves_the_bounds_of_a_window_that_its_requests_may_run_into(
    three_days: Warehouse, insert: Make
) -> None:
    """The engine made 700 tokens nine days before the last day of the window, and the log told of 500 of them later."""
    scrape = {"vm_id": 11, "upstream": "engine", "process_started_at": "2026-11-20T07:00:00Z"}
    insert(three_days, "validated.log_segments", [{"started_at": "2026-11-20T00:00:00Z"}])
    for at, tokens in (("08", 0), ("20", 700)):
        made = {"observed_at": f"2026-11-20T{at}:00:00Z", "prompt_tokens_total": tokens, "generation_tokens_total": 0}
        insert(three_days, "validated.engine_counters", [scrape | made])
    last = DAYS[0] + timedelta(days=9)
    backfill.build(three_days, [DAYS[0], last])
    unlogged = "select unlogged_tokens from metric.bounds where utc_day = $utc_day"
    assert three_days.query(unlogged, {"utc_day": last}).item() == 700
    late = {"request_id": "late", "vm_id": 11, "usage_source": "engine_final", "end_reason": "complete"}
    late |= {"started_at": "2026-11-20T11:00:00Z", "finished_at": "2026-11-20T12:00:00Z", "prompt_tokens": 500}
    insert(three_days, "validated.requests", [late])
    assert [day.utc_day for day in backfill.build(three_days, DAYS[:1])] == [DAYS[0], last]
    assert three_days.query(unlogged, {"utc_day": last}).item() == 200


def test_a_broken_rule_is_told_with_its_day(three_days: Warehouse, insert: Make) -> None:
    insert(three_days, "validated.ingested_files", [{"source_file": "torn", "rows_read": 1}])
    built = backfill.build(three_days, DAYS)
    told = {day.utc_day: [finding.name for finding in day.broken] for day in built}
    assert told == {day: ["every_row_is_accounted_for"] for day in DAYS}


def test_a_window_whose_other_days_were_not_built_is_about_the_built_one_and_breaks_no_rule(
    three_days: Warehouse,
) -> None:
    """Dollars and tokens are both the one day's, and the coverage tells that six days are missing."""
    (built,) = backfill.build(three_days, [DAY])
    assert built.broken == []
    assert number(three_days, DAY) == Decimal(1440)


def test_requests_of_a_built_day_that_its_rollups_do_not_know_break_a_rule(three_days: Warehouse, insert: Make) -> None:
    backfill.build(three_days, DAYS)
    late = {"request_id": "late", "vm_id": 11, "usage_source": "engine_final", "prompt_tokens": 1_000_000}
    insert(three_days, "validated.requests", [late | {"finished_at": "2026-11-20T12:00:00Z"}])
    (built,) = backfill.build(three_days, [DAY])
    assert [finding.name for finding in built.broken] == ["tokens_of_the_window_are_its_requests"]


def forget_a_minute(warehouse: Warehouse) -> None:
    warehouse.execute("delete from validated.exchanges where scheduled_at = '2026-11-22T12:00:00Z'")


def test_a_day_that_would_lose_minutes_is_refused_and_stays_as_it_was(three_days: Warehouse) -> None:
    backfill.build(three_days, DAYS)
    before = tables(three_days)
    forget_a_minute(three_days)
    with pytest.raises(
        WarehouseError, match=r"day 2026-11-22: expected at least the 2 good minutes .* found 1; .*--force"
    ):
        backfill.build(three_days, [DAY])
    assert same(tables(three_days), before)


def test_by_order_a_day_may_lose_minutes(three_days: Warehouse) -> None:
    backfill.build(three_days, DAYS)
    forget_a_minute(three_days)
    backfill.build(three_days, [DAY], force=True)
    day = {"utc_day": DAY}
    assert three_days.query("select minutes_good from rollup.snapshot_days where utc_day = $utc_day", day).item() == 1
    backfill.build(three_days, [DAY])


def test_a_day_that_gains_minutes_needs_no_order(three_days: Warehouse, insert: Make) -> None:
    backfill.build(three_days, [DAY])
    seen = {"scheduled_at": "2026-11-22T12:01:00Z", "endpoint": "/billing/billing/usage", "query": "deleted=false"}
    insert(three_days, "validated.exchanges", [seen | {"is_good": True, "items": 1}])
    backfill.build(three_days, [DAY])
    assert three_days.query("select minutes_good from rollup.snapshot_days").item() == 3


def test_seven_days_cost_what_their_days_cost(three_days: Warehouse) -> None:
    backfill.build(three_days, DAYS)
    paid = three_days.query("select paid_usd from metric.paid where utc_day = $utc_day", {"utc_day": DAY}).item()
    assert paid == three_days.query("select sum(cost_usd) as s from rollup.resource_days").item() == Decimal(4320)


def test_F051_a_month_that_is_over_is_read_with_its_days_once_each_has_a_book(
    tmp_path: Path, simulated_days: Any, insert: Make
) -> None:
    """Over HTTP; the other days of November are said to have their books."""
    month = Window(datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC))
    others = [day for day in days_between(date(2026, 11, 1), date(2026, 11, 30)) if day != simulated_days.last]

    def windows(now: str, booked: Sequence[date]) -> list[Window]:
        environment = {
            "SPOTINFERENCE_DATA_DIR": str(tmp_path),
            "SPOTINFERENCE_NOW": now,
            "SPOTINFERENCE_HYPERSTACK_URL": url,
            "SPOTINFERENCE_HYPERSTACK_API_KEY": "simulated-key",
        }
        settings = read(environment)
        with open_warehouse(settings.warehouse_path) as warehouse:
            warehouse.execute("delete from rollup.reconciliation_days")
            insert(warehouse, "rollup.reconciliation_days", [{"utc_day": day} for day in booked])
        fetched = list(backfill.fetch_books(settings, [simulated_days.last]))
        with open_warehouse(settings.warehouse_path) as warehouse:
            validated.ingest(warehouse, settings.raw_dir, Storage(settings.request_log))
            assert all(backfill.is_whole(warehouse, book) for book in fetched)
        return [book.window for book in fetched]

    with simulated_days.served() as url:
        days = [day_window(simulated_days.last)]
        assert windows("2026-12-03T02:00:00Z", others) == [*days, month]
        assert windows("2026-12-02T23:59:00Z", others) == days, "the last day has had no second book"
        assert windows("2026-12-03T02:10:00Z", others[1:]) == days, "of a day nothing is known"
