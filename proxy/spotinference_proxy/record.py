"""One line of the request log, version 1: rows to bytes and back; no I/O.

Owns the spelling of a line (JSON in UTF-8, CRC32C as the last member, 16 KiB) and the members of `begin`
and `end`. Does not own files: segments.py. Besides the standard library it uses msgspec, which writes a row
ten times as fast, and google-crc32c, because Python has no Castagnoli CRC. The CRC is compared as text: parsed
as a number, a flipped letter case would pass unseen. docs/request-log.md describes the format for outsiders.
"""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

import google_crc32c
import msgspec

from spotinference_proxy.errors import RecordError
from spotinference_proxy.usage import Usage

VERSION = 1
MAX_LINE_BYTES = 16 * 1024
CLOCK_JUMP_SECONDS = 5.0  # a difference between clock and stopwatch that is told
_STRING_LIMITS = (4096, 1024, 256, 64)  # tried in turn until the line fits
_TAIL = re.compile(rb',"c":"([0-9a-f]{8})"\}\n\Z')
_TAIL_BYTES = len(b',"c":"00000000"}\n')
_MAX_REST_BYTES = MAX_LINE_BYTES - _TAIL_BYTES - len(b'{"v":1,"k":"","n":') - 19  # any number of a row
_INSTANT_BYTES = len('"2026-11-22T23:59:59.000007Z"')
_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder()

Row = Mapping[str, Any]


class Entry(NamedTuple):
    """A row ready for any place in a segment: all of its line but version, number and checksum."""

    kind: str
    request_id: str | None
    rest: bytes


def render_instant(instant: datetime) -> str:
    """Render an aware instant as RFC 3339 in UTC with microseconds and `Z`."""
    text = _ENCODER.encode(instant)  # leaves out microseconds of 0 and keeps the zone: then it has another length
    if len(text) == _INSTANT_BYTES:
        return text[1:-1].decode()
    return instant.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def new_request_id(instant: datetime) -> str:
    """Make a UUIDv7: milliseconds of `instant`, then 74 random bits (RFC 9562)."""
    time = f"{int(instant.timestamp() * 1000) & (2**48 - 1):012x}"
    noise = os.urandom(10).hex()  # from the kernel: two workers never share a state
    variant = "89ab"[int(noise[3], 16) & 3]
    return f"{time[:8]}-{time[8:]}-7{noise[:3]}-{variant}{noise[4:7]}-{noise[7:19]}"


def render_entry(row: Row) -> Entry:
    """Render what does not depend on the row's place; over-long strings are cut until the line fits.

    Raises: RecordError when the row is too long for another reason than its strings.
    """
    kind = row["k"]
    try:
        text = _ENCODER.encode(row)
    except UnicodeEncodeError:  # a lone surrogate
        text = _ENCODER.encode({key: _cut(value, None) for key, value in row.items()})
    if len(text) > _MAX_REST_BYTES:
        text = _shorten(row)
    start = len(kind) + 7  # after {"k":"begin"
    if not text.startswith(b'{"k":"'):
        raise RecordError(f"row {kind}: expected k as its first member, found {text[:20]!r}")
    return Entry(kind, row.get("request_id"), text[start:-1])


def render_lines(entries: Iterable[Entry], n: int) -> bytes:
    """Render entries as lines number `n`, `n` + 1 and so on."""
    lines = []
    for number, (kind, _, rest) in enumerate(entries, n):
        body = b'{"v":1,"k":"%b","n":%d%b' % (kind.encode(), number, rest)
        lines.append(b'%b,"c":"%08x"}\n' % (body, google_crc32c.value(body)))
    return b"".join(lines)


def render_line(row: Row, n: int) -> bytes:
    """Render `row` as line number `n`. Raises: RecordError, as render_entry does."""
    return render_lines((render_entry(row),), n)


def _shorten(row: Row) -> bytes:
    for limit in _STRING_LIMITS:
        text = _ENCODER.encode({key: _cut(value, limit) for key, value in row.items()})
        if len(text) <= _MAX_REST_BYTES:
            return text
    raise RecordError(f"row {row['k']}: longer than {MAX_LINE_BYTES} bytes with every string cut")


def _cut(value: Any, limit: int | None) -> Any:
    if not isinstance(value, str):
        return value
    return value[:limit].encode("utf-8", "replace").decode()


def parse_line(line: bytes) -> dict[str, Any]:
    """Return the members of a line.

    Raises: RecordError when it is not byte for byte what a writer of this version writes.
    """
    tail = _TAIL.search(line, max(len(line) - _TAIL_BYTES, 0))
    if tail is None or len(line) > MAX_LINE_BYTES:
        raise RecordError(f"line of {len(line)} bytes: expected a CRC as its last member, found {line[-20:]!r}")
    body = line[: tail.start()]
    expected = b"%08x" % google_crc32c.value(body)
    if tail[1] != expected:
        raise RecordError(f"line: expected CRC {expected.decode()}, found {tail[1].decode()}")
    try:
        row = _DECODER.decode(line)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        row = None
    if not isinstance(row, dict) or row.get("v") != VERSION or not isinstance(row.get("k"), str):
        raise RecordError(f"line: expected an object of version {VERSION}, found {line[:40]!r}")
    if type(row.get("n")) is not int:
        raise RecordError(f"line: expected an object of version {VERSION} with its number, found {line[:40]!r}")
    return row


@dataclass(slots=True)
class RequestRecord:
    """The record of one request, filled in as it goes; `begin` and `end` are rows of it.

    `started_monotonic` is the stopwatch when it started; None with a clock that is not the machine's.
    """

    request_id: str
    started_at: datetime
    endpoint: str
    requested_model: str | None = None
    stream: bool = False
    vm_id: int | None = None
    key_id: str | None = None
    canary: bool = False
    choices: int = 1
    model: str | None = None
    first_byte_at: datetime | None = None
    status: int = 499
    upstream_status: int | None = None
    usage: Usage | None = None
    is_usage_final: bool = False
    started_monotonic: float | None = None
    is_implausible: bool = False  # what vLLM said cannot all be true; kept as said
    is_beam: bool = False  # usage tells the returned beams only

    @property
    def usage_source(self) -> str:
        """What the token counts are: exact, a lower bound, or unknown."""
        if self.usage is None:
            return "none"
        return "engine_final" if self.is_usage_final else "engine_partial"

    def begin(self) -> Row:
        """Return the row written before the upstream is asked."""
        return {
            "k": "begin",
            "request_id": self.request_id,
            "started_at": render_instant(self.started_at),
            "endpoint": self.endpoint,
            "requested_model": self.requested_model,
            "stream": self.stream,
            "vm_id": self.vm_id,
            "key_id": self.key_id,
            "canary": self.canary,
        }

    def progress(self, at: datetime) -> Row | None:
        """Return a `usage` row of what vLLM said so far, or None while it said nothing."""
        if self.usage is None:
            return None
        return {
            "k": "usage",
            "request_id": self.request_id,
            "at": render_instant(at),
            "prompt_tokens": self.usage.prompt_tokens,
            "completion_tokens": self.usage.completion_tokens,
        }

    def end(self, finished_at: datetime, end_reason: str, monotonic: float | None = None) -> Row:
        """Return the last row of the request; unknown counts are null, never 0.

        `monotonic` is the stopwatch now. A clock that jumped meanwhile is told; no end is before its start.
        """
        usage, started_at = self.usage, self.started_at
        finished = finished_at if finished_at > started_at else started_at
        first = self.first_byte_at
        row = {
            **self.begin(),
            "k": "end",
            "model": self.model,
            "finished_at": render_instant(finished),
            "first_byte_at": None if first is None else render_instant(min(max(first, started_at), finished)),
            "status": self.status,
            "upstream_status": self.upstream_status,
            "end_reason": end_reason,
            "usage_source": self.usage_source,
            "prompt_tokens": usage.prompt_tokens if usage else None,
            "completion_tokens": usage.completion_tokens if usage else None,
            "cached_tokens": usage.cached_tokens if usage else None,
            "reasoning_tokens": usage.reasoning_tokens if usage else None,
            "choices": self.choices,
        }
        if monotonic is not None and self.started_monotonic is not None:
            jump = (finished_at - started_at).total_seconds() - (monotonic - self.started_monotonic)
            if abs(jump) > CLOCK_JUMP_SECONDS:
                row["clock_jump"] = round(jump)
        if self.is_implausible:
            row["implausible"] = True
        if self.is_beam:
            row["beam_search"] = True
        return row
