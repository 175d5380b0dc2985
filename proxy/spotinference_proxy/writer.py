"""The segments of one writer life, in order; every call here may block on the disk.

Owns which segment is written, what follows an error, and the set of requests still open. Runs on one thread
at a time: log.py sees to that. After a failed write or sync the segment is cut back to what was synced,
sealed through a fresh descriptor, and never written by the old one again. `loose` entries have nobody who waits:
they are written at once, synced with the next held ones, and written again after an error.
"""

import contextlib
import errno
import secrets
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from spotinference_proxy.errors import LogError
from spotinference_proxy.record import Entry
from spotinference_proxy.recovery import last_sealed, recover, render_head, seal_afresh, seal_dead
from spotinference_proxy.reserve import MIN_FREE_BYTES, MIN_FREE_RATIO, RESERVE_BYTES, SUFFIX, Reserve, is_full
from spotinference_proxy.segments import MAX_OPEN_IDS, Calls, Segment, SegmentName

MAX_SEGMENT_BYTES = 64 * 1024 * 1024
MAX_SEGMENT_SECONDS = 60.0
_MAX_LOOSE = 20_000  # kept for a disk that works again; more than can be admitted
_CREATE_TRIES = 3
_NOT_A_FOLDER = "expected a folder; move the file away, or choose another folder"
_NOT_ALLOWED = (
    "expected a folder that this user may write to; correct its permissions or mount, or choose another folder"
)
_NEXT_STEPS = {
    errno.EEXIST: _NOT_A_FOLDER,
    errno.ENOTDIR: _NOT_A_FOLDER,
    errno.EACCES: _NOT_ALLOWED,
    errno.EPERM: _NOT_ALLOWED,
    errno.EROFS: _NOT_ALLOWED,
}


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
        reserve_bytes: int = RESERVE_BYTES,
        min_free_bytes: int = MIN_FREE_BYTES,
        min_free_ratio: float = MIN_FREE_RATIO,
    ) -> None:
        self.is_broken = False
        self.errors_total = 0
        self.torn_bytes_total = 0
        self.dropped_total = 0
        self._folder = folder
        self._writer = writer
        self._clock = clock
        self._calls = calls or Calls()
        self._max_bytes = max_bytes
        self._max_seconds = max_seconds
        self._boot = secrets.token_hex(4)
        self.reserve = Reserve(
            folder / f"{writer}.{self._boot}{SUFFIX}",
            self._calls,
            size=reserve_bytes,
            min_free_bytes=min_free_bytes,
            min_free_ratio=min_free_ratio,
        )
        self._sequence = 0
        self._segment: Segment | None = None
        self._started = time.monotonic()
        self._prev: tuple[str | None, str | None] = (None, None)
        self._open: dict[str, Entry] = {}
        self._loose: list[Entry] = []  # not known to be on disk
        self._written = 0  # how many of them are in the segment
        self._is_lost = False
        self._retired: list[tuple[Segment, list[str], int]] = []

    @property
    def open_requests(self) -> int:
        """How many requests have a `begin` and no `end` yet."""
        return len(self._open)

    def start(self) -> None:
        """Recover what dead writers left, then open the first segment. Raises: LogError."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self.torn_bytes_total += sum(one.torn for one in recover(self._folder, self._calls))
            self._prev = last_sealed(self._folder, self._writer)
            self._begin()
        except OSError as error:
            self._give_up()
            raise self._failed("start", error) from error
        self.reserve.check()

    def write(self, loose: Sequence[Entry], held: Sequence[Entry] = (), *, is_synced: bool | None = None) -> None:
        """Write both; with `held` entries, or when told so, all is on disk at the return.

        Raises: LogError; then none of `held` is, as far as anyone may say, and `loose` comes with the next write.
        """
        self.reserve.check()
        self._loose += loose
        if len(self._loose) > _MAX_LOOSE:
            self.dropped_total += len(self._loose) - _MAX_LOOSE
            del self._loose[_MAX_LOOSE:]
        is_synced = bool(held) if is_synced is None else is_synced
        try:
            self._append(held, is_synced=is_synced)
        except OSError as error:
            self._give_up()
            if not (is_full(error) and self.reserve.release()):
                raise self._failed("write", error) from error
            try:
                self._append(held, is_synced=True)
            except OSError as again:
                self._give_up()
                raise self._failed("write", again) from again
        self.is_broken = False

    def roll(self) -> None:
        """Seal a segment that is large enough."""
        if self._segment is not None and self._segment.size >= self._max_bytes:
            self.seal()

    def tick(self) -> None:
        """Sync what was only written, seal by age; after an error try whether the disk works again."""
        self.reserve.check()
        if self.is_broken or self._loose:
            with contextlib.suppress(LogError):
                self.write((), is_synced=True)
        if not self.is_broken and time.monotonic() - self._started >= self._max_seconds:
            self.seal()

    def seal(self) -> None:
        """Seal the current segment if it holds a row, and go on in the next one."""
        segment = self._own_segment() if self._settle() else None
        if segment is None or segment.rows < 2:
            return
        try:
            following = self._create()  # first, so that a dead writer always leaves a file to recover
        except OSError:
            self.errors_total += 1
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
        self._settle()
        segment = self._own_segment()
        if segment is None and self._is_lost and self._open:
            with contextlib.suppress(OSError):
                segment = self._begin()
        if segment is not None:
            self._segment = None
            try:
                if self._open:
                    seal_dead(segment, list(self._open), 0)
                else:
                    segment.seal(open_ids=[], torn=0, by="writer")
            except OSError:  # the next start recovers it
                self.errors_total += 1
                segment.close()
        for retired, _, _ in self._retired:
            retired.close()
        self.reserve.close()

    def _append(self, held: Sequence[Entry], *, is_synced: bool) -> None:
        segment = self._own_segment() or self._begin()
        segment.append([*self._loose[self._written :], *held], is_synced=is_synced)
        if not is_synced:
            self._written = len(self._loose)
            return
        for entry in (*self._loose, *held):
            if entry.request_id is None:
                continue
            if entry.kind == "begin":
                self._open[entry.request_id] = entry
            elif entry.kind == "end":
                self._open.pop(entry.request_id, None)
        self._loose, self._written = [], 0

    def _settle(self) -> bool:
        """Sync what was only written; tell whether that went well."""
        if self._loose:
            with contextlib.suppress(LogError):
                self.write((), is_synced=True)
        return not self._loose

    def _create(self) -> Segment:
        for _ in range(_CREATE_TRIES - 1):
            with contextlib.suppress(BlockingIOError, FileNotFoundError):
                return self._create_one()
            # another process, that starts, took it for a dead writer's; or somebody removed the folder
            self._folder.mkdir(parents=True, exist_ok=True)
        return self._create_one()

    def _create_one(self) -> Segment:
        name = SegmentName.new(self._writer, self._boot, self._clock(), self._sequence)
        self._sequence += 1
        return Segment.create(self._folder, name, self._calls)

    def _begin(self, segment: Segment | None = None) -> Segment:
        segment = self._segment = segment or self._create()
        self._started = time.monotonic()
        self._retry_retired()
        repeated = list(self._open.values())[0 if self._is_lost else MAX_OPEN_IDS :]  # no seal has room for them
        segment.append([render_head(self._writer, self._clock(), *self._prev), *repeated])
        self._is_lost = False
        return segment

    def _own_segment(self) -> Segment | None:
        """Return the segment, or None if somebody moved, removed or cut its file: what is there now is not ours."""
        segment = self._segment
        if segment is None or segment.is_intact():
            return segment
        self.errors_total += 1
        segment.close()
        self._segment, self._written, self._is_lost = None, 0, True
        with contextlib.suppress(OSError):
            found = last_sealed(self._folder, self._writer, self._boot)  # a recovery may have sealed it
            self._prev = found if found[0] is not None else self._prev
        return None

    def _finish(self, segment: Segment) -> None:
        try:
            digest = segment.seal(open_ids=list(self._open), torn=0, by="writer")
        except OSError:
            self.errors_total += 1
            self._retire(segment)
        else:
            self._prev = (segment.name.stem, digest)

    def _give_up(self) -> None:
        segment, self._segment, self._written = self._segment, None, 0
        self.is_broken = True
        self.errors_total += 1
        self._loose = [entry for entry in self._loose if entry.kind != "usage"]  # the next says more than these
        if segment is not None:
            self._retire(segment)

    def _retire(self, segment: Segment) -> None:
        self.is_broken = True
        torn = 0
        if not segment.is_sealed:
            with contextlib.suppress(OSError):
                torn = segment.cut()
        self.torn_bytes_total += torn
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
                self._prev = (segment.name.stem, seal_afresh(segment, open_ids, torn))
            except OSError:
                self._retired.append((segment, open_ids, torn))

    def _failed(self, doing: str, error: OSError) -> LogError:
        self.is_broken = True
        next_step = _NEXT_STEPS.get(error.errno or 0, "free space or repair the disk")
        return LogError(f"request log {self._folder}: cannot {doing}: {error}; {next_step}")
