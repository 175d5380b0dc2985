"""What a request asks for, and the one edit it gets: ask vLLM to state usage on every stream.

Owns vLLM's rules of what a stream is and the text edit of the body. Does not own taking the added usage out
of the answer again: strip.py. The body is edited as text, one key before the last brace (the last key wins
in Python's parser, which is vLLM's), so numbers and spelling stay the client's. A body that cannot be
parsed, or that vLLM would refuse, passes unchanged: vLLM's own answer is the right one.
"""

import json
from dataclasses import dataclass
from typing import Any

_TRUE = {"true", "1", "yes", "on", "t", "y"}
_FALSE = {"false", "0", "no", "off", "f", "n"}
_STREAM_ENDPOINTS = ("/v1/chat/completions", "/v1/completions")


@dataclass(frozen=True)
class ClientRequest:
    """One request body: what it says, what is sent in its place, what the client did not ask to see."""

    body: bytes
    model: str | None = None
    is_stream: bool = False
    choices: int = 1
    prompts: int = 1
    hides_final_usage: bool = False
    hides_running_usage: bool = False


def read_request(endpoint: str, body: bytes) -> ClientRequest:
    """Read a body by vLLM's rules and add the usage options where it is a stream that lacks them."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return ClientRequest(body)
    if not isinstance(found, dict):
        return ClientRequest(body)
    model = found.get("model")
    is_stream = is_true(found.get("stream"))
    edited, hides_final, hides_running = body, False, False
    if is_stream and endpoint in _STREAM_ENDPOINTS:
        options = found.get("stream_options")
        if options is None or isinstance(options, dict):
            edited, hides_final, hides_running = _add_options(body, options or {})
    return ClientRequest(
        body=edited,
        model=model if isinstance(model, str) and model else None,
        is_stream=is_stream,
        choices=_choices(found.get("n")),
        prompts=_prompts(found.get("prompt")),
        hides_final_usage=hides_final,
        hides_running_usage=hides_running,
    )


def is_true(value: object) -> bool:
    """Tell whether vLLM (pydantic, lax) takes `value` for true."""
    if isinstance(value, str):
        return value.lower() in _TRUE
    return isinstance(value, bool | int | float) and value == 1


def _is_bool(value: object) -> bool:
    if isinstance(value, str):
        return value.lower() in _TRUE | _FALSE
    return value is None or (isinstance(value, bool | int | float) and value in (0, 1))


def _add_options(body: bytes, options: dict[str, Any]) -> tuple[bytes, bool, bool]:
    final, running = options.get("include_usage"), options.get("continuous_usage_stats")
    if not (_is_bool(final) and _is_bool(running)):
        return body, False, False
    asks_final = is_true(final)
    asks_running = asks_final and is_true(running)
    if asks_running:
        return body, False, False
    merged = options | {"include_usage": True, "continuous_usage_stats": True}
    encoding = json.detect_encoding(body)
    head, brace, tail = body.decode(encoding, "surrogatepass").rpartition("}")
    text = f'{head},"stream_options":{json.dumps(merged)}{brace}{tail}'
    return text.encode(encoding, "surrogatepass"), not asks_final, True


def _choices(value: object) -> int:
    if isinstance(value, str | float):
        try:
            value = int(value)
        except (ValueError, OverflowError):
            return 1
    return value if type(value) is int and 1 <= value < 2**31 else 1


def _prompts(value: object) -> int:
    if isinstance(value, list) and value and not isinstance(value[0], int):
        return len(value)
    return 1
