"""One request in the simulated engine: its sequences, each a function of time until something cuts it.

Owns which tokens exist at an instant. Each sequence generates at its own speed, alone; the prompts of one
request are read one after the other. Does not own counting (`vllm_totals`) nor lives (`vllm_engine`).

Source: vLLM 0.32.0, requests that finish, wait and are ended by id.
"""

import asyncio
from dataclasses import dataclass, field

from spotinference_sim.instants import FOREVER_S, SECOND_US
from spotinference_sim.vllm_ask import Ask, Choice
from spotinference_sim.vllm_options import Pace

NEVER_US = FOREVER_S * SECOND_US


@dataclass(eq=False)
class Sequence:
    """One choice in the engine; `first_us` is when its first token, or its pooling result, exists."""

    choice: Choice
    rate: int
    first_us: int = NEVER_US
    cut_us: int | None = None
    """When an abort call or a client's leaving ended it."""

    def token_us(self, count: int) -> int:
        """When `count` tokens exist."""
        return self.first_us + max(0, count - 1) * SECOND_US // self.rate

    def _until(self, at_us: int) -> int:
        return at_us if self.cut_us is None else min(at_us, self.cut_us)

    def counts(self, at_us: int) -> bool:
        """Tell whether the engine has counted its prompt."""
        return self._until(at_us) >= self.first_us

    def made(self, at_us: int) -> int:
        """How many tokens exist."""
        until_us = self._until(at_us)
        if until_us < self.first_us:
            return 0
        passed = ((until_us - self.first_us + 1) * self.rate - 1) // SECOND_US
        return min(self.choice.tokens, 1 + passed)

    def ended_as(self, at_us: int) -> str | None:
        """Tell the finish_reason; None while it runs."""
        if self.counts(at_us) and self.made(at_us) == self.choice.tokens:
            return self.choice.finish_reason
        return None if self.cut_us is None else "abort"

    def cut(self, at_us: int) -> None:
        """End it now, unless it has ended."""
        if self.ended_as(at_us) is None:
            self.cut_us = at_us


@dataclass(eq=False)
class Generation:
    """One request in the engine. `engine_ids` is one id for all, or one for each prompt; none cannot be aborted."""

    ask: Ask
    name: str
    """The X-Request-Id, or what stands in for it."""
    engine_ids: tuple[str, ...]
    started_us: int
    sequences: tuple[Sequence, ...]
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    ended_us: int | None = None
    lost: str | None = None
    """Why it ended without an answer: `client_gone` or `upstream_gone`."""

    @property
    def is_waiting(self) -> bool:
        """Tell whether its turn has not come."""
        return self.sequences[0].first_us == NEVER_US

    def admit(self, at_us: int, pace: Pace) -> None:
        """Start reading its prompts."""
        first_us = at_us + pace.prefill_us
        for place, prompt in enumerate(self.ask.prompts):
            first_us += pace.prefill_us_per_token * prompt
            for sequence in self.sequences[place * self.ask.n : (place + 1) * self.ask.n]:
                sequence.first_us = first_us
        self.woken.set()

    def abort(self, ids: set[str], at_us: int) -> None:
        """End the sequences that these ids name."""
        for place, engine_id in enumerate(self.engine_ids):
            if engine_id in ids:
                named = self.sequences
                if len(self.engine_ids) > 1:
                    named = named[place * self.ask.n : (place + 1) * self.ask.n]
                for sequence in named:
                    sequence.cut(at_us)
                self.woken.set()
