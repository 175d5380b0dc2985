"""The simulated engine and its lives: who runs, who waits, who is ended by id, and what dies with a process.

Owns admission, the abort call's rules and process starts. Does not own tokens in time (`vllm_sequence`),
counting (`vllm_totals`) nor HTTP (`vllm_serve`).

Source: vLLM 0.32.0, requests that wait, are left or ended by id, and processes that die.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from spotinference_sim.vllm_ask import Ask
from spotinference_sim.vllm_errors import AskError
from spotinference_sim.vllm_options import Options
from spotinference_sim.vllm_sequence import Generation, Sequence
from spotinference_sim.vllm_totals import Totals


@dataclass(eq=False)
class EngineProcess:
    """One life of an engine: whatever it counts starts at 0."""

    started_us: int
    running: list[Generation] = field(default_factory=list)
    past: Totals = field(default_factory=Totals)
    """What the requests that have ended left in the counters."""
    http: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """Answers by handler, method and status class."""
    rejections: int = 0
    is_dead: bool = False


class Engine:
    """One engine through its lives; `life` tells when the process of an instant started, None for no engine."""

    def __init__(
        self,
        options: Options,
        life: Callable[[int], int | None],
        on_end: Callable[[Generation], None] = lambda _: None,
    ) -> None:
        self.options = options
        self._life = life
        self._on_end = on_end
        self._process: EngineProcess | None = None

    def process(self, now_us: int) -> EngineProcess | None:
        """Find the present life; None while the engine is not ready."""
        started_us = self._life(now_us)
        if started_us is None:
            return None
        if self._process is None or self._process.started_us != started_us:
            self._process = EngineProcess(started_us)
        return self._process

    def totals(self, process: EngineProcess, now_us: int) -> Totals:
        """Read the counters of a process, running requests included."""
        totals = process.past.copy()
        for running in process.running:
            totals.add(running, now_us)
        return totals

    def begin(
        self, process: EngineProcess, ask: Ask, name: str, engine_ids: tuple[str, ...], now_us: int
    ) -> Generation:
        """Take a request in, or let it wait. Raises: AskError when too many wait."""
        waiting = sum(other.is_waiting for other in process.running)
        has_turn = len(process.running) - waiting < self.options.max_num_seqs
        limit = self.options.max_num_queued_reqs
        if not has_turn and limit is not None and waiting >= limit:
            process.rejections += 1
            raise AskError(503, "Too many requests are waiting.", "Service Unavailable")
        rate = self.options.pace.tokens_per_second
        running = Generation(ask, name, engine_ids, now_us, tuple(Sequence(choice, rate) for choice in ask.choices))
        process.running.append(running)
        if has_turn:
            running.admit(now_us, self.options.pace)
        return running

    def abort(self, process: EngineProcess, ids: set[str], now_us: int) -> None:
        """End what these ids name; a request that is too young is not found and runs on."""
        for running in process.running:
            if now_us >= running.started_us + self.options.pace.register_us:
                running.abort(ids, now_us)

    def end(self, process: EngineProcess, running: Generation, now_us: int, lost: str | None) -> None:
        """Let a request go, answered or lost; the next one in the queue has its turn."""
        for sequence in running.sequences:
            sequence.cut(now_us)
        running.ended_us, running.lost = now_us, lost
        process.running.remove(running)
        process.past.add(running, now_us)
        for other in process.running:
            if other.is_waiting:
                other.admit(now_us, self.options.pace)
                break
        self._on_end(running)

    def kill(self, process: EngineProcess) -> None:
        """Let the process die under its requests."""
        process.is_dead = True
        for running in process.running:
            running.woken.set()
