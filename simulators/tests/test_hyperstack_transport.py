"""Faults as a client meets them: over HTTP, in laid-down files, and on the command line."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from spotinference_sim.__main__ import main
from spotinference_sim.faults import Faults
from spotinference_sim.features import Features
from spotinference_sim.instants import HOUR_S, parse_us
from spotinference_sim.lay_down import lay_down_raw
from spotinference_sim.scenario import Scenario
from spotinference_sim.simulators import API_KEY

ReadLines = Callable[[Path], list[dict[str, Any]]]
USAGE = "/billing/billing/usage"


def url_of(stage: Any) -> str:
    return f"{stage.simulators.hyperstack_url}{USAGE}"


async def test_an_answer_takes_its_time_by_the_clock(make_stage: Callable[..., Any]) -> None:
    stage = await make_stage(2_000, faults=replace(Faults.none(), latency_s=(1.5, 1.5)))
    asked = asyncio.ensure_future(stage.hyperstack(USAGE))
    await stage.at(2_001.4)
    assert not asked.done()
    await stage.at(2_001.6)
    status, body = await asked
    assert (status, len(body["data"])) == (200, 2)


async def test_lag_alone_answers_at_once(make_stage: Callable[..., Any]) -> None:
    stage = await make_stage(2_000, lag=True)
    assert (await stage.hyperstack(USAGE))[0] == 200


async def test_a_connection_is_reset(make_stage: Callable[..., Any]) -> None:
    stage = await make_stage(2_000, faults=replace(Faults.none(), reset_share=1.0))
    with pytest.raises(aiohttp.ClientConnectionError):
        await stage.hyperstack(USAGE)


async def test_a_call_hangs_until_the_client_leaves(make_stage: Callable[..., Any]) -> None:
    stage = await make_stage(2_000, faults=replace(Faults.none(), hang_share=1.0))
    asked = asyncio.ensure_future(stage.hyperstack(USAGE))
    await stage.at(3_000)
    assert not asked.done()
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)


async def test_429_says_when_to_come_back_and_an_outage_answers_html(make_stage: Callable[..., Any]) -> None:
    stage = await make_stage(2_010, faults=replace(Faults.worst("retry_after"), rate_limit=1))
    assert (await stage.hyperstack(USAGE))[0] == 200
    async with stage.client.get(url_of(stage), headers={"api_key": API_KEY}) as answer:
        assert (answer.status, answer.headers["Retry-After"]) == (429, "30")
    faults = replace(Faults.none(), outage_s=(2_000, 3_000), outage_status=503)
    stage = await make_stage(2_010, faults=faults)
    async with stage.client.get(url_of(stage), headers={"api_key": API_KEY}) as answer:
        assert (answer.status, answer.content_type) == (503, "text/html")


async def test_a_revoked_key_is_refused_as_an_unknown_one_is(make_stage: Callable[..., Any]) -> None:
    stage = await make_stage(2_010, faults=replace(Faults.none(), revoked_s=(2_000, 3_000)))
    status, body = await stage.hyperstack(USAGE)
    async with stage.client.get(url_of(stage), headers={"api_key": "unknown"}) as answer:
        assert (status, body) == (answer.status, await answer.json())


def laid(scenario: Scenario, folder: Path, read_lines: ReadLines, faults: Faults) -> list[dict[str, Any]]:
    lay_down_raw(scenario, folder, scenario.start_s + 2 * HOUR_S - 1, faults=faults)
    return [row for path in sorted(folder.rglob("*.jsonl")) for row in read_lines(path)]


@pytest.fixture(scope="module")
def few(short: Scenario) -> Scenario:
    return Scenario.long(3, short.start_day, 1, (3, 3), Features.all())


def test_laid_down_calls_fail_as_live_ones_do(few: Scenario, tmp_path: Path, read_lines: ReadLines) -> None:
    faults = replace(Faults.none(), hang_share=0.2, reset_share=0.2, outage_s=(3_600, 7_200))
    rows = laid(few, tmp_path, read_lines, faults)
    lost = [row for row in rows if row["status"] is None]
    assert {row["error"] for row in lost} == {"no answer within 30 s", "connection reset by peer"}
    assert all(row["body"] is row["sha256"] is row["date"] is None for row in lost)
    hung = next(row for row in lost if row["error"].startswith("no answer"))
    assert parse_us(hung["finished_at"]) - parse_us(hung["started_at"]) == 30_000_000
    second_hour = [row for row in rows if row["scheduled_at"] >= "2026-11-22T01:00:00" and row["status"]]
    assert {row["status"] for row in second_hour} == {500}
    again = tmp_path / "again"
    assert laid(few, again, read_lines, faults) == rows


def test_a_minute_asks_nothing_more_when_its_time_is_spent(
    few: Scenario, tmp_path: Path, read_lines: ReadLines
) -> None:
    rows = laid(few, tmp_path, read_lines, replace(Faults.none(), hang_share=1.0))
    by_minute: dict[str, int] = {}
    for row in rows:
        by_minute[row["scheduled_at"]] = by_minute.get(row["scheduled_at"], 0) + 1
    assert set(by_minute.values()) == {2}


def test_without_any_fault_files_are_those_of_an_honest_service(
    few: Scenario, tmp_path: Path, read_lines: ReadLines
) -> None:
    rows = laid(few, tmp_path / "faults", read_lines, Faults.none())
    lay_down_raw(few, tmp_path / "plain", few.start_s + 2 * HOUR_S - 1)
    plain = [row for path in sorted((tmp_path / "plain").rglob("*.jsonl")) for row in read_lines(path)]
    assert rows == plain
    assert "/core/snapshots" in {row["endpoint"] for row in rows}


ABOUT = ["--seed", "3", "--start-day", "2026-11-22", "--days", "2", "--long", "--all-types"]


def test_the_command_lays_down_with_faults(tmp_path: Path, read_lines: ReadLines) -> None:
    until = ["--until", "2026-11-22T00:30:00Z", "--data-dir", str(tmp_path)]
    assert (
        main(["lay-down", *ABOUT, *until, "--faults", "default", "--fault", "offsets", "--fault", "refresh_s=12"]) == 0
    )
    rows = read_lines(next(tmp_path.rglob("raw/**/*.jsonl")))
    assert all("+02:00" in row["body"] for row in rows if row["endpoint"] == USAGE and '"name"' in row["body"])
    assert any("+02:00" in row["body"] for row in rows)
    assert rows[0]["finished_at"] > rows[0]["started_at"]


def test_faults_that_do_not_exist_are_wrong_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lay-down", *ABOUT, "--data-dir", str(tmp_path), "--fault", "gremlins"]) == 2
    assert "no fault 'gremlins'; there are: revoked_s" in capsys.readouterr().err


def test_the_command_prints_the_books(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["truth", *ABOUT, "--day", "2026-11-23", "--by-resource"]) == 0
    books = json.loads(capsys.readouterr().out)
    kinds = {row["resource_type"] for row in books["resources"]}
    assert {"vm", "volume", "snapshot", "bucket", "cluster", "contract", "serverless_inference", "filesystem"} <= kinds
    assert float(books["organisation"]["first_usd"]) > 0
