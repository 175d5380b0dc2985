"""One minute of Hyperstack, landed as one immutable raw file. Touches no database.

Owns which calls a minute takes. Four each minute: counters, organisation total, fleet, credit. Beside them, two at most:
counters of terminated resources every 15 minutes and as soon as a known id has left; price book, volumes and snapshots of
machines every hour, each in a minute of its own; a machine's events when its status has changed. What finds no room waits
its turn. A minute in which nothing may be asked lands all the same, so that no line can only mean that nobody was there.
How often may be asked is `pacing`'s, what is known of before `snapshot_memory`'s. A missed minute costs resolution, never
money.
"""

import fcntl
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from spotinference_pipeline import answers, raw
from spotinference_pipeline.errors import RawFileError, SnapshotRunningError
from spotinference_pipeline.hyperstack import Hyperstack, minute_of
from spotinference_pipeline.pacing import KEPT_FOR_EXTRAS, NEW_KEY, describe, is_settled, was_asked
from spotinference_pipeline.snapshot_memory import TERMINATED, Memory, read_back

SCHEDULE = {
    TERMINATED: (15, 0),
    answers.PRICE_BOOK: (60, 5),
    answers.VOLUMES: (60, 10),
    answers.SNAPSHOTS: (60, 20),
}
"""Every so many minutes, in that minute of them: no two at once, so that a quiet minute takes five calls at most."""
QUARTER = timedelta(minutes=15)
EXTRAS_AT_ONCE = 2
EXTRAS_PER_QUARTER = 15
"""Most calls beside the four, in 15 minutes: five a minute on the average, however much has changed."""


@dataclass(frozen=True)
class Snapshot:
    """What one snapshot did: calls asked, calls that failed of them, calls left out.

    `pause`: why nothing is asked at its end, and until when. `alarm`: something that a person must mend, said once.
    """

    path: Path
    scheduled_at: datetime
    exchanges: int
    failed: int
    left_out: int
    pause: str | None = None
    alarm: str | None = None


def take(hyperstack: Hyperstack, raw_dir: Path, clock: Callable[[], datetime]) -> Snapshot:
    """Take one snapshot now and land it.

    A failed call is a line in the file like any other, and so is one that may not be asked now. A second call in the same
    minute lands a second file.
    Raises: RawFileError when the file cannot be written. SnapshotRunningError while another snapshot runs: nothing is
    asked and nothing landed, the other one lands its minute.
    """
    with _alone(raw_dir):
        memory = Memory()
        for exchange in read_back(raw_dir):
            memory.learn(exchange)
            hyperstack.pace.learn(exchange)
        was_refused = hyperstack.pace.is_refused
        now = clock()
        taken = _ask_each_minute(hyperstack, minute_of(now), now)
        due = _due(memory, minute_of(now), taken)
        taken += _ask_extras(hyperstack, minute_of(now), clock, due, _quota(memory, minute_of(now)))
        path = raw.append_exchanges(raw_dir, taken, secrets.token_hex(4))
    asked = [exchange for exchange in taken if was_asked(exchange)]
    pause = hyperstack.pace.pause_at(clock())
    words = None if pause is None else describe(pause)
    return Snapshot(
        path,
        minute_of(now),
        exchanges=len(asked),
        failed=sum(map(_has_failed, asked)),
        left_out=len(taken) - len(asked),
        pause=words,
        alarm=f"{words}; {NEW_KEY}" if words and hyperstack.pace.is_refused and not was_refused else None,
    )


def _has_failed(exchange: raw.Exchange) -> bool:
    """Tell whether a call failed; that nobody knows a deleted machine's events any more is an answer."""
    return exchange.status != 200 and not (exchange.endpoint.endswith("/events") and is_settled(exchange))


def _ask_each_minute(hyperstack: Hyperstack, minute: datetime, now: datetime) -> list[raw.Exchange]:
    taken = hyperstack.fetch_usage(minute)
    month_start = minute.replace(day=1, hour=0, minute=0)
    if month_start < now:
        taken += hyperstack.fetch_history(minute, month_start, now)
    taken += hyperstack.fetch_virtual_machines(minute)
    taken += hyperstack.fetch_credit(minute)
    return taken


def _due(memory: Memory, minute: datetime, taken: list[raw.Exchange]) -> list[str]:
    """Name the calls that are due beside the four: what the clock says, what the answers just taken say, what is owed."""
    is_first, last_minute = memory.statuses is None, memory.last_minute
    for exchange in taken:
        memory.learn(exchange)
    if is_first:
        memory.owe_events(set(memory.statuses or ()))
    for name, (period, place) in SCHEDULE.items():
        passed = timedelta(minutes=(minute.hour * 60 + minute.minute - place) % period)
        if is_first or last_minute is None or minute - passed > last_minute:
            memory.owed.add(name)
    events = sorted(memory.owed - SCHEDULE.keys(), key=lambda name: (len(name), name))
    return [name for name in SCHEDULE if name in memory.owed] + events


def _quota(memory: Memory, minute: datetime) -> int:
    return EXTRAS_PER_QUARTER - sum(asked_at > minute - QUARTER for asked_at in memory.extras)


def _ask_extras(
    hyperstack: Hyperstack, minute: datetime, clock: Callable[[], datetime], due: list[str], quota: int
) -> list[raw.Exchange]:
    """Ask for what is due as far as there is room; the others leave a record and stay owed."""
    taken: list[raw.Exchange] = []
    for name in due:
        endpoint, query = (answers.USAGE, {"deleted": "true"}) if name == TERMINATED else (name, {})
        asked = sum(map(was_asked, taken))
        has_room = asked < min(EXTRAS_AT_ONCE, quota) and hyperstack.pace.has_room(clock(), KEPT_FOR_EXTRAS)
        if has_room or name == TERMINATED or hyperstack.pace.pause_at(clock()):
            taken += hyperstack.fetch(minute, endpoint, query)
        else:
            taken.append(hyperstack.leave_out(minute, endpoint, query, "waits its turn"))
    return taken


@contextmanager
def _alone(raw_dir: Path) -> Iterator[None]:
    """Hold the folder's lock; the operating system gives it back when the process ends, however it does."""
    try:
        raw_dir.mkdir(parents=True, exist_ok=True)
        folder = os.open(raw_dir, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise RawFileError(
            f"raw folder {raw_dir}: could not be written, found {error.strerror}; free space or correct permissions"
        ) from None
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise SnapshotRunningError(
            f"raw folder {raw_dir}: another snapshot is running and lands this minute; nothing to do"
        ) from None
    else:
        yield
    finally:
        os.close(folder)
