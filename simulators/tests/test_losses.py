"""What the log loses is lost from the files alone: names, numbers and seals tell of it, engines and truth do not change."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from spotinference_sim.instants import SECOND_US, day_start_s
from spotinference_sim.losses import LogLosses, past_the_proxy, without_usage
from spotinference_sim.request_log import lay_down_log
from spotinference_sim.scenario import Scenario
from spotinference_sim.truth import truth

DAY = date(2026, 11, 20)
UNTIL_S = day_start_s(DAY) + 12 * 3_600
ReadLines = Callable[[Path], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def day() -> Scenario:
    whole = Scenario.generate(11, DAY, 1)
    return replace(whole, requests=whole.requests[::4])


@pytest.fixture(scope="module")
def whole(day: Scenario, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return files(day, tmp_path_factory.mktemp("whole"))


def files(scenario: Scenario, folder: Path, losses: LogLosses | None = None) -> dict[str, bytes]:
    lay_down_log(scenario, folder, UNTIL_S, losses)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_lines_are_cut_out_of_what_was_sealed(day: Scenario, whole: dict[str, bytes], tmp_path: Path) -> None:
    cut = files(day, tmp_path, LogLosses(lines=0.05))
    assert cut.keys() == whole.keys()
    lost = 0
    for name, content in cut.items():
        lines, all_lines = content.splitlines(), whole[name].splitlines()
        assert (lines[0], lines[-1]) == (all_lines[0], all_lines[-1])
        assert set(lines) <= set(all_lines)
        lost += len(all_lines) - len(lines)
        assert json.loads(lines[-1])["rows"] == len(all_lines) - 1, "the seal tells of them"
    assert 0.03 < lost / sum(content.count(b"\n") for content in whole.values()) < 0.07


def test_what_was_late_comes_byte_for_byte(day: Scenario, whole: dict[str, bytes], tmp_path: Path) -> None:
    early = files(day, tmp_path, LogLosses(late=0.3, late_from_s=UNTIL_S - 7_200))
    assert 0 < len(early) < len(whole) - 2
    assert early.items() <= whole.items()
    assert files(day, tmp_path, LogLosses()) == whole


def test_lost_segments_are_still_named_by_the_next(day: Scenario, whole: dict[str, bytes], tmp_path: Path) -> None:
    left = files(day, tmp_path, LogLosses(segments=0.3))
    named = {json.loads(content.splitlines()[0])["prev"] for content in left.values()} - {None}
    assert left.items() < whole.items()
    assert {f"{name}.jsonl" for name in named} - left.keys()


def test_engines_count_what_went_past_the_proxy_and_the_log_and_the_truth_do_not(
    day: Scenario, read_lines: ReadLines, tmp_path: Path
) -> None:
    parted = past_the_proxy(day, 0.2)
    past = {request.request_id for request in parted.past_the_proxy}
    assert 0.1 < len(past) / len(day.requests) < 0.3
    assert sorted([*parted.requests, *parted.past_the_proxy], key=lambda r: r.request_id) == sorted(
        day.requests, key=lambda r: r.request_id
    )
    rows: list[list[dict[str, Any]]] = []
    for name, scenario in (("all", day), ("parted", parted)):
        files(scenario, tmp_path / name)
        rows.append([row for path in sorted((tmp_path / name).iterdir()) for row in read_lines(path)])
    engines = [[row for row in some if row["k"] == "engine"] for some in rows]
    assert [{**row, "n": 0, "c": ""} for row in engines[0]] == [{**row, "n": 0, "c": ""} for row in engines[1]]
    assert not past & {row["request_id"] for row in rows[1] if row["k"] == "end"}
    gone = [r for r in parted.past_the_proxy if r.finished_us < day.end_s * SECOND_US and not r.canary]
    served = [truth(scenario, DAY)["served_tokens"] for scenario in (day, parted)]
    assert served[0] - served[1] == sum((r.prompt_tokens or 0) + (r.completion_tokens or 0) for r in gone)


def test_requests_without_usage_serve_nothing_and_made_what_they_made(day: Scenario) -> None:
    silent = without_usage(day, 0.2)
    before, after = truth(day, DAY), truth(silent, DAY)
    assert after["requests"] == before["requests"]
    assert after["made_tokens"] == before["made_tokens"] >= before["served_tokens"] > after["served_tokens"]
