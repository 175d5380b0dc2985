"""A whole day of minutes against a Hyperstack that fails all day, each snapshot a client of its own: requests counted."""

import os
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest

from spotinference_pipeline import raw, snapshot
from spotinference_pipeline.hyperstack import Hyperstack
from spotinference_pipeline.pacing import Pace, was_asked

pytestmark = pytest.mark.no_cover  # whole simulated days: tracing would double their time

MIDNIGHT = datetime(2026, 11, 22, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
Fails = Callable[["Day", httpx.Request], httpx.Response | None]
"""Answers a request badly, or leaves it to the day to answer it well."""


class Day:
    """Virtual time and a fake Hyperstack of one machine; it remembers when it was asked, and what each snapshot did."""

    def __init__(self, words: Any, folder: Path, fails: Fails, seed: int = 1) -> None:
        self.words = words
        self.folder = folder
        self.fails = fails
        self.random = random.Random(seed)
        self.now = MIDNIGHT
        self.key_changed_at: datetime | None = None
        self.asked: list[datetime] = []
        self.taken: list[snapshot.Snapshot] = []
        self.longest = 0.0

    def answer(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(self.now)
        bad = self.fails(self, request)
        self.now += timedelta(seconds=self.random.uniform(0.2, 2))
        return bad or httpx.Response(200, stream=httpx.ByteStream(self._content(request)))

    def _content(self, request: httpx.Request) -> bytes:
        path = request.url.path.removeprefix("/v1")
        if path == "/billing/billing/usage":
            return self.words.usages(*([] if request.url.params["deleted"] == "true" else [self.words.usage()]))
        if path == "/core/virtual-machines":
            return self.words.fleet(self.words.machine())
        return b'{"status": true}'

    def elapsed(self) -> float:
        return (self.now - MIDNIGHT).total_seconds()

    def take(self) -> snapshot.Snapshot:
        began = self.now
        pace = Pace(key_changed_at=self.key_changed_at)
        transport = httpx.MockTransport(self.answer)
        with Hyperstack(
            "https://h.test/v1",
            "key",
            lambda: self.now,
            pace=pace,
            elapsed=self.elapsed,
            transport=transport,
        ) as api:
            self.taken.append(snapshot.take(api, self.folder, lambda: self.now))
        self.longest = max(self.longest, (self.now - began).total_seconds())
        return self.taken[-1]

    def live(self, minutes: int) -> "Day":
        """Take a snapshot each minute, some seconds into it."""
        for _ in range(minutes):
            start = self.now.replace(second=0, microsecond=0)
            self.now = max(self.now, start + timedelta(seconds=self.random.uniform(0, 30)))
            self.take()
            self.now = max(start + MINUTE, self.now)
        return self

    def most_in_a_minute(self) -> int:
        return max(
            sum(first <= at < first + MINUTE for at in self.asked[place : place + 50])
            for place, first in enumerate(self.asked)
        )

    def landed(self) -> list[raw.Exchange]:
        files = raw.list_files(self.folder)
        return [
            line
            for file in files
            for _, line in raw.read_exchanges(file.read_bytes())
            if isinstance(line, raw.Exchange)
        ]


def say(status: int, **headers: str) -> Fails:
    return lambda day, request: httpx.Response(status, headers=headers, stream=httpx.ByteStream(b"<h1>no</h1>"))


def hang(day: Day, request: httpx.Request) -> httpx.Response:
    day.now += timedelta(seconds=20)
    raise httpx.ReadTimeout("")


def reset(day: Day, request: httpx.Request) -> httpx.Response:
    raise httpx.ReadError("")


def five_percent(day: Day, request: httpx.Request) -> httpx.Response | None:
    if day.random.random() >= 0.05:
        return None
    return day.random.choice([say(500), say(502), say(200), reset, hang])(day, request)


def now_and_then(day: Day, request: httpx.Request) -> httpx.Response | None:
    """Nine of ten fail, so that no pause grows for long."""
    return say(503)(day, request) if day.random.random() < 0.9 else None


IS_SOAK = os.environ.get("HYPOTHESIS_PROFILE") == "soak"
WHOLE_DAY = frozenset({"429", "500"})
"""What the gate plays for all 1,440 minutes; the others it plays for four hours, and `make soak` for a day."""
FAULTS: dict[str, tuple[Fails, int]] = {
    "429": (say(429), 130),
    "429 with Retry-After": (say(429, **{"retry-after": "600"}), 150),
    "500": (say(500), 110),
    "HTML": (say(502), 110),
    "hang": (hang, 110),
    "reset": (reset, 110),
    "401": (say(401), 110),
    "403": (say(403), 110),
    "redirect": (say(302, location="https://elsewhere.test/"), 110),
    "nine of ten": (now_and_then, 5 * 1440),
}


@pytest.mark.parametrize("name", FAULTS)
def test_F040_F041_F042_a_day_of_failures_keeps_the_pace_and_every_minute_has_a_record(
    words: Any, ram_path: Path, name: str
) -> None:
    fails, most = FAULTS[name]
    minutes = 1440 if IS_SOAK or name in WHOLE_DAY else 240
    day = Day(words, ram_path, fails).live(minutes)
    landed = day.landed()
    print(
        f"{name}: {len(day.asked)} requests in {minutes} minutes, at most {day.most_in_a_minute()} in 60 s, longest snapshot"
        f" {day.longest:.1f} s, {sum(file.stat().st_size for file in raw.list_files(ram_path))} bytes"
    )
    assert day.most_in_a_minute() <= 10
    assert len(day.asked) <= most
    assert day.longest <= 50
    assert {line.scheduled_at for line in landed} == {MIDNIGHT + n * MINUTE for n in range(minutes)}
    assert sum(map(was_asked, landed)) == len(day.asked)
    quarters = [sum(first <= at < first + 15 * MINUTE for at in day.asked) for first in day.asked]
    assert max(quarters) <= 15 * 5 + 10


def test_F041_a_day_with_five_percent_of_faults_reads_the_counters_in_nearly_every_minute(
    words: Any, ram_path: Path
) -> None:
    minutes = 1440 if IS_SOAK else 360
    day = Day(words, ram_path, five_percent).live(minutes)
    good = {
        line.scheduled_at
        for line in day.landed()
        if line.status == 200 and line.endpoint.endswith("/usage") and b'"data"' in (line.body_bytes() or b"")
    }
    print(f"{len(good)} of {minutes} minutes, {len(day.asked)} requests, at most {day.most_in_a_minute()} in 60 s")
    assert len(good) >= minutes - 2
    assert day.most_in_a_minute() <= 10
    assert len(day.asked) / minutes <= 5
    assert day.longest <= 50


def test_the_pace_of_a_day_is_not_kept_by_a_client_that_forgets(words: Any, ram_path: Path) -> None:
    """Negative control: without the raw files of the minutes before, a day of 500 is asked all day."""
    forgetful = Day(words, ram_path, say(500))
    for minute in range(30):
        forgetful.folder = ram_path / str(minute)
        forgetful.live(1)
    assert len(forgetful.asked) >= 4 * 30


def test_F040_the_wait_after_a_429_is_kept_over_processes(words: Any, ram_path: Path) -> None:
    day = Day(words, ram_path, say(429)).live(200)
    waits = [second - first for first, second in pairwise(day.asked)]
    assert min(waits) >= MINUTE
    assert max(waits) <= timedelta(minutes=15 + 2)
    assert len(set(waits)) == len(waits), "jitter: no beat"


def test_F041_an_api_that_comes_back_is_asked_for_everything_within_the_longest_pause(
    words: Any, ram_path: Path
) -> None:
    day = Day(words, ram_path, reset).live(6 * 60)
    day.fails = lambda day, request: None
    back = day.now
    day.live(17)
    good = [taken for taken in day.taken if taken.scheduled_at >= back and taken.exchanges and not taken.failed]
    assert good[0].scheduled_at <= back + 16 * MINUTE
    day.live(5)
    assert (day.taken[-1].exchanges, day.taken[-1].failed, day.taken[-1].left_out, day.taken[-1].pause) == (
        4,
        0,
        0,
        None,
    )


def test_F056_a_refused_key_is_said_once_tried_rarely_and_recovers_by_itself(words: Any, ram_path: Path) -> None:
    day = Day(words, ram_path, lambda day, request: None).live(10)
    day.fails = say(401)
    before = len(day.asked)
    first = day.live(1).taken[-1]
    assert len(day.asked) - before == 3
    assert str(first.alarm).startswith("Hyperstack refuses the key (401 or 403): asked again from 2026-11-22T00:2")
    assert (first.exchanges, first.failed) == (3, 3)
    assert first.left_out > 0
    day.live(120)
    assert [taken.alarm for taken in day.taken if taken.alarm] == [first.alarm], "once"
    assert all(taken.pause for taken in day.taken[10:])
    assert 7 <= len(day.asked) - before - 3 <= 8
    day.fails = lambda day, request: None
    day.live(20)
    assert (day.taken[-1].pause, day.taken[-1].failed) == (None, 0)
    day.fails = say(403)
    assert day.live(1).taken[-1].alarm, "another refusal is another alarm"


def test_F056_a_new_key_in_the_file_is_tried_in_the_next_minute(words: Any, ram_path: Path) -> None:
    day = Day(words, ram_path, say(401)).live(5)
    assert day.taken[-1].exchanges == 0
    day.key_changed_at = day.now
    day.fails = lambda day, request: None
    assert day.live(1).taken[-1].failed == 0
    assert day.taken[-1].exchanges == 6
    assert day.taken[-1].pause is None


def test_snapshots_by_hand_beside_the_minute_keep_the_limit(words: Any, ram_path: Path) -> None:
    day = Day(words, ram_path, lambda day, request: None)
    for _ in range(6):
        day.take()
    assert day.most_in_a_minute() == 10
