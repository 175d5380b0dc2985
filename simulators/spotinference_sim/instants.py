"""Instants as integers: microseconds (`_us`) or whole seconds (`_s`) since 1970-01-01 UTC, and their
spellings.

Owns the spelling of instants in files and answers. Does not own the clock (`clock`). Integers keep the
truth exact: nano-dollars per second times microseconds are femto-dollars (1e-15 USD).
"""

from datetime import UTC, date, datetime, timedelta
from functools import lru_cache

SECOND_US = 1_000_000
MINUTE_S = 60
HOUR_S = 3600
DAY_S = 86_400
FOREVER_S = 2**40
"""Later than any instant that can be written: the end of what has not ended."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def day_start_s(day: date) -> int:
    """Count the seconds up to the day's first instant, UTC."""
    return (day - _EPOCH.date()).days * DAY_S


def day_of(at_s: int) -> date:
    """Name the UTC day of an instant."""
    return _EPOCH.date() + timedelta(days=at_s // DAY_S)


def to_us(moment: datetime) -> int:
    """Turn an aware datetime into microseconds, exactly."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


def to_datetime(at_us: int) -> datetime:
    """Turn microseconds into an aware datetime in UTC."""
    return _EPOCH + timedelta(microseconds=at_us)


def parse_us(text: str) -> int:
    """Read an RFC 3339 instant; without a zone it is UTC.

    Raises: ValueError when the text is no instant.
    """
    moment = datetime.fromisoformat(text)
    return to_us(moment if moment.tzinfo else moment.replace(tzinfo=UTC))


@lru_cache(maxsize=64)
def _day_text(day_number: int) -> str:
    return (_EPOCH.date() + timedelta(days=day_number)).isoformat()


def text_us(at_us: int) -> str:
    """Spell an instant with microseconds and `Z`, as our own files do."""
    second, micro = divmod(at_us, SECOND_US)
    return f"{text_s(second)}.{micro:06d}Z"


def text_s(at_s: int) -> str:
    """Spell a whole second without zone, as Hyperstack often does."""
    day, second = divmod(at_s, DAY_S)
    minute, second = divmod(second, 60)
    return f"{_day_text(day)}T{minute // 60:02d}:{minute % 60:02d}:{second:02d}"


def name_s(at_s: int) -> str:
    """Spell a whole second as file names do: `20261123T060000Z`."""
    return text_s(at_s).replace("-", "").replace(":", "") + "Z"


def http_date(at_s: int) -> str:
    """Spell a whole second as the HTTP `Date` header does."""
    return to_datetime(at_s * SECOND_US).strftime("%a, %d %b %Y %H:%M:%S GMT")
