"""Ships sealed segments to where the pipeline reads them, and tidies up behind that.

Owns a thread of its own, the order of its steps and the folder `shipped` beside the segments. Does not own what is
sealed (writer.py) nor the chain of segments (recovery.py), but leaves in place what that chain may still need.
Steps: create the object (never overwrite), read it back, set the local file's time, move it to `shipped`; after a
week delete it there. Any step may be the last before a kill: the next pass begins again, finds its own object with the
same bytes, and goes on.
"""

import asyncio
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from spotinference_proxy.logs import Logs
from spotinference_proxy.recovery import chain_ends, parse_prev
from spotinference_proxy.segments import SegmentName
from spotinference_proxy.settings import Settings
from spotinference_proxy.ship_target import ShipError, Target, sync

PAUSE_SECONDS = 5.0
MAX_PAUSE_SECONDS = 300.0
STOP_SECONDS = 10.0  # for the last pass
KEPT_SECONDS = 7 * 86_400.0
DELETE_EVERY_SECONDS = 3600.0  # a week of minutes is ten thousand files to look at
SHIPPED = "shipped"


class _Shipped(NamedTuple):
    """What a segment in place says of itself."""

    is_recovered: bool
    prev: str | None


@dataclass(frozen=True)
class ShipCalls:
    """The system calls around which a kill may come; tests pass their own."""

    utime: Callable[[Path, tuple[float, float]], None] = os.utime
    rename: Callable[[Path, Path], None] = os.rename
    fsync: Callable[[int], None] = os.fsync


class Shipper:
    """Ships the segments of one log folder; of several workers only the first has one, and at the end their supervisor."""

    def __init__(
        self,
        log_dir: Path,
        target: Target,
        logs: Logs,
        *,
        calls: ShipCalls | None = None,
        now: Callable[[], float] = time.time,
        pause_seconds: float = PAUSE_SECONDS,
    ) -> None:
        self.shipped_total = 0
        self.errors_total = 0
        self.pending = 0
        self._log_dir = log_dir
        self._target = target
        self._logs = logs
        self._calls = calls or ShipCalls()
        self._now = now
        self._pause_seconds = pause_seconds
        self._shipped: dict[SegmentName, _Shipped] = {}  # and still in place
        self._refused: set[SegmentName] = set()
        self._next_deletion = 0.0
        self._is_over = threading.Event()
        self._thread: threading.Thread | None = None

    @classmethod
    def of(cls, settings: Settings, logs: Logs) -> "Shipper | None":
        """Return the shipper that the settings ask for, if any."""
        if settings.ship_url is None or settings.worker:
            return None
        return cls(settings.log_dir, Target(settings.ship_url), logs)

    def start(self) -> None:
        """Begin to ship, every few seconds."""
        self._thread = threading.Thread(target=self._repeat, name="ship", daemon=True)
        self._thread.start()

    async def stop(self, seconds: float = STOP_SECONDS) -> None:
        """Make a last pass, at most so long; the next life ships what is left. The log should be closed before."""
        if self._thread is not None:
            await asyncio.to_thread(self.finish, seconds)

    def finish(self, seconds: float = STOP_SECONDS) -> None:
        """Make a last pass, at most so long, also of a shipper that was not started."""
        self._is_over.set()
        thread = self._thread or threading.Thread(target=self._repeat, name="ship", daemon=True)
        if self._thread is None:
            thread.start()
        thread.join(seconds)
        self._thread = None

    def ship(self) -> None:
        """Make one pass: delete what was moved a week ago, ship what is sealed, move what nobody needs here.

        Raises: ShipError when the target or the folder cannot be used now; what was not shipped stays.
        """
        with self._explained():
            self._delete_old()
            sealed, living = self._look()
            self._shipped = {name: self._shipped[name] for name in sealed if name in self._shipped}
            self.pending = len(sealed) - len(self._shipped)
            for name in sealed:
                if name not in self._shipped and name not in self._refused:
                    self._ship_one(name)
            for name in list(self._superfluous(sealed, living)):
                self._move(name)

    def _repeat(self) -> None:
        pause = 0.0
        while not self._is_over.wait(pause):
            pause = self._pass(pause)
        if pause <= self._pause_seconds:  # else the target does not work: do not hold up the end
            self._pass(pause)

    def _pass(self, last_pause: float) -> float:
        """Make a pass and return the seconds until the next."""
        try:
            self.ship()
        except ShipError as error:
            self.errors_total += 1
            pause = min(max(last_pause, self._pause_seconds) * 2, MAX_PAUSE_SECONDS)
            self._logs.error("ship_failed", problem=str(error), pending=self.pending, next_try_seconds=pause)
            return pause
        except Exception as error:  # a bug here must not end shipping for good, nor silently
            self.errors_total += 1
            self._logs.failure("ship_failed", error, pending=self.pending, next_try_seconds=MAX_PAUSE_SECONDS)
            return MAX_PAUSE_SECONDS
        return self._pause_seconds

    def _look(self) -> tuple[list[SegmentName], set[tuple[str, str]]]:
        """Return the sealed segments, oldest first, and the writers' lives that still have an open one."""
        found = [(SegmentName.parse(path.name), path.suffix) for path in self._log_dir.iterdir()]
        sealed = [name for name, suffix in found if name is not None and suffix == ".jsonl"]
        living = {_life_of(name) for name, suffix in found if name is not None and suffix == ".open"}
        return sorted(sealed, key=lambda name: (name.start, name.sequence, name.stem)), living

    def _ship_one(self, name: SegmentName) -> None:
        content = self._read(name)
        if content is None:
            return
        if not self._target.create(f"{name.stem}.jsonl", content):
            self._refuse(name, "expected no object or the same bytes, found others; compare the two and remove one")
            return
        last_line = content[content.rfind(b"\n", 0, -1) + 1 :]
        prev = parse_prev(content[: content.find(b"\n") + 1])
        self._shipped[name] = _Shipped(b'"by":"recovery"' in last_line, prev)
        self.shipped_total += 1
        self.pending -= 1

    def _read(self, name: SegmentName) -> bytes | None:
        """Return a segment's bytes, or None when it is no file that may be read."""
        try:
            fd = os.open(self._path_of(name), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            self._refuse(name, f"expected a file that can be read, found: {error.strerror}; look at the log folder")
            return None
        if stat.S_ISREG(os.fstat(fd).st_mode):
            with os.fdopen(fd, "rb") as file:
                return file.read()
        os.close(fd)
        self._refuse(name, "expected a regular file, found something else; look at the log folder")
        return None

    def _refuse(self, name: SegmentName, problem: str) -> None:
        """Leave a segment alone until the proxy starts again: one more try cannot help."""
        self._refused.add(name)
        self._shipped.pop(name, None)
        self.errors_total += 1
        self._logs.error("ship_refused", target=self._target.place_of(f"{name.stem}.jsonl"), problem=problem)

    def _superfluous(self, sealed: list[SegmentName], living: set[tuple[str, str]]) -> Iterator[SegmentName]:
        """Give what is shipped and not needed here any more.

        Needed are: of each writer the end of its chain, because its next segment names it; of a life with an open segment
        the newest, because it says which requests run; and all of such a life once a recovery of it has begun. What another
        life goes on from goes first, so that what is left never looks like an end of the chain.
        """
        shipped = self._shipped
        ends = set(chain_ends(sealed, self._prev_of))
        newest_of_life = {_life_of(name): name for name in sorted(sealed, key=lambda name: name.sequence)}
        in_recovery = {_life_of(name) for name in sealed if name in shipped and shipped[name].is_recovered} & living
        here = {name.stem: name for name in sealed}
        waiting = {name.stem: name for name in sealed if name in shipped and name not in ends}
        while waiting:
            line, stem = [], next(iter(waiting))
            while stem in waiting:
                line.append(waiting.pop(stem))
                stem = self._prev_of(line[-1]) or ""
            for name in reversed(line):
                life, prev = _life_of(name), here.get(self._prev_of(name) or "")
                is_needed = life in in_recovery or (life in living and name == newest_of_life[life])
                if not is_needed and (prev is None or _life_of(prev) == life):
                    del here[name.stem]
                    yield name

    def _prev_of(self, name: SegmentName) -> str | None:
        return self._shipped[name].prev if name in self._shipped else None

    def _move(self, name: SegmentName) -> None:
        source, folder = self._path_of(name), self._log_dir / SHIPPED
        folder.mkdir(exist_ok=True)
        if (folder / source.name).exists():
            self._refuse(name, f"expected no file {SHIPPED}/{source.name}, found one; compare the two and remove one")
            return
        self._calls.utime(source, (self._now(), self._now()))  # from now on the week runs
        self._calls.rename(source, folder / source.name)
        sync(folder, self._calls.fsync)
        sync(self._log_dir, self._calls.fsync)
        self._shipped.pop(name)

    def _delete_old(self) -> None:
        folder, now = self._log_dir / SHIPPED, self._now()
        if now < self._next_deletion:
            return
        self._next_deletion = now + DELETE_EVERY_SECONDS
        oldest = now - KEPT_SECONDS
        for path in folder.iterdir() if folder.is_dir() else ():
            if SegmentName.parse(path.name) is not None and path.lstat().st_mtime < oldest:
                path.unlink(missing_ok=True)

    def _path_of(self, name: SegmentName) -> Path:
        return self._log_dir / f"{name.stem}.jsonl"

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ShipError(f"log folder {self._log_dir}: cannot be tidied ({error}); look at the folder") from error


def _life_of(name: SegmentName) -> tuple[str, str]:
    return name.writer, name.boot
