"""Append-only raw files: the only state of the pipeline.

Owns the framing of a line (JSON with a CRC32C as its last member), the file format of Hyperstack exchanges and their
folders (docs/raw-files.md). Does not own what an answer means (`answers`), nor the request log's records (`request_log`).
"""

import base64
import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import google_crc32c
import msgspec

from spotinference_pipeline.errors import RawFileError
from spotinference_pipeline.windows import format_instant

Instant = Annotated[datetime, msgspec.Meta(tz=True)]
HttpStatus = Annotated[int, msgspec.Meta(ge=100, le=999)]
Record = TypeVar("Record")
_TAIL_BYTES = len(b',"c":"xxxxxxxx"}')


class Pause(msgspec.Struct, frozen=True, kw_only=True):
    """Why a call was not asked: since when and until when nothing is, and after how many failures in a row."""

    why: str
    began_at: Instant
    ends_at: Instant
    failures: int


class Exchange(msgspec.Struct, frozen=True, kw_only=True):
    """One HTTP exchange with Hyperstack as it happened; instants are UTC."""

    v: Literal[1] = 1
    scheduled_at: Instant
    started_at: Instant
    finished_at: Instant
    endpoint: str
    query: dict[str, str]
    status: HttpStatus | None
    date: str | None = None
    sha256: str | None = None
    body: str | None = None
    body_base64: str | None = None
    error: str | None = None
    retry_after: str | None = None
    pause: Pause | None = None

    @property
    def observed_at(self) -> datetime:
        """Middle of the request: the best guess of when the answer was true."""
        return self.started_at + (self.finished_at - self.started_at) / 2

    def body_bytes(self) -> bytes | None:
        """Give the body's exact bytes, None when no answer came.

        Raises: RawFileError when they do not have the digest that was taken on arrival.
        """
        if self.body_base64 is not None:
            try:
                content = base64.b64decode(self.body_base64, validate=True)
            except ValueError:
                raise RawFileError("body_base64: expected base64") from None
        elif self.body is not None:
            content = self.body.encode()
        else:
            return None
        if hashlib.sha256(content).hexdigest() != self.sha256:
            raise RawFileError("body: expected the sha256 of its arrival, found another")
        return content


@dataclass(frozen=True)
class BadLine:
    """A line that cannot be trusted; `content` is what is there."""

    line: int
    reason: str
    content: bytes


def frame(document: bytes) -> bytes:
    """Close a JSON object with its checksum and a newline."""
    crc = google_crc32c.value(document[:-1])
    return document[:-1] + b',"c":"%08x"}\n' % crc


def split_lines(content: bytes) -> list[bytes | BadLine]:
    """Give every line, from number 1 on: its verified JSON, or why it is bad. A torn last line is bad."""
    lines = content.split(b"\n")
    torn = lines.pop()
    checked = [
        line
        if line[-_TAIL_BYTES:] == b',"c":"%08x"}' % google_crc32c.value(line[:-_TAIL_BYTES])
        else BadLine(number, _checksum_fault(line), line)
        for number, line in enumerate(lines, start=1)
    ]
    if torn:
        checked.append(BadLine(len(lines) + 1, "torn line: expected a newline at its end", torn))
    return checked


def _checksum_fault(line: bytes) -> str:
    """Say what is wrong with the end of a line; checksums are compared as text."""
    content, tail = line[:-_TAIL_BYTES], line[-_TAIL_BYTES:]
    if not (tail.startswith(b',"c":"') and tail.endswith(b'"}')):
        return 'checksum: expected the line to end with ,"c":"xxxxxxxx"}'
    return f"checksum: expected {google_crc32c.value(content):08x}, found {tail[6:14]!r}"


def read_records(
    content: bytes, decoder: msgspec.json.Decoder[Record], what: str
) -> Iterator[tuple[int, Record | BadLine]]:
    """Give each line's number and its record, or why it cannot be one; `what` names a record in that reason."""
    for number, line in enumerate(split_lines(content), start=1):
        if isinstance(line, BadLine):
            yield number, line
            continue
        try:
            yield number, decoder.decode(line)
        except (msgspec.MsgspecError, RecursionError) as error:
            yield number, BadLine(number, f"{what}: {error}", line)


_DECODER = msgspec.json.Decoder(Exchange)


def read_exchanges(content: bytes) -> Iterator[tuple[int, Exchange | BadLine]]:
    """Give each line's number and its exchange, or why it cannot be one."""
    return read_records(content, _DECODER, "exchange")


def encode_exchange(exchange: Exchange) -> bytes:
    """Write one exchange as a framed line."""
    return frame(msgspec.json.encode(_members(exchange)))


_OPTIONAL = frozenset({"body_base64", "retry_after", "pause"})
"""Members that a line has only where they say something."""


def _members(struct: msgspec.Struct) -> dict[str, object]:
    return {
        name: format_instant(value)
        if isinstance(value, datetime)
        else _members(value)
        if isinstance(value, msgspec.Struct)
        else value
        for name, value in msgspec.structs.asdict(struct).items()
        if not (name in _OPTIONAL and value is None)
    }


def body_members(content: bytes | None) -> dict[str, str | None]:
    """Give the members of an exchange that keep a body's exact bytes."""
    if content is None:
        return {}
    digest = hashlib.sha256(content).hexdigest()
    try:
        return {"sha256": digest, "body": content.decode()}
    except UnicodeDecodeError:
        return {"sha256": digest, "body_base64": base64.b64encode(content).decode()}


def append_exchanges(raw_dir: Path, exchanges: Sequence[Exchange], token: str) -> Path:
    """Land exchanges as one new immutable file: written aside, synced, renamed, folder synced.

    `token`: 8 random hex digits that keep two writers of the same second apart.
    Raises: RawFileError when the file cannot be written or exists already.
    """
    first = exchanges[0]
    folder = raw_dir / first.scheduled_at.strftime("%Y-%m-%d")
    target = folder / f"{first.started_at:%Y%m%dT%H%M%SZ}.{token}.jsonl"
    aside = target.with_suffix(".open")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with aside.open("xb") as file:
            file.write(b"".join(map(encode_exchange, exchanges)))
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            raise FileExistsError(17, "a file of that name")
        aside.rename(target)
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise RawFileError(
            f"raw file {target}: could not be written, found {error.strerror}; free space or correct permissions, "
            "the next snapshot loses nothing"
        ) from None
    return target


def land(target: Path, content: bytes) -> None:
    """Land a new immutable file: written aside, synced, linked to its name, folder synced.

    Raises: FileExistsError when there is one of that name, OSError when it cannot be written.
    """
    aside = target.with_suffix(f".{os.getpid()}.open")
    target.parent.mkdir(parents=True, exist_ok=True)
    with aside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(aside, target)
    finally:
        aside.unlink()
    descriptor = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_DAY_FOLDER = "[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]"


def list_files(raw_dir: Path) -> list[Path]:
    """Give all landed files, oldest first; links and folders are none."""
    found = raw_dir.glob(f"{_DAY_FOLDER}/*.jsonl")
    return sorted(path for path in found if path.is_file() and not path.is_symlink())


def first_day(raw_dir: Path) -> date | None:
    """Give the first UTC day of which there are raw files."""
    return min((date.fromisoformat(path.parent.name) for path in list_files(raw_dir)[:1]), default=None)


def has_minute(raw_dir: Path, minute: datetime) -> bool:
    """Tell whether a snapshot was landed that began in this minute; books of past days are none."""
    of_snapshots = f"{minute:%Y%m%dT%H%M}??Z.{'[0-9a-f]' * 8}.jsonl"
    return any((raw_dir / f"{minute:%Y-%m-%d}").glob(of_snapshots))
