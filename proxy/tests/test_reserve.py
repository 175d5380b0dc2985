import errno
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from spotinference_proxy.errors import LogError
from spotinference_proxy.record import Entry, parse_line, render_entry
from spotinference_proxy.reserve import Reserve
from spotinference_proxy.segments import Calls
from spotinference_proxy.writer import SegmentWriter

MIB = 1024 * 1024


@dataclass
class SmallDisk:
    """What the system calls would say on a disk of `total` MiB; `taken` is what others use."""

    total: int = 1000
    taken: int = 0
    reserved: dict[int, int] = field(default_factory=dict)
    checks: int = 0
    error: Callable[[], OSError] | None = None

    @property
    def free(self) -> int:
        return self.total - self.taken - sum(self.reserved.values())

    def statvfs(self, path: Path) -> os.statvfs_result:
        self.checks += 1
        if self.error:
            raise self.error()
        return os.statvfs_result((MIB, MIB, self.total, self.free, max(self.free, 0), 0, 0, 0, 0, 255))

    def fallocate(self, fd: int, offset: int, size: int) -> None:
        if self.error:
            raise self.error()
        if self.free * MIB < size:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.reserved[fd] = size // MIB

    def ftruncate(self, fd: int, size: int) -> None:
        os.ftruncate(fd, size)
        self.reserved.pop(fd, None)

    def write(self, fd: int, content: bytes) -> int:
        if self.free <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return os.write(fd, content)

    def calls(self) -> Calls:
        return Calls(statvfs=self.statvfs, fallocate=self.fallocate, ftruncate=self.ftruncate, write=self.write)


class Stopwatch:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        self.seconds += 1.5
        return self.seconds


def new_reserve(folder: Path, disk: SmallDisk, stopwatch: Callable[[], float] | None = None, **options) -> Reserve:
    return Reserve(folder / "w.reserve", disk.calls(), stopwatch=stopwatch or Stopwatch(), **options)


def end(request_id: str) -> Entry:
    return render_entry({"k": "end", "request_id": request_id})


def ends(folder: Path) -> list[str]:
    rows = [parse_line(line) for path in folder.glob("*.jsonl") for line in path.read_bytes().splitlines(True)]
    return [row["request_id"] for row in rows if row["k"] == "end"]


@pytest.mark.parametrize(
    ("total", "free", "is_short"),
    [(1000, 600, False), (1000, 500, True), (100_000, 6000, False), (100_000, 4900, True), (300, 300, True)],
)
def test_F005_room_must_be_left_of_512_mib_or_5_percent(tmp_path: Path, total: int, free: int, is_short: bool) -> None:
    reserve = new_reserve(tmp_path, SmallDisk(total, total - free))
    reserve.check()
    assert reserve.free_bytes is not None
    assert (reserve.shortage is not None) == is_short


def test_F005_why_no_request_is_taken_is_said_in_one_line(tmp_path: Path) -> None:
    reserve = new_reserve(tmp_path, SmallDisk(300))
    reserve.check()
    assert reserve.shortage == "request log: its disk has 300 MiB free, expected at least 512 MiB; free space"


@pytest.mark.parametrize(
    ("least", "said"),
    [
        (1_000_000, "0 KiB free, expected at least 977 KiB"),
        (20 * MIB + 1, "0 MiB free, expected at least 21 MiB"),
        (1000, "0 bytes free, expected at least 1000 bytes"),
    ],
)
def test_F005_small_limits_are_told_in_small_units(tmp_path: Path, least: int, said: str) -> None:
    reserve = new_reserve(tmp_path, SmallDisk(300, 300), min_free_bytes=least, min_free_ratio=0.0)
    reserve.check()
    assert reserve.shortage == f"request log: its disk has {said}; free space"


@pytest.mark.parametrize(
    ("code", "step"),
    [
        (errno.ENOTDIR, "expected a folder; move"),
        (errno.EACCES, "permissions"),
        (errno.EROFS, "permissions"),
        (errno.ENOSPC, "free space or repair the disk"),
        (errno.EIO, "free space or repair the disk"),
    ],
)
def test_a_start_that_fails_says_what_to_do(tmp_path: Path, clock, code: int, step: str) -> None:
    calls = Calls(open=lambda *_: (_ for _ in ()).throw(OSError(code, os.strerror(code))))
    with pytest.raises(LogError, match=f"cannot start: .*; .*{step}"):
        SegmentWriter(tmp_path, "w", clock, calls=calls).start()


def test_a_file_in_the_place_of_the_log_folder_is_named(tmp_path: Path, clock) -> None:
    (tmp_path / "log").write_text("")
    for folder in (tmp_path / "log", tmp_path / "log" / "x"):
        with pytest.raises(LogError, match="expected a folder; move the file away") as caught:
            SegmentWriter(folder, "w", clock).start()
        assert "disk" not in str(caught.value)


def test_F005_the_reserve_is_given_back_once_and_made_again_when_there_is_room(tmp_path: Path) -> None:
    disk = SmallDisk(1000)
    reserve = new_reserve(tmp_path, disk)
    reserve.check()
    assert (disk.free, (tmp_path / "w.reserve").exists(), reserve.shortage) == (936, True, None)
    disk.taken = 936
    assert reserve.release()
    assert not reserve.release()
    assert disk.free == 64
    assert "disk is full" in (reserve.shortage or "")
    disk.taken = 440  # room for requests, but none for a new reserve above that
    reserve.check()
    assert (reserve.shortage or "").startswith(
        "request log: its disk has 560 MiB free, for a new reserve expected at least 576 MiB"
    )
    disk.taken = 400
    reserve.check()
    assert (reserve.shortage, disk.free) == (None, 536)
    reserve.close()
    assert list(tmp_path.iterdir()) == []


def test_the_disk_is_looked_at_once_a_second_at_most(tmp_path: Path) -> None:
    disk, seconds = SmallDisk(1000), [0.0]
    reserve = new_reserve(tmp_path, disk, lambda: seconds[0])
    for _ in range(100):
        seconds[0] += 0.1
        reserve.check()
    assert 9 <= disk.checks <= 11


def test_what_cannot_be_looked_at_or_allocated_stops_no_request(tmp_path: Path) -> None:
    disk = SmallDisk(1000, error=lambda: OSError(errno.EIO, "statvfs"))
    reserve = new_reserve(tmp_path, disk)
    reserve.check()
    assert (reserve.shortage, reserve.free_bytes) == (None, None)
    disk = SmallDisk(1000)
    calls = Calls(statvfs=disk.statvfs, fallocate=lambda *_: (_ for _ in ()).throw(OSError(errno.EOPNOTSUPP, "no")))
    reserve = Reserve(tmp_path / "w.reserve", calls, stopwatch=Stopwatch())
    reserve.check()
    assert (reserve.shortage, list(tmp_path.iterdir())) == (None, [])
    calls = Calls(statvfs=disk.statvfs, open=lambda *_: (_ for _ in ()).throw(OSError(errno.EACCES, "no")))
    reserve = Reserve(tmp_path / "w.reserve", calls, stopwatch=Stopwatch())
    reserve.check()
    assert reserve.shortage is None


def test_F005_a_full_disk_takes_the_ends_of_running_requests_and_then_says_so(tmp_path: Path, clock) -> None:
    disk = SmallDisk(1000)
    writer = SegmentWriter(tmp_path, "w", clock, calls=disk.calls())
    writer.start()
    writer.write([render_entry({"k": "begin", "request_id": "a"})])
    disk.taken = 936  # beside the reserve nothing is left
    writer.write([], [end("a")])
    assert (writer.is_broken, writer.open_requests) == (False, 0)
    assert "disk is full" in (writer.reserve.shortage or "")
    disk.taken = 1000
    with pytest.raises(LogError, match="No space left"):
        writer.write([], [end("lost")])
    disk.taken = 0
    writer.tick()
    assert not writer.is_broken
    writer.reserve._checked = None
    writer.tick()
    assert writer.reserve.shortage is None
    writer.close()
    assert ends(tmp_path) == ["a"]
    assert {path.suffix for path in tmp_path.iterdir()} == {".jsonl"}


def test_F005_a_disk_that_is_full_again_at_once_takes_nothing(tmp_path: Path, clock) -> None:
    disk = SmallDisk(1000)
    writer = SegmentWriter(tmp_path, "w", clock, calls=disk.calls())
    writer.start()
    disk.taken = 1000  # somebody is faster than we
    with pytest.raises(LogError, match="No space left"):
        writer.write([], [end("a")])
    assert writer.is_broken
    disk.taken = 0
    writer.write([], [end("a")])
    writer.close()
    assert ends(tmp_path) == ["a"]


def test_F005_control_without_a_reserve_the_end_is_lost(tmp_path: Path, clock) -> None:
    disk = SmallDisk(1000)
    writer = SegmentWriter(tmp_path, "w", clock, calls=disk.calls(), reserve_bytes=0)
    writer.start()
    disk.taken = 1000
    with pytest.raises(LogError, match="No space left"):
        writer.write([], [end("a")])
    writer.close()
    assert ends(tmp_path) == []
