"""Read members of a request to the simulated vLLM as vLLM's own reader does: Python's JSON, lax types.

Owns truthiness, whole numbers, limits and media types. Does not own what an endpoint makes of them.

Source: vLLM 0.32.0; which words are true, which bodies are readable, and which types pass, as measured.
"""

import json
from contextlib import suppress
from typing import Any

from spotinference_sim.vllm_errors import INVALID, AskError, UnreadableError, invalid, invalid_json

TRUE = ("true", "1", "yes", "on", "t", "y")
FALSE = ("false", "0", "no", "off", "f", "n")

Json = dict[str, Any]


def check_media_type(content_type: str | None) -> None:
    """Refuse what is not announced as JSON; parameters pass, but only right behind the type.

    Raises: AskError with status 400, not 415.
    """
    if (content_type or "").split(";")[0].lower() != "application/json":
        raise AskError(400, "Unsupported Media Type: Only 'application/json' is allowed", INVALID)


def parse_body(raw: bytes) -> Json:
    """Read the body as Python's JSON reader does: NaN, a BOM, UTF-16 and double keys pass.

    Raises: AskError when it is no JSON object.
    """
    try:
        body = json.loads(raw)
    except (UnicodeDecodeError, RecursionError):
        raise UnreadableError from None
    except json.JSONDecodeError as error:
        raise invalid_json(error) from None
    if not isinstance(body, dict):
        raise invalid("", "Input should be a valid dictionary")
    return body


def read_flag(given: object, field: str) -> bool:
    """Read a truth value: 1 and 1.0 are true, so are some words in any case; absent is false."""
    word = given.lower() if isinstance(given, str) else None
    if word in TRUE or (isinstance(given, bool | int | float) and given == 1):
        return True
    if given is None or word in FALSE or (isinstance(given, bool | int | float) and given == 0):
        return False
    raise invalid(field, "Input should be a valid boolean, unable to interpret input")


def read_whole(given: object, field: str, least: int = 1) -> int | None:
    """Read a whole number; numbers in strings and 5.0 pass.

    Raises: AskError when it is none or smaller than `least`.
    """
    if given is None:
        return None
    if isinstance(given, str | float):
        with suppress(ValueError):
            given = int(given) if isinstance(given, str) or given.is_integer() else given
    if isinstance(given, bool) or not isinstance(given, int):
        raise invalid(field, "Input should be a valid integer")
    if given < least:
        raise AskError(400, f"{field} must be at least {least}, got {given}.", param=field)
    return given


def read_object(given: object, field: str) -> Json:
    """Read an object; null and absent are an empty one."""
    if given is not None and not isinstance(given, dict):
        raise invalid(field, "Input should be a valid dictionary")
    return given or {}


def read_texts(given: object, field: str) -> list[str]:
    """Read a string or a list of strings, at least one."""
    if isinstance(given, str):
        return [given]
    if isinstance(given, list) and given and all(isinstance(part, str) for part in given):
        return given
    raise invalid(field, "Field required" if given is None else "Input should be a valid string")


def read_stops(given: object) -> list[str]:
    """Read stop strings, leniently."""
    stops = [given] if isinstance(given, str) else given if isinstance(given, list) else []
    return [stop for stop in stops if isinstance(stop, str) and stop]
