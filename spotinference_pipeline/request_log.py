"""Sealed segments of the proxy's request log, version 1: exact bytes in, typed records out.

Owns the meaning of a log line (docs/request-log.md). Every line stands alone by its checksum: a bad line is reported
with its reason, the others are still read; so is a seal that does not fit or a row that is missing. Unknown members
are ignored; lines of an unknown kind are counted. Does not own how records become rows: that is `log_rows`.
"""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from itertools import compress
from typing import Annotated, Any, Generic, Literal, TypeVar

import msgspec

from spotinference_pipeline.raw import BadLine, Instant, split_lines

Count = Annotated[int, msgspec.Meta(ge=-(2**62), le=2**62)]
Kind = TypeVar("Kind")
SEGMENT_NAME = re.compile(r"[a-z0-9-]{1,40}\.[0-9a-f]{8}\.\d{8}T\d{6}Z\.\d{6}\.[0-9a-f]{8}\.jsonl")


class _Line(msgspec.Struct, frozen=True, tag_field="k", kw_only=True, gc=False):
    """Nothing in a line can refer to itself, so the garbage collector need not look at millions of them."""

    v: Literal[1]
    n: Count


class Head(_Line, tag="head", frozen=True, kw_only=True):
    writer: str
    started_at: Instant
    prev: str | None
    prev_sha256: str | None


class Begin(_Line, tag="begin", frozen=True, kw_only=True):
    """A request was accepted."""

    request_id: str
    started_at: Instant
    endpoint: str
    requested_model: str | None
    stream: bool
    vm_id: Count | None
    key_id: str | None
    canary: bool


class Usage(_Line, tag="usage", frozen=True, kw_only=True):
    """What vLLM said so far about a running stream."""

    request_id: str
    at: Instant
    prompt_tokens: Count | None
    completion_tokens: Count | None


class End(_Line, tag="end", frozen=True, kw_only=True):
    """A request ended; tokens are null where vLLM gave no usage."""

    request_id: str
    started_at: Instant
    endpoint: str
    requested_model: str | None
    stream: bool
    vm_id: Count | None
    key_id: str | None
    canary: bool
    model: str | None
    finished_at: Instant
    first_byte_at: Instant | None
    status: Count | None
    upstream_status: Count | None
    end_reason: str
    usage_source: str
    prompt_tokens: Count | None
    completion_tokens: Count | None
    cached_tokens: Count | None
    reasoning_tokens: Count | None
    choices: Count | None


class Health(_Line, tag="health", frozen=True, kw_only=True):
    at: Instant
    vm_id: Count | None
    upstream: str
    ready: bool


class Engine(_Line, tag="engine", frozen=True, kw_only=True):
    """vLLM's own counters since the start of its process."""

    at: Instant
    vm_id: Count | None
    upstream: str
    process_started_at: Instant | None
    prompt_tokens_total: Count | None
    generation_tokens_total: Count | None


class Beat(_Line, tag="beat", frozen=True, kw_only=True):
    at: Instant


class Seal(_Line, tag="seal", frozen=True, kw_only=True):
    """The last line: totals of the segment, and the requests that are still open or will never end."""

    rows: Count
    bytes: Count
    sha256: str
    open: list[str]
    torn: Count
    by: str


Record = Head | Begin | Usage | End | Health | Engine | Beat | Seal

_RECORD = msgspec.json.Decoder(Record)


class _Kind(msgspec.Struct):
    k: str


_KIND = msgspec.json.Decoder(_Kind)
_KNOWN_KINDS = frozenset({"head", "begin", "usage", "end", "health", "engine", "beat", "seal"})


@dataclass
class Records(Generic[Kind]):
    """The records of one kind, and each one's line number: two lists, because a day has millions."""

    records: list[Kind] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)

    def where(self, is_wanted: Callable[[Kind], bool]) -> "Records[Kind]":
        """Give those that are wanted."""
        wanted = [is_wanted(record) for record in self.records]
        return Records(list(compress(self.records, wanted)), list(compress(self.lines, wanted)))


@dataclass
class Segment:
    """The records of one segment by kind, and what could not be read."""

    lines: int = 0
    unknown: int = 0
    sha256: str = ""
    """Of all bytes."""
    heads: Records[Head] = field(default_factory=Records)
    begins: Records[Begin] = field(default_factory=Records)
    usages: Records[Usage] = field(default_factory=Records)
    ends: Records[End] = field(default_factory=Records)
    healths: Records[Health] = field(default_factory=Records)
    engines: Records[Engine] = field(default_factory=Records)
    beats: Records[Beat] = field(default_factory=Records)
    seals: Records[Seal] = field(default_factory=Records)
    bad: list[BadLine] = field(default_factory=list)
    damage: list[tuple[int, str]] = field(default_factory=list)
    """What is wrong with the segment as a whole: line and reason."""
    last_n: int = -1
    """The highest number that a line says it has."""

    @property
    def rows_missing(self) -> int:
        """Count the lines that a number or the seal tells of and that are not there, or cannot be read."""
        return max(0, self.last_n + 1 - (self.lines - len(self.bad)))

    @property
    def last_instant(self) -> datetime | None:
        """Give the last instant that a line tells."""
        told = [record.at for kind in (self.usages, self.healths, self.engines, self.beats) for record in kind.records]
        told += [record.started_at for kind in (self.heads, self.begins) for record in kind.records]
        return max([*told, *(end.finished_at for end in self.ends.records)], default=None)


def read_segment(content: bytes) -> Segment:
    """Read a segment; nothing raises, what cannot be read is in `bad`."""
    segment = Segment()
    kinds: dict[type, Records[Any]] = {
        Head: segment.heads,
        Begin: segment.begins,
        Usage: segment.usages,
        End: segment.ends,
        Health: segment.healths,
        Engine: segment.engines,
        Beat: segment.beats,
        Seal: segment.seals,
    }
    add = {kind: (found.records.append, found.lines.append) for kind, found in kinds.items()}
    decode, last_n, number = _RECORD.decode, -1, 0
    for number, line in enumerate(split_lines(content), start=1):
        if isinstance(line, BadLine):
            segment.bad.append(line)
            continue
        try:
            record = decode(line)
        except (msgspec.MsgspecError, RecursionError, ValueError) as error:
            if _is_of_unknown_kind(line):
                segment.unknown += 1
            else:
                segment.bad.append(BadLine(number, f"record: {error}", line))
            continue
        if record.n != number - 1 and not segment.damage:
            segment.damage.append((number, f"rows missing: expected n {number - 1}, found {record.n}"))
        last_n = max(last_n, record.n)
        add_record, add_line = add[type(record)]
        add_record(record)
        add_line(number)
    segment.lines, segment.last_n = number, last_n
    length = content.rfind(b"\n", 0, -1) + 1
    hashed = hashlib.sha256(memoryview(content)[:length])
    segment.damage += _check_seal(segment, length, hashed.hexdigest())
    hashed.update(content[length:])
    segment.sha256 = hashed.hexdigest()
    return segment


def _check_seal(segment: Segment, length: int, sha256: str) -> list[tuple[int, str]]:
    """Hold the seal against the bytes before the last line: how many they are, and their digest."""
    if segment.seals.lines[-1:] != [segment.lines]:
        return [(segment.lines or 1, "seal: expected one as the last line, found none")]
    line, seal = segment.lines, segment.seals.records[-1]
    expected = line - 1, length, sha256
    if (seal.rows, seal.bytes, seal.sha256) != expected:
        return [
            (line, f"seal: expected rows, bytes and sha256 {expected}, found {(seal.rows, seal.bytes, seal.sha256)}")
        ]
    return []


def _is_of_unknown_kind(line: bytes) -> bool:
    try:
        return _KIND.decode(line).k not in _KNOWN_KINDS
    except (msgspec.MsgspecError, RecursionError, ValueError):
        return False
