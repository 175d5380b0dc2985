"""The segments of one writer life, in order; every call here may block on the disk.

Owns which segment is written, what follows an error, and the set of requests still open. Runs on one thread
at a time: log.py sees to that. After a failed write or sync the segment is cut back to what was synced,
sealed through a fresh descriptor, and never written by the old one again.
"""

import contextlib
import hashlib
import os
import secrets
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from spotinference_proxy.errors import LogError
from spotinference_proxy.record import Row
from spotinference_proxy.recovery import last_sealed, recover, render_head
from spotinference_proxy.segments import MAX_OPEN_IDS, Calls, Segment, SegmentName

MAX_SEGMENT_BYTES = 64 * 1024 * 1024
MAX_SEGMENT_SECONDS = 60.0


class SegmentWriter:
    """Append rows durably, segment after segment."""

    def __init__(
        self,
        folder: Path,
        writer: str,
        clock: Callable[[], datetime],
        *,
        calls: Calls | None = None,
        max_bytes: int = MAX_SEGMENT_BYTES,
        max_seconds: float = MAX_SEGMENT_SECONDS,
    ) -> None:
        self.is_broken = False
        self._folder = folder
        self._writer = writer
        self._clock = clock
        self._calls = calls or Calls()
        self._max_bytes = max_bytes
        self._max_seconds = max_seconds
        self._boot = secrets.token_hex(4)
        self._sequence = 0
        self._segment: Segment | None = None
        self._started = time.monotonic()
        self._prev: tuple[str | None, str | None] = (None, None)
        self._open: dict[str, Row] = {}
        self._retired: list[tuple[Segment, list[str], int]] = []

    def start(self) -> None:
        """Recover what dead writers left, then open the first segment. Raises: LogError."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            recover(self._folder, self._calls)
            self._prev = last_sealed(self._folder, self._writer)
            self._begin(self._create())
        except OSError as error:
            raise self._failed("start", error) from error

    def write(self, rows: list[Row]) -> None:
        """Make `rows` durable. Raises: LogError; then none of them is, as far as anyone may say."""
        try:
            segment = self._segment or self._begin(self._create())
            segment.append(rows)
        except OSError as error:
            self._give_up()
            raise self._failed("write", error) from error
        self.is_broken = False
        for row in rows:
            if row["k"] == "begin":
                self._open[row["request_id"]] = row
            elif row["k"] == "end":
                self._open.pop(row["request_id"], None)
        if segment.size >= self._max_bytes:
            self.seal()

    def tick(self) -> None:
        """Seal a segment that is old enough; after an error try whether the disk works again."""
        if self.is_broken:
            with contextlib.suppress(LogError):
                self.write([])
        elif time.monotonic() - self._started >= self._max_seconds:
            self.seal()

    def seal(self) -> None:
        """Seal the current segment if it holds a row, and go on in the next one."""
        segment = self._segment
        if segment is None or segment.rows < 2:
            return
        try:
            following = self._create()  # first, so that a dead writer always leaves a file to recover
        except OSError:
            following = None
        self._segment = None
        self._finish(segment)
        if following is None:
            self.is_broken = True
            return
        try:
            self._begin(following)
        except OSError:
            self._give_up()

    def close(self) -> None:
        """Seal the last segment; who is still open has no end row and never will. No writes come after."""
        if self._segment is not None:
            self._finish(self._segment, "recovery" if self._open else "writer")
            self._segment = None
        for retired, _, _ in self._retired:
            retired.close()

    def _create(self) -> Segment:
        name = SegmentName.new(self._writer, self._boot, self._clock(), self._sequence)
        self._sequence += 1
        return Segment.create(self._folder, name, self._calls)

    def _begin(self, segment: Segment) -> Segment:
        self._segment = segment
        self._started = time.monotonic()
        self._retry_retired()
        beyond = list(self._open.values())[MAX_OPEN_IDS:]  # those the last seal had no room for
        segment.append([render_head(self._writer, self._clock(), *self._prev), *beyond])
        return segment

    def _finish(self, segment: Segment, by: str = "writer") -> None:
        try:
            digest = segment.seal(open_ids=list(self._open), torn=0, by=by)
        except OSError:
            self._retire(segment)
        else:
            self._prev = (segment.name.stem, digest)

    def _give_up(self) -> None:
        segment, self._segment = self._segment, None
        self.is_broken = True
        if segment is not None:
            self._retire(segment)

    def _retire(self, segment: Segment) -> None:
        self.is_broken = True
        torn = 0
        if not segment.is_sealed:
            with contextlib.suppress(OSError):
                torn = segment.cut()
        if segment.size == 0:  # not even its head was synced: nobody was promised anything
            with contextlib.suppress(OSError):
                segment.path.unlink()
            segment.close()
            return
        self._retired.append((segment, list(self._open), torn))
        self._retry_retired()

    def _retry_retired(self) -> None:
        waiting, self._retired = self._retired, []
        for segment, open_ids, torn in waiting:
            try:
                self._prev = (segment.name.stem, _seal_afresh(segment, open_ids, torn))
            except OSError:
                self._retired.append((segment, open_ids, torn))

    def _failed(self, doing: str, error: OSError) -> LogError:
        self.is_broken = True
        return LogError(f"request log {self._folder}: cannot {doing}: {error}; free space or repair the disk")


def _seal_afresh(segment: Segment, open_ids: list[str], torn: int) -> str:
    """Seal by a new descriptor while the old one keeps the lock; only if the synced bytes are there."""
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
