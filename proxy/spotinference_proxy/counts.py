"""vLLM's usage objects as the counts of a request: JSON values in, `Usage` out; no I/O.

Owns which numbers are kept, which are final, and which cannot be true. Does not own where in an answer they
stand (usage.py). Rests on the three shapes vLLM writes (https://docs.vllm.ai): OpenAI's, Responses', and
Anthropic's, whose `input_tokens` leaves out what came from the cache; and on a running usage being that of
the choice of its event, with the prompt of that choice. What is absent is None, never 0.
"""

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta, Raw, Struct
from msgspec.json import Decoder

from spotinference_proxy.strip import UNREADABLE, Choice, read_json

_MAX_TOKENS = 2**63 - 1  # what a BIGINT column holds
_Count = Annotated[int, Meta(ge=0, le=_MAX_TOKENS)]
_COUNTS = ("prompt_tokens", "completion_tokens", "input_tokens", "output_tokens")


@dataclass(frozen=True)
class Usage:
    """Tokens as vLLM stated them; `cached` is part of `prompt`, `reasoning` part of `completion`."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


class _Running(Struct, gc=False):
    prompt_tokens: _Count
    completion_tokens: _Count


_decode_running = Decoder(_Running).decode


class Tally:
    """What vLLM said of a request's tokens so far: the last word counts, also when it cannot be true."""

    def __init__(self, choices: int, max_completion_tokens: int | None) -> None:
        self.is_final = False
        self._choices = max(choices, 1)
        self._max_completion_tokens = max_completion_tokens
        self._whole: Usage | None = None
        self._running: dict[int, _Running] = {}
        self._is_odd = False

    @property
    def usage(self) -> Usage | None:
        """The counts of the whole request, else the sum of what was last said of each choice, else None."""
        running = self._running
        if self._whole is not None or not running:
            return self._whole
        prompt = sum({index // self._choices: one.prompt_tokens for index, one in running.items()}.values())
        completion = sum(one.completion_tokens for one in running.values())
        return Usage(prompt, completion) if max(prompt, completion) <= _MAX_TOKENS else None

    @property
    def is_implausible(self) -> bool:
        """Tell whether what vLLM said cannot all be true."""
        usage = self.usage
        if usage is None or self._is_odd:
            return self._is_odd
        limit = self._max_completion_tokens
        return (
            usage.prompt_tokens == 0
            or (limit is not None and usage.completion_tokens > limit)
            or (usage.cached_tokens or 0) > usage.prompt_tokens
            or (usage.reasoning_tokens or 0) > usage.completion_tokens
        )

    def note_running(self, usage: Raw, choices: list[Choice]) -> None:
        """Take the usage of an event with choices."""
        try:
            now = _decode_running(usage)
        except UNREADABLE:
            found = self._parse(usage)
            if found is None:
                return
            now = _Running(found.prompt_tokens, found.completion_tokens)
        for choice in choices:
            before = self._running.get(choice.index)
            if before is not None and now.completion_tokens < before.completion_tokens:
                self._is_odd = True
            if choice.index >= 0:
                self._running[choice.index] = now

    def note_whole(self, usage: Raw, *, is_final: bool = True) -> None:
        """Take the usage of the whole request; nothing happens where it is absent, null or absurd."""
        before, now = self.usage, self._parse(usage)
        if now is None:
            return
        if before is not None:
            is_less = now.prompt_tokens < before.prompt_tokens or now.completion_tokens < before.completion_tokens
            self._is_odd = self._is_odd or is_less
        self._whole = now
        self.is_final = is_final

    def _parse(self, usage: Raw) -> Usage | None:
        found = read_json(usage) if usage else None
        parsed = parse_usage(found)
        if parsed is None and isinstance(found, dict):  # seconds of audio are no counts at all
            self._is_odd = self._is_odd or any(found.get(key) is not None for key in _COUNTS)
        return parsed


def parse_usage(found: object) -> Usage | None:
    """Return the counts of a usage object of any of the three shapes, or None if one is missing or absurd."""
    if not isinstance(found, dict):
        return None
    is_openai = "prompt_tokens" in found
    prompt = _count(found.get("prompt_tokens" if is_openai else "input_tokens"))
    completion = _count(found.get("completion_tokens" if is_openai else "output_tokens"))
    total = _count(found.get("total_tokens"))
    if completion is None and prompt is not None and total is not None and "completion_tokens" not in found:
        completion = _count(total - prompt)  # rerank: prompt and total only
    if prompt is None or completion is None:
        return None
    prompt_details = found.get("prompt_tokens_details" if is_openai else "input_tokens_details")
    completion_details = found.get("completion_tokens_details" if is_openai else "output_tokens_details")
    cached = _detail(prompt_details, "cached_tokens")
    if not is_openai:
        added = [found.get(key) for key in ("cache_read_input_tokens", "cache_creation_input_tokens")]
        counts = [_count(value) for value in added if value is not None]
        if None in counts:
            return None
        prompt += sum(count for count in counts if count is not None)
        cached = _count(added[0]) if added[0] is not None else cached
    if prompt > _MAX_TOKENS:
        return None
    return Usage(prompt, completion, cached, _detail(completion_details, "reasoning_tokens"))


def _count(value: object) -> int | None:
    return value if type(value) is int and 0 <= value <= _MAX_TOKENS else None


def _detail(details: object, key: str) -> int | None:
    return _count(details.get(key)) if isinstance(details, dict) else None
