"""The whole path over HTTP, in virtual time: one day lived minute by minute, equal to the simulator's own truth.

The first day is laid down as files. On the second day the real Hyperstack client takes a snapshot every minute, and
clients send their requests through the real proxy, some of them leaving in mid-stream. The published figures must be
those that the simulator works out from its own events and from what its engines really served.
"""

import asyncio
import dataclasses
import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from spotinference_proxy.app import Proxy
from spotinference_proxy.settings import read_settings
from spotinference_sim.clock import VirtualClock
from spotinference_sim.lay_down import lay_down_raw
from spotinference_sim.player import play
from spotinference_sim.request_log import lay_down_log
from spotinference_sim.scenario import Scenario
from spotinference_sim.simulators import Simulators
from spotinference_sim.truth import truth

from spotinference_pipeline import backfill, publication, validated, verification
from spotinference_pipeline.orchestration import steps
from spotinference_pipeline.settings import Settings
from spotinference_pipeline.storage import Storage
from spotinference_pipeline.warehouse import Warehouse, open_warehouse

pytestmark = pytest.mark.no_cover  # whole simulated days: tracing would double their time

FIRST_DAY, LIVE_DAY = date(2026, 11, 21), date(2026, 11, 22)
MIDNIGHT = datetime(2026, 11, 22, tzinfo=UTC)
ONE_MINUTE = timedelta(minutes=1)
KEPT_OF = 16
"""One of so many requests of the scenario is played: enough for every kind of it, and a test of a minute."""


@pytest.fixture
def scenario() -> Scenario:
    """Two days of the demo's scenario, thinned out; canaries are the SQL's tests' matter."""
    whole = Scenario.generate(7, FIRST_DAY, 2)
    requests = [r for r in whole.requests if not r.canary]
    leaving = [r for r in requests if r.end_reason == "client_gone" and r.stream]
    kept = {r.request_id for r in requests[::KEPT_OF]} | {r.request_id for r in leaving[::4]}
    return dataclasses.replace(whole, requests=tuple(r for r in requests if r.request_id in kept))


@pytest.mark.timeout(900)
async def test_a_day_lived_over_http_gives_the_simulators_truth_to_the_last_digit(
    scenario: Scenario, tmp_path: Path
) -> None:
    midnight_s = int(MIDNIGHT.timestamp())
    lay_down_raw(scenario, tmp_path, midnight_s - 60)
    lay_down_log(scenario, tmp_path / "request_log", midnight_s)
    clock = VirtualClock(MIDNIGHT)
    simulators = Simulators(scenario, clock, stream_interval=100)
    await simulators.start()
    try:
        settings = Settings(
            data_dir=tmp_path,
            hyperstack_url=simulators.hyperstack_url,
            hyperstack_api_key="simulated-key",
            min_snapshot_coverage=0,
        )
        await live_one_day(scenario, simulators, clock, settings)
    finally:
        await simulators.stop()

    latest = publish_day(settings.model_copy(update={"now": MIDNIGHT + timedelta(days=1, minutes=20)}))

    expected = truth(scenario, LIVE_DAY, requests=simulators.served)
    assert len(simulators.served) > 200
    for name in ("paid_usd", "served_tokens", "usd_per_million_tokens", "usd_per_million_by_part"):
        assert latest[name] == expected[name], name
    assert latest["tokens"] == {
        name: expected[f"{name}_tokens"] for name in ("prompt", "completion", "cached", "reasoning")
    }
    verification.verify(Storage(settings.published))


async def live_one_day(scenario: Scenario, simulators: Simulators, clock: VirtualClock, settings: Settings) -> None:
    """Play the day: clients through the proxy, a snapshot and the proxy's own rows at every minute, probes at wakes."""
    proxy = Proxy(
        read_settings(
            {
                "SPOTINFERENCE_PROXY_UPSTREAMS": json.dumps(simulators.upstreams()),
                "SPOTINFERENCE_PROXY_LISTEN": "127.0.0.1:0",
                "SPOTINFERENCE_PROXY_ADMIN_LISTEN": "127.0.0.1:0",
                "SPOTINFERENCE_PROXY_LOG_DIR": settings.request_log,
            }
        ),
        clock.now,
        periodic=False,
    )
    await proxy.start()
    host, port = proxy.address
    clients = asyncio.create_task(play(scenario, clock, f"http://{host}:{port}"))
    minutes = {MIDNIGHT + minute * ONE_MINUTE for minute in range(24 * 60 + 1)}
    for instant in sorted(minutes | wakes(scenario)):
        await clock.advance(instant)
        await proxy.probe()
        if instant in minutes:
            await proxy.minute()
            await asyncio.to_thread(steps.take_snapshot, settings.model_copy(update={"now": instant}))
    clients.cancel()
    await asyncio.gather(clients, return_exceptions=True)
    await proxy.stop()


def wakes(scenario: Scenario) -> set[datetime]:
    """Give the instants of the day at which an engine becomes ready."""
    ready = {wake.ready_s for vm in scenario.vms for wake in vm.wakes if wake.ready_s is not None}
    instants = {datetime.fromtimestamp(second, UTC) for second in ready}
    return {instant for instant in instants if MIDNIGHT <= instant < MIDNIGHT + timedelta(days=1)}


def assert_abandoned_streams_are_exact(warehouse: Warehouse) -> None:
    """Streams whose client left were ended by vLLM's abort call, so that their usage is vLLM's final one."""
    sources = warehouse.query(
        """
        select usage_source, count(*) as requests
        from validated.requests
        where end_reason = 'client_gone' and started_at >= $midnight and finished_at < $next_midnight
        group by usage_source
        """,
        {"midnight": MIDNIGHT, "next_midnight": MIDNIGHT + timedelta(days=1)},
    )
    assert sources["usage_source"].to_list() == ["engine_final"]
    assert sources["requests"].item() > 10


def assert_engines_agree(warehouse: Warehouse) -> None:
    """Every token of engines that started on the live day is in the log, or was counted once more for a further choice.

    Older engines begin to count anew where the laid-down day ends, as no real one does.
    """
    lives = warehouse.query("from rollup.engine_days where process_started_at >= $midnight", {"midnight": MIDNIGHT})
    assert lives["engine_generation_tokens"].to_list() == lives["completion_tokens"].to_list()
    assert lives.height > 3
    causes = warehouse.query(
        "select distinct cause from rollup.token_residuals where process_started_at >= $midnight",
        {"midnight": MIDNIGHT},
    )
    assert causes["cause"].to_list() == ["choices"]


def publish_day(settings: Settings) -> dict[str, Any]:
    """Read, build and publish both days; give what the website reads."""
    with open_warehouse(settings.warehouse_path) as warehouse:
        done = validated.ingest(warehouse, settings.raw_dir, Storage(settings.request_log))
        assert done.rows_quarantined == 0
        assert_abandoned_streams_are_exact(warehouse)
        built = backfill.build(warehouse, [FIRST_DAY, LIVE_DAY])
        assert [finding for day in built for finding in day.broken if finding.blocks] == []
        assert_engines_agree(warehouse)
        publication.publish(warehouse, Storage(settings.published), settings)
    latest: dict[str, Any] = json.loads(Storage(settings.published).read(publication.LATEST))
    return latest
