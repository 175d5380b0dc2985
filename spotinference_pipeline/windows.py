"""UTC days and half-open windows.

Owns the only calendar arithmetic of the package: days, the trailing seven days, ranges of days as an operator types
them, and instants as text. It reads no clock: the present is passed in.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from spotinference_pipeline.errors import SettingsError

TRAILING_DAYS = 7
BOUNDED_DAYS = TRAILING_DAYS + 3
"""Days that end with D and that D's bounds are made of: requests of the three before its window may run into it."""
ONE_DAY = timedelta(days=1)
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)


@dataclass(frozen=True)
class Window:
    """Half-open stretch of UTC time: `start <= instant < end`."""

    start: datetime
    end: datetime

    @property
    def days(self) -> int:
        return (self.end - self.start) // ONE_DAY

    @property
    def last_day(self) -> date:
        """The UTC day that the window's last instant lies in."""
        return (self.end - timedelta(microseconds=1)).date()


def day_start(utc_day: date) -> datetime:
    """Give the first instant of a UTC day."""
    return datetime(utc_day.year, utc_day.month, utc_day.day, tzinfo=UTC)


def day_window(utc_day: date) -> Window:
    """Give the 24 hours of a UTC day."""
    return Window(day_start(utc_day), day_start(utc_day + ONE_DAY))


def month_window(utc_day: date) -> Window:
    """Give the calendar month of UTC that a day lies in."""
    first = utc_day.replace(day=1)
    return Window(day_start(first), day_start((first + 31 * ONE_DAY).replace(day=1)))


def trailing_window(utc_day: date) -> Window:
    """Give the seven closed UTC days of which `utc_day` is the last."""
    return Window(day_start(utc_day - (TRAILING_DAYS - 1) * ONE_DAY), day_start(utc_day + ONE_DAY))


def days_resting_on(days: Iterable[date]) -> set[date]:
    """Give every day of whose figures or bounds one of these days is a part: they, and the nine days after each."""
    return {day + offset * ONE_DAY for day in days for offset in range(BOUNDED_DAYS)}


def last_closed_day(now: datetime) -> date:
    """Give the newest UTC day that is over at `now`."""
    return now.astimezone(UTC).date() - ONE_DAY


def days_between(first: date, last: date) -> Iterator[date]:
    """Give each day from first to last, both included, oldest first."""
    for offset in range((last - first).days + 1):
        yield first + offset * ONE_DAY


def parse_day(text: str) -> date:
    """Read `2026-11-22`, and no other spelling of a day: not `20261122`, not `2026-W47-7`.

    Raises: ValueError when the text is not a day.
    """
    if not _DAY.fullmatch(text):
        raise ValueError("expected YYYY-MM-DD")
    return date.fromisoformat(text)


def parse_days(text: str) -> list[date]:
    """Read `2026-11-22` or `2026-11-16..2026-11-22`, both ends included, oldest first.

    Raises: SettingsError when the text is not a day or a range, or the range runs backwards.
    """
    first_text, dots, last_text = text.partition("..")
    try:
        first = parse_day(first_text)
        last = parse_day(last_text) if dots else first
    except ValueError:
        raise SettingsError(
            f"day {text!r}: expected YYYY-MM-DD or YYYY-MM-DD..YYYY-MM-DD; write for example 2026-11-16..2026-11-22"
        ) from None
    if first.year < 2015:
        raise SettingsError(f"day {first}: expected one since 2015, when there was nothing to bill; correct the year")
    if last < first:
        raise SettingsError(f"days {text!r}: expected the first day before the last; swap the two")
    return list(days_between(first, last))


def parse_closed_days(text: str, now: datetime) -> list[date]:
    """Read days as `parse_days` does, all of which are over at `now`.

    Raises: SettingsError when the text is not a day or a range, or the last day is not over.
    """
    days, last = parse_days(text), last_closed_day(now)
    if days[-1] > last:
        raise SettingsError(
            f"day {days[-1]}: expected a UTC day that is over, the last is {last}; wait for midnight UTC"
        )
    return days


def parse_month(text: str) -> tuple[date, date]:
    """Read `2026-11` as its first day and the first day after it.

    Raises: SettingsError when the text is not a month since 2015.
    """
    try:
        first = parse_day(f"{text}-01")
    except ValueError:
        first = date.min
    if first.year < 2015:
        raise SettingsError(f"month {text!r}: expected YYYY-MM since 2015; write for example 2026-11")
    return first, (first + 31 * ONE_DAY).replace(day=1)


def parse_instant(text: str) -> datetime:
    """Read an RFC 3339 or ISO 8601 instant; one without a zone is UTC (as Hyperstack sends them).

    Raises: ValueError when the text is not an instant.
    """
    instant = datetime.fromisoformat(text)
    return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)


def format_instant(instant: datetime) -> str:
    """Write an instant as RFC 3339 in UTC with microseconds and `Z`."""
    return instant.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def format_second(instant: datetime) -> str:
    """Write an instant as RFC 3339 in UTC with whole seconds and `Z`."""
    return instant.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def to_microseconds(instant: datetime) -> int:
    """Give whole microseconds since 1970-01-01 UTC."""
    return (instant - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
