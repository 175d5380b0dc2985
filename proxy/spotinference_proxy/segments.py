"""One segment file: create, append, sync, seal, scan.

Owns the file's name, its bytes and what is known to be on disk. Does not own which rows go in together
(log.py), which segment follows which (writer.py), nor files of dead writers (recovery.py).
A failed fdatasync may have dropped the dirty pages and says so only once
(https://wiki.postgresql.org/wiki/Fsync_Errors), so it is never repeated on the same descriptor.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from spotinference_proxy.errors import RecordError
from spotinference_proxy.record import MAX_LINE_BYTES, Entry, parse_line, render_line, render_lines

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
    """The system calls that can fail on a bad or full disk; tests pass their own."""

    open: Callable[[Path, int, int], int] = os.open
    write: Callable[[int, bytes], int] = os.write
    fdatasync: Callable[[int], None] = os.fdatasync
    fsync: Callable[[int], None] = os.fsync
    ftruncate: Callable[[int, int], None] = os.ftruncate
    rename: Callable[[Path, Path], None] = os.rename
    fallocate: Callable[[int, int, int], None] = os.posix_fallocate
    statvfs: Callable[[Path], os.statvfs_result] = os.statvfs


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
    identity: tuple[int, int] = (0, 0)
    _ahead: list[bytes] = field(default_factory=list)  # written and not synced
    _ahead_rows: int = 0

    def __post_init__(self) -> None:
        self.path = self.folder / f"{self.name.stem}.open"

    @classmethod
    def create(cls, folder: Path, name: SegmentName, calls: Calls) -> "Segment":
        """Create the file, lock it and make its name durable. Raises: OSError.

        It gets the name `.open` when it is locked: before, another process would take it for a dead writer's.
        """
        fresh, path = folder / f"{name.stem}.new", folder / f"{name.stem}.open"
        flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = calls.open(fresh, flags, 0o640)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            calls.rename(fresh, path)
            sync_folder(folder, calls)
        except OSError:
            for left in (fresh, path):
                with contextlib.suppress(OSError):
                    left.unlink()
            os.close(fd)
            raise
        status = os.fstat(fd)
        return cls(folder, name, fd, calls, identity=(status.st_dev, status.st_ino))

    def append(self, entries: Sequence[Entry], *, is_synced: bool = True) -> None:
        """Write `entries` by one looped write and, if `is_synced`, sync them and all before by one fdatasync.

        Raises: OSError; then nothing since the last sync is promised.
        """
        content = render_lines(entries, self.rows + self._ahead_rows)
        write_all(self.fd, content, self.calls)
        self._ahead.append(content)
        self._ahead_rows += len(entries)
        if is_synced:
            self.calls.fdatasync(self.fd)
            self._count()

    def is_intact(self) -> bool:
        """Tell whether the file still has its name and the size we gave it: nobody moved, removed or cut it."""
        try:
            found = os.stat(self.path)  # noqa: PTH116 - every batch asks, and Path.stat costs three times as much
        except OSError:
            return False
        size = self.size + sum(map(len, self._ahead))
        return (found.st_dev, found.st_ino) == self.identity and found.st_size == size

    def cut(self) -> int:
        """Cut what was never synced; return how many bytes that was. Raises: OSError."""
        surplus = os.fstat(self.fd).st_size - self.size
        self.calls.ftruncate(self.fd, self.size)
        self._ahead, self._ahead_rows = [], 0
        return surplus

    def seal(self, *, open_ids: list[str], torn: int, by: str) -> str:
        """Write the last line, make it durable, take the final name; return the file's SHA-256.

        Raises: OSError; the file may then have a seal and still the name `.open`, which recovery understands.
        """
        if self._ahead:
            self.append(())
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
        write_all(self.fd, content, self.calls)
        self.calls.fsync(self.fd)
        self._ahead, self._ahead_rows = [content], 1
        self._count()
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

    def _count(self) -> None:
        for content in self._ahead:
            self.size += len(content)
            self.digest.update(content)
        self.rows += self._ahead_rows
        self._ahead, self._ahead_rows = [], 0


def write_all(fd: int, content: bytes, calls: Calls) -> None:
    """Write every byte, however short the single writes are. Raises: OSError."""
    while content:
        written = calls.write(fd, content)
        if written <= 0:
            raise OSError(errno.EIO, f"expected to write {len(content)} bytes, wrote none")
        content = content[written:]


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


def scan(content: bytes, found: Scan | None = None) -> Scan:
    """Read lines, on from `found`, up to the first that is damaged, out of order or after a seal."""
    found = found or Scan()
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
            found.open_ids[str(row.get("request_id"))] = None
        elif row["k"] == "end":
            found.open_ids.pop(str(row.get("request_id")), None)
            found.ended_ids.add(str(row.get("request_id")))
        elif row["k"] == "seal":
            found.seal = row
        found.rows += 1
        found.size = end
    return found
