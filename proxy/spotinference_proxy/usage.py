"""Token usage of an answer: bytes in, vLLM's own counts out; no I/O, standard library only.

Owns which numbers of an answer are the request's usage, whether they are final, and how the answer ended.
Does not own framing (sse.py), nor what is written to the log (record.py). Never counts events or text.
Rests on vLLM's usage objects (https://docs.vllm.ai, OpenAI, Responses and Anthropic shapes): the event with
`choices: []` holds the request's sums, a running usage only those of its choice; Anthropic's `input_tokens`
leaves out what came from the cache. What is absent is None, never 0.
"""

import json
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

from spotinference_proxy.sse import EventSplitter, parse_data

MAX_JSON_BYTES = 64 * 1024 * 1024  # of a plain answer kept to be parsed; a longer one has unknown usage
_MAX_TOKENS = 2**63 - 1  # what a BIGINT column holds

Outcome = Literal["open", "done", "error"]
Dialect = Literal["openai", "responses", "messages", "other"]


@dataclass(frozen=True)
class Usage:
    """Tokens as vLLM stated them; `cached` is part of `prompt`, `reasoning` part of `completion`."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def parse_object(text: bytes | str) -> dict[str, Any] | None:
    """Return the JSON object in `text`, or None when it is anything else (NaN and Infinity included)."""
    try:
        found = _DECODER.decode(text if isinstance(text, str) else text.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


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
    return Usage(prompt, completion, cached, _detail(completion_details, "reasoning_tokens"))


def _count(value: object) -> int | None:
    return value if type(value) is int and 0 <= value <= _MAX_TOKENS else None


def _detail(details: object, key: str) -> int | None:
    return _count(details.get(key)) if isinstance(details, dict) else None


def dialect_of(endpoint: str) -> Dialect:
    """Tell how the answers of an endpoint speak of usage and of their end."""
    if endpoint.endswith(("/chat/completions", "/v1/completions")):
        return "openai"
    if endpoint.endswith("/v1/responses"):
        return "responses"
    return "messages" if endpoint.endswith("/v1/messages") else "other"


class UsageReader:
    """Read one answer as it passes; any cut of its bytes gives the same result."""

    def __init__(self, endpoint: str, status: int, content_type: str, choices: int = 1) -> None:
        self.model: str | None = None
        self.response_id: str | None = None
        self.outcome: Outcome = "open"
        self.is_final = False
        self._dialect = dialect_of(endpoint)
        self._status = status
        self._choices = max(choices, 1)
        self._single: Usage | None = None
        self._running: dict[int, Usage] = {}
        self._has_error = False
        self._json: bytearray | None = bytearray()
        self._events = EventSplitter() if "text/event-stream" in content_type.lower() else None

    @property
    def usage(self) -> Usage | None:
        """The final counts, else the sum of what was last said of each choice (a lower bound), else None."""
        if self._single is not None or not self._running:
            return self._single
        prompts = {index // self._choices: usage.prompt_tokens for index, usage in self._running.items()}
        return Usage(sum(prompts.values()), sum(usage.completion_tokens for usage in self._running.values()))

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of the answer's body."""
        if self._events is None:
            if self._json is not None:
                self._json += chunk
                self._json = self._json if len(self._json) <= MAX_JSON_BYTES else None
            return
        for piece in self._events.feed(chunk):
            if piece.is_event:
                self._read_event(piece.content)

    def finish(self) -> None:
        """Say that the body ended cleanly. A stream of a known kind without its last event stays `open`."""
        if self._events is not None:
            if self._dialect == "other" and self.outcome == "open":
                self.outcome = "error" if self._has_error else "done"
            return
        self.outcome = "done" if self._status < 400 else "error"
        found = parse_object(bytes(self._json)) if self._json is not None else None
        self._json = None
        if found is None or self._status >= 400:
            return
        self._read_names(found)
        self._settle(parse_usage(found.get("usage")))

    def _read_event(self, event: bytes) -> None:
        text = parse_data(event)
        if text is None or self.outcome != "open":
            return
        if text.strip() == b"[DONE]":
            self.outcome = "error" if self._has_error else "done"
            return
        found = parse_object(text)
        if found is None:
            return
        if found.get("error") is not None or found.get("type") == "error":
            self._has_error = True
            if self._dialect == "messages" or found.get("type") == "error":
                self.outcome = "error"
            return
        if isinstance(found.get("type"), str):
            self._read_typed(found, str(found["type"]))
        else:
            self._read_chunk(found)

    def _read_chunk(self, found: dict[str, Any]) -> None:
        self._read_names(found)
        usage = parse_usage(found.get("usage"))
        choices = found.get("choices")
        if usage is None or not isinstance(choices, list):
            return
        if not choices:
            self._settle(usage)
            return
        for choice in choices:
            index = _count(choice.get("index")) if isinstance(choice, dict) else None
            if index is not None:
                self._running[index] = usage

    def _read_typed(self, found: dict[str, Any], kind: str) -> None:
        inner = found.get("response") if kind.startswith("response.") else found.get("message")
        if isinstance(inner, dict):
            self._read_names(inner)
            if kind == "message_start":
                self._single = parse_usage(inner.get("usage"))
        if kind in ("response.completed", "response.incomplete", "response.failed"):
            self._settle(parse_usage(inner.get("usage")) if isinstance(inner, dict) else None)
            self.outcome = "error" if kind == "response.failed" else "done"
        elif kind == "message_delta":
            self._settle(parse_usage(found.get("usage")))
        elif kind == "message_stop":
            self.outcome = "done"

    def _read_names(self, found: dict[str, Any]) -> None:
        if self.model is None and isinstance(found.get("model"), str):
            self.model = found["model"]
        if self.response_id is None and isinstance(found.get("id"), str):
            self.response_id = found["id"]

    def _settle(self, usage: Usage | None) -> None:
        if usage is not None:
            self._single = usage
            self.is_final = True
