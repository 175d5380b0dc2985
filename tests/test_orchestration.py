"""The Dagster graph: what an operator sees before anything ran, what each trigger asks for, and days run in process."""

import asyncio
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from spotinference_sim.clock import SystemClock
from spotinference_sim.scenario import Scenario
from spotinference_sim.simulators import API_KEY, Simulators

from spotinference_pipeline import checks, raw, shipped, transform, verification, warehouse
from spotinference_pipeline.orchestration import automation, definitions, drawings, freshness
from spotinference_pipeline.orchestration.price_asset import COPIED
from spotinference_pipeline.pacing import was_asked
from spotinference_pipeline.settings import Settings
from spotinference_pipeline.storage import Storage
from spotinference_pipeline.warehouse import open_warehouse
from spotinference_pipeline.windows import ONE_DAY, day_start, days_between, trailing_window

CANARY = "canary-4f1a-of-the-key"
CLOSED = "http://127.0.0.1:1/v1"
FIRST, SECOND, LAST = date(2026, 11, 14), date(2026, 11, 15), date(2026, 11, 16)
GROUPS = {
    "raw": {"billing_history", "hyperstack", "invoices", "list_prices", "request_log"},
    "validated": {
        "billing_events",
        "billing_graphs",
        "billing_history",
        "billing_snapshots",
        "credit_balances",
        "engine_counters",
        "exchanges",
        "ingested_files",
        "invoice_lines",
        "payments",
        "list_prices",
        "log_segments",
        "prices",
        "quarantine",
        "request_begins",
        "requests",
        "served_models",
        "vm_states",
    },
    "rollup": {
        "adjustments",
        "charge_days",
        "cost_days",
        "credit_days",
        "engine_days",
        "invoice_days",
        "known_days",
        "log_days",
        "organisation_days",
        "parks",
        "request_size_days",
        "reconciliation_days",
        "wake_days",
        "wakes",
        "resource_days",
        "snapshot_days",
        "token_days",
        "token_residuals",
        "vm_days",
        "vm_token_days",
    },
    "metric": {
        "bounds",
        "break_even",
        "cost_parts",
        "cost_per_mtok",
        "coverage",
        "figures",
        "inputs",
        "invoice_residuals",
        "list_price_baskets",
        "list_price_comparison",
        "load_costs",
        "model_costs",
        "paid",
        "request_percentiles",
        "served",
        "vm_costs",
        "what_if",
    },
    "publication": {"economics"},
}
LINEAGE = {
    "metric/cost_per_mtok": {"metric/paid", "metric/served"},
    "metric/paid": {"metric/inputs"},
    "metric/served": {"metric/inputs"},
    "metric/inputs": {"rollup/cost_days", "rollup/snapshot_days", "rollup/token_days"},
    "rollup/cost_days": {
        "validated/billing_events",
        "validated/billing_graphs",
        "validated/billing_history",
        "validated/billing_snapshots",
        "validated/prices",
        "validated/requests",
        "validated/vm_states",
    },
    "rollup/snapshot_days": {"validated/exchanges"},
    "rollup/token_days": {"validated/requests"},
    "validated/billing_events": {"raw/billing_history", "raw/hyperstack"},
    "validated/billing_graphs": {"raw/billing_history", "raw/hyperstack"},
    "validated/billing_history": {"raw/billing_history", "raw/hyperstack"},
    "validated/billing_snapshots": {"raw/hyperstack"},
    "validated/exchanges": {"raw/hyperstack"},
    "validated/prices": {"raw/hyperstack"},
    "validated/requests": {"raw/request_log"},
    "validated/vm_states": {"raw/hyperstack", "raw/request_log"},
    "raw/billing_history": set(),
    "raw/hyperstack": set(),
    "raw/request_log": set(),
}
RANGE_START, RANGE_END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"
Make = Callable[..., "Graph"]


class Graph:
    """The graph of some settings, with what a test asks it."""

    def __init__(self, settings: Settings, instance: dg.DagsterInstance) -> None:
        self.settings = settings
        self.instance = instance
        self.definitions = definitions.build(settings)
        self.repository = self.definitions.get_repository_def()
        self.assets = self.definitions.resolve_asset_graph()

    def run(self, job: str, **how: Any) -> dg.ExecuteInProcessResult:
        return self.definitions.resolve_job_def(job).execute_in_process(instance=self.instance, **how)

    def build(self, first: date, last: date, **how: Any) -> dg.ExecuteInProcessResult:
        """Run the daily job once over a range of days, as a backfill does."""
        return self.run("daily_build", tags={RANGE_START: f"{first}", RANGE_END: f"{last}"}, **how)

    def tick(self, sensor: str, cursor: str | None = None) -> Any:
        with dg.build_sensor_context(self.instance, cursor, repository_def=self.repository) as context:
            return self.repository.get_sensor_def(sensor).evaluate_tick(context)

    def published(self, utc_day: date, revision: int = 1) -> dict[str, Any]:
        file = Path(self.settings.published) / "economics" / "days" / f"{utc_day}" / f"r{revision}.json"
        return json.loads(file.read_bytes())

    def materializations(self, asset: str) -> list[dg.AssetMaterialization]:
        """Every materialization of an asset, oldest first."""
        wanted = dg.AssetRecordsFilter(dg.AssetKey.from_user_string(asset))
        records = self.instance.fetch_materializations(wanted, limit=1000, ascending=True).records
        return [record.asset_materialization for record in records if record.asset_materialization]

    def events(self) -> list[str]:
        """All that the instance keeps, as text."""
        runs = [record.dagster_run for record in self.instance.get_run_records()]
        logs = [entry for run in runs for entry in self.instance.all_logs(run.run_id)]
        return [dg.serialize_value(thing) for thing in (*runs, *logs)]


@dataclass(frozen=True)
class Built:
    """Three days that went through: an ingest, the first day by its partition, the others as one range."""

    graph: Graph
    ingest: dg.ExecuteInProcessResult
    first_day: dg.ExecuteInProcessResult
    rest: dg.ExecuteInProcessResult


@pytest.fixture(scope="module")
def make_graph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Make]:
    """Makes graphs of fresh settings, each with a folder and an instance of its own, on the shipped instance file."""
    instance_file = yaml.safe_load(shipped.path("dagster.yaml").read_text())

    def make(data_dir: Path, **changed: Any) -> Graph:
        given = {
            "data_dir": data_dir,
            "now": "2026-11-17T02:00:00Z",
            "hyperstack_url": CLOSED,
            "hyperstack_api_key": CANARY,
            "min_snapshot_coverage": "0.1",
        }
        home = tmp_path_factory.mktemp("home")
        instance = dg.instance_for_test(instance_file, set_dagster_home=False, temp_dir=str(home))
        return Graph(Settings.model_validate(given | changed), stack.enter_context(instance))

    with ExitStack() as stack:
        yield make


@pytest.fixture(scope="module")
def built(make_graph: Make, simulated_days: Any, tmp_path_factory: pytest.TempPathFactory) -> Built:
    data_dir = tmp_path_factory.mktemp("built") / "data"
    simulated_days.copy_to(data_dir)
    graph = make_graph(data_dir)
    ingest = graph.run("ingest")
    return Built(graph, ingest, graph.run("daily_build", partition_key=f"{FIRST}"), graph.build(SECOND, LAST))


@pytest.fixture
def copy(built: Built, make_graph: Make, tmp_path: Path) -> Graph:
    """The three built days once more, to be spoilt."""
    data_dir = shutil.copytree(built.graph.settings.data_dir, tmp_path / "data")
    return make_graph(data_dir)


@pytest.fixture(scope="module")
def empty(make_graph: Make, tmp_path_factory: pytest.TempPathFactory) -> Graph:
    """A graph whose data folder does not exist yet; partitions from the first day on."""
    return make_graph(tmp_path_factory.mktemp("empty") / "data", first_day="2026-11-01")


def test_definitions_of_fresh_settings_load(empty: Graph) -> None:
    dg.Definitions.validate_loadable(empty.definitions)
    assert not empty.settings.data_dir.exists(), "loading the graph wrote something"


def test_definitions_of_the_environment_load() -> None:
    dg.Definitions.validate_loadable(definitions.defs)


def test_partitions_begin_with_the_first_raw_file(built: Built) -> None:
    partitions = built.graph.assets.get(dg.AssetKey(["metric", "paid"])).partitions_def
    assert partitions is not None
    assert partitions.get_first_partition_key() == "2026-11-14"


def test_asset_keys_are_the_names_of_the_tables_in_groups_by_stage(empty: Graph) -> None:
    wanted = {dg.AssetKey([stage, name]): stage for stage, names in GROUPS.items() for name in names}
    assert {node.key: node.group_name for node in empty.assets.asset_nodes} == wanted


def test_lineage_of_the_number_goes_down_to_the_raw_files(empty: Graph) -> None:
    lineage, waiting = {}, [dg.AssetKey(["metric", "cost_per_mtok"])]
    while waiting:
        node = empty.assets.get(waiting.pop())
        lineage[node.key.to_user_string()] = {parent.to_user_string() for parent in node.parent_keys}
        waiting += node.parent_keys
    assert lineage == LINEAGE


def test_everything_that_is_published_is_upstream_of_the_publication(empty: Graph) -> None:
    node = empty.assets.get(dg.AssetKey(["publication", "economics"]))
    assert {parent.to_user_string() for parent in node.parent_keys} == {
        "metric/break_even",
        "metric/bounds",
        "metric/cost_parts",
        "metric/cost_per_mtok",
        "metric/coverage",
        "metric/figures",
        "metric/inputs",
        "metric/invoice_residuals",
        "metric/list_price_baskets",
        "metric/list_price_comparison",
        "metric/load_costs",
        "metric/model_costs",
        "metric/request_percentiles",
        "metric/what_if",
    }


def test_every_asset_says_what_it_is_who_owns_it_and_how_it_is_made(empty: Graph) -> None:
    for node in empty.assets.asset_nodes:
        assert node.description, node.key
        assert node.owners, node.key
        assert node.kinds, node.key


def test_every_table_shows_its_columns_with_types(empty: Graph) -> None:
    for node in empty.assets.asset_nodes:
        if node.group_name in ("validated", "rollup", "metric"):
            schema = node.metadata["dagster/column_schema"]
            assert schema.columns, node.key
            assert all(column.type for column in schema.columns), node.key


def test_everything_that_opens_the_warehouse_is_in_the_pool_of_one(empty: Graph) -> None:
    job = empty.definitions.resolve_job_def("daily_build")
    assert len(job.nodes) > len(GROUPS["metric"]) + len(checks.describe())
    assert {node.definition.pool for node in job.nodes} == {"duckdb_writer"}


def test_every_rule_is_a_check_that_blocks_or_warns(empty: Graph) -> None:
    specs = [empty.assets.get_check_spec(key) for key in empty.assets.asset_check_keys]
    assert {spec.name for spec in specs} == {*checks.describe(), COPIED}
    assert all(spec.description for spec in specs)
    assert {spec.name for spec in specs if not spec.blocking} == {*checks.WARNINGS, COPIED}


@pytest.mark.parametrize(
    ("metric", "upstream", "first"),
    [("paid", "metric/inputs", 14), ("bounds", "rollup/log_days", 11), ("bounds", "rollup/engine_days", 11)],
)
def test_a_metric_depends_on_the_days_of_its_window_and_bounds_on_three_more(
    empty: Graph, metric: str, upstream: str, first: int
) -> None:
    table, read = (empty.assets.get(dg.AssetKey.from_user_string(name)) for name in (f"metric/{metric}", upstream))
    assert table.partitions_def is not None
    day = table.partitions_def.subset_with_partition_keys(["2026-11-20"])
    mapped = table.partition_mappings[read.key].get_upstream_mapped_partitions_result_for_partitions(
        day, table.partitions_def, read.partitions_def
    )
    assert sorted(mapped.partitions_subset.get_partition_keys()) == [f"2026-11-{day}" for day in range(first, 21)]


@pytest.mark.parametrize("name", ["dagster.yaml", "deploy/dagster.yaml"])
def test_the_instance_file_allows_one_writer_ends_hung_runs_and_tells_nobody(name: str) -> None:
    file = yaml.safe_load(shipped.path(name).read_text())
    assert file["concurrency"]["pools"] == {"granularity": "op", "default_limit": 1}
    assert file["run_monitoring"]["enabled"] is True
    assert file["run_monitoring"]["max_runtime_seconds"] > 0
    assert file["telemetry"] == {"enabled": False}
    assert file["sensors"]["use_threads"] is True


def test_the_production_instance_differs_only_by_its_storage() -> None:
    embedded = yaml.safe_load(shipped.path("dagster.yaml").read_text())
    production = yaml.safe_load(shipped.path("deploy/dagster.yaml").read_text())
    url = {"env": "SPOTINFERENCE_DAGSTER_POSTGRES_URL"}
    assert production == embedded | {"storage": {"postgres": {"postgres_url": url}}}


def test_schedules_are_in_utc_and_run_by_default(empty: Graph) -> None:
    schedules = {schedule.name: schedule for schedule in empty.repository.schedule_defs}
    assert set(schedules) == {"daily_build_after_midnight", "daily_reconciliation_at_two", "hourly_ingest"}
    for schedule in schedules.values():
        assert schedule.execution_timezone == "UTC"
        assert schedule.default_status is dg.DefaultScheduleStatus.RUNNING


@pytest.mark.parametrize(
    ("today", "due"),
    [
        (date(2026, 11, 23), [date(2026, 11, 20), date(2026, 11, 22)]),
        (date(2026, 12, 3), [*days_between(date(2026, 11, 1), date(2026, 11, 30)), date(2026, 12, 2)]),
        (date(2026, 12, 1), [date(2026, 11, 28), date(2026, 11, 30)]),
    ],
)
def test_books_are_read_after_a_day_after_three_and_after_the_month(today: date, due: list[date]) -> None:
    assert automation.days_due(today) == due


def test_the_books_of_each_stretch_of_days_are_one_run(empty: Graph) -> None:
    schedule = next(one for one in empty.repository.schedule_defs if one.name == "daily_reconciliation_at_two")
    with dg.DagsterInstance.ephemeral() as instance:
        at = datetime(2026, 11, 4, 2, tzinfo=UTC)
        context = dg.build_schedule_context(instance, scheduled_execution_time=at)
        requests = schedule.evaluate_tick(context).run_requests
    ranges = [(request.tags[RANGE_START], request.tags[RANGE_END]) for request in requests or []]
    assert ranges == [("2026-11-01", "2026-11-01"), ("2026-11-03", "2026-11-03")]


def test_sensors_run_by_default(empty: Graph) -> None:
    sensors = {sensor.name: sensor for sensor in empty.repository.sensor_defs}
    assert set(sensors) == {"late_data", "log_segments", "minute_snapshot"}
    assert all(sensor.default_status is dg.DefaultSensorStatus.RUNNING for sensor in sensors.values())
    assert sensors["minute_snapshot"].minimum_interval_seconds <= 30, "ticks drift: two chances for each minute"


@pytest.mark.parametrize(
    ("at", "first", "last"),
    [
        ("2026-11-17T00:20", "2026-11-16", "2026-11-16"),
        ("2026-11-18T00:20", "2026-11-17", "2026-11-17"),
        ("2026-11-20T00:20", "2026-11-17", "2026-11-19"),
    ],
)
def test_after_midnight_the_closed_day_is_built_and_days_missed_before_it(
    built: Built, at: str, first: str, last: str
) -> None:
    assert _daily_tags(built.graph, at) == {RANGE_START: first, RANGE_END: last}


def test_the_first_night_builds_every_day_since_the_first(empty: Graph) -> None:
    assert _daily_tags(empty, "2026-11-05T00:20") == {RANGE_START: "2026-11-01", RANGE_END: "2026-11-04"}


@pytest.mark.parametrize(
    ("unpublished", "first"),
    [
        (set(), "2026-11-12"),
        ({12}, "2026-11-12"),
        ({8}, "2026-11-08"),
        ({3}, "2026-11-12"),
    ],
)
def test_a_day_whose_run_was_cut_off_before_publishing_is_built_again_while_a_window_needs_it(
    make_graph: Make, tmp_path: Path, unpublished: set[int], first: str
) -> None:
    graph = make_graph(tmp_path, first_day="2026-11-01")
    for day in range(1, 13):
        _note_built(graph, "rollup/snapshot_days", day)
        if day not in unpublished:
            _note_built(graph, "publication/economics", day)
    assert _daily_tags(graph, "2026-11-13T00:20") == {RANGE_START: first, RANGE_END: "2026-11-12"}


def _note_built(graph: Graph, asset: str, day: int) -> None:
    done = dg.AssetMaterialization(dg.AssetKey.from_user_string(asset), partition=f"2026-11-{day:02}")
    graph.instance.report_runless_asset_event(done)


def _daily_tags(graph: Graph, at: str) -> dict[str, str]:
    scheduled = datetime.fromisoformat(at).replace(tzinfo=UTC)
    schedule = graph.repository.get_schedule_def("daily_build_after_midnight")
    with dg.build_schedule_context(graph.instance, scheduled) as context:
        (request,) = schedule.evaluate_tick(context).run_requests or []
    return {name: tag for name, tag in request.tags.items() if name in (RANGE_START, RANGE_END)}


async def test_a_minute_lands_one_raw_file_and_opens_no_database(make_graph: Make, tmp_path: Path) -> None:
    now = datetime(2026, 11, 14, 12, tzinfo=UTC)
    simulators = Simulators(Scenario.generate(7, FIRST, 1), SystemClock(now))
    await simulators.start()
    try:
        url, at = simulators.hyperstack_url, now.isoformat()
        graph = make_graph(tmp_path / "data", hyperstack_url=url, hyperstack_api_key=API_KEY, now=at)
        tick = await asyncio.to_thread(graph.tick, "minute_snapshot")
    finally:
        await simulators.stop()
    (event,) = tick.asset_events
    assert tick.run_requests == []
    assert event.asset_key == dg.AssetKey(["raw", "hyperstack"])
    assert event.metadata["failed"].value == 0
    files = [path for path in (tmp_path / "data").rglob("*") if path.is_file()]
    assert files == [Path(event.metadata["file"].value)]
    exchanges = [exchange for _, exchange in raw.read_exchanges(files[0].read_bytes())]
    assert len(exchanges) == event.metadata["answers"].value + event.metadata["left_out"].value
    assert {line.status for line in exchanges if isinstance(line, raw.Exchange) and was_asked(line)} == {200}


def test_a_minute_without_hyperstack_lands_the_failed_exchanges_without_the_key(
    make_graph: Make, tmp_path: Path
) -> None:
    graph = make_graph(tmp_path / "data")
    tick = graph.tick("minute_snapshot")
    (event,) = tick.asset_events
    assert tick.skip_message.startswith("Hyperstack fails: asked again from 20")
    assert graph.tick("minute_snapshot").skip_message == "this minute has its snapshot"
    assert event.metadata["failed"].value == event.metadata["answers"].value > 0
    content = Path(event.metadata["file"].value).read_text()
    assert "ConnectError" in content
    assert CANARY not in content + dg.serialize_value(event)


def test_a_minute_without_a_key_is_skipped_and_says_what_to_set(make_graph: Make, tmp_path: Path) -> None:
    tick = make_graph(tmp_path / "data", hyperstack_api_key=None).tick("minute_snapshot")
    assert "SPOTINFERENCE_HYPERSTACK_API_KEY" in tick.skip_message
    assert not (tmp_path / "data").exists()


def test_a_minute_that_cannot_be_written_is_skipped(make_graph: Make, tmp_path: Path) -> None:
    (tmp_path / "raw").write_text("a file where a folder should be")
    tick = make_graph(tmp_path).tick("minute_snapshot")
    assert "could not be written" in tick.skip_message


def test_new_log_segments_ask_for_one_run_and_none_when_nothing_is_new(
    make_graph: Make, tmp_path: Path, lines: Any
) -> None:
    graph, log = make_graph(tmp_path), tmp_path / "request_log"
    log.mkdir()
    assert "0 segments" in graph.tick("log_segments").skip_message
    for sequence in range(3):
        (log / lines.name(sequence)).write_bytes(lines.segment(lines.beat()))
    first = graph.tick("log_segments")
    assert len(first.run_requests) == 1
    assert [event.metadata["segments"].value for event in first.asset_events] == [3]
    assert "none new" in graph.tick("log_segments", first.cursor).skip_message
    (log / lines.name(3)).write_bytes(lines.segment(lines.beat()))
    second = graph.tick("log_segments", first.cursor)
    assert len(second.run_requests) == 1
    assert second.run_requests[0].run_key != first.run_requests[0].run_key


def test_log_segments_out_of_reach_are_skipped(make_graph: Make, tmp_path: Path) -> None:
    tick = make_graph(tmp_path, request_log_url="no-such-scheme://bucket").tick("log_segments")
    assert tick.skip_message
    assert tick.run_requests == []


@given(
    late=st.sets(st.dates(date(2026, 10, 20), date(2026, 11, 30)), max_size=4),
    last=st.dates(date(2026, 11, 1), date(2026, 11, 30)),
)
def test_a_closed_day_is_touched_when_its_window_or_the_three_days_before_it_hold_a_late_day(
    late: set[date], last: date
) -> None:
    windows = {day: trailing_window(day) for day in days_between(date(2026, 10, 1), last)}
    expected = [
        day
        for day, window in windows.items()
        if any(window.start - 3 * ONE_DAY <= day_start(late_day) < window.end for late_day in late)
    ]
    assert automation.touched_days(late, last) == expected


@given(days=st.sets(st.dates(date(2026, 10, 1), date(2026, 11, 30))))
def test_stretches_hold_every_day_once_and_gaps_only_between_them(days: set[date]) -> None:
    parts = automation.stretches(sorted(days))
    assert [day for part in parts for day in part] == sorted(days)
    assert all(later - day == ONE_DAY for part in parts for day, later in pairwise(part))
    assert all(after[0] - part[-1] > ONE_DAY for part, after in pairwise(parts))


def test_late_days_of_every_ingest_since_the_last_look_are_built_in_one_run_a_stretch(
    make_graph: Make, tmp_path: Path
) -> None:
    graph = make_graph(tmp_path, now="2026-11-17T02:00:00Z", first_day="2026-10-01")
    assert "no ingest" in graph.tick("late_data").skip_message
    for late in (["2026-11-13", "2026-10-20"], ["2026-11-12"], []):
        _note_ingest(graph, late)
    tick = graph.tick("late_data")
    assert [(request.tags[RANGE_START], request.tags[RANGE_END]) for request in tick.run_requests] == [
        ("2026-10-20", "2026-10-29"),
        ("2026-11-12", "2026-11-16"),
    ]
    assert "no ingest" in graph.tick("late_data", tick.cursor).skip_message
    _note_ingest(graph, [])
    again = graph.tick("late_data", tick.cursor)
    assert again.run_requests == []
    assert again.cursor != tick.cursor


def test_an_ingest_reported_from_outside_without_late_days_asks_for_nothing(make_graph: Make, tmp_path: Path) -> None:
    graph = make_graph(tmp_path)
    graph.instance.report_runless_asset_event(dg.AssetMaterialization(["validated", "requests"]))
    assert graph.tick("late_data").run_requests == []


def _note_ingest(graph: Graph, late: list[str]) -> None:
    noted = {"late_days": dg.MetadataValue.json(late)}
    graph.instance.report_runless_asset_event(dg.AssetMaterialization(["validated", "requests"], metadata=noted))


def test_a_day_built_by_its_partition_publishes_the_truth_to_the_last_digit(built: Built, simulated_days: Any) -> None:
    assert built.ingest.success
    assert built.first_day.success
    _assert_true(built.graph, FIRST, simulated_days)


@pytest.mark.parametrize("utc_day", [SECOND, LAST])
def test_days_built_in_one_run_publish_the_truth_to_the_last_digit(
    built: Built, simulated_days: Any, utc_day: date
) -> None:
    assert built.rest.success
    _assert_true(built.graph, utc_day, simulated_days)


def _assert_true(graph: Graph, utc_day: date, simulated_days: Any) -> None:
    truth = simulated_days.truth(utc_day)
    published = graph.published(utc_day)
    assert {name: published[name] for name in truth} == truth
    assert published["usd_per_million_tokens"] is not None


def test_what_was_published_verifies(built: Built) -> None:
    found = verification.verify(Storage(built.graph.settings.published, must_exist=True))
    assert (found.revisions, found.newest["day"]) == (3, "2026-11-16")


def test_a_range_shows_each_day_its_own_figures(built: Built) -> None:
    for asset in ("metric/cost_per_mtok", "publication/economics"):
        shown = {event.partition: event.metadata for event in built.graph.materializations(asset)}
        assert set(shown) == {"2026-11-14", "2026-11-15", "2026-11-16"}
        for day, metadata in shown.items():
            figure = built.graph.published(date.fromisoformat(f"{day}"))["usd_per_million_tokens"]
            assert metadata["usd_per_million_tokens"].value == float(figure)
    files = [event.metadata["file"].value for event in built.graph.materializations("publication/economics")]
    assert all(Path(str(file)).is_file() for file in files)


def test_a_built_table_shows_its_rows_and_their_number(built: Built) -> None:
    with open_warehouse(built.graph.settings.warehouse_path) as warehouse:
        stored = dict(warehouse.query("select utc_day, count(*) from rollup.cost_days group by all").iter_rows())
    events = built.graph.materializations("rollup/cost_days")
    shown = {event.partition: event.metadata["dagster/partition_row_count"].value for event in events}
    assert shown == {f"{utc_day}": rows for utc_day, rows in stored.items()}
    assert all("cost_usd" in str(event.metadata["rows"].value) for event in events)


def test_an_ingest_shows_rows_read_and_the_size_of_each_table(built: Built) -> None:
    with open_warehouse(built.graph.settings.warehouse_path) as warehouse:
        stored = warehouse.query("select count(*) from validated.requests").item()
    first, *later = built.graph.materializations("validated/requests")
    assert first.metadata["dagster/row_count"].value == stored
    assert first.metadata["rows_read"].value > stored
    assert {event.metadata["files_read"].value for event in later} == {0}, "something was read twice"


def test_nothing_that_dagster_keeps_holds_the_key(built: Built, copy: Graph) -> None:
    copy.tick("minute_snapshot")
    events = built.graph.events()
    assert any("usd_per_million_tokens" in event for event in events)
    shown = [str(node.metadata) + str(node.description) for node in built.graph.assets.asset_nodes]
    assert not [text for text in events + shown if CANARY in text]
    files = [path for path in copy.settings.data_dir.rglob("*") if path.is_file()]
    assert not [path for path in files if CANARY.encode() in path.read_bytes()]


def test_F020_late_tokens_change_every_published_day_whose_window_holds_them(copy: Graph, lines: Any) -> None:
    late = lines.segment(lines.end(1, "2026-11-15T10:00", "2026-11-15T10:01"))
    (copy.settings.data_dir / "request_log" / lines.name(9)).write_bytes(late)
    assert copy.run("ingest").success
    (request,) = copy.tick("late_data").run_requests
    assert copy.run("daily_build", tags=request.tags).success
    revisions = {
        day.name: len(list(day.iterdir())) for day in Path(copy.settings.published, "economics", "days").iterdir()
    }
    assert revisions == {"2026-11-14": 1, "2026-11-15": 2, "2026-11-16": 2}
    for utc_day in (SECOND, LAST):
        first, second = copy.published(utc_day, 1), copy.published(utc_day, 2)
        assert second["served_tokens"] == first["served_tokens"] + 150


def test_F050_days_whose_books_are_materialized_cost_the_truth_after_the_next_ingest(
    copy: Graph, make_graph: Make, simulated_days: Any
) -> None:
    """Of one of the two days no reading is left; the other was seen, so its cost does not move."""
    with open_warehouse(copy.settings.warehouse_path) as warehouse:
        warehouse.execute(
            "delete from validated.billing_snapshots where observed_at::date = $utc_day", {"utc_day": SECOND}
        )
    with simulated_days.served() as url:
        graph = make_graph(copy.settings.data_dir, hyperstack_url=url, hyperstack_api_key=API_KEY)
        books = graph.run("daily_reconciliation", tags={RANGE_START: f"{SECOND}", RANGE_END: f"{LAST}"})
    assert [event.partition for event in books.asset_materializations_for_node("raw__billing_history")] == [
        f"{SECOND}",
        f"{LAST}",
    ]
    assert graph.run("ingest").success
    (request,) = graph.tick("late_data").run_requests
    assert request.tags[RANGE_END] == f"{LAST}"
    assert graph.run("daily_build", tags=request.tags).success
    with open_warehouse(graph.settings.warehouse_path) as warehouse:
        costs = dict(warehouse.query("select utc_day, sum(cost_usd) from rollup.cost_days group by utc_day").rows())
        booked = dict(warehouse.query("select utc_day, billed_usd from rollup.reconciliation_days").rows())
    truths = {day: Decimal(simulated_days.day_truth(day)["paid_usd"]) for day in (FIRST, SECOND, LAST)}
    assert costs == truths
    assert booked == {day: truths[day] for day in (SECOND, LAST)}
    assert graph.published(LAST, 2)["reconciliation"]["days_reconciled"] == 2


def test_a_backfill_that_dagster_extends_over_days_never_built_leaves_those_alone(copy: Graph) -> None:
    later = [node.key for node in copy.assets.asset_nodes if node.group_name in ("metric", "publication")]
    assert copy.build(LAST, date(2026, 11, 19), asset_selection=later).success
    assert [day.name for day in sorted(Path(copy.settings.published, "economics", "days").iterdir())] == [
        "2026-11-14",
        "2026-11-15",
        "2026-11-16",
    ]
    with open_warehouse(copy.settings.warehouse_path) as warehouse:
        assert warehouse.query("select max(utc_day) from metric.cost_per_mtok").item() == LAST
    assert _daily_tags(copy, "2026-11-20T00:20") == {RANGE_START: "2026-11-14", RANGE_END: "2026-11-19"}


def test_a_broken_rule_stops_before_anything_is_published(copy: Graph) -> None:
    shutil.rmtree(copy.settings.published)
    with open_warehouse(copy.settings.warehouse_path) as warehouse:
        warehouse.execute(
            "insert into validated.requests "
            "select * from validated.requests where finished_at::date = date '2026-11-15' limit 1"
        )
    done = copy.build(SECOND, LAST, raise_on_error=False)
    assert not done.success
    failed = [check for check in done.get_asset_check_evaluations() if not check.passed]
    assert [check.check_name for check in failed] == ["each_request_counts_once"]
    assert failed[0].blocking
    assert failed[0].metadata["broken_rows"].value == 1
    assert not Path(copy.settings.published).exists()
    assert copy.materializations("publication/economics") == []


def test_an_ingest_goes_on_where_list_prices_cannot_be_copied(make_graph: Make, tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "list_prices").write_text("a file where a folder should be")
    graph = make_graph(tmp_path)
    done = graph.run("ingest")
    assert done.success
    (failed,) = (check for check in done.get_asset_check_evaluations() if not check.passed)
    assert (failed.check_name, failed.blocking) == (COPIED, False)
    assert failed.severity is dg.AssetCheckSeverity.WARN
    assert "could not be written, found File exists" in (failed.description or "")
    assert len(graph.materializations("validated/requests")) == 1


def test_a_day_without_the_days_before_it_is_refused_rather_than_published_too_cheap(copy: Graph) -> None:
    with open_warehouse(copy.settings.warehouse_path) as warehouse:
        for table in ("rollup.token_days", "metric.inputs"):
            warehouse.execute(f"delete from {table} where utc_day = $utc_day", {"utc_day": SECOND})
    done = copy.run("daily_build", partition_key=f"{LAST}", raise_on_error=False)
    failed = [check.check_name for check in done.get_asset_check_evaluations() if not check.passed]
    assert failed == ["tokens_of_the_window_are_its_requests"]
    assert copy.materializations("publication/economics") == []


def test_whatever_time_makes_stale_is_watched(empty: Graph) -> None:
    policies = {node.key.to_user_string(): node.to_asset_spec().freshness_policy for node in empty.assets.asset_nodes}
    assert policies["raw/hyperstack"] == freshness.EVERY_MINUTE
    assert policies["validated/requests"] == policies["raw/list_prices"] == freshness.EVERY_HOUR
    for asset in ("rollup/cost_days", "metric/cost_per_mtok", "publication/economics"):
        assert policies[asset] == dg.FreshnessPolicy.cron("0 2 * * *", timedelta(hours=2))
    unwatched = {asset for asset, policy in policies.items() if policy is None}
    views = {table.replace(".", "/") for table in warehouse.VIEWS}
    assert unwatched == {"raw/billing_history", "raw/invoices"} | views


def test_a_built_sql_table_shows_what_its_columns_are_made_of(built: Built) -> None:
    (event, *_) = built.graph.materializations("metric/cost_per_mtok")
    lineage = event.metadata["dagster/column_lineage"].value
    found = {
        (dep.asset_key.to_user_string(), dep.column_name) for dep in lineage.deps_by_column["usd_per_million_tokens"]
    }
    assert found == {("metric/paid", "paid_usd"), ("metric/served", "served_tokens")}
    described = {
        column.name: str(column.description) for column in event.metadata["dagster/column_schema"].value.columns
    }
    assert described["usd_per_million_tokens"].endswith("; from metric.paid.paid_usd, metric.served.served_tokens")
    for table in (*transform.ROLLUPS, *transform.METRICS):
        for shown in built.graph.materializations(table.replace(".", "/")):
            assert "dagster/column_lineage" in shown.metadata, table


def test_a_built_table_draws_its_rows_and_names_the_published_page(built: Built) -> None:
    number, parts = (built.graph.materializations(f"metric/{name}")[-1] for name in ("cost_per_mtok", "cost_parts"))
    for event in (number, parts):
        assert "(data:image/svg+xml;base64," in str(event.metadata["plot"].value)
        assert len(str(event.metadata["plot"].value)) < drawings.INLINE_CHARACTERS
    assert "| usd_per_million_tokens | " in str(number.metadata["rows"].value)
    node = built.graph.assets.get(dg.AssetKey(["metric", "cost_per_mtok"]))
    assert Path(str(node.metadata["published_page"].value)).is_file()
    assert Path(str(node.metadata["published_file"].value)).is_file()
