"""Lay down the request log of past days: sealed segments, one an hour, as the proxy would have written them.

Owns the spelling of every line kind (docs/request-log.md) and which lines an hour holds. Segments are named
and chained by content, so a second run writes the same files.
"""

import json
from collections import defaultdict
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from spotinference_sim.engine_counters import EngineCounters
from spotinference_sim.instants import HOUR_S, MINUTE_S, SECOND_US, name_s, text_us
from spotinference_sim.lines import sealed, short_hash, write_once
from spotinference_sim.losses import LogLosses
from spotinference_sim.request import Request
from spotinference_sim.resources import Vm
from spotinference_sim.scenario import Scenario

WRITER = "sim"
USAGE_EVERY_US = 5 * SECOND_US
_COMPACT = (",", ":")

Entry = tuple[int, int, str, str]
"""Instant, order within it, kind, members after `n`."""


def lay_down_log(
    scenario: Scenario, log_dir: Path, until_s: int, losses: LogLosses | None = None, every_s: int = MINUTE_S
) -> None:
    """Write the segments of every hour from the scenario's start to `until_s`, inclusive, as far as they are not lost.

    Health, counters and beats come `every_s`, changes of health at their second.
    A request that has not ended by then is left out whole: its writer never comes back to end it.
    """
    boot = short_hash(f"{scenario.seed}/{scenario.start_day}/{scenario.days}/boot".encode())
    previous, previous_sha = "null", "null"
    hours = _hours(scenario, until_s, every_s)
    for sequence, (hour_s, entries, running) in enumerate(hours):
        head = f'"writer":"{WRITER}","started_at":"{text_us(hour_s * SECOND_US)}"'
        head += f',"prev":{previous},"prev_sha256":{previous_sha}'
        content = _segment([("head", head), *((kind, rest) for _, _, kind, rest in entries)], running)
        name = f"{WRITER}.{boot}.{name_s(hour_s)}.{sequence:06d}.{short_hash(content)}"
        if losses is None:
            write_once(log_dir / f"{name}.jsonl", content)
        elif losses.keeps_segment(scenario.seed, hour_s):
            write_once(log_dir / f"{name}.jsonl", _rest(content, losses, scenario.seed, hour_s))
        previous, previous_sha = f'"{name}"', f'"{sha256(content).hexdigest()}"'


def _rest(content: bytes, losses: LogLosses, seed: int, hour_s: int) -> bytes:
    """Cut lost lines out of a segment; head and seal stay."""
    head, *lines, seal = content.splitlines(keepends=True)
    kept = (line for place, line in enumerate(lines) if losses.keeps_line(seed, hour_s, place))
    return b"".join((head, *kept, seal))


def _segment(rows: list[tuple[str, str]], running: list[str]) -> bytes:
    body = b"".join(sealed(f'{{"v":1,"k":"{kind}","n":{place},{rest}') for place, (kind, rest) in enumerate(rows))
    seal = f'{{"v":1,"k":"seal","n":{len(rows)},"rows":{len(rows)},"bytes":{len(body)}'
    unended = json.dumps(running, separators=_COMPACT)
    seal += f',"sha256":"{sha256(body).hexdigest()}","open":{unended},"torn":0,"by":"writer"'
    return body + sealed(seal)


def _hours(scenario: Scenario, until_s: int, every_s: int) -> Iterator[tuple[int, list[Entry], list[str]]]:
    """Walk the hours: start, entries in order, ids still running at the end."""
    waiting: dict[int, list[Entry]] = defaultdict(list)
    pulse = Pulse(scenario, every_s)
    requests = (r for r in scenario.requests if r.finished_us <= until_s * SECOND_US)
    upcoming = next(requests, None)
    running: dict[str, int] = {}
    for hour_s in range(scenario.start_s, until_s + 1, HOUR_S):
        end_us = min((hour_s + HOUR_S) * SECOND_US, until_s * SECOND_US + 1)
        while upcoming and upcoming.started_us < end_us:
            for entry in request_entries(upcoming):
                waiting[entry[0] // SECOND_US // HOUR_S * HOUR_S].append(entry)
            running[upcoming.request_id] = upcoming.finished_us
            upcoming = next(requests, None)
        entries = [*pulse.entries(hour_s, end_us), *waiting.pop(hour_s, [])]
        running = {request_id: at_us for request_id, at_us in running.items() if at_us >= end_us}
        yield hour_s, sorted(entry for entry in entries if entry[0] < end_us), list(running)


def request_entries(request: Request) -> Iterator[Entry]:
    """Spell the lines of one request: begin, usage while it streams, end."""
    begin = (
        f'"request_id":"{request.request_id}","started_at":"{text_us(request.started_us)}"'
        f',"endpoint":"{request.endpoint}","requested_model":{json.dumps(request.requested_model)}'
        f',"stream":{json.dumps(request.stream)},"vm_id":{json.dumps(request.vm_id)}'
        f',"key_id":{json.dumps(request.key_id)},"canary":{json.dumps(request.canary)}'
    )
    yield request.started_us, 5, "begin", begin
    if request.stream and request.prompt_tokens is not None and request.first_byte_us:
        yield from _usage_entries(request, request.first_byte_us)
    first = f'"{text_us(request.first_byte_us)}"' if request.first_byte_us else "null"
    names = ("prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens")
    tokens = "".join(f',"{name}":{json.dumps(getattr(request, name))}' for name in names)
    end = (
        f'{begin},"model":{json.dumps(request.model)},"finished_at":"{text_us(request.finished_us)}"'
        f',"first_byte_at":{first},"status":{request.status}'
        f',"upstream_status":{json.dumps(request.upstream_status)},"end_reason":"{request.end_reason}"'
        f',"usage_source":"{request.usage_source}"{tokens},"choices":{request.choices}'
    )
    yield request.finished_us, 7, "end", end


def _usage_entries(request: Request, first_us: int) -> Iterator[Entry]:
    completion = request.completion_tokens or 0
    span_us = request.finished_us - first_us
    for at_us in range(first_us + USAGE_EVERY_US, request.finished_us, USAGE_EVERY_US):
        so_far = completion * (at_us - first_us) // span_us
        counts = f'"prompt_tokens":{request.prompt_tokens},"completion_tokens":{so_far}'
        yield at_us, 6, "usage", f'"request_id":"{request.request_id}","at":"{text_us(at_us)}",{counts}'


class Pulse:
    """The lines that come with no request: health, engine counters, beats."""

    def __init__(self, scenario: Scenario, every_s: int = MINUTE_S) -> None:
        self._every_s = every_s
        self._vms = [vm for vm in scenario.vms if vm.model]
        by_vm: dict[int, list[Request]] = defaultdict(list)
        everything = (*scenario.requests, *scenario.past_the_proxy)
        for request in sorted(everything, key=lambda request: request.started_us):
            if request.vm_id is not None:
                by_vm[request.vm_id].append(request)
        self._counters = {vm.id: EngineCounters(by_vm[vm.id]) for vm in self._vms}

    def entries(self, hour_s: int, end_us: int) -> Iterator[Entry]:
        """Spell an hour's lines: those of the clock at its instants, by default each minute, and changes of health at theirs."""
        end_s = -(-end_us // SECOND_US)
        for minute_s in range(hour_s, end_s, self._every_s):
            at = text_us(minute_s * SECOND_US)
            for vm in self._vms:
                if vm.spell_at(minute_s):
                    yield _health(vm, minute_s)
                    yield from self._engine(vm, minute_s)
            yield minute_s * SECOND_US, 2, "beat", f'"at":"{at}"'
        for vm in self._vms:
            for wake in vm.wakes:
                for at_s in (wake.ready_s, wake.until_s):
                    if wake.ready_s and at_s and hour_s <= at_s < end_s and at_s % self._every_s:
                        yield _health(vm, at_s)

    def _engine(self, vm: Vm, at_s: int) -> Iterator[Entry]:
        wake = vm.wake_at(at_s)
        if wake is None:
            return
        at_us = at_s * SECOND_US
        prompt, generation = self._counters[vm.id].read(wake, at_us)
        rest = f'"at":"{text_us(at_us)}",{_upstream(vm)}'
        rest += f',"process_started_at":"{text_us(wake.process_started_s * SECOND_US)}"'
        rest += f',"prompt_tokens_total":{prompt},"generation_tokens_total":{generation}'
        yield at_us, 1, "engine", rest


def _upstream(vm: Vm) -> str:
    return f'"vm_id":{vm.id},"upstream":"http://127.0.0.1:18000/vm/{vm.id}"'


def _health(vm: Vm, at_s: int) -> Entry:
    ready = json.dumps(vm.wake_at(at_s) is not None)
    at_us = at_s * SECOND_US
    return at_us, 0, "health", f'"at":"{text_us(at_us)}",{_upstream(vm)},"ready":{ready}'
