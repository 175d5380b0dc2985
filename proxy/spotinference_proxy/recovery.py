"""Segments that a dead writer left behind: keep the valid prefix, seal it, say who will never end.

Owns `.open` files whose lock is free, and the chain from one segment to the one before. A live writer holds
the lock of its file, also when it is stopped or its machine is paused, so such a file is left alone.
"""

import fcntl
import hashlib
import os
import stat
from datetime import UTC, datetime
from pathlib import Path

from spotinference_proxy.record import render_instant
from spotinference_proxy.segments import MAX_OPEN_IDS, Calls, Scan, Segment, SegmentName, scan, sync_folder


def recover(folder: Path, calls: Calls | None = None) -> list[str]:
    """Seal every abandoned segment in `folder`; return their stems. A second call finds nothing.

    Raises: OSError when the folder cannot be read or written.
    """
    calls = calls or Calls()
    names = [SegmentName.parse(path.name) for path in folder.glob("*.open")]
    found = sorted((n for n in names if n), key=lambda n: (n.writer, n.boot, n.sequence, n.start))
    return [name.stem for name in found if _recover_one(folder, name, calls)]


def last_sealed(folder: Path, writer: str, boot: str | None = None) -> tuple[str | None, str | None]:
    """Return stem and SHA-256 of the newest sealed segment of a writer (of one life), or two None."""
    names = (SegmentName.parse(path.name) for path in folder.glob(f"{writer}.{boot or '*'}.*.jsonl"))
    newest = max((n for n in names if n), key=lambda n: (n.start, n.sequence), default=None)
    if newest is None:
        return None, None
    content = (folder / f"{newest.stem}.jsonl").read_bytes()
    return newest.stem, hashlib.sha256(content).hexdigest()


def _recover_one(folder: Path, name: SegmentName, calls: Calls) -> bool:
    try:
        fd = os.open(folder / f"{name.stem}.open", os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return False
    segment = Segment(folder, name, fd, calls)
    try:
        if not _is_ours(segment):
            return False
        content = segment.path.read_bytes()
        found = scan(content)
        segment.size, segment.rows = found.size, found.rows
        segment.digest = hashlib.sha256(content[: found.size])
        _move_tail(segment, content[found.size :])
        if found.seal is not None:
            segment.publish()
            return True
        if found.head is None:
            found.head = _write_head(segment)
        dead = list(_carried(folder, name, found) | found.open_ids)
        segment.seal(open_ids=dead, torn=len(content) - found.size, by="recovery")
        _seal_rest(segment, dead[MAX_OPEN_IDS:])
    finally:
        segment.close()
    return True


def _is_ours(segment: Segment) -> bool:
    status = os.fstat(segment.fd)
    if not stat.S_ISREG(status.st_mode):
        return False
    try:
        fcntl.flock(segment.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return segment.path.stat().st_ino == status.st_ino
    except (BlockingIOError, FileNotFoundError):
        return False  # its writer lives, or another recovery was faster


def _move_tail(segment: Segment, tail: bytes) -> None:
    if not tail:
        return
    path = segment.folder / f"{segment.name.stem}.torn"
    fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW, 0o640)
    try:
        os.write(fd, tail)
        segment.calls.fsync(fd)
    finally:
        os.close(fd)
    sync_folder(segment.folder, segment.calls)
    segment.calls.ftruncate(segment.fd, segment.size)


def _write_head(segment: Segment) -> dict[str, object]:
    name = segment.name
    prev, digest = last_sealed(segment.folder, name.writer, name.boot)
    started_at = datetime.strptime(name.start, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    head = render_head(name.writer, started_at, prev, digest)
    segment.append([head])
    return head


def render_head(writer: str, started_at: datetime, prev: str | None, digest: str | None) -> dict[str, object]:
    """Return the first row of a segment."""
    return {
        "k": "head",
        "writer": writer,
        "started_at": render_instant(started_at),
        "prev": prev,
        "prev_sha256": digest,
    }


def _carried(folder: Path, name: SegmentName, found: Scan) -> dict[str, None]:
    """Requests begun in earlier segments of the same life which its last writer's seal called running."""
    prev = SegmentName.parse(f"{(found.head or {}).get('prev')}.jsonl")
    if prev is None or (prev.writer, prev.boot) != (name.writer, name.boot):
        return {}
    path = folder / f"{prev.stem}.jsonl"
    seal = scan(path.read_bytes()).seal if path.is_file() else None
    if seal is None or seal["by"] != "writer":
        return {}
    return {request_id: None for request_id in seal["open"] if request_id not in found.ended_ids}


def _seal_rest(segment: Segment, dead: list[str]) -> None:
    """One seal holds 400 ids: put the others into segments of their own."""
    name = segment.name
    while dead:
        started_at = datetime.strptime(name.start, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        name = SegmentName.new(name.writer, name.boot, started_at, name.sequence + 1)
        prev, digest = last_sealed(segment.folder, name.writer, name.boot)
        extra = Segment.create(segment.folder, name, segment.calls)
        extra.append([render_head(name.writer, started_at, prev, digest)])
        extra.seal(open_ids=dead, torn=0, by="recovery")
        dead = dead[MAX_OPEN_IDS:]
