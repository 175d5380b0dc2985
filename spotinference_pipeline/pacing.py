"""How often Hyperstack may be asked, and when it is left alone. Pure: exchanges and instants in, a verdict out.

Owns the limit in any sliding minute, the wait after 429, the pause that grows while everything fails, and the stop after
refusals of the key. A snapshot is a process of its own, so all of it is learnt from exchanges: those of the last raw files,
then those of the present snapshot. A call that a pause forbids is a line too; it carries the pause, so that what began
hours ago is known from the last line.

Source: the vendor's limit is 500 requests a minute and address, shared with everybody behind it; it documents no
`Retry-After`.
"""

import zlib
from collections import Counter, deque
from collections.abc import Iterable
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime

from spotinference_pipeline.answers import CREDIT, HISTORY, USAGE, VIRTUAL_MACHINES
from spotinference_pipeline.raw import Exchange, Pause

MOST_PER_MINUTE = 10
KEPT_FOR_RETRIES, KEPT_FOR_EXTRAS = 3, 4
"""Of these ten, what only first tries may use, and what only the four calls of each minute may use."""
ONE_MINUTE = timedelta(minutes=1)
LONGEST_PAUSE = timedelta(minutes=15)
LONGEST_RETRY_AFTER = timedelta(hours=1)
"""A longer `Retry-After` is not believed: it would blind the snapshots for a day at a word of some gateway."""
JITTER_SECONDS = 20
FAILURES_TO_PAUSE = 4
"""One minute's calls, all failed."""
REFUSALS_TO_PAUSE = 3
TOO_MANY_REQUESTS = 429
_SETTLED_STATUSES = frozenset({200, 400, 403, 404})
_JSON_ENDS = frozenset({"{}", "[]"})
LIMITED, FAILING, REFUSED = "limited", "failing", "refused"
_WORDS = {
    LIMITED: "Hyperstack asked for fewer requests (429)",
    FAILING: "Hyperstack fails",
    REFUSED: "Hyperstack refuses the key (401 or 403)",
}
NEW_KEY = "write a new key, or give this one the right to read billing"
_CORE = frozenset({USAGE, HISTORY, VIRTUAL_MACHINES, CREDIT})
"""Where 403 is about the key; elsewhere it may be about one resource or a right that the key lacks."""


class Pace:
    """What the exchanges so far tell about asking now.

    `key_changed_at`: when the file of the key was last written. A key newer than its refusal is tried at once.
    """

    def __init__(self, *, most_per_minute: int = MOST_PER_MINUTE, key_changed_at: datetime | None = None) -> None:
        self._most_per_minute = most_per_minute
        self._key_changed_at = key_changed_at
        self._asked: deque[datetime] = deque(maxlen=most_per_minute)
        self._failures = 0
        self._refusals = 0
        self._pause: Pause | None = None

    def learn(self, exchange: Exchange) -> None:
        """Take in one exchange; they come in the order in which they were made."""
        if exchange.pause is not None:
            self._remember(exchange.pause)
        elif was_asked(exchange):
            self._asked.append(exchange.started_at)
            self._judge(exchange)

    @property
    def is_refused(self) -> bool:
        """Whether the key was refused so often that only a try now and then is made."""
        return self._refusals >= REFUSALS_TO_PAUSE

    def pause_at(self, now: datetime) -> Pause | None:
        """Give the pause that forbids asking now; a clock that was set back ends it."""
        pause = self._pause
        if pause is None or not pause.began_at <= now < pause.ends_at:
            return None
        has_new_key = self._key_changed_at is not None and pause.began_at < self._key_changed_at <= now
        return None if pause.why == REFUSED and has_new_key else pause

    def has_room(self, now: datetime, kept: int = 0) -> bool:
        """Tell whether the minute that ends now leaves room for one more request, `kept` of them being left to others."""
        return len(self._in_minute(now)) < self._most_per_minute - kept

    def allowed_from(self, now: datetime) -> datetime:
        """Give the first instant from now on at which a request is allowed."""
        if pause := self.pause_at(now):
            return pause.ends_at
        asked = self._in_minute(now)
        return asked[0] + ONE_MINUTE if len(asked) >= self._most_per_minute else now

    def _in_minute(self, now: datetime) -> list[datetime]:
        return [instant for instant in self._asked if now - ONE_MINUTE < instant <= now]

    def _remember(self, pause: Pause) -> None:
        self._pause = pause
        if pause.why == REFUSED:
            self._refusals = pause.failures
        else:
            self._failures = pause.failures

    def _judge(self, exchange: Exchange) -> None:
        status, at = exchange.status, exchange.finished_at
        if status == 401 or (status == 403 and exchange.endpoint in _CORE):
            self._refusals += 1
            if self._refusals >= REFUSALS_TO_PAUSE:
                self._begin(REFUSED, at, LONGEST_PAUSE, self._refusals)
        elif is_settled(exchange):
            self._failures = self._refusals = 0
            self._pause = None
        else:
            self._failures += 1
            growing = min(ONE_MINUTE * 2 ** min(self._failures - FAILURES_TO_PAUSE, 10), LONGEST_PAUSE)
            if status == TOO_MANY_REQUESTS:
                asked_for = read_retry_after(exchange) or ONE_MINUTE
                self._begin(LIMITED, at, max(ONE_MINUTE, growing, asked_for), self._failures)
            elif self._failures >= FAILURES_TO_PAUSE:
                self._begin(FAILING, at, growing, self._failures)

    def _begin(self, why: str, at: datetime, length: timedelta, failures: int) -> None:
        self._pause = Pause(why=why, began_at=at, ends_at=at + length + jitter(at), failures=failures)


def was_asked(exchange: Exchange) -> bool:
    """Tell whether a request was sent; lines of calls that were left out say so."""
    return not (exchange.error or "").startswith("not asked: ")


def is_settled(exchange: Exchange) -> bool:
    """Tell whether the question was answered by the API itself, be it with no: asking again brings nothing else.

    Looks at the ends of the body only: pages of gateways and answers cut short are none; what is in it is for `answers`.
    """
    text = (exchange.body or "").strip()
    return exchange.status in _SETTLED_STATUSES and text[:1] + text[-1:] in _JSON_ENDS


def describe(pause: Pause) -> str:
    """Say why nothing is asked, and until when."""
    return f"{_WORDS.get(pause.why, pause.why)}: asked again from {pause.ends_at:%Y-%m-%dT%H:%M:%SZ}"


def name_commonest_problem(failed: Iterable[Exchange]) -> str | None:
    """Say on one line what most of the failed exchanges failed of, and what to do if there is something; None without any."""
    told = Counter(map(_name_problem, failed)).most_common(1)
    return told[0][0] if told else None


def _name_problem(exchange: Exchange) -> str:
    if exchange.status in (401, 403) or (exchange.pause and exchange.pause.why == REFUSED):
        return f"{_WORDS[REFUSED]}; {NEW_KEY}"
    if exchange.status is not None:
        return f"Hyperstack answered with status {exchange.status}"
    error = exchange.error or "no answer"
    if error.startswith("no answer: Connect"):
        return f"Hyperstack cannot be reached ({error}); correct SPOTINFERENCE_HYPERSTACK_URL or the network"
    return error


def jitter(instant: datetime) -> timedelta:
    """Give up to 20 s, as the instant's digits say: the same in each process that works it out, another in each place."""
    return timedelta(milliseconds=zlib.crc32(instant.isoformat().encode()) % (JITTER_SECONDS * 1000))


def read_retry_after(exchange: Exchange) -> timedelta | None:
    """Read how long an answer asks to be left alone: seconds, or an instant; None when it does not say or is not clear."""
    text = (exchange.retry_after or "").strip()
    if text.isascii() and text.isdigit():
        return min(timedelta(seconds=int(text[:9])), LONGEST_RETRY_AFTER)
    try:
        wait = parsedate_to_datetime(text) - exchange.finished_at
    except (TypeError, ValueError, OverflowError):
        return None
    return min(max(wait, timedelta()), LONGEST_RETRY_AFTER)
