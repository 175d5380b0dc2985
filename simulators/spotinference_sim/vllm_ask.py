"""Read a request to the simulated vLLM: what is asked for, how many tokens that is, or why it is refused.

Owns validation, the "tokenizer" (a token is a whitespace-separated word; a chat message costs
MESSAGE_TOKENS more and the answer's opening REPLY_TOKENS, a plain prompt one) and what will be generated.
Does not own time or counters.

Source: vLLM 0.32.0, shapes of refusals and truthiness of `stream` as measured.
"""

import json
from dataclasses import dataclass
from typing import Any
from zlib import crc32

MESSAGE_TOKENS = 4
REPLY_TOKENS = 3
PROMPT_TOKENS = 1
MAX_MODEL_LEN = 262_144
WORDS = ("a", "token", "for", "every", "größe", "and", "one", "more", "日本", "stop", "five", "six", "naïve")
TRUE = ("true", "1", "yes", "on", "t", "y")
FALSE = ("false", "0", "no", "off", "f", "n")

Json = dict[str, Any]


class AskError(Exception):
    """The request is refused; `body` is the answer's JSON."""

    def __init__(self, status: int, message: str, kind: str = "BadRequestError", param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.body: Json = {"error": {"message": message, "type": kind, "param": param, "code": status}}


class UnreadableError(AskError):
    """The body is no JSON text at all."""

    def __init__(self) -> None:
        super().__init__(400, "There was an error parsing the body")
        self.body = {"detail": "There was an error parsing the body"}


@dataclass(frozen=True)
class Ask:
    """A valid request. `prompts` are token counts, one each; choices are prompts times `n`."""

    chat: bool
    requested_model: str | None
    prompts: tuple[int, ...]
    n: int
    tokens: int
    """Tokens of each choice."""
    finish_reason: str
    stop_reason: str | None
    hidden: int
    """Last tokens of each choice that hold the stop string and are not shown."""
    start: int
    """Place in WORDS of the first token."""
    stream: bool
    include_usage: bool
    continuous_usage: bool

    @property
    def choices(self) -> int:
        """How many answers are generated."""
        return len(self.prompts) * self.n

    def text(self, first: int, end: int) -> str:
        """Spell the tokens [first, end) of a choice, without what a stop string hides."""
        shown = range(first, min(end, self.tokens - self.hidden))
        return "".join(" " + WORDS[(self.start + place) % len(WORDS)] for place in shown)


def count_tokens(body: Json, chat: bool) -> tuple[int, ...]:
    """Count the prompt's tokens, one number per prompt.

    Raises: AskError when there is no prompt or it is not text.
    """
    if chat:
        messages = body.get("messages")
        if not isinstance(messages, list) or not messages:
            raise _invalid("messages", "Field required")
        counts = [_words(m.get("content")) + MESSAGE_TOKENS for m in messages if isinstance(m, dict)]
        return (sum(counts) + REPLY_TOKENS,)
    prompt = body.get("prompt")
    if isinstance(prompt, list) and prompt and all(isinstance(part, str) for part in prompt):
        return tuple(_words(part) + PROMPT_TOKENS for part in prompt)
    if isinstance(prompt, list) and prompt and all(isinstance(part, int) for part in prompt):
        return (len(prompt),)
    if isinstance(prompt, str):
        return (_words(prompt) + PROMPT_TOKENS,)
    raise _invalid("prompt", "Field required")


def _words(content: object) -> int:
    if isinstance(content, str):
        return len(content.split())
    if isinstance(content, list):
        return sum(_words(part.get("text")) for part in content if isinstance(part, dict))
    return 0


def parse_body(raw: bytes) -> Json:
    """Read the body as Python's JSON reader does: NaN, a BOM and UTF-16 pass.

    Raises: AskError when it is no JSON object.
    """
    try:
        body = json.loads(raw)
    except (UnicodeDecodeError, RecursionError):
        raise UnreadableError from None
    except ValueError as error:
        raise _invalid("", f"JSON decode error: {error}") from None
    if not isinstance(body, dict):
        raise _invalid("", "Input should be a valid dictionary")
    return body


def parse_ask(raw: bytes, chat: bool, model: str) -> Ask:
    """Read a generation request for the engine that serves `model`.

    Raises: AskError with vLLM's status and shape.
    """
    body = parse_body(raw)
    requested = body.get("model") or None
    if requested is not None and requested != model:
        raise AskError(404, f"The model `{requested}` does not exist.", "NotFoundError", "model")
    stream = _flag(body.get("stream"), "stream")
    options = body.get("stream_options")
    if options is not None and not isinstance(options, dict):
        raise _invalid("stream_options", "Input should be a valid dictionary")
    if options is not None and not stream:
        raise AskError(400, "Stream options can only be defined when `stream=True`.")
    prompts = count_tokens(body, chat)
    n = _whole(body.get("n"), "n") or 1
    limit = _limit(body, chat, max(prompts))
    start = crc32(json.dumps(body.get("messages" if chat else "prompt")).encode())
    tokens, reason = (limit, "length") if limit else (24 + start % 400, "stop")
    stopped = _stop_at(_stops(body.get("stop")), start, tokens)
    if stopped:
        tokens, reason = stopped[0], "stop"
    return Ask(
        chat,
        requested,
        prompts,
        n,
        tokens,
        reason,
        stopped[1] if stopped else None,
        len(stopped[1].split()) if stopped else 0,
        start,
        stream,
        include_usage=_flag((options or {}).get("include_usage"), "stream_options.include_usage"),
        continuous_usage=_flag((options or {}).get("continuous_usage_stats"), "stream_options"),
    )


def _limit(body: Json, chat: bool, prompt: int) -> int | None:
    """Read how many tokens the client wants at most; None when it does not say."""
    limit = _whole(body.get("max_completion_tokens") if chat else None, "max_completion_tokens")
    limit = limit or _whole(body.get("max_tokens"), "max_tokens")
    if prompt + (limit or 0) > MAX_MODEL_LEN:
        message = f"This model's maximum context length is {MAX_MODEL_LEN} tokens."
        raise AskError(400, message, param="input_tokens")
    return limit


def _invalid(field: str, why: str) -> AskError:
    param = f"body.{field}" if field else "body"
    return AskError(400, f"1 validation error:\n  {param}: {why}", "Bad Request", param)


def _flag(given: object, field: str) -> bool:
    """Read a truth value as pydantic does: 1 and 1.0 are true, so are some words in any case."""
    word = given.lower() if isinstance(given, str) else None
    if word in TRUE or (isinstance(given, bool | int | float) and given == 1):
        return True
    if given is None or word in FALSE or (isinstance(given, bool | int | float) and given == 0):
        return False
    raise _invalid(field, "Input should be a valid boolean, unable to interpret input")


def _whole(given: object, field: str) -> int | None:
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, int):
        raise _invalid(field, "Input should be a valid integer")
    if given < 1:
        raise AskError(400, f"{field} must be at least 1, got {given}.", param=field)
    return given


def _stops(given: object) -> list[str]:
    if given is None:
        return []
    return [given] if isinstance(given, str) else [stop for stop in given if stop] if isinstance(given, list) else []


def _stop_at(stops: list[str], start: int, tokens: int) -> tuple[int, str] | None:
    """Find the token with which the first stop string is complete; stop strings are whole words here."""
    words = [WORDS[(start + place) % len(WORDS)] for place in range(min(tokens, 2 * len(WORDS)))]
    for end in range(1, len(words) + 1):
        for stop in stops:
            parts = stop.split()
            if parts and words[max(0, end - len(parts)) : end] == parts:
                return end, stop
    return None
