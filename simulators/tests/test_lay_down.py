"""Laid-down days: right lines, right calls, the same bytes twice, and the truth read back out of them."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from spotinference_sim.hyperstack_answers import HyperstackAnswers
from spotinference_sim.instants import DAY_S, HOUR_S, SECOND_US, day_start_s, parse_us
from spotinference_sim.lay_down import lay_down_raw
from spotinference_sim.request_log import lay_down_log
from spotinference_sim.scenario import Scenario
from spotinference_sim.truth import truth

UNTIL_S = day_start_s(date(2026, 11, 23)) + 900
ReadLines = Callable[[Path], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def laid(tmp_path_factory: pytest.TempPathFactory, short: Scenario) -> Path:
    folder = tmp_path_factory.mktemp("laid")
    lay_down_raw(short, folder, UNTIL_S)
    lay_down_log(short, folder / "request_log", UNTIL_S)
    return folder


@pytest.fixture(scope="module")
def exchanges(laid: Path, read_lines: ReadLines) -> list[dict[str, Any]]:
    files = sorted(laid.glob("raw/hyperstack/*/*.jsonl"))
    return [row for path in files for row in read_lines(path)]


@pytest.fixture(scope="module")
def segments(laid: Path, read_lines: ReadLines) -> list[list[dict[str, Any]]]:
    return [read_lines(path) for path in sorted(laid.glob("request_log/*.jsonl"))]


def _bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_laying_down_twice_gives_the_same_files_and_bytes(laid: Path, short: Scenario, tmp_path: Path) -> None:
    before = _bytes_of(laid)
    for folder in (laid, tmp_path):
        lay_down_raw(short, folder, UNTIL_S)
        lay_down_log(short, folder / "request_log", UNTIL_S)
    assert _bytes_of(laid) == _bytes_of(tmp_path) == before


def test_every_minute_asks_the_four_questions(exchanges: list[dict[str, Any]], short: Scenario) -> None:
    paths = Counter(row["endpoint"] for row in exchanges if row["query"] != {"deleted": "true"})
    minutes = DAY_S // 60 + 16
    for path in ("/billing/billing/usage", "/billing/billing/history", "/core/virtual-machines"):
        assert paths[path] == minutes
    assert paths["/billing/user-credit/credit"] == minutes
    assert paths["/pricebook"] == paths["/core/volumes"] == 25
    asked = [row["scheduled_at"] for row in exchanges if row["query"] == {"deleted": "true"}]
    gone = [vm.ended_s for vm in short.resources if vm.ended_s < short.end_s]
    assert len(asked) == 98 + len(gone)
    for at_s in gone:
        assert any(parse_us(at) == -(-at_s // 60) * 60 * SECOND_US for at in asked)


def test_a_line_is_an_exchange(exchanges: list[dict[str, Any]]) -> None:
    for row in exchanges:
        assert row["v"] == 1
        assert row["sha256"] == hashlib.sha256(row["body"].encode()).hexdigest()
        assert row["scheduled_at"] == row["started_at"] == row["finished_at"]
        assert row["status"] == 200
        assert row["error"] is None
        assert row["date"].endswith(" GMT")


def test_the_last_answers_are_those_of_the_live_service(exchanges: list[dict[str, Any]], short: Scenario) -> None:
    answers = HyperstackAnswers(short)
    for row in exchanges[-200:]:
        live = answers.answer(row["endpoint"], row["query"], parse_us(row["scheduled_at"]))
        assert row["body"].encode() == live.body


def test_status_changes_bring_events(exchanges: list[dict[str, Any]], short: Scenario) -> None:
    fetched = [row for row in exchanges if row["endpoint"].endswith("/events")]
    seen = {
        (e["instance_id"], e["time"].rstrip("Z")) for r in fetched for e in json.loads(r["body"])["instance_events"]
    }
    due = {(vm.id, e.at_s) for vm in short.vms for e in vm.events if e.at_s < min(vm.ended_s, UNTIL_S)}
    assert {(vm_id, parse_us(at) // SECOND_US) for vm_id, at in seen} == due


def test_the_counters_read_back_give_what_was_paid(exchanges: list[dict[str, Any]], short: Scenario) -> None:
    final: dict[tuple[str, int, str], Decimal] = {}
    for row in exchanges:
        if row["endpoint"] == "/billing/billing/usage" and row["scheduled_at"] <= "2026-11-23T00:00:00.000000Z":
            for line in json.loads(row["body"], parse_float=Decimal)["data"]:
                key = line["resource_type"], line["resource_id"], line["create_time"]
                final[key] = round(Decimal(line["total_bill"]), 9)
    assert sum(final.values()) == Decimal(truth(short, short.start_day)["paid_usd"])


def test_segments_are_whole_chained_and_in_order(laid: Path, segments: list[list[dict[str, Any]]]) -> None:
    previous: Path | None = None
    files = sorted(laid.glob("request_log/*.jsonl"))
    for sequence, (path, rows) in enumerate(zip(files, segments, strict=True)):
        content = path.read_bytes()
        head, seal = rows[0], rows[-1]
        assert [row["n"] for row in rows] == list(range(len(rows)))
        assert (head["k"], seal["k"], seal["by"], seal["torn"]) == ("head", "seal", "writer", 0)
        assert path.name.split(".")[0] == head["writer"] == "sim"
        assert int(path.name.split(".")[3]) == sequence
        assert head["prev"] == (previous.stem if previous else None)
        assert head["prev_sha256"] == (hashlib.sha256(previous.read_bytes()).hexdigest() if previous else None)
        body = content[: content.rindex(b"\n", 0, -1) + 1]
        assert (seal["rows"], seal["bytes"]) == (len(rows) - 1, len(body))
        assert seal["sha256"] == hashlib.sha256(body).hexdigest()
        instants = [row.get("at") or row.get("finished_at") or row["started_at"] for row in rows[1:-1]]
        assert instants == sorted(instants)
        previous = path


def test_every_request_begins_once_ends_once_and_is_open_in_between(
    segments: list[list[dict[str, Any]]],
) -> None:
    running: set[str] = set()
    crossing = 0
    for rows in segments:
        for row in rows:
            if row["k"] == "begin":
                assert row["request_id"] not in running
                running.add(row["request_id"])
            elif row["k"] == "end":
                running.remove(row["request_id"])
            elif row["k"] == "usage":
                assert row["request_id"] in running
        assert set(rows[-1]["open"]) == running
        crossing += len(running)
    assert crossing


def test_the_log_read_back_gives_what_was_served(segments: list[list[dict[str, Any]]], short: Scenario) -> None:
    ends = [row for rows in segments for row in rows if row["k"] == "end" and row["finished_at"] < "2026-11-23"]
    counted = [row for row in ends if not row["canary"]]
    served = sum((row["prompt_tokens"] or 0) + (row["completion_tokens"] or 0) for row in counted)
    figures = truth(short, short.start_day)
    assert (served, len(counted)) == (figures["served_tokens"], figures["requests"])
    assert len(ends) > len(counted)


def test_usage_lines_come_every_five_seconds_and_only_grow(segments: list[list[dict[str, Any]]]) -> None:
    last: dict[str, tuple[int, int]] = {}
    for rows in segments:
        for row in rows:
            if row["k"] == "usage":
                at_us, so_far = last.get(row["request_id"], (parse_us(row["at"]) - 5 * SECOND_US, 0))
                assert parse_us(row["at"]) - at_us <= 5 * SECOND_US
                assert row["completion_tokens"] >= so_far
                last[row["request_id"]] = parse_us(row["at"]), row["completion_tokens"]
            elif row["k"] == "end" and row["request_id"] in last:
                assert row["completion_tokens"] >= last[row["request_id"]][1]
    assert last


def test_health_changes_at_the_second_and_beats_each_minute(
    segments: list[list[dict[str, Any]]], short: Scenario
) -> None:
    rows = [row for rows in segments for row in rows]
    assert sum(row["k"] == "beat" for row in rows) == DAY_S // 60 + 16
    for vm in short.vms:
        for wake in vm.wakes:
            if wake.ready_s and wake.ready_s < short.end_s:
                first = min(
                    parse_us(row["at"])
                    for row in rows
                    if row["k"] == "health"
                    and row["vm_id"] == vm.id
                    and row["ready"]
                    and parse_us(row["at"]) >= wake.active_s * SECOND_US
                )
                assert first == wake.ready_s * SECOND_US


def test_engine_counters_end_where_the_requests_do(segments: list[list[dict[str, Any]]], short: Scenario) -> None:
    last: dict[tuple[int, str], tuple[int, int]] = {}
    for rows in segments:
        for row in rows:
            if row["k"] == "engine":
                counters = row["prompt_tokens_total"], row["generation_tokens_total"]
                before = last.get((row["vm_id"], row["process_started_at"]), (0, 0))
                assert counters >= before
                last[row["vm_id"], row["process_started_at"]] = counters
    for vm in short.vms:
        for wake in vm.wakes:
            if wake.ready_s and wake.until_s < UNTIL_S:
                mine = [
                    r
                    for r in short.requests
                    if r.vm_id == vm.id and wake.active_s <= r.started_us // SECOND_US < wake.until_s
                ]
                found = [
                    c
                    for (vm_id, at), c in last.items()
                    if vm_id == vm.id and parse_us(at) == wake.process_started_s * SECOND_US
                ]
                assert found == [
                    (sum(r.engine_prompt_tokens for r in mine), sum(r.engine_completion_tokens for r in mine))
                ]


def test_until_cuts_in_the_middle_of_an_hour(short: Scenario, tmp_path: Path, read_lines: ReadLines) -> None:
    until_s = short.start_s + 9 * HOUR_S + 1_850
    lay_down_raw(short, tmp_path, until_s)
    lay_down_log(short, tmp_path / "request_log", until_s)
    files = sorted(tmp_path.glob("raw/hyperstack/*/*.jsonl"))
    assert len(files) == 10
    assert read_lines(files[-1])[-1]["scheduled_at"] == "2026-11-22T09:30:00.000000Z"
    rows = read_lines(sorted(tmp_path.glob("request_log/*.jsonl"))[-1])
    assert max(row["at"] for row in rows if "at" in row) <= "2026-11-22T09:30:50.000000Z"
    assert rows[-1]["open"] == []
    begun = {row["request_id"] for row in rows if row["k"] == "begin"}
    assert begun <= {row["request_id"] for row in rows if row["k"] == "end"}


def test_lag_has_latency_and_counters_that_stand_still(tmp_path: Path, read_lines: ReadLines) -> None:
    scenario = Scenario.generate(2, date(2026, 11, 22), 1)
    lay_down_raw(scenario, tmp_path, scenario.start_s + HOUR_S - 1, lag=True)
    rows = read_lines(next(tmp_path.rglob("*.jsonl")))
    for row in rows:
        took_us = parse_us(row["finished_at"]) - parse_us(row["started_at"])
        assert 200_000 <= took_us <= 2_000_000
    assert [row["started_at"] for row in rows] == sorted(row["started_at"] for row in rows)
