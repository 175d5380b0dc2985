"""How often Hyperstack may be asked, and when it is left alone: exchanges in, a verdict out."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spotinference_pipeline import answers, pacing, raw
from spotinference_pipeline.pacing import Pace

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)
JITTER = timedelta(seconds=pacing.JITTER_SECONDS)


def exchange(at: datetime, status: int | None = 200, endpoint: str = answers.USAGE, **changes: Any) -> raw.Exchange:
    values = {"scheduled_at": at, "started_at": at, "finished_at": at, "endpoint": endpoint, "query": {}}
    body = {} if status is None else raw.body_members(b'{"status": true}')
    return raw.Exchange(**(values | {"status": status} | body | changes))


def left_out(at: datetime, pause: raw.Pause | None) -> raw.Exchange:
    return exchange(at, None, error="not asked: because", pause=pause)


def pace_after(*statuses: int | None, **options: Any) -> tuple[Pace, datetime]:
    """A pace that has seen these answers, a second apart, and the instant of the last one."""
    pace = Pace(**options)
    for place, status in enumerate(statuses):
        pace.learn(exchange(NOON + place * SECOND, status))
    return pace, NOON + (len(statuses) - 1) * SECOND


def length(pace: Pace, now: datetime) -> timedelta:
    """How long the pause that now begins is, without its jitter, in whole minutes."""
    pause = pace.pause_at(now)
    assert pause is not None
    whole = (pause.ends_at - pause.began_at) // MINUTE * MINUTE
    assert pause.ends_at - pause.began_at - JITTER <= whole
    return whole


def test_F040_after_a_429_nothing_is_asked_for_a_minute_and_some_seconds() -> None:
    pace, now = pace_after(200, 429)
    assert length(pace, now) == MINUTE
    assert pace.pause_at(now + 59 * SECOND)
    assert pace.pause_at(now + MINUTE + JITTER) is None
    assert now + MINUTE <= pace.allowed_from(now) <= now + MINUTE + JITTER


@pytest.mark.parametrize(
    ("word", "seconds"),
    [
        ("120", 120),
        (" 120 ", 120),
        ("1", 60),
        ("0", 60),
        ("99999999999999", 3600),
        ("Sun, 22 Nov 2026 12:05:00 GMT", 300),
        ("Sun, 22 Nov 2026 11:00:00 GMT", 60),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 3600),
        ("Sun, 22 Nov 2026 12:05:00", 60),
        ("soon", 60),
        ("-5", 60),
        ("١٢٠", 60),
        ("", 60),
    ],
)
def test_F040_a_retry_after_is_honoured_up_to_an_hour(word: str, seconds: int) -> None:
    pace = Pace()
    pace.learn(exchange(NOON, 429, retry_after=word))
    wait = pace.allowed_from(NOON) - NOON
    assert timedelta(seconds=seconds) <= wait <= timedelta(seconds=seconds) + JITTER


def test_F041_a_pause_doubles_while_everything_fails_and_ends_at_a_quarter_of_an_hour() -> None:
    statuses: list[int | None] = [500, None, 502]
    assert pace_after(*statuses)[0].pause_at(NOON + 2 * SECOND) is None
    lengths = []
    for _ in range(7):
        statuses.append(500)
        lengths.append(length(*pace_after(*statuses)) // MINUTE)
    assert lengths == [1, 2, 4, 8, 15, 15, 15]


def test_F041_one_answer_ends_the_pause() -> None:
    pace, now = pace_after(500, 500, 500, 500, 500, 200)
    assert pace.pause_at(now) is None
    pace.learn(exchange(now + SECOND, 500))
    assert pace.pause_at(now + SECOND) is None


@pytest.mark.parametrize("status", [400, 404])
def test_an_answer_that_says_no_is_an_answer(status: int) -> None:
    pace, now = pace_after(500, 500, 500, status, 500, 500, 500)
    assert pace.pause_at(now) is None


@pytest.mark.parametrize("content", [b"", b"<html>", b'{"data": [', b"\xff{}", b"}{", b"null"])
def test_F043_an_answer_that_is_none_counts_as_a_failure(content: bytes) -> None:
    pace = Pace()
    body = {"body": None, "sha256": None} | raw.body_members(content)
    for second in range(4):
        pace.learn(exchange(NOON + second * SECOND, 200, **body))
    assert length(pace, NOON + 3 * SECOND) == MINUTE


def test_F056_after_three_refusals_in_a_row_the_key_is_tried_every_quarter_of_an_hour() -> None:
    assert not pace_after(401, 403, 200, 401, 403)[0].is_refused
    pace, now = pace_after(401, 403, 401)
    assert pace.is_refused
    assert length(pace, now) == 15 * MINUTE
    pace.learn(exchange(now + 20 * MINUTE, 401))
    assert length(pace, now + 20 * MINUTE) == 15 * MINUTE, "one try, not three"
    pace.learn(exchange(now + 40 * MINUTE, 200))
    assert not pace.is_refused
    assert pace.pause_at(now + 40 * MINUTE) is None


def test_F056_a_key_that_is_newer_than_its_refusal_is_tried_at_once() -> None:
    old, now = pace_after(401, 401, 401, key_changed_at=NOON - MINUTE)
    assert old.pause_at(now + MINUTE)
    new, now = pace_after(401, 401, 401, key_changed_at=NOON + MINUTE)
    assert new.pause_at(now + 2 * MINUTE) is None
    new.learn(exchange(now + 2 * MINUTE, 401))
    assert new.pause_at(now + 2 * MINUTE), "and once only"


def test_F056_a_file_from_the_future_is_no_new_key_yet() -> None:
    pace, now = pace_after(401, 401, 401, key_changed_at=NOON + 5 * MINUTE)
    assert pace.pause_at(now + MINUTE)
    assert pace.pause_at(now + 6 * MINUTE) is None


def test_F056_a_new_key_ends_no_pause_that_is_not_about_the_key() -> None:
    pace, now = pace_after(429, key_changed_at=NOON + SECOND)
    assert pace.pause_at(now + 2 * SECOND)


def test_F056_a_403_about_something_else_than_the_core_is_not_about_the_key() -> None:
    pace = Pace()
    for second in range(9):
        pace.learn(exchange(NOON + second * SECOND, 403, answers.VM_EVENTS.format(vm_id=second)))
    assert pace.pause_at(NOON + 9 * SECOND) is None


def test_a_pause_is_known_from_the_line_of_a_call_that_it_forbade() -> None:
    pause = raw.Pause(why=pacing.FAILING, began_at=NOON, ends_at=NOON + 15 * MINUTE, failures=9)
    pace = Pace()
    pace.learn(left_out(NOON + 5 * MINUTE, pause))
    assert pace.pause_at(NOON + 14 * MINUTE) == pause
    assert pace.pause_at(NOON + 15 * MINUTE) is None
    pace.learn(exchange(NOON + 16 * MINUTE, 500))
    assert length(pace, NOON + 16 * MINUTE) == 15 * MINUTE, "it goes on from nine failures"


def test_F056_a_refusal_is_known_from_the_line_of_a_call_that_it_forbade() -> None:
    pace, now = pace_after(401, 401, 401)
    later = Pace()
    later.learn(left_out(now + MINUTE, pace.pause_at(now)))
    assert later.is_refused
    assert later.pause_at(now + 2 * MINUTE) == pace.pause_at(now)


def test_a_clock_that_was_set_back_ends_a_pause() -> None:
    pace, now = pace_after(500, 500, 500, 500)
    assert pace.pause_at(now - timedelta(days=1)) is None
    assert pace.has_room(now - timedelta(days=1))


def test_what_was_not_asked_counts_as_nothing() -> None:
    pace = Pace()
    for _ in range(20):
        pace.learn(left_out(NOON, None))
    assert pace.has_room(NOON)
    assert pace.pause_at(NOON) is None


def test_room_is_kept_for_the_calls_of_each_minute() -> None:
    pace, now = pace_after(*[200] * 6)
    assert not pace.has_room(now, pacing.KEPT_FOR_EXTRAS)
    assert pace.has_room(now, pacing.KEPT_FOR_RETRIES)
    assert pace.has_room(now)
    full, now = pace_after(*[200] * 10)
    assert not full.has_room(now)
    assert full.allowed_from(now) == NOON + MINUTE
    assert full.has_room(NOON + MINUTE)


@given(st.lists(st.integers(0, 600), max_size=60))
def test_F040_no_minute_has_more_than_the_limit_whenever_one_asks(offsets: list[int]) -> None:
    pace, asked = Pace(), []
    for offset in sorted(offsets):
        now = NOON + offset / 2 * SECOND
        if pace.has_room(now):
            pace.learn(exchange(now))
            asked.append(now)
    assert all(sum(first <= at < first + MINUTE for at in asked) <= pacing.MOST_PER_MINUTE for first in asked)


@given(st.datetimes(min_value=datetime(2026, 1, 1), max_value=datetime(2027, 1, 1)))
def test_jitter_is_the_same_each_time_it_is_worked_out(instant: datetime) -> None:
    assert timedelta() <= pacing.jitter(instant) == pacing.jitter(instant) < JITTER


def test_jitter_differs_from_place_to_place() -> None:
    assert len({pacing.jitter(NOON + timedelta(microseconds=n)) for n in range(100)}) > 90


@pytest.mark.parametrize("why", [pacing.LIMITED, pacing.FAILING, pacing.REFUSED, "a word of tomorrow"])
def test_a_pause_is_said_in_one_line(why: str) -> None:
    pause = raw.Pause(why=why, began_at=NOON, ends_at=NOON + MINUTE, failures=4)
    assert pacing.describe(pause).endswith(": asked again from 2026-11-22T12:01:00Z")


@pytest.mark.parametrize(
    ("failed", "said"),
    [
        ([], None),
        ([(401, None), (502, None), (403, None)], "Hyperstack refuses the key (401 or 403); write a new key"),
        ([(502, None), (502, None), (401, None)], "Hyperstack answered with status 502"),
        ([(None, "no answer: ConnectTimeout")], "Hyperstack cannot be reached (no answer: ConnectTimeout)"),
        ([(None, "no answer: ReadError")], "no answer: ReadError"),
        ([(None, "not asked: Hyperstack fails: asked again from later")], "not asked: Hyperstack fails"),
    ],
)
def test_the_commonest_problem_is_named_with_what_to_do(failed: list[tuple[int | None, str | None]], said: str) -> None:
    named = pacing.name_commonest_problem(exchange(NOON, status, error=error) for status, error in failed)
    assert named is None if said is None else str(named).startswith(said)
