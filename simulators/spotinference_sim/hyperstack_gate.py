"""What stands between a client and the answers: the key, the rate limit, outages, flaky endpoints, latency, lost calls.

Owns what becomes of a call. Does not own answers (`hyperstack_answers`) or HTTP (`hyperstack_app`). The rate
limit counts calls and so depends on their order; everything else follows from the seed, the call, its
instant and how often the same was asked at the same instant.

Source: Hyperstack API documentation of 2026-11: 500 requests a minute, five endpoints that answer 500 now and then.
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

import msgspec

from spotinference_sim.chances import chance
from spotinference_sim.faults import Stretch
from spotinference_sim.hyperstack_answers import Answer, HyperstackAnswers
from spotinference_sim.instants import MINUTE_S, SECOND_US

SLOW_US = 40 * SECOND_US
_HISTORY = r"/billing/billing/history"
FLAKY = re.compile(
    rf"{_HISTORY}/virtual-machine/\d+|{_HISTORY}/snapshot/\d+(/graph)?"
    r"|/billing/billing/(virtual-machine|volume)/\d+/billing-events"
)
"""The five endpoints that are documented to fail from time to time."""
HTML = b"<html><head><title>Bad Gateway</title></head><body><h1>Bad Gateway</h1></body></html>\n"


class Fate(Enum):
    """What happens to a call."""

    ANSWERED = "answered"
    HANGS = "hangs"
    RESET = "reset"


@dataclass(frozen=True, slots=True)
class Passage:
    """How a call ends: after `delay_us`, with an answer unless it hangs or is reset."""

    fate: Fate
    delay_us: int
    answer: Answer


def error_answer(status: int, message: str, reason: str | None, retry_after_s: int | None = None) -> Answer:
    """Make an error in the API's shape; the old shape has a message only."""
    envelope = {"status": False, "message": message, "error_reason": reason} if reason else {"message": message}
    return Answer(status, msgspec.json.encode(envelope), retry_after_s=retry_after_s)


class HyperstackGate:
    """Lets calls through, or not; `answers` are what is behind it."""

    def __init__(self, answers: HyperstackAnswers) -> None:
        self.answers = answers
        self._faults = answers.faults
        self._seed = answers.scenario.seed
        self._start_us = answers.scenario.start_s * SECOND_US
        self._minute = 0
        self._calls = 0
        self._instant_us = 0
        self._asked: Counter[str] = Counter()

    def passage(self, path: str, query: Mapping[str, str], now_us: int) -> Passage:
        """Decide what becomes of a call with the right key."""
        about = f"{path}?{sorted(query.items())}"
        if now_us != self._instant_us:
            self._instant_us = now_us
            self._asked.clear()
        self._asked[about] += 1
        asked = (self._seed, about, now_us, self._asked[about])
        shortest_s, longest_s = self._faults.latency_s
        delay_us = 0
        if longest_s:
            delay_us = round((shortest_s + (longest_s - shortest_s) * chance(*asked, "latency_s")) * SECOND_US)
        if chance(*asked, "slow_share") < self._faults.slow_share:
            delay_us = SLOW_US
        fate = Fate.ANSWERED
        if chance(*asked, "hang_share") < self._faults.hang_share:
            fate = Fate.HANGS
        elif chance(*asked, "reset_share") < self._faults.reset_share:
            fate = Fate.RESET
        two_shapes = chance(*asked, "shape") < 0.5
        is_flaky = FLAKY.fullmatch(path) is not None and chance(*asked, "flaky_share") < self._faults.flaky_share
        answer = self._refusal(now_us, two_shapes, is_flaky)
        return Passage(fate, delay_us, answer or self.answers.answer(path, query, now_us + delay_us // 2))

    def _refusal(self, now_us: int, two_shapes: bool, is_flaky: bool) -> Answer | None:
        if self._is_over_limit(now_us):
            return self._too_many(now_us)
        if self._lies_in(self._faults.outage_s, now_us):
            return self._outage(now_us, two_shapes)
        if self._lies_in(self._faults.revoked_s, now_us):
            return error_answer(401, "Unauthorized", "unauthorized")
        if is_flaky:
            if self._faults.flaky_html:
                return Answer(500, HTML, "text/html")
            return _server_error(two_shapes)
        return None

    def _lies_in(self, stretch: Stretch, now_us: int) -> bool:
        return stretch is not None and stretch[0] * SECOND_US <= now_us - self._start_us < stretch[1] * SECOND_US

    def _is_over_limit(self, now_us: int) -> bool:
        """Count the call in its minute."""
        minute = now_us // SECOND_US // MINUTE_S
        if minute != self._minute:
            self._minute, self._calls = minute, 0
        self._calls += 1
        return 0 < self._faults.rate_limit < self._calls

    def _too_many(self, now_us: int) -> Answer:
        left_s = MINUTE_S - now_us // SECOND_US % MINUTE_S
        wait_s = left_s if self._faults.retry_after else None
        return error_answer(429, "Too many requests. Please try again later.", "too_many_requests", wait_s)

    def _outage(self, now_us: int, two_shapes: bool) -> Answer:
        status = self._faults.outage_status
        if status == 429:
            return self._too_many(now_us)
        return _server_error(two_shapes) if status == 500 else Answer(status, HTML, "text/html")


def _server_error(two_shapes: bool) -> Answer:
    if two_shapes:
        return error_answer(500, "Something went wrong on our side.", "server_error")
    return error_answer(500, "Internal Server Error", None)
