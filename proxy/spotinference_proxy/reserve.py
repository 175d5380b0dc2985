"""Room on the disk: how much is left for new requests, and a reserve that lets running ones end.

Owns the file `<writer>.<boot>.reserve`, allocated while there is room and given back when a write finds the disk
full, and the reason for which no new request should be taken. Does not own what is written: writer.py. A file that
was unlinked keeps its blocks while any descriptor is open, so the reserve is cut to nothing instead.
"""

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path

from spotinference_proxy.segments import Calls

RESERVE_BYTES = 64 * 1024 * 1024
MIN_FREE_BYTES = 512 * 1024 * 1024
MIN_FREE_RATIO = 0.05
SUFFIX = ".reserve"
_CHECK_SECONDS = 1.0
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_UNITS = (("MiB", 1024 * 1024), ("KiB", 1024), ("bytes", 1))
_LEAST_UNITS = 2  # fewer are told in a smaller unit: nobody learns from "0 MiB"


def is_full(error: OSError) -> bool:
    """Tell whether a call failed for want of room."""
    return error.errno in _FULL


class Reserve:
    """What one writer knows about room; every call may block on the disk."""

    def __init__(
        self,
        path: Path,
        calls: Calls,
        *,
        size: int = RESERVE_BYTES,
        min_free_bytes: int = MIN_FREE_BYTES,
        min_free_ratio: float = MIN_FREE_RATIO,
        stopwatch: Callable[[], float] = time.monotonic,
    ) -> None:
        self.shortage: str | None = None
        self.free_bytes: int | None = None
        self._path = path
        self._calls = calls
        self._size = size
        self._min_free_bytes = min_free_bytes
        self._min_free_ratio = min_free_ratio
        self._stopwatch = stopwatch
        self._checked: float | None = None
        self._fd = -1
        self._is_spent = False

    def check(self) -> None:
        """Look how much is free, at most once a second; allocate the reserve again when there is room for it."""
        now = self._stopwatch()
        if self._checked is not None and now - self._checked < _CHECK_SECONDS:
            return
        self._checked = now
        try:
            found = self._calls.statvfs(self._path.parent)
        except OSError:
            return  # the write that follows says what is wrong
        self.free_bytes = found.f_bavail * found.f_frsize
        least = max(self._min_free_bytes, int(found.f_blocks * found.f_frsize * self._min_free_ratio))
        if self._size and self._fd < 0 and self.free_bytes >= least + self._size:
            self._allocate()
        self.shortage = self._describe(least)

    def release(self) -> bool:
        """Give the reserve back to the disk; False if there was none."""
        if self._fd < 0:
            return False
        self._is_spent = True
        self.shortage = "request log: its disk is full, running requests use the reserve; free space"
        with contextlib.suppress(OSError):
            self._calls.ftruncate(self._fd, 0)
        self.close()
        return True

    def close(self) -> None:
        """Remove the file."""
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                self._path.unlink()
            os.close(self._fd)
            self._fd = -1

    def _allocate(self) -> None:
        try:
            fd = self._calls.open(self._path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640)
        except OSError as error:
            self._is_spent = is_full(error)
            return
        self._fd = fd
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # tells recovery that its writer lives
            self._calls.fallocate(fd, 0, self._size)
        except OSError as error:
            self.close()
            self._is_spent = is_full(error)  # a file system that cannot allocate is no reason to refuse requests
        else:
            self._is_spent = False

    def _describe(self, least: int) -> str | None:
        """Say what is short, without the folder's name: clients read this too."""
        needed, what = least, "expected at least"
        if self._is_spent:
            needed, what = least + self._size, "for a new reserve expected at least"
        free = self.free_bytes or 0
        if free >= needed and not self._is_spent:
            return None
        unit, size = next((one for one in _UNITS if needed >= _LEAST_UNITS * one[1]), _UNITS[-1])
        return f"request log: its disk has {free // size} {unit} free, {what} {-(-needed // size)} {unit}; free space"
