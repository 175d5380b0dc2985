"""Spell the simulated vLLM's answers: JSON bodies and stream events, byte for byte as vLLM formats them.

Owns bytes. Does not own when they are sent (`vllm`) or what is counted (`vllm_engine`). JSON is compact,
non-ASCII raw; the usage event moves `system_fingerprint` to itself.

Source: vLLM 0.32.0 as measured.
"""

import json
from dataclasses import dataclass
from typing import Any

from spotinference_sim.vllm_ask import Ask

FINGERPRINT = "vllm-0.32.0-dc071922"
VERSION = "0.32.0"
DONE = b"data: [DONE]\n\n"

Json = dict[str, Any]


def dump(body: Json) -> bytes:
    """Spell JSON compactly, as raw UTF-8."""
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


@dataclass(frozen=True)
class Tally:
    """What a usage object says; cached and reasoning are None where the server does not tell."""

    prompt: int
    completion: int
    cached: int | None
    reasoning: int | None

    def usage(self, chat: bool, stream: bool) -> Json:
        """Make the usage object: null members are present in plain JSON and absent in a stream."""
        body: Json = {
            "prompt_tokens": self.prompt,
            "total_tokens": self.prompt + self.completion,
            "completion_tokens": self.completion,
            "prompt_tokens_details": None,
            "completion_tokens_details": None,
        }
        if self.cached is not None:
            created = {"created_cache_tokens": 0 if chat else None, "multimodal_tokens": None}
            body["prompt_tokens_details"] = {"cached_tokens": self.cached, **created}
        if self.reasoning is not None:
            body["completion_tokens_details"] = {"reasoning_tokens": self.reasoning}
        return _without_nulls(body) if stream else body


def _without_nulls(body: Json) -> Json:
    kept = {name: part for name, part in body.items() if part is not None}
    return {name: _without_nulls(part) if isinstance(part, dict) else part for name, part in kept.items()}


@dataclass(frozen=True)
class Wire:
    """The spelling of one answer."""

    ask: Ask
    id: str
    model: str
    created: int

    def _opening(self, stream: bool) -> Json:
        kind = ("chat.completion" + (".chunk" if stream else "")) if self.ask.chat else "text_completion"
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def role_event(self, choice: int, usage: Json | None) -> bytes:
        """Open a chat choice: stands for no token."""
        delta = {"index": choice, "delta": {"role": "assistant", "content": ""}}
        ended = {"logprobs": None, "finish_reason": None}
        tail = {"prompt_token_ids": None, "prompt_text": None}
        return self._event([delta | ended], usage, tail)

    def token_event(self, choice: int, text: str, finish_reason: str | None, usage: Json | None) -> bytes:
        """Send some tokens of a choice, the last ones with a finish_reason."""
        stop_reason = self.ask.stop_reason if finish_reason == "stop" else None
        if self.ask.chat:
            row: Json = {"index": choice, "delta": {"content": text} if text else {}, "logprobs": None}
            row |= {"finish_reason": finish_reason}
            row |= ({"stop_reason": stop_reason} if finish_reason else {}) | {"token_ids": None}
        else:
            row = {"index": choice, "text": text, "logprobs": None, "finish_reason": finish_reason}
            row |= {"stop_reason": stop_reason, "prompt_token_ids": None, "token_ids": None}
        moved = self.ask.include_usage or not finish_reason
        return self._event([row], usage, {} if moved else {"system_fingerprint": FINGERPRINT})

    def usage_event(self, usage: Json) -> bytes:
        """Close a stream whose client asked for usage."""
        return self._event([], usage, {"system_fingerprint": FINGERPRINT})

    def _event(self, choices: list[Json], usage: Json | None, tail: Json) -> bytes:
        body = self._opening(stream=True) | {"choices": choices}
        return b"data: " + dump(body | ({"usage": usage} if usage else {}) | tail) + b"\n\n"

    def body(self, texts: list[str], finish_reason: str, usage: Json) -> bytes:
        """Spell a plain answer."""
        stop_reason = self.ask.stop_reason if finish_reason == "stop" else None
        rows: list[Json] = []
        for choice, text in enumerate(texts):
            said = {"message": {"role": "assistant", "content": text}} if self.ask.chat else {"text": text}
            ended = {
                "logprobs": None,
                "finish_reason": finish_reason,
                "stop_reason": stop_reason,
                "token_ids": None,
            }
            rows.append({"index": choice} | said | ended)
        rest = {"service_tier": None, "system_fingerprint": FINGERPRINT, "usage": usage}
        return dump(self._opening(stream=False) | {"choices": rows} | rest)
