"""Why the simulated vLLM does not answer as asked, in the shapes in which vLLM says so.

Owns statuses and bodies of refusals. Does not own who raises them.

Source: vLLM 0.32.0; four shapes as measured: OpenAI's error object, `detail`, a string, Anthropic's.
"""

import json
from typing import Any

Json = dict[str, Any]

INVALID = "Bad Request"
"""The type of what fails while a body is read; every endpoint spells these alike."""


class AskError(Exception):
    """The request is refused; `body` is the answer's JSON."""

    def __init__(self, status: int, message: str, kind: str = "BadRequestError", param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.body: Json = {"error": {"message": message, "type": kind, "param": param, "code": status}}

    @property
    def anthropic_body(self) -> Json:
        """The same for /v1/messages, once the body was read."""
        return {"type": "error", "error": {"type": self.kind, "message": str(self)}}


class UnreadableError(AskError):
    """The body is no JSON text at all."""

    def __init__(self) -> None:
        super().__init__(400, "There was an error parsing the body", INVALID)
        self.body = {"detail": "There was an error parsing the body"}


class EngineDeadError(AskError):
    """The engine's process died while a request ran."""

    def __init__(self) -> None:
        super().__init__(500, "EngineCore encountered an issue. See its log for the cause.", "InternalServerError")


class EngineGoneError(Exception):
    """The machine stopped being ready while a request ran: its connections are cut."""


def invalid(field: str, why: str) -> AskError:
    """Refuse a field that is missing or of a wrong type."""
    param = f"body.{field}" if field else "body"
    return AskError(400, f"1 validation error:\n  {param}: {why}", INVALID, param)


def invalid_json(error: json.JSONDecodeError) -> AskError:
    """Refuse a body that stops being JSON somewhere."""
    place = f"body.{error.pos}"
    about = {
        "type": "json_invalid",
        "loc": place,
        "msg": "JSON decode error",
        "input": "<dict of 0 items>",
        "ctx": {"error": error.msg},
    }
    return AskError(400, f"1 validation error:\n  {about}", INVALID, place)


def not_ready() -> AskError:
    """Refuse everything: the scenario has no engine here now."""
    return AskError(503, "The engine is not ready.", "Service Unavailable")
