"""What a request asks for, and the one edit it gets: ask vLLM to state usage on every stream.

Owns vLLM's rules of what a stream is and the text edit of the body. Does not own taking the added usage out
of the answer again: usage.py. The body is edited as text, one key before the last brace (the last key wins
in Python's parser, which is vLLM's), so numbers and spelling stay the client's. A body that cannot be
parsed, or that vLLM would refuse, passes unchanged: vLLM's own answer is the right one. What only Python's
parser reads (NaN, a BOM, UTF-16) is read by it too, up to a size; beyond that nobody could tell what it asks.
"""

import json
import re
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from msgspec import Raw, Struct
from msgspec.json import Decoder

from spotinference_proxy.errors import BodyError
from spotinference_proxy.strip import UNREADABLE

MAX_ODD_BYTES = 1024 * 1024  # of a body that is not strict JSON; Python's parser takes 20 ms for the worst
_MAX_PART_BYTES = 64 * 1024  # of a member that is looked at, prompts aside
_MAX_PROMPT_MARKS = 200_000  # quotes and brackets in a list of prompts that is counted: 20 ms

_TRUE = {"true", "1", "yes", "on", "t", "y"}
_FALSE = {"false", "0", "no", "off", "f", "n"}
_NUMBERS = (bool, int, float)
_STREAM_ENDPOINTS = ("/v1/chat/completions", "/v1/completions")
_BOTH = b'"include_usage":true,"continuous_usage_stats":true'
_ABSENT, _NULL = Raw(b""), Raw(b"null")
_FIELD = rb'name="%s"\r\n(?:[^\r\n]++\r\n){0,4}\r\n([^\r\n]{1,1024})\r\n'
_FORM_MODEL, _FORM_STREAM = (re.compile(_FIELD % name) for name in (b"model", b"stream"))


@dataclass(slots=True)  # a frozen one takes three times as long to make
class ClientRequest:
    """One request body: what it says, what is sent in its place, what the client did not ask to see."""

    body: bytes
    model: str | None = None
    is_stream: bool = False
    choices: int = 1
    prompts: int = 1
    hides_final_usage: bool = False
    hides_running_usage: bool = False
    max_completion_tokens: int | None = None  # of all choices of all prompts; None where no limit was stated
    is_beam: bool = False  # vLLM's usage then tells the returned beams only
    names_itself: bool = False  # by an id of the client's choice, which others may have chosen too


class _Asked(Struct, gc=False):
    """The members of a body that matter, as written; empty where absent."""

    model: Raw = _ABSENT
    stream: Raw = _ABSENT
    stream_options: Raw = _ABSENT
    n: Raw = _ABSENT
    prompt: Raw = _ABSENT
    prompt_embeds: Raw = _ABSENT
    max_tokens: Raw = _ABSENT
    max_completion_tokens: Raw = _ABSENT
    use_beam_search: Raw = _ABSENT
    request_id: Raw = _ABSENT


_decode = Decoder(_Asked).decode
_decode_part = Decoder().decode
_decode_list = Decoder(list[Raw]).decode


def read_request(endpoint: str, body: bytes) -> ClientRequest:
    """Read a body by vLLM's rules and add the usage options where it is a stream that lacks them.

    Raises: BodyError for one nested too deep, or too large to find out what it asks.
    """
    if "/audio/" in endpoint:
        return _read_form(body)
    is_strict = True
    try:
        asked = _decode(body)
    except RecursionError:
        raise BodyError("body: nested too deep; send it flatter") from None
    except UNREADABLE:
        is_strict = False
        odd = _decode_oddly(body)
        if odd is None:
            return ClientRequest(body)
        asked = odd
    found = ClientRequest(body)
    model = _read_part(asked.model)
    if isinstance(model, str) and model:
        found.model = model if is_strict else model.encode("utf-8", "replace").decode()
    found.is_stream = is_true(_read_part(asked.stream))
    if asked.n and "/completions" in endpoint:
        found.choices = _choices(_read_part(asked.n))
    if endpoint == "/v1/completions":
        found.prompts = max(1, _count_prompts(asked.prompt) + _count_prompts(asked.prompt_embeds))
    if asked.use_beam_search:
        found.is_beam = is_true(_read_part(asked.use_beam_search))
    if asked.request_id and endpoint == "/v1/responses":  # elsewhere X-Request-Id outranks it
        found.names_itself = asked.request_id != _NULL
    found.max_completion_tokens = _limit(endpoint, asked, found.choices * found.prompts)
    if found.is_stream and endpoint in _STREAM_ENDPOINTS:
        _add_options(found, asked.stream_options, is_strict=is_strict)
    return found


def is_true(value: object) -> bool:
    """Tell whether vLLM (pydantic, lax) takes `value` for true."""
    if isinstance(value, str):
        return value.lower() in _TRUE
    return value is True or (isinstance(value, _NUMBERS) and value == 1)


def _is_bool(value: object) -> bool:
    if isinstance(value, str):
        return value.lower() in _TRUE | _FALSE
    return value is None or (isinstance(value, _NUMBERS) and value in (0, 1))


def _decode_oddly(body: bytes) -> _Asked | None:
    """Return what Python's parser finds in a body that is not strict JSON, None where that is no object."""
    if len(body) > MAX_ODD_BYTES:
        raise BodyError(f"body: {len(body)} bytes that are not strict JSON, at most {MAX_ODD_BYTES}; send plain JSON")
    try:
        found = json.loads(body)
        if not isinstance(found, dict):
            return None
        names = [name for name in _Asked.__struct_fields__ if name in found]
        return _Asked(**{name: Raw(json.dumps(found[name]).encode()) for name in names})
    except RecursionError:
        raise BodyError("body: nested too deep; send it flatter") from None
    except ValueError:
        return None


def _read_part(part: Raw) -> Any:
    if not part:
        return None
    if len(part) > _MAX_PART_BYTES:
        raise BodyError(f"body: a setting of {len(part)} bytes, at most {_MAX_PART_BYTES}; shorten it")
    try:
        return _decode_part(part)
    except UNREADABLE:
        return _read_part_oddly(part)


def _read_part_oddly(part: Raw) -> Any:
    with suppress(ValueError, RecursionError):
        return json.loads(bytes(part))
    return None


def _add_options(asked: ClientRequest, part: Raw, *, is_strict: bool) -> None:
    """Ask for the final and the running usage, and note what of them the client did not ask for."""
    options = _read_part(part)
    if not (options is None or isinstance(options, dict)):
        return
    final, running = (options or {}).get("include_usage"), (options or {}).get("continuous_usage_stats")
    if not (_is_bool(final) and _is_bool(running)) or (is_true(final) and is_true(running)):
        return
    asked.hides_final_usage, asked.hides_running_usage = not is_true(final), True
    member = b',"stream_options":%b%b}' % (bytes(part)[:-1] + b"," if options else b"{", _BOTH)
    if is_strict:
        at = asked.body.rindex(b"}")
        asked.body = b"".join((asked.body[:at], member, asked.body[at:]))
    else:
        encoding = json.detect_encoding(asked.body)
        head, brace, tail = asked.body.decode(encoding, "surrogatepass").rpartition("}")
        asked.body = f"{head}{member.decode()}{brace}{tail}".encode(encoding, "surrogatepass")


def _limit(endpoint: str, asked: _Asked, sequences: int) -> int | None:
    """Return the most completion tokens that the client allowed; None where it said nothing or it means less."""
    if endpoint.endswith(("/responses", "/batch")):  # several turns, several conversations
        return None
    most = _whole(_read_part(asked.max_completion_tokens)) if "/chat/" in endpoint else None
    if most is None:
        most = _whole(_read_part(asked.max_tokens))
    return None if most is None else max(most, 1) * sequences  # 0 with `echo` makes one token


def _choices(value: object) -> int:
    found = _whole(value)
    return found if found is not None and 1 <= found < 2**31 else 1


def _whole(value: object) -> int | None:
    if isinstance(value, str | float):
        try:
            return int(value)
        except (ValueError, OverflowError):
            return None
    return value if type(value) is int else None


def _count_prompts(part: Raw) -> int:
    """Count as vLLM does: a text or a list of token numbers is one prompt, any other list one for each element."""
    text = bytes(part)
    if not text.startswith(b"["):
        return 1 if text and text != b"null" else 0
    first = text[1:].lstrip()[:1]
    if first in b"-0123456789]" or text.count(b'"') + text.count(b"[") > _MAX_PROMPT_MARKS:
        return 1
    with suppress(*UNREADABLE):
        return len(_decode_list(part))
    return 1


def _read_form(body: bytes) -> ClientRequest:
    """Read the two fields of an audio form that matter."""
    model, stream = _FORM_MODEL.search(body), _FORM_STREAM.search(body)
    return ClientRequest(
        body,
        model[1].decode("utf-8", "replace") if model else None,
        is_true(stream[1].decode("utf-8", "replace")) if stream else False,
    )
