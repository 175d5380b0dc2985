"""One line of the request log, version 1: rows to bytes and back; no I/O.

Owns the spelling of a line (JSON in ASCII, CRC32C as the last member, 16 KiB) and the members of `begin`
and `end`. Does not own files: segments.py. Besides the standard library it uses google-crc32c, because
Python has no Castagnoli CRC. The CRC is compared as text: parsed as a number, a flipped letter case would
pass unseen. The format is described for outsiders in docs/request-log.md.
"""

import json
import re
import secrets
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import google_crc32c

from spotinference_proxy.errors import RecordError
from spotinference_proxy.usage import Usage, parse_object

VERSION = 1
MAX_LINE_BYTES = 16 * 1024
_STRING_LIMITS = (4096, 1024, 256, 64)  # tried in turn until the line fits
_TAIL = re.compile(rb',"c":"([0-9a-f]{8})"\}\n\Z')
_TAIL_BYTES = len(b',"c":"00000000"}\n')

Row = Mapping[str, Any]


def render_instant(instant: datetime) -> str:
    """Render an aware instant as RFC 3339 in UTC with microseconds and `Z`."""
    return instant.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def new_request_id(instant: datetime) -> str:
    """Make a UUIDv7: milliseconds of `instant`, then 74 random bits (RFC 9562)."""
    milliseconds = int(instant.timestamp() * 1000) & (2**48 - 1)
    bits = milliseconds << 80 | 7 << 76 | secrets.randbits(12) << 64 | 2 << 62 | secrets.randbits(62)
    return str(uuid.UUID(int=bits))


def render_line(row: Row, n: int) -> bytes:
    """Render `row` as line number `n`; over-long strings are cut until it fits.

    Raises: RecordError when the row is too long for another reason than its strings.
    """
    for limit in (None, *_STRING_LIMITS):
        members = {key: _cut(value, limit) for key, value in row.items()}
        text = json.dumps({"v": VERSION, "k": members.pop("k"), "n": n, **members}, separators=(",", ":"))
        body = text[:-1].encode()
        if len(body) + _TAIL_BYTES <= MAX_LINE_BYTES:
            return body + f',"c":"{google_crc32c.value(body):08x}"}}\n'.encode()
    raise RecordError(f"row {row['k']}: longer than {MAX_LINE_BYTES} bytes with every string cut")


def _cut(value: Any, limit: int | None) -> Any:
    if not isinstance(value, str):
        return value
    return value[:limit].encode("utf-8", "replace").decode()  # a lone surrogate is not UTF-8


def parse_line(line: bytes) -> dict[str, Any]:
    """Return the members of a line.

    Raises: RecordError when it is not byte for byte what a writer of this version writes.
    """
    tail = _TAIL.search(line)
    if tail is None or len(line) > MAX_LINE_BYTES:
        raise RecordError(f"line of {len(line)} bytes: expected a CRC as its last member, found {line[-20:]!r}")
    body = line[: tail.start()]
    expected = f"{google_crc32c.value(body):08x}".encode()
    if tail[1] != expected:
        raise RecordError(f"line: expected CRC {expected.decode()}, found {tail[1].decode()}")
    row = parse_object(line)
    if row is None or row.get("v") != VERSION or type(row.get("n")) is not int or not isinstance(row.get("k"), str):
        raise RecordError(f"line: expected an object of version {VERSION}, found {line[:40]!r}")
    return row


@dataclass
class RequestRecord:
    """The record of one request, filled in as it goes; `begin` and `end` are rows of it."""

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

    def begin(self) -> Row:
        """Return the row written before the upstream is asked."""
        return {"k": "begin", **self._shared()}

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

    def end(self, finished_at: datetime, end_reason: str) -> Row:
        """Return the last row of the request; unknown counts are null, never 0."""
        usage = self.usage
        source = "none" if usage is None else "engine_final" if self.is_usage_final else "engine_partial"
        return {
            "k": "end",
            **self._shared(),
            "model": self.model,
            "finished_at": render_instant(finished_at),
            "first_byte_at": render_instant(self.first_byte_at) if self.first_byte_at else None,
            "status": self.status,
            "upstream_status": self.upstream_status,
            "end_reason": end_reason,
            "usage_source": source,
            "prompt_tokens": usage.prompt_tokens if usage else None,
            "completion_tokens": usage.completion_tokens if usage else None,
            "cached_tokens": usage.cached_tokens if usage else None,
            "reasoning_tokens": usage.reasoning_tokens if usage else None,
            "choices": self.choices,
        }

    def _shared(self) -> dict[str, Any]:
        return {
            "request_id": self.request_id,
            "started_at": render_instant(self.started_at),
            "endpoint": self.endpoint,
            "requested_model": self.requested_model,
            "stream": self.stream,
            "vm_id": self.vm_id,
            "key_id": self.key_id,
            "canary": self.canary,
        }
