"""The simulated engine of one machine: running requests by the clock, and the counters that they move.

Owns what is true of tokens: how many exist at an instant, what an abort leaves, what was served. Each request
generates at its model's speed, alone; the prompt is counted once per choice when the first token exists.

Source: vLLM 0.32.0, counters of finished and aborted requests as measured.
"""

from collections import Counter
from dataclasses import dataclass, field

from spotinference_sim.instants import SECOND_US
from spotinference_sim.request import Request
from spotinference_sim.resources import Vm, Wake
from spotinference_sim.traffic import DETAILS_SHOWN, REASONING_SHOWN, TOKENS_PER_SECOND
from spotinference_sim.vllm_ask import Ask
from spotinference_sim.vllm_wire import Tally

DEFAULT_TOKENS_PER_SECOND = 30
LOST = ("client_gone", "upstream_gone")
"""Ways to end of which the engine's finished requests know nothing."""
PREFILL_US = 150_000
PREFILL_US_PER_TOKEN = 60


@dataclass(eq=False)
class Generation:
    """One request in the engine; choices advance together, `rate` tokens a second each."""

    ask: Ask
    request_id: str
    endpoint: str
    started_us: int
    rate: int
    cut_us: int | None = None
    """When an abort ended it."""

    @property
    def first_us(self) -> int:
        """When the first token exists."""
        return self.started_us + PREFILL_US + PREFILL_US_PER_TOKEN * sum(self.ask.prompts)

    def token_us(self, count: int) -> int:
        """When `count` tokens of each choice exist."""
        return self.first_us + (count - 1) * SECOND_US // self.rate

    def made(self, at_us: int) -> int:
        """How many tokens of each choice exist."""
        at_us = at_us if self.cut_us is None else min(at_us, self.cut_us)
        if at_us < self.first_us:
            return 0
        passed = ((at_us - self.first_us + 1) * self.rate - 1) // SECOND_US
        return min(self.ask.tokens, 1 + passed)

    def ended_as(self, at_us: int) -> str | None:
        """Tell the finish_reason; None while it runs."""
        if self.made(at_us) == self.ask.tokens:
            return self.ask.finish_reason
        return None if self.cut_us is None else "abort"

    def engine_ids(self) -> set[str]:
        """List the ids by which an abort call names it: one for a chat, one per prompt otherwise."""
        if self.ask.chat:
            return {f"chatcmpl-{self.request_id}"}
        return {f"cmpl-{self.request_id}-{place}" for place in range(len(self.ask.prompts))}


@dataclass
class EngineProcess:
    """One life of an engine: its counters start at 0."""

    started_s: int
    running: list[Generation] = field(default_factory=list)
    prompt_tokens: int = 0
    generation_tokens: int = 0
    finished: Counter[str] = field(default_factory=Counter)


class Engine:
    """One machine's engine through its lives."""

    def __init__(self, vm: Vm, served: list[Request]) -> None:
        self.vm = vm
        self.model = vm.model or ""
        self._served = served
        self._process: EngineProcess | None = None

    def process(self, now_us: int) -> EngineProcess | None:
        """Find the present life; None while the scenario says that the engine is not ready."""
        wake: Wake | None = self.vm.wake_at(now_us // SECOND_US)
        if wake is None:
            return None
        if self._process is None or self._process.started_s != wake.process_started_s:
            self._process = EngineProcess(wake.process_started_s)
        return self._process

    def counters(self, process: EngineProcess, now_us: int) -> tuple[int, int]:
        """Read prompt_tokens_total and generation_tokens_total."""
        prompt, generation = process.prompt_tokens, process.generation_tokens
        for running in process.running:
            made = running.made(now_us)
            prompt += sum(running.ask.prompts) * running.ask.n if made else 0
            generation += made * running.ask.choices
        return prompt, generation

    def begin(self, process: EngineProcess, ask: Ask, request_id: str, endpoint: str, now_us: int) -> Generation:
        """Take a request in."""
        rate = TOKENS_PER_SECOND.get(self.model, DEFAULT_TOKENS_PER_SECOND)
        running = Generation(ask, request_id, endpoint, now_us, rate)
        process.running.append(running)
        return running

    def tally(self, running: Generation, now_us: int) -> Tally:
        """Count a request's tokens as its usage tells them."""
        prompt, completion = sum(running.ask.prompts), running.made(now_us) * running.ask.choices
        cached = prompt // 2 // 16 * 16 if self.model in DETAILS_SHOWN else None
        reasons = self.model in REASONING_SHOWN and running.ask.chat
        return Tally(prompt, completion, cached, completion // 2 if reasons else None)

    def end(self, process: EngineProcess, running: Generation, now_us: int, reason: str) -> None:
        """Let a request go: by its finish_reason, `abort` after an abort call, or one of LOST."""
        tally = self.tally(running, now_us)
        counted = sum(running.ask.prompts) * running.ask.n if tally.completion else 0
        process.running.remove(running)
        process.prompt_tokens += counted
        process.generation_tokens += tally.completion
        if reason not in ("abort", *LOST):
            process.finished[reason] += running.ask.choices
        first_us = running.first_us if tally.completion else None
        self._served.append(
            Request(
                running.request_id,
                self.vm.id,
                self.model,
                running.started_us,
                now_us,
                tally.prompt,
                tally.completion,
                tally.cached,
                tally.reasoning,
                first_us,
                running.endpoint,
                running.ask.requested_model,
                running.ask.stream,
                end_reason=reason if reason in LOST else "complete",
                choices=running.ask.choices,
                engine_prompt_tokens=counted,
                engine_completion_tokens=tally.completion,
            )
        )
