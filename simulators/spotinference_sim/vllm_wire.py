"""Spell the simulated vLLM's answers: what all endpoints have in common.

Owns JSON's form (compact, non-ASCII raw), usage objects of the OpenAI shape, and what a spelling must be
able to do. Does not own the endpoints' shapes (`vllm_openai_wire`, `vllm_responses`, `vllm_messages`, ...),
when they are sent (`vllm_serve`) or what is counted (`vllm_totals`).

Source: vLLM 0.32.0 as measured.
"""

import json
from dataclasses import dataclass
from typing import Any

from spotinference_sim.vllm_ask import Ask
from spotinference_sim.vllm_errors import AskError
from spotinference_sim.vllm_options import Options
from spotinference_sim.vllm_totals import Tally

FINGERPRINT = "vllm-0.32.0-dc071922"
VERSION = "0.32.0"
DONE = b"data: [DONE]\n\n"

Json = dict[str, Any]


def dump(body: Json) -> bytes:
    """Spell JSON compactly, as raw UTF-8."""
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


def named_event(kind: str, body: Json) -> bytes:
    """Spell an event with a name, as Responses and Messages have them."""
    return f"event: {kind}\n".encode() + b"data: " + dump(body) + b"\n\n"


@dataclass(frozen=True)
class Outcome:
    """What a plain answer has to tell: how many tokens each choice has, how each ended, and the sums."""

    made: list[int]
    ended: list[str]
    tally: Tally


class Wire:
    """The spelling of one answer. Streams: `begin`, `tokens` as they come, `end` or `fail`; else `body`."""

    prefix = ""
    """What the answer's id begins with."""
    media_type = "application/json"
    tells_death = True
    """Whether a stream whose engine dies ends with an event, not as a cut connection."""
    has_comments = False
    """Whether --sse-keep-alive-interval has a say."""

    def __init__(self, ask: Ask, name: str, options: Options, created: int) -> None:
        self.ask = ask
        self.name = name
        self.id = self.prefix + name
        self.options = options
        self.created = created
        self.headers: dict[str, str] = {}

    def engine_ids(self) -> tuple[str, ...]:
        """List the ids by which the abort call names a request: one for all, or one for each prompt."""
        return (self.id,)

    def begin(self) -> list[bytes]:
        """Make the events that come before any token."""
        return []

    def tokens(self, index: int, first: int, end: int, ended: str | None) -> list[bytes]:
        """Make the events of the tokens [first, end) of a choice; `ended` is its finish_reason with the last."""
        raise NotImplementedError

    def end(self, tally: Tally) -> list[bytes]:
        """Make the events that close a stream."""
        raise NotImplementedError

    def fail(self, error: AskError) -> list[bytes]:
        """Make the events that tell an error in a stream."""
        return [b"data: " + json.dumps(error.body).encode() + b"\n\n", DONE]

    @classmethod
    def refuse(cls, error: AskError) -> Json:
        """Spell an error without a stream."""
        return error.body

    def body(self, outcome: Outcome) -> bytes:
        """Spell a plain answer; it may add to `headers`."""
        raise NotImplementedError


def plain_usage(tally: Tally, chat: bool) -> Json:
    """Make the usage object of a plain answer: what is not told is null."""
    details: Json | None = None
    if tally.cached is not None:
        created = tally.created if chat else None
        details = {"cached_tokens": tally.cached, "created_cache_tokens": created, "multimodal_tokens": None}
    return {
        "prompt_tokens": tally.prompt,
        "total_tokens": tally.prompt + tally.completion,
        "completion_tokens": tally.completion,
        "prompt_tokens_details": details,
        "completion_tokens_details": None if tally.reasoning is None else {"reasoning_tokens": tally.reasoning},
    }


def final_usage(tally: Tally, chat: bool) -> Json:
    """Make the usage object of a stream's last event: what is not told is absent."""
    return _without_nulls(plain_usage(tally, chat))


def _without_nulls(body: Json) -> Json:
    kept = {name: part for name, part in body.items() if part is not None}
    return {name: _without_nulls(part) if isinstance(part, dict) else part for name, part in kept.items()}
