"""What an engine counts of its sequences, as its own metrics and its usage objects have it.

Owns the rules: a prompt counts for every sequence with the first token, tokens count as they come, finished
sums only hold sequences that ended by themselves. Does not own the names on `/metrics` (`vllm_metrics`).

Source: vLLM 0.32.0, counters of finished, left and aborted requests as measured.
"""

from collections import Counter
from dataclasses import dataclass, field, replace

from spotinference_sim.vllm_options import Options
from spotinference_sim.vllm_sequence import Generation, Sequence

TEXT = "/v1/completions"
"""The one endpoint that does not tell reasoning."""
BLOCK = 16
"""Tokens of a block of the prefix cache."""


def cached_tokens(prompt: int) -> int:
    """Tell how much of a prompt is said to come from the prefix cache: whole blocks of its first half."""
    return prompt // 2 // BLOCK * BLOCK


def created_tokens(prompt: int) -> int:
    """Tell how much of a prompt is said to be newly written to the cache."""
    return prompt // 4 // BLOCK * BLOCK


@dataclass
class Totals:
    """The engine's token counters."""

    prompt: int = 0
    cached: int = 0
    generation: int = 0
    finished: Counter[str] = field(default_factory=Counter)
    """Sequences that ended by themselves, by reason."""
    finished_prompt: int = 0
    finished_generation: int = 0
    n_count: int = 0
    n_sum: int = 0

    def copy(self) -> "Totals":
        """Make another one that can be added to."""
        return replace(self, finished=self.finished.copy())

    def add(self, running: Generation, at_us: int) -> None:
        """Count a request as it stands at an instant."""
        for sequence in running.sequences:
            self._add_sequence(sequence, at_us)
        n = running.ask.n
        for place in range(0, len(running.sequences), n):
            family = running.sequences[place : place + n]
            if family[0].choice.tokens and all(_is_finished(sequence, at_us) for sequence in family):
                self.n_count += 1
                self.n_sum += n

    def _add_sequence(self, sequence: Sequence, at_us: int) -> None:
        if sequence.counts(at_us):
            self.prompt += sequence.choice.prompt
            self.cached += cached_tokens(sequence.choice.prompt)
        self.generation += sequence.made(at_us)
        if _is_finished(sequence, at_us):
            self.finished["stop" if sequence.choice.tool else sequence.choice.finish_reason] += 1
            self.finished_prompt += sequence.choice.prompt
            self.finished_generation += sequence.choice.tokens


def _is_finished(sequence: Sequence, at_us: int) -> bool:
    return sequence.ended_as(at_us) not in (None, "abort")


@dataclass(frozen=True)
class Tally:
    """What a usage object says; cached, created and reasoning are None where the server does not tell."""

    prompt: int
    completion: int
    cached: int | None = None
    created: int | None = None
    reasoning: int | None = None


def tally(running: Generation, options: Options, at_us: int) -> Tally:
    """Count a request's tokens as its usage tells them: each prompt once."""
    prompt, first = sum(running.ask.prompts), running.ask.prompts[0]
    made = [sequence.made(at_us) for sequence in running.sequences]
    reasoning = sum(min(count, one.choice.reasoning) for count, one in zip(made, running.sequences, strict=True))
    details = options.prompt_tokens_details
    return Tally(
        prompt,
        sum(made),
        cached_tokens(first) if details else None,
        created_tokens(first) if details else None,
        reasoning if options.reasoning_parser and running.ask.endpoint != TEXT else None,
    )
