"""Lay down past days as raw Hyperstack files, as if the minute snapshot had run all along.

Owns which calls a minute makes and how an exchange is spelt (docs/raw-files.md). The answers are those of
`hyperstack_answers`. One file an hour, named by its content, so a second run writes the same files.
"""

from collections.abc import Callable, Hashable, Iterator
from hashlib import sha256
from pathlib import Path
from random import Random

import msgspec

from spotinference_sim.faults import Faults
from spotinference_sim.hyperstack_answers import Answer, HyperstackAnswers
from spotinference_sim.hyperstack_gate import Fate, HyperstackGate
from spotinference_sim.instants import HOUR_S, MINUTE_S, SECOND_US, day_of, http_date, name_s, text_s, text_us
from spotinference_sim.lines import sealed, short_hash, write_once
from spotinference_sim.resources import Resource
from spotinference_sim.scenario import Scenario

DELETED_EVERY_MINUTES = 15
LATENCY_US = (200_000, 2_000_000)
VMS = "/core/virtual-machines"
USAGE = "/billing/billing/usage"

Question = tuple[str, dict[str, str]]
Spelt = tuple[int, str]
"""HTTP status, and the members of the line that hold the body."""
TIMEOUT_US = 30 * SECOND_US
"""How long the snapshot waits for an answer."""
BUDGET_US = 50 * SECOND_US
"""After that much of its minute the snapshot asks nothing more."""


def lay_down_raw(
    scenario: Scenario,
    data_dir: Path,
    until_s: int,
    lag: bool = False,
    faults: Faults | None = None,
    watches: Callable[[int], bool] = lambda _: True,
) -> None:
    """Write the exchanges of every minute from the scenario's start to `until_s`, inclusive; faults take the place of lag.

    Minutes, by their first second, that nobody `watches` leave nothing.
    """
    recorder = Recorder(scenario, lag, faults)
    for hour_s in range(scenario.start_s, until_s + 1, HOUR_S):
        lines: list[bytes] = []
        for minute_s in range(hour_s, min(hour_s + HOUR_S, until_s + 1), MINUTE_S):
            if watches(minute_s):
                lines.extend(recorder.minute(minute_s))
        if not lines:
            continue
        content = b"".join(lines)
        name = f"{name_s(hour_s)}.{short_hash(content)}.jsonl"
        write_once(data_dir / "raw" / "hyperstack" / day_of(hour_s).isoformat() / name, content)


def now_and_then(scenario: Scenario, every_s: int) -> Callable[[int], bool]:
    """Watch each `every_s` and the minute after each change: the same truth as each minute gives, in fewer bytes."""
    changed = {-(-spell.start_s // MINUTE_S) * MINUTE_S for resource in scenario.resources for spell in resource.spells}
    return lambda minute_s: minute_s % every_s == 0 or minute_s in changed


class Recorder:
    """Makes the lines of one minute after the other."""

    def __init__(self, scenario: Scenario, lag: bool, faults: Faults | None = None) -> None:
        self._gate = HyperstackGate(HyperstackAnswers(scenario, lag, faults)) if faults else None
        self._answers = self._gate.answers if self._gate else HyperstackAnswers(scenario, lag)
        self._scenario = self._answers.scenario
        self._lag = lag
        self._fleet: tuple[Hashable, Spelt] | None = None
        self._asked_s: int | None = None

    def minute(self, minute_s: int) -> Iterator[bytes]:
        """Make the exchanges that belong to a minute, in the order in which they are made."""
        rng = Random(f"{self._scenario.seed}/latency/{minute_s}")  # noqa: S311 seeded on purpose
        started_us = minute_s * SECOND_US
        for path, query in self.questions(minute_s):
            if self._gate:
                if started_us < minute_s * SECOND_US + BUDGET_US:
                    line, started_us = self._passage(self._gate, minute_s, path, query, started_us)
                    yield line
                continue
            latency_us = rng.randint(*LATENCY_US) if self._lag else 0
            yield self._exchange(minute_s, path, query, started_us, latency_us)
            started_us += latency_us

    def questions(self, minute_s: int) -> Iterator[Question]:
        """List what the snapshot asks in a minute."""
        before_s = minute_s - MINUTE_S if self._asked_s is None else self._asked_s
        self._asked_s = minute_s
        month_start = f"{text_s(minute_s)[:7]}-01T00:00:00"
        yield USAGE, {"deleted": "false"}
        if text_s(minute_s) != month_start:
            yield "/billing/billing/history", {"start_date": month_start, "end_date": text_s(minute_s)}
        yield VMS, {}
        yield "/billing/user-credit/credit", {}
        resources = self._scenario.resources
        left = any(_ended_between(r, before_s, minute_s) for r in resources)
        if left or minute_s // MINUTE_S % DELETED_EVERY_MINUTES == 0:
            yield USAGE, {"deleted": "true"}
        for vm in self._scenario.vms:
            now, before = vm.spell_at(minute_s), vm.spell_at(before_s)
            if now and (before is None or before.status != now.status):
                yield f"{VMS}/{vm.id}/events", {}
        if minute_s % HOUR_S == 0:
            yield "/pricebook", {}
            yield "/core/volumes", {}
            if any(resource.kind == "snapshot" for resource in resources):
                yield "/core/snapshots", {}

    def _passage(
        self, gate: HyperstackGate, minute_s: int, path: str, query: dict[str, str], started_us: int
    ) -> tuple[bytes, int]:
        """Make the line of one call through the gate; gives the instant of its end, too."""
        passage = gate.passage(path, query, started_us)
        error: str | None = None
        finished_us = started_us + min(passage.delay_us, TIMEOUT_US)
        if passage.fate is Fate.RESET:
            error = "connection reset by peer"
        elif passage.fate is Fate.HANGS or passage.delay_us >= TIMEOUT_US:
            error, finished_us = "no answer within 30 s", started_us + TIMEOUT_US
        if error:
            return _line(minute_s, path, query, (started_us, finished_us), None, error), finished_us
        return _line(minute_s, path, query, (started_us, finished_us), _spelt(passage.answer)), finished_us

    def _exchange(self, minute_s: int, path: str, query: dict[str, str], started_us: int, latency_us: int) -> bytes:
        finished_us = started_us + latency_us
        asked_us = started_us + latency_us // 2
        is_fleet = path == VMS
        answered = self._fleet_answer(asked_us) if is_fleet else _spelt(self._answers.answer(path, query, asked_us))
        return _line(minute_s, path, query, (started_us, finished_us), answered)

    def _fleet_answer(self, asked_us: int) -> Spelt:
        """Spell the machine list again only when it changed: it is most of the bytes."""
        key = self._answers.core.fleet_key(asked_us // SECOND_US)
        if self._fleet is None or self._fleet[0] != key:
            self._fleet = key, _spelt(self._answers.answer(VMS, {}, asked_us))
        return self._fleet[1]


def _line(
    minute_s: int,
    path: str,
    query: dict[str, str],
    took: tuple[int, int],
    answered: Spelt | None,
    error: str | None = None,
) -> bytes:
    """Spell one exchange."""
    if answered:
        date = http_date(took[1] // SECOND_US)
        outcome = f',"status":{answered[0]},"date":"{date}"{answered[1]},"error":null'
    else:
        outcome = f',"status":null,"date":null,"sha256":null,"body":null,"error":"{error}"'
    return sealed(
        f'{{"v":1,"scheduled_at":"{text_us(minute_s * SECOND_US)}","started_at":"{text_us(took[0])}"'
        f',"finished_at":"{text_us(took[1])}","endpoint":"{path}"'
        f',"query":{msgspec.json.encode(query).decode()}{outcome}'
    )


def _spelt(answer: Answer) -> Spelt:
    text = msgspec.json.encode(answer.body.decode()).decode()
    return answer.status, f',"sha256":"{sha256(answer.body).hexdigest()}","body":{text}'


def _ended_between(resource: Resource, after_s: int, until_s: int) -> bool:
    return after_s < resource.ended_s <= until_s
