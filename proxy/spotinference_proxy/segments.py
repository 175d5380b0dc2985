"""One segment file: create, append, sync, seal, scan.

Owns the file's name, its bytes and what is known to be on disk. Does not own which rows go in together
(log.py), which segment follows which (writer.py), nor files of dead writers (recovery.py).
A failed fdatasync may have dropped the dirty pages and says so only once
(https://wiki.postgresql.org/wiki/Fsync_Errors), so it is never repeated on the same descriptor.
"""

import fcntl
import hashlib
import os
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from spotinference_proxy.errors import RecordError
from spotinference_proxy.record import MAX_LINE_BYTES, Row, parse_line, render_line

MAX_OPEN_IDS = 400  # in one seal: 400 ids of 36 characters are under the 16 KiB of a line
_NAME = re.compile(
    r"(?P<writer>[a-z0-9-]{1,40})\.(?P<boot>[0-9a-f]{8})\.(?P<start>\d{8}T\d{6}Z)"
    r"\.(?P<sequence>\d{6})\.(?P<random>[0-9a-f]{8})\.(?P<suffix>open|jsonl)"
)


@dataclass(frozen=True)
class SegmentName:
    """The parts of a segment's file name."""

    writer: str
    boot: str
    start: str
    sequence: int
    random: str

    @classmethod
    def new(cls, writer: str, boot: str, start: datetime, sequence: int) -> "SegmentName":
        """Name a segment created at `start`; the random part keeps two writers of one name apart."""
        return cls(writer, boot, f"{start.astimezone(UTC):%Y%m%dT%H%M%SZ}", sequence, secrets.token_hex(4))

    @classmethod
    def parse(cls, file_name: str) -> "SegmentName | None":
        """Return the parts of a `.open` or `.jsonl` name, or None when it is something else."""
        match = _NAME.fullmatch(file_name)
        if match is None:
            return None
        return cls(match["writer"], match["boot"], match["start"], int(match["sequence"]), match["random"])

    @property
    def stem(self) -> str:
        """The name without suffix, as `prev` has it."""
        return f"{self.writer}.{self.boot}.{self.start}.{self.sequence:06d}.{self.random}"


@dataclass(frozen=True)
class Calls:
    """The system calls that can fail on a bad disk; tests pass their own."""

    write: Callable[[int, bytes], int] = os.write
    fdatasync: Callable[[int], None] = os.fdatasync
    fsync: Callable[[int], None] = os.fsync
    ftruncate: Callable[[int, int], None] = os.ftruncate
    rename: Callable[[Path, Path], None] = os.rename


@dataclass
class Segment:
    """An `.open` file under an exclusive lock; `size`, `rows` and `digest` describe what is synced."""

    folder: Path
    name: SegmentName
    fd: int
    calls: Calls
    size: int = 0
    rows: int = 0
    digest: Any = field(default_factory=hashlib.sha256)
    is_sealed: bool = False

    @classmethod
    def create(cls, folder: Path, name: SegmentName, calls: Calls) -> "Segment":
        """Create the file, lock it and make its name durable. Raises: OSError."""
        flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(folder / f"{name.stem}.open", flags, 0o640)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            sync_folder(folder, calls)
        except OSError:
            os.close(fd)
            raise
        return cls(folder, name, fd, calls)

    @property
    def path(self) -> Path:
        """Where the file is while it is written."""
        return self.folder / f"{self.name.stem}.open"

    def append(self, rows: list[Row]) -> None:
        """Write `rows` by one looped write and one fdatasync. Raises: OSError; then nothing is promised."""
        content = b"".join(render_line(row, self.rows + i) for i, row in enumerate(rows))
        self._write(content)
        self.calls.fdatasync(self.fd)
        self._count(content, len(rows))

    def cut(self) -> int:
        """Cut what was never synced; return how many bytes that was. Raises: OSError."""
        surplus = os.fstat(self.fd).st_size - self.size
        self.calls.ftruncate(self.fd, self.size)
        return surplus

    def seal(self, *, open_ids: list[str], torn: int, by: str) -> str:
        """Write the last line, make it durable, take the final name; return the file's SHA-256.

        Raises: OSError; the file may then have a seal and still the name `.open`, which recovery understands.
        """
        row = {
            "k": "seal",
            "rows": self.rows,
            "bytes": self.size,
            "sha256": self.digest.hexdigest(),
            "open": open_ids[:MAX_OPEN_IDS],
            "torn": torn,
            "by": by,
        }
        content = render_line(row, self.rows)
        self._write(content)
        self.calls.fsync(self.fd)
        self._count(content, 1)
        self.is_sealed = True
        self.publish()
        return str(self.digest.hexdigest())

    def publish(self) -> None:
        """Give a sealed file its final name and release it; may be repeated. Raises: OSError."""
        if self.path.exists():
            self.calls.rename(self.path, self.folder / f"{self.name.stem}.jsonl")
        sync_folder(self.folder, self.calls)
        self.close()

    def close(self) -> None:
        """Release the descriptor and with it the lock."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def _write(self, content: bytes) -> None:
        view = memoryview(content)
        while view:
            view = view[self.calls.write(self.fd, bytes(view)) :]

    def _count(self, content: bytes, rows: int) -> None:
        self.size += len(content)
        self.rows += rows
        self.digest.update(content)


def sync_folder(folder: Path, calls: Calls) -> None:
    """Make names created or changed in `folder` durable. Raises: OSError."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        calls.fsync(fd)
    finally:
        os.close(fd)


@dataclass
class Scan:
    """The valid prefix of a segment's bytes, and who is begun and not ended in it."""

    rows: int = 0
    size: int = 0
    head: dict[str, Any] | None = None
    seal: dict[str, Any] | None = None
    open_ids: dict[str, None] = field(default_factory=dict)
    ended_ids: set[str] = field(default_factory=set)


def scan(content: bytes) -> Scan:
    """Read lines up to the first that is damaged, out of order or after a seal."""
    found = Scan()
    while found.seal is None and found.size < len(content):
        end = content.find(b"\n", found.size, found.size + MAX_LINE_BYTES) + 1
        try:
            row = parse_line(content[found.size : end])
        except RecordError:
            break
        if row["n"] != found.rows or (row["k"] == "head") != (found.rows == 0):
            break
        if row["k"] == "head":
            found.head = row
        elif row["k"] == "begin":
            found.open_ids[row["request_id"]] = None
        elif row["k"] == "end":
            found.open_ids.pop(row["request_id"], None)
            found.ended_ids.add(row["request_id"])
        elif row["k"] == "seal":
            found.seal = row
        found.rows += 1
        found.size = end
    return found
