import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spotinference_proxy.errors import LogError
from spotinference_proxy.record import Entry, parse_line, render_entry, render_lines
from spotinference_proxy.recovery import recover, render_head
from spotinference_proxy.segments import Calls, Segment, SegmentName
from spotinference_proxy.writer import SegmentWriter

AT = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
CALLS = ("open", "write", "fdatasync", "fsync", "ftruncate", "rename")


def begin(request_id: str) -> Entry:
    return render_entry({"k": "begin", "request_id": request_id})


def usage(request_id: str) -> Entry:
    return render_entry({"k": "usage", "request_id": request_id})


def end(request_id: str) -> Entry:
    return render_entry({"k": "end", "request_id": request_id})


def lines(path: Path) -> list[dict]:
    return [parse_line(line) for line in path.read_bytes().splitlines(keepends=True)]


def sealed(folder: Path) -> list[list[dict]]:
    return [lines(path) for path in sorted(folder.glob("*.jsonl"), key=lambda path: path.name.split(".")[3])]


def kinds(rows: list[dict]) -> list[str]:
    return [row["k"] for row in rows]


def started(folder: Path, clock: object, **options: object) -> SegmentWriter:
    writer = SegmentWriter(folder, "w", clock, **{"reserve_bytes": 0, **options})
    writer.start()
    return writer


def failing(call: Callable, when: Callable[[int], bool]) -> Callable:
    """Wrap a system call so that its n-th use fails."""
    count = 0

    def wrapped(*arguments: object) -> object:
        nonlocal count
        count += 1
        if when(count):
            raise OSError(5, "Input/output error")
        return call(*arguments)

    return wrapped


def test_segments_are_chained_by_name_and_digest(tmp_path: Path, clock) -> None:
    writer = started(tmp_path, clock)
    writer.write([begin("a")])
    writer.seal()
    writer.write([], [end("a")])
    writer.close()
    started(tmp_path, clock).close()
    paths = sorted(tmp_path.glob("*.jsonl"), key=lambda path: path.stat().st_mtime_ns)
    heads = [lines(path)[0] for path in paths]
    assert heads[0]["prev"] is None
    for path, head in zip(paths, heads[1:], strict=False):
        assert (head["prev"], head["prev_sha256"]) == (
            path.stem,
            hashlib.sha256(path.read_bytes()).hexdigest(),
        )
    assert [lines(path)[-1]["open"] for path in paths] == [["a"], [], []]


def test_a_segment_is_sealed_by_size_and_by_age_but_not_empty(tmp_path: Path, clock) -> None:
    writer = started(tmp_path, clock, max_bytes=300, max_seconds=0)
    writer.tick()
    writer.seal()
    assert sealed(tmp_path) == []
    writer.write([], [end("a" * 300)])
    writer.roll()
    assert len(sealed(tmp_path)) == 1
    writer.write([])
    writer.roll()
    writer.write([begin("b")])
    writer.tick()  # syncs what was only written, and seals
    assert [kinds(rows) for rows in sealed(tmp_path)] == [["head", "end", "seal"], ["head", "begin", "seal"]]
    writer.close()


def test_only_what_is_waited_for_costs_a_sync_and_it_syncs_all_before(tmp_path: Path, clock) -> None:
    syncs: list[int] = []
    writer = started(tmp_path, clock, calls=Calls(fdatasync=lambda fd: syncs.append(os.fstat(fd).st_size)))
    for one in "abc":
        writer.write([begin(one)])
    assert len(syncs) == 1  # the head
    assert kinds(lines(next(tmp_path.glob("*.open")))) == ["head", "begin", "begin", "begin"]  # kill -9 spares them
    assert writer.open_requests == 0
    writer.write([], [end("a")])
    assert (len(syncs), writer.open_requests) == (2, 2)
    assert syncs[-1] == next(tmp_path.glob("*.open")).stat().st_size
    writer.write([begin("d")])
    writer.tick()
    assert (len(syncs), writer.open_requests) == (3, 3)
    writer.tick()
    assert len(syncs) == 3
    writer.close()


def test_F006_after_a_failed_sync_the_batch_is_cut_and_the_next_segment_is_used(tmp_path: Path, clock) -> None:
    writer = started(tmp_path, clock, calls=Calls(fdatasync=failing(os.fdatasync, lambda n: n == 3)))
    writer.write([begin("a")], [end("0")])
    writer.write([begin("b"), usage("a")])
    with pytest.raises(LogError, match="Input/output error"):
        writer.write([begin("c")], [end("lost")])
    assert writer.is_broken
    assert (writer.errors_total, writer.torn_bytes_total > 0) == (1, True)
    writer.write([], [end("a")])
    assert not writer.is_broken
    writer.close()
    first, second = sealed(tmp_path)
    assert kinds(first) == ["head", "begin", "end", "seal"]
    assert (first[-1]["open"], first[-1]["by"]) == (["a"], "writer")
    assert first[-1]["torn"] == writer.torn_bytes_total
    assert [row.get("request_id") for row in second] == [None, "b", "c", "a", None]  # nobody waited for b and c
    assert second[-1]["open"] == ["b", "c"]
    assert not list(tmp_path.glob("*.open"))


def test_F006_rows_nobody_waits_for_outlive_a_broken_disk_but_do_not_pile_up(tmp_path: Path, clock) -> None:
    faults = [True]
    writer = started(tmp_path, clock)
    broken = Calls(write=failing(os.write, lambda n: bool(faults)))
    writer._calls = writer._segment.calls = broken
    for i in range(30):
        with pytest.raises(LogError):
            writer.write([begin(str(i)), usage("x")])
    faults.clear()
    writer.tick()
    assert not writer.is_broken
    writer.close()
    before, rows = sealed(tmp_path)
    assert kinds(before) == ["head", "seal"]
    assert [row["request_id"] for row in rows if row["k"] == "begin"] == [str(i) for i in range(30)]
    assert "usage" not in kinds(rows)  # the next one says more


def test_F006_there_is_an_end_of_what_is_kept_for_a_broken_disk_and_the_rest_is_counted(tmp_path: Path, clock) -> None:
    writer = started(tmp_path, clock, calls=Calls(fdatasync=failing(os.fdatasync, lambda n: 1 < n < 4)))
    with pytest.raises(LogError):
        writer.write([begin(str(i)) for i in range(20_010)], [end("a")])
    assert writer.dropped_total == 10
    writer.close()


class WorstDisk:
    """A folder that keeps nothing but what was synced; a failed sync loses it for good, and says so once.

    `fails` says of each call, by name and count, whether it fails: EIO, after half of the bytes if it is a write.
    """

    def __init__(self, folder: Path, fails: Callable[[str, int], bool]) -> None:
        self.counts = dict.fromkeys(CALLS, 0)
        self.has_failed = False
        self._folder = folder
        self._fails = fails
        self._names: dict[int, str] = {}
        self._contents: dict[int, bytes] = {}
        self._dirty: dict[int, list[tuple[int, int]]] = {}
        self._lost: dict[int, list[tuple[int, int]]] = {}

    def calls(self) -> Calls:
        return Calls(**{name: getattr(self, f"_{name}") for name in CALLS})

    def cut_power(self) -> None:
        for path in self._folder.iterdir():
            path.unlink()
        for inode, name in self._names.items():
            (self._folder / name).write_bytes(self._contents.get(inode, b""))

    def _fail(self, name: str) -> bool:
        self.counts[name] += 1
        is_bad = self._fails(name, self.counts[name])
        self.has_failed |= is_bad
        return is_bad

    def _open(self, path: Path, flags: int, mode: int) -> int:
        if self._fail("open"):
            raise OSError(5, "open")
        fd = os.open(path, flags, mode)
        inode = os.fstat(fd).st_ino  # may be one of a removed file
        self._names.pop(inode, None)
        self._contents[inode], self._dirty[inode], self._lost[inode] = b"", [], []
        return fd

    def _write(self, fd: int, content: bytes) -> int:
        status = os.fstat(fd)
        is_bad = self._fail("write")
        written = os.write(fd, content[: len(content) // 2] if is_bad else content)
        self._dirty.setdefault(status.st_ino, []).append((status.st_size, status.st_size + written))
        if is_bad:
            raise OSError(5, "write")
        return written

    def _fdatasync(self, fd: int, name: str = "fdatasync") -> None:
        inode = os.fstat(fd).st_ino
        if inode == self._folder.stat().st_ino:
            if self._fail(name):
                raise OSError(5, "sync of the folder")
            self._names = {entry.inode(): entry.name for entry in os.scandir(self._folder)}
            return
        if self._fail(name):
            self._lost.setdefault(inode, []).extend(self._dirty.pop(inode, []))
            raise OSError(5, "sync")
        content = bytearray(os.pread(fd, os.fstat(fd).st_size, 0))
        for start, stop in self._lost.get(inode, []):
            content[start:stop] = bytes(len(content[start:stop]))
        self._contents[inode], self._dirty[inode] = bytes(content), []

    def _fsync(self, fd: int) -> None:
        self._fdatasync(fd, "fsync")

    def _ftruncate(self, fd: int, size: int) -> None:
        if self._fail("ftruncate"):
            raise OSError(5, "ftruncate")
        os.ftruncate(fd, size)
        inode = os.fstat(fd).st_ino
        for ranges in (self._dirty, self._lost):
            ranges[inode] = [(start, min(stop, size)) for start, stop in ranges.get(inode, []) if start < size]

    def _rename(self, old: Path, new: Path) -> None:
        if self._fail("rename"):
            raise OSError(5, "rename")
        old.rename(new)


def write_until_the_fault_is_past(writer: object, disk: WorstDisk) -> list[str]:
    """Write requests, with a seal now and then; return those that were called safe."""
    acknowledged, past = [], 0
    for i in range(250):
        try:
            writer.write([begin(str(i))], [end(str(i))])
        except LogError:
            continue
        else:
            acknowledged.append(str(i))
        past += disk.has_failed
        if past > 4:
            break
        if i % 4 == 3:
            writer.seal()
        if i % 16 == 15:
            writer.tick()
    return acknowledged


def found_after_power_cut(folder: Path, disk: WorstDisk) -> list[str]:
    """Cut the power, recover, return whose ends there are; the folder is gone then."""
    disk.cut_power()
    recover(folder, Calls(fsync=lambda fd: None, fdatasync=lambda fd: None))
    assert not list(folder.glob("*.open"))
    found = [row["request_id"] for rows in sealed(folder) for row in rows if row["k"] == "end"]
    shutil.rmtree(folder)
    return found


@pytest.mark.parametrize("name", ["open", "write", "fdatasync", "fsync", "rename", "write, then ftruncate"])
def test_F006_one_failing_call_and_a_power_cut_lose_no_acknowledged_row(tmp_path: Path, clock, name: str) -> None:
    first, _, second = name.partition(", then ")
    for at in range(1, 201):
        folder = tmp_path / str(at)
        folder.mkdir()
        disk = WorstDisk(folder, lambda call, n, at=at: (call == first and n == at) or (call == second and n < 3))
        writer = SegmentWriter(folder, "w", clock, calls=disk.calls(), reserve_bytes=0)
        with contextlib.suppress(LogError):
            writer.start()
        acknowledged = write_until_the_fault_is_past(writer, disk)
        found = found_after_power_cut(folder, disk)
        assert set(acknowledged) <= set(found), f"{name} {at}"
        assert len(found) == len(set(found))
        if not disk.has_failed:  # so many uses do not occur
            assert at > 50
            break


@given(st.dictionaries(st.sampled_from(CALLS), st.sets(st.integers(1, 60), max_size=8)), st.booleans())
def test_F006_any_failing_calls_and_a_power_cut_lose_no_acknowledged_row(tmp_path_factory, faults, lasting) -> None:
    folder = tmp_path_factory.mktemp("disk")
    disk = WorstDisk(folder, lambda call, n: n in faults.get(call, ()) or (lasting and n > 100))
    writer = SegmentWriter(folder, "w", lambda: AT, calls=disk.calls(), reserve_bytes=0)
    with contextlib.suppress(LogError):
        writer.start()
    acknowledged = write_until_the_fault_is_past(writer, disk)
    writer.close()
    found = found_after_power_cut(folder, disk)
    assert set(acknowledged) <= set(found)
    assert len(found) == len(set(found))


class NaiveWriter:
    """What must not be done: go on in the same file after an error."""

    def __init__(self, folder: Path, calls: Calls) -> None:
        self._calls = calls
        self._segment = Segment.create(folder, SegmentName.new("w", "0badcafe", AT, 0), calls)
        self._segment.append([render_head("w", AT, None, None)])
        self._rows = 1

    def write(self, loose: list[Entry], held: list[Entry]) -> None:
        content = render_lines([*loose, *held], self._rows)
        self._rows += 2
        self.put(content)
        try:
            self._calls.fdatasync(self._segment.fd)
        except OSError:
            self._calls.fdatasync(self._segment.fd)

    def put(self, content: bytes) -> None:
        while content:
            content = content[self._calls.write(self._segment.fd, content) :]

    def seal(self) -> None:
        pass

    tick = seal


class CarelessWriter(NaiveWriter):
    def put(self, content: bytes) -> None:
        self._calls.write(self._segment.fd, content)


def test_F006_control_a_writer_that_repeats_a_failed_sync_loses_acknowledged_rows(tmp_path: Path) -> None:
    for at in range(2, 20):
        folder = tmp_path / str(at)
        folder.mkdir()
        disk = WorstDisk(folder, lambda call, n, at=at: call == "fdatasync" and n == at)
        acknowledged = write_until_the_fault_is_past(NaiveWriter(folder, disk.calls()), disk)
        assert not set(acknowledged) <= set(found_after_power_cut(folder, disk))


@pytest.mark.parametrize("size", [1, 7, 100])
@pytest.mark.parametrize("writer_type", [SegmentWriter, NaiveWriter, CarelessWriter])
def test_F008_only_who_ignores_short_writes_loses_rows(tmp_path: Path, clock, size: int, writer_type: type) -> None:
    disk = WorstDisk(tmp_path, lambda call, n: call == "fdatasync" and n == 999)
    calls = Calls(**{**vars(disk.calls()), "write": lambda fd, content: disk._write(fd, content[:size])})
    if writer_type is SegmentWriter:
        writer = started(tmp_path, clock, calls=calls)
    elif writer_type is NaiveWriter:
        writer = NaiveWriter(tmp_path, calls)
    else:
        writer = CarelessWriter(tmp_path, calls)
    acknowledged = write_until_the_fault_is_past(writer, disk)
    assert len(acknowledged) == 250
    is_safe = set(acknowledged) <= set(found_after_power_cut(tmp_path, disk))
    assert is_safe == (writer_type is not CarelessWriter)


def test_a_damaged_segment_is_not_sealed_as_if_it_were_whole(tmp_path: Path, clock) -> None:
    writer = started(tmp_path, clock, calls=Calls(fdatasync=failing(os.fdatasync, lambda n: n == 3)))
    writer.write([begin("a")], [end("0")])
    (path,) = tmp_path.glob("*.open")
    content = bytearray(path.read_bytes())
    content[40] ^= 1
    path.write_bytes(content)
    with pytest.raises(LogError):
        writer.write([], [end("a")])
    assert sealed(tmp_path) == []
    writer.write([], [end("a")])
    writer.close()
    assert len(sealed(tmp_path)) == 1
    assert [one.stem for one in recover(tmp_path)] == [path.stem]  # valid prefix, the rest moved aside
    assert path.with_suffix(".torn").exists()


@pytest.mark.parametrize("left", [0, 100, 1000])
def test_F015_a_log_rotation_that_cuts_the_file_harms_no_later_row(tmp_path: Path, clock, left: int) -> None:
    writer = started(tmp_path, clock)
    writer.write([begin("a")], [end("0")])
    for i in range(1, 20):
        writer.write([], [end(str(i))])
    (path,) = tmp_path.glob("*.open")
    copy = path.read_bytes()
    os.truncate(path, left)
    writer.write([], [end("a")])
    assert writer.errors_total == 1
    writer.close()
    recover(tmp_path)
    found = [row["request_id"] for rows in sealed(tmp_path) for row in rows if row["k"] == "end"]
    assert found == [
        row["request_id"] for row in map(parse_line, copy[:left].splitlines(True)[:-1]) if row["k"] == "end"
    ] + ["a"]
    assert all(rows[-1]["k"] == "seal" for rows in sealed(tmp_path))


def test_F016_a_new_file_taken_for_a_dead_writers_is_made_again(tmp_path: Path, clock) -> None:
    taken: list[Path] = []

    def take(old: Path, new: Path) -> None:
        if new.suffix == ".open" and len(taken) < 2:
            taken.append(old)
            old.unlink()  # a recovery came between its creation and its lock
        old.rename(new)

    writer = started(tmp_path, clock, calls=Calls(rename=take))
    writer.write([], [end("a")])
    writer.close()
    assert len(taken) == 2
    assert [kinds(rows) for rows in sealed(tmp_path)] == [["head", "end", "seal"]]
    with pytest.raises(LogError, match="cannot start"):
        started(tmp_path, clock, calls=Calls(rename=lambda old, new: old.unlink() or old.rename(new)))


@pytest.mark.parametrize("harm", ["unlink", "rename", "truncate", "recover"])
def test_F017_a_writer_whose_file_was_taken_away_goes_on_in_a_new_one(tmp_path: Path, clock, harm: str) -> None:
    writer = started(tmp_path, clock)
    writer.write([begin("a"), begin("b")], [end("0")])
    writer.write([begin("c")])
    (path,) = tmp_path.glob("*.open")
    if harm == "unlink":
        path.unlink()
    elif harm == "rename":
        path.rename(tmp_path / "moved-by-an-operator")
    elif harm == "truncate":
        os.truncate(path, 100)
    else:  # by age, on another machine: there the lock is not seen
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content)
        recover(tmp_path)
    writer.write([], [end("a")])
    assert (writer.errors_total, writer.is_broken) == (1, False)
    (fresh,) = [one for one in tmp_path.glob("*.open") if one != path]
    head, *rows = lines(fresh)
    assert [(row["k"], row["request_id"]) for row in rows][-2:] == [("begin", "c"), ("end", "a")]
    assert {row["request_id"] for row in rows if row["k"] == "begin"} == {"a", "b", "c"}
    if harm == "recover":
        assert head["prev"] == path.stem
        assert head["prev_sha256"] == hashlib.sha256(path.with_suffix(".jsonl").read_bytes()).hexdigest()
    writer.close()
    assert sealed(tmp_path)[-1][-1]["open"] == ["b", "c"]


@pytest.mark.parametrize("end_of_it", ["seal", "close"])
def test_F017_a_file_taken_away_is_noticed_also_before_a_seal(tmp_path: Path, clock, end_of_it: str) -> None:
    writer = started(tmp_path, clock)
    writer.write([begin("a")], [end("0")])
    (path,) = tmp_path.glob("*.open")
    path.unlink()
    getattr(writer, end_of_it)()
    assert writer.errors_total == 1
    if end_of_it == "close":
        (rows,) = sealed(tmp_path)
        assert (kinds(rows), rows[-1]["open"], rows[-1]["by"]) == (["head", "begin", "seal"], ["a"], "recovery")
    else:
        assert sealed(tmp_path) == []
        writer.write([], [end("a")])
        writer.close()
        assert [kinds(rows) for rows in sealed(tmp_path)] == [["head", "begin", "end", "seal"]]


def test_F017_a_folder_that_was_removed_is_made_again(tmp_path: Path, clock) -> None:
    folder = tmp_path / "log"
    writer = started(folder, clock)
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    writer.write([], [end("a")])
    writer.close()
    assert [kinds(rows) for rows in sealed(folder)] == [["head", "end", "seal"]]


def test_F018_segments_keep_their_order_and_chain_when_the_clock_goes_back(tmp_path: Path, clock) -> None:
    writer = started(tmp_path, clock)
    for i in range(4):
        writer.write([], [end(str(i))])
        clock.step(-7200)
        writer.seal()
    writer.close()
    paths = sorted(tmp_path.glob("*.jsonl"), key=lambda path: path.name.split(".")[3])
    assert [lines(path)[0]["prev"] for path in paths] == [None, *(path.stem for path in paths[:-1])]


def test_who_has_no_end_row_at_the_stop_will_never_have_one(tmp_path: Path, clock) -> None:
    ids = [f"{i:036d}" for i in range(900)]
    writer = started(tmp_path, clock)
    writer.write([*map(begin, ids)], [begin("x"), end("x")])
    writer.close()
    assert [rows[-1]["by"] for rows in sealed(tmp_path)] == ["recovery"] * 3
    assert [one for rows in sealed(tmp_path) for one in rows[-1]["open"]] == ids
    assert not list(tmp_path.glob("*.open"))


def test_a_stop_on_a_broken_disk_leaves_the_last_segment_to_the_next_start(tmp_path: Path, clock) -> None:
    writer = started(tmp_path, clock, calls=Calls(fsync=failing(os.fsync, lambda n: n > 1)))
    writer.write([begin("a")], [end("0")])
    writer.close()
    assert len(list(tmp_path.glob("*.open"))) == 1
    started(tmp_path, clock).close()
    assert not list(tmp_path.glob("*.open"))
    assert sealed(tmp_path)[0][-1]["k"] == "seal"


def test_a_folder_that_cannot_be_used_is_said(tmp_path: Path, clock) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(LogError, match="cannot start"):
        started(tmp_path / "file", clock)
