"""What vLLM's own counters of one machine show from minute to minute while the scenario plays.

Owns the step from requests to `prompt_tokens_total` and `generation_tokens_total`: the prompt counts once
per choice with the first token, generated tokens count as they come, everything starts at 0 with the
process.

Source: vLLM 0.32, measured behaviour of its counters.
"""

from collections import deque
from collections.abc import Iterable

from spotinference_sim.instants import SECOND_US
from spotinference_sim.request import Request
from spotinference_sim.resources import Wake


class EngineCounters:
    """Counters of one machine; ask with instants that do not go back."""

    def __init__(self, requests: Iterable[Request]) -> None:
        self._coming = deque(requests)
        self._running: list[Request] = []
        self._process_started_s: int | None = None
        self._prompt = 0
        self._generation = 0

    def read(self, wake: Wake, at_us: int) -> tuple[int, int]:
        """Tell both counters at an instant of a run."""
        while self._coming and self._coming[0].started_us <= at_us:
            self._running.append(self._coming.popleft())
        if self._process_started_s != wake.process_started_s:
            self._process_started_s = wake.process_started_s
            self._prompt = self._generation = 0
            since_us = wake.process_started_s * SECOND_US
            self._running = [request for request in self._running if request.started_us >= since_us]
        prompt, generation = 0, 0
        still: list[Request] = []
        for request in self._running:
            if request.finished_us <= at_us:
                self._prompt += request.engine_prompt_tokens
                self._generation += request.engine_completion_tokens
                continue
            still.append(request)
            first_us = request.first_byte_us or request.finished_us
            if first_us <= at_us:
                prompt += request.engine_prompt_tokens
                span_us = request.finished_us - first_us
                generation += request.engine_completion_tokens * (at_us - first_us) // span_us
        self._running = still
        return self._prompt + prompt, self._generation + generation
