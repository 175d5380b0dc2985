"""An answer that is the proxy's own, whole: status, JSON, fields.

Owns the shape of errors: vLLM's, so that clients' libraries understand them. Never holds what a client sent.
"""

import json
from dataclasses import dataclass
from typing import Any

from spotinference_proxy.http1 import Fields


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, body and fields; the framing is client_connection.py's."""

    status: int
    content: bytes
    headers: Fields


def json_answer(status: int, value: Any, headers: Fields | None = None) -> Answer:
    """Return `value` as JSON."""
    return Answer(status, json.dumps(value).encode(), [("content-type", "application/json"), *(headers or [])])


def error_answer(status: int, message: str, retry_after: int | None = None) -> Answer:
    """Return an error in the shape of vLLM's; `retry_after` in seconds."""
    error = {"message": message, "type": "spotinference_proxy", "param": None, "code": status}
    return json_answer(status, {"error": error}, [("retry-after", str(retry_after))] if retry_after else None)
