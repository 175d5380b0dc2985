"""What the proxy tells its operator: one JSON object per line on stderr, no framework.

Owns the form of a line (`at`, `level`, `event`, then what belongs to the event) and the access log. Does not own
the request log (log.py), which is a durable record and another thing. Never in a line: prompts, answers, keys,
client addresses; so an exception is told by its type and place, because its message may quote what it was given.
A reader that is stuck costs lines, never a customer's stream: a line that would block is dropped and counted.
Lines are at most 4096 bytes, which Linux writes to a pipe as a whole, so those of several workers do not mix
(https://man7.org/linux/man-pages/man7/pipe.7.html, PIPE_BUF).
"""

import json
import logging
import os
import select
import traceback
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spotinference_proxy.record import RequestRecord

STDERR = 2
_MAX_LINE_BYTES = 4096
_MAX_TEXT = 500
_FRAMES = 4


def _now() -> datetime:
    return datetime.now(UTC)


class Logs:
    """Writes lines to a descriptor; never raises, never blocks."""

    def __init__(self, fd: int = STDERR, clock: Callable[[], datetime] = _now) -> None:
        self.dropped = 0
        self._fd = fd
        self._clock = clock
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)

    def info(self, event: str, **fields: object) -> None:
        """Tell what is as it should be."""
        self._write("info", event, fields)

    def warning(self, event: str, **fields: object) -> None:
        """Tell what somebody should look at."""
        self._write("warning", event, fields)

    def error(self, event: str, **fields: object) -> None:
        """Tell what somebody must look at."""
        self._write("error", event, fields)

    def failure(self, event: str, error: BaseException, **fields: object) -> None:
        """Tell a bug or an unforeseen failure by its type and place, without its message."""
        self._write("error", event, {"exception": type(error).__name__, "where": _place_of(error), **fields})

    def access(self, record: "RequestRecord", end_reason: str, finished_at: datetime | None = None) -> None:
        """Tell that a request is over. Call it only where the access log is on: nothing is cheaper."""
        seconds = ((finished_at or self._clock()) - record.started_at).total_seconds()
        usage = record.usage
        fields = {
            "request_id": record.request_id,
            "endpoint": record.endpoint,
            "status": record.status,
            "seconds": round(max(seconds, 0.0), 6),
            "end_reason": end_reason,
            "prompt_tokens": usage.prompt_tokens if usage else None,
            "completion_tokens": usage.completion_tokens if usage else None,
        }
        self._write("info", "request", fields)

    def _write(self, level: str, event: str, fields: dict[str, object]) -> None:
        at = self._clock().astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"
        head: dict[str, object] = {"at": at, "level": level, "event": event}
        if self.dropped:
            head["dropped"] = self.dropped
        line = _render(head | fields | head)
        if line is None:
            line = _render(head | {"is_cut": True}) or b""
        try:
            ready = self._poll.poll(0)
            if not ready or not ready[0][1] & select.POLLOUT:
                self.dropped += 1
                return
            os.write(self._fd, line)
        except OSError:  # nobody reads any more
            self.dropped += 1
        else:
            self.dropped = 0


class StandardHandler(logging.Handler):
    """Brings what the standard library logs (asyncio does, about callbacks that fail) into our form.

    Its messages quote callbacks with their arguments, so only who, how bad and where is told.
    """

    def __init__(self, logs: Logs) -> None:
        super().__init__(logging.WARNING)
        self._logs = logs

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        error = record.exc_info[1] if record.exc_info else None
        fields: dict[str, object] = {"logger": record.name, "line": f"{Path(record.pathname).name}:{record.lineno}"}
        if error is not None:
            self._logs.failure("internal_error", error, **fields)
        elif record.levelno >= logging.ERROR:
            self._logs.error("internal_error", **fields)
        else:
            self._logs.warning("internal_warning", **fields)


def _render(fields: dict[str, object]) -> bytes | None:
    """Return a line, or None when there is no short one."""
    with suppress(ValueError, RecursionError):
        for limit in (_MAX_TEXT, 100):
            cut = {name: _cut(value, limit) for name, value in fields.items()}
            line = json.dumps(cut, separators=(",", ":"), default=_text_of, allow_nan=False).encode() + b"\n"
            if len(line) <= _MAX_LINE_BYTES:
                return line
    return None


def _cut(value: object, limit: int) -> Any:
    return value[:limit] if isinstance(value, str) else value


def _text_of(value: object) -> str:
    return str(value)[:_MAX_TEXT]


def _place_of(error: BaseException) -> str:
    """Return the innermost frames as `file:line function`, innermost first."""
    frames = traceback.extract_tb(error.__traceback__)[-_FRAMES:]
    return " < ".join(f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in reversed(frames))
