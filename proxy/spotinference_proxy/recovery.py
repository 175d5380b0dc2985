"""Segments that a dead writer left behind: keep the valid prefix, seal it, say who will never end.

Owns files whose lock is free (`.open`, and the writers' `.new` and `.reserve`), and the chain from one segment
to the one before. A live writer holds the lock of its file, also when it is stopped or its machine is paused, so
such a file is left alone. Being killed in the middle of a recovery is as good as never having begun it.
"""

import contextlib
import fcntl
import hashlib
import os
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from spotinference_proxy.errors import RecordError
from spotinference_proxy.record import MAX_LINE_BYTES, Entry, parse_line, render_entry, render_instant
from spotinference_proxy.segments import MAX_OPEN_IDS, Calls, Scan, Segment, SegmentName, scan, sync_folder, write_all


@dataclass(frozen=True)
class Recovered:
    """A segment that was sealed for its dead writer, and how many bytes of it were cut off."""

    stem: str
    torn: int


def recover(folder: Path, calls: Calls | None = None) -> list[Recovered]:
    """Seal every abandoned segment in `folder`. A second call finds nothing.

    Raises: OSError when the folder cannot be read or written.
    """
    calls = calls or Calls()
    for path in (*folder.glob("*.new"), *folder.glob("*.reserve")):
        _sweep(path)  # first: a dead writer's reserve is room for what follows
    names = [SegmentName.parse(path.name) for path in folder.glob("*.open")]
    found = sorted((n for n in names if n), key=lambda n: (n.writer, n.boot, n.sequence, n.start))
    recovered = [_recover_one(folder, name, calls) for name in found]
    return [one for one in recovered if one is not None]


def last_sealed(folder: Path, writer: str, boot: str | None = None) -> tuple[str | None, str | None]:
    """Return stem and SHA-256 of the segment a writer (or one life of it) sealed last, or two None."""
    found = (SegmentName.parse(path.name) for path in folder.glob(f"{writer}.{boot or '*'}.*.jsonl"))
    names = sorted((name for name in found if name), key=_age, reverse=True)
    for name in dict.fromkeys((*chain_ends(names, lambda name: _read_prev(folder, name)), *names)):
        path = folder / f"{name.stem}.jsonl"
        with contextlib.suppress(FileNotFoundError), path.open("rb") as file:  # may have been shipped since
            return name.stem, hashlib.file_digest(file, "sha256").hexdigest()
    return None, None


def chain_ends(names: Iterable[SegmentName], prev_of: Callable[[SegmentName], str | None]) -> list[SegmentName]:
    """Return the last segment of each writer life from which no other life goes on, the newest first.

    That is one of each writer, unless several ran at once. What heads name decides, not what instants say: a clock may
    have been set back between two lives. `prev_of` is asked for the first segment of each life.
    """
    lives: dict[tuple[str, str], list[SegmentName]] = {}
    for name in sorted(names, key=lambda name: (name.sequence, name.stem)):
        lives.setdefault((name.writer, name.boot), []).append(name)
    named = {prev_of(life[0]) for life in lives.values()}
    return sorted((life[-1] for life in lives.values() if life[-1].stem not in named), key=_age, reverse=True)


def parse_prev(line: bytes) -> str | None:
    """Return what a segment's first line names as the one before; None where it names none, or is no such line."""
    try:
        row = parse_line(line)
    except RecordError:
        return None
    return str(row["prev"]) if row["k"] == "head" and row.get("prev") else None


def render_head(writer: str, started_at: datetime, prev: str | None, digest: str | None) -> Entry:
    """Return the first line of a segment."""
    row = {
        "k": "head",
        "writer": writer,
        "started_at": render_instant(started_at),
        "prev": prev,
        "prev_sha256": digest,
    }
    return render_entry(row)


def seal_afresh(segment: Segment, open_ids: list[str], torn: int) -> str:
    """Seal after an error, by a new descriptor while the old one keeps the lock; return the file's SHA-256.

    Raises: OSError when it does not work either, or the bytes that were synced are not there.
    """
    if segment.is_sealed:  # only its name or the folder could not be written
        segment.publish()
        return str(segment.digest.hexdigest())
    fd = os.open(segment.path, os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)
    fresh = Segment(segment.folder, segment.name, fd, segment.calls, segment.size, segment.rows)
    try:
        fresh.cut()
        content = segment.path.read_bytes()
        fresh.digest = hashlib.sha256(content)
        if fresh.digest.digest() != segment.digest.digest():
            raise OSError(f"{segment.path}: synced bytes are not what was written")
        digest = fresh.seal(open_ids=open_ids, torn=torn, by="writer")
    finally:
        fresh.close()
    segment.close()
    return digest


def seal_dead(segment: Segment, dead: list[str], torn: int) -> None:
    """Seal for a writer that is no more. A seal holds 400 ids: the others get segments of their own.

    Raises: OSError; what is left to do a recovery will do.
    """
    try:
        while len(dead) > MAX_OPEN_IDS:
            name = segment.name
            name = SegmentName.new(name.writer, name.boot, _start_of(name), name.sequence + 1)
            following = Segment.create(segment.folder, name, segment.calls)  # first, so that there is one to recover
            try:
                digest = segment.seal(open_ids=dead, torn=torn, by="recovery")
            except OSError:
                following.close()
                raise
            prev, segment, dead, torn = segment.name.stem, following, dead[MAX_OPEN_IDS:], 0
            segment.append([render_head(name.writer, _start_of(name), prev, digest)])
        segment.seal(open_ids=dead, torn=torn, by="recovery")
    finally:
        segment.close()


def _age(name: SegmentName) -> tuple[str, int, str]:
    return name.start, name.sequence, name.stem


def _read_prev(folder: Path, name: SegmentName) -> str | None:
    path, flags = folder / f"{name.stem}.jsonl", os.O_NOFOLLOW | os.O_NONBLOCK
    with contextlib.suppress(OSError), open(path, "rb", opener=lambda path, mode: os.open(path, mode | flags)) as file:
        return parse_prev(file.readline(MAX_LINE_BYTES))
    return None


def _sweep(path: Path) -> None:
    """Remove a file that holds no rows and whose writer is dead."""
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if stat.S_ISREG(os.fstat(fd).st_mode):
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
        finally:
            os.close(fd)


def _recover_one(folder: Path, name: SegmentName, calls: Calls) -> Recovered | None:
    try:
        path = folder / f"{name.stem}.open"
        fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    segment = Segment(folder, name, fd, calls)
    try:
        if not _is_ours(segment):
            return None
        content = segment.path.read_bytes()
        found = scan(content)
        segment.size, segment.rows = found.size, found.rows
        segment.digest = hashlib.sha256(memoryview(content)[: found.size])
        torn = _move_tail(segment, content[found.size :])
        if found.seal is not None:
            segment.publish()
            return Recovered(name.stem, torn)
        if found.head is None:
            found.head = _write_head(segment)
        seal_dead(segment, list(_dead(folder, name, found)), torn)
    finally:
        segment.close()
    return Recovered(name.stem, torn)


def _is_ours(segment: Segment) -> bool:
    status = os.fstat(segment.fd)
    if not stat.S_ISREG(status.st_mode):
        return False
    try:
        fcntl.flock(segment.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return segment.path.stat().st_ino == status.st_ino
    except (BlockingIOError, FileNotFoundError):
        return False  # its writer lives, or another recovery was faster


def _move_tail(segment: Segment, tail: bytes) -> int:
    """Put the tail aside and cut it off; return how many bytes were put aside, by earlier tries too."""
    path = segment.folder / f"{segment.name.stem}.torn"
    before = path.read_bytes() if path.is_file() else b""
    if not tail:
        return len(before)
    if not before.endswith(tail):  # else a recovery was killed between the two steps
        fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640)
        try:
            write_all(fd, before + tail, segment.calls)
            segment.calls.fsync(fd)
        finally:
            os.close(fd)
        sync_folder(segment.folder, segment.calls)
        before += tail
    segment.calls.ftruncate(segment.fd, segment.size)
    return len(before)


def _write_head(segment: Segment) -> dict[str, object]:
    name = segment.name
    prev, digest = last_sealed(segment.folder, name.writer, name.boot)
    segment.append([render_head(name.writer, _start_of(name), prev, digest)])
    return {"prev": prev}


def _start_of(name: SegmentName) -> datetime:
    return datetime.strptime(name.start, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)


def _dead(folder: Path, name: SegmentName, found: Scan) -> dict[str, None]:
    """Requests begun in this segment or in earlier ones of the same life, not ended and not yet said to be dead."""
    prev = SegmentName.parse(f"{(found.head or {}).get('prev')}.jsonl")
    if prev is None or (prev.writer, prev.boot) != (name.writer, name.boot):
        return found.open_ids
    path = folder / f"{prev.stem}.jsonl"
    before = scan(path.read_bytes()) if path.is_file() else Scan()
    if before.seal is None:
        return found.open_ids
    carried = dict.fromkeys(before.seal["open"])
    if before.seal["by"] != "writer":  # a recovery was killed between two seals
        carried = {one: None for one in _dead(folder, prev, before) if one not in carried}
    return {one: None for one in carried if one not in found.ended_ids} | found.open_ids
