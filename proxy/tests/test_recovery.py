import fcntl
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from spotinference_proxy.record import Entry, parse_line, render_entry
from spotinference_proxy.recovery import Recovered, chain_ends, last_sealed, recover, render_head
from spotinference_proxy.segments import Calls, Segment, SegmentName, scan
from spotinference_proxy.writer import SegmentWriter

AT = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
HEAD = render_head("w", AT, None, None)
UNSYNCED = Calls(fsync=lambda fd: None, fdatasync=lambda fd: None)


def begin(request_id: str) -> Entry:
    return render_entry({"k": "begin", "request_id": request_id})


def end(request_id: str) -> Entry:
    return render_entry({"k": "end", "request_id": request_id})


def lines(path: Path) -> list[dict]:
    return [parse_line(line) for line in path.read_bytes().splitlines(keepends=True)]


def new_segment(folder: Path, sequence: int = 0) -> Segment:
    return Segment.create(folder, SegmentName.new("w", "0badcafe", AT, sequence), UNSYNCED)


def sealed(folder: Path) -> list[list[dict]]:
    return [lines(path) for path in sorted(folder.glob("*.jsonl"), key=lambda path: path.name.split(".")[3])]


def abandoned(folder: Path, *batches: list[Entry]) -> Path:
    """Leave a segment as kill -9 does."""
    segment = new_segment(folder)
    for batch in batches:
        segment.append(batch)
    segment.close()
    return segment.path


def writer_of(folder: Path, clock: object) -> SegmentWriter:
    writer = SegmentWriter(folder, "w", clock, calls=UNSYNCED, reserve_bytes=0)
    writer.start()
    return writer


def abandon(writer: SegmentWriter) -> None:
    """Do what kill -9 does to the writer's lock and file."""
    assert writer._segment is not None
    writer._segment.close()


def test_F009_every_truncation_recovers_a_prefix(tmp_path: Path) -> None:
    segment = new_segment(tmp_path)
    beat = render_entry({"k": "beat", "at": "x"})
    segment.append([HEAD, begin("a"), begin("b"), beat, end("a")])
    segment.seal(open_ids=["b"], torn=0, by="writer")
    (path,) = tmp_path.glob("*.jsonl")
    content = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(content) if byte == 10]
    for size in range(len(content) + 1):
        folder = tmp_path / str(size)
        folder.mkdir()
        (folder / path.with_suffix(".open").name).write_bytes(content[:size])
        whole = max((e for e in ends if e <= size), default=0)
        torn = size - whole
        assert recover(folder, UNSYNCED) == [Recovered(path.stem, torn)]
        recovered = (folder / path.name).read_bytes()
        assert recovered.startswith(content[:whole])
        *rows, seal = lines(folder / path.name)
        if size == len(content):
            assert recovered == content
            continue
        assert (seal["by"], seal["torn"], seal["rows"]) == ("recovery", torn, len(rows))
        aside = folder / f"{path.stem}.torn"
        assert (aside.read_bytes() if aside.exists() else b"") == content[whole:size]
        begun, ended = ([r["request_id"] for r in rows if r["k"] == k] for k in ("begin", "end"))
        assert seal["open"] == [one for one in begun if one not in ended]
        assert recover(folder) == []


def test_F010_a_tail_of_zeros_is_torn(tmp_path: Path) -> None:
    path = abandoned(tmp_path, [HEAD, begin("a")])
    with path.open("ab") as file:
        file.write(bytes(4096))
    assert recover(tmp_path) == [Recovered(path.stem, 4096)]
    assert lines(path.with_suffix(".jsonl"))[-1]["torn"] == 4096
    assert path.with_suffix(".torn").read_bytes() == bytes(4096)


def test_F017_the_segment_of_a_living_writer_is_left_alone(tmp_path: Path) -> None:
    segment = new_segment(tmp_path)
    segment.append([HEAD, begin("a")])
    assert recover(tmp_path) == []
    segment.close()
    assert recover(tmp_path) == [Recovered(segment.name.stem, 0)]


def test_F074_what_is_no_plain_segment_is_left_alone(tmp_path: Path) -> None:
    stem = SegmentName.new("w", "0badcafe", AT, 0).stem
    os.mkfifo(tmp_path / f"{stem}.open")
    os.mkfifo(tmp_path / f"{stem}.new")
    (tmp_path / "notes.open").write_text("mine")
    link = tmp_path / f"{SegmentName.new('w', '0badcafe', AT, 1).stem}.open"
    link.symlink_to("/etc/passwd")
    with pytest.raises(OSError):
        recover(tmp_path)
    link.unlink()
    assert recover(tmp_path) == []
    assert len(list(tmp_path.iterdir())) == 3


def test_a_dead_writers_reserve_and_unborn_files_are_removed_and_a_living_ones_are_not(tmp_path: Path) -> None:
    for name in ("dead.new", "dead.reserve", "alive.new", "alive.reserve"):
        (tmp_path / name).write_bytes(b"")
    with (tmp_path / "alive.new").open() as one, (tmp_path / "alive.reserve").open() as other:
        fcntl.flock(one, fcntl.LOCK_EX)
        fcntl.flock(other, fcntl.LOCK_EX)
        recover(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alive.new", "alive.reserve"]


def test_a_crash_between_seal_and_rename_only_lacks_the_rename(tmp_path: Path) -> None:
    segment = new_segment(tmp_path)
    segment.append([HEAD, begin("a")])
    segment.seal(open_ids=[], torn=0, by="writer")
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    path.rename(path.with_suffix(".open"))
    with path.with_suffix(".open").open("ab") as file:
        file.write(b"junk")
    assert recover(tmp_path) == [Recovered(path.stem, 4)]
    assert path.read_bytes() == content
    assert path.with_suffix(".torn").read_bytes() == b"junk"


@pytest.mark.parametrize("name", ["write", "fsync", "ftruncate", "rename"])
def test_F009_a_recovery_that_is_cut_short_anywhere_is_carried_on(tmp_path: Path, name: str) -> None:
    for at in range(1, 12):
        folder = tmp_path / str(at)
        folder.mkdir()
        path = abandoned(folder, [HEAD, begin("a"), begin("b")], [end("a")])
        with path.open("ab") as file:
            file.write(b"torn")
        count = 0

        def fail(*arguments: object, at: int = at) -> object:
            nonlocal count
            count += 1
            if count != at:
                return getattr(os, name)(*arguments)
            if name == "write":
                os.write(arguments[0], arguments[1][:5])
            raise OSError(5, "killed here")

        try:
            recover(folder, Calls(**{name: fail}))
        except OSError:
            recover(folder)
        (rows,) = sealed(folder)
        assert [row["k"] for row in rows] == ["head", "begin", "begin", "end", "seal"]
        assert rows[-1]["open"] == ["b"]
        assert path.with_suffix(".torn").read_bytes().startswith(b"torn")
        assert rows[-1]["torn"] == path.with_suffix(".torn").stat().st_size
        if count < at:
            break


def test_F001_who_was_running_when_the_writer_died_is_said_once(tmp_path: Path, clock) -> None:
    writer = writer_of(tmp_path, clock)
    writer.write([begin("a"), begin("b"), begin("c")])
    writer.seal()
    writer.write([begin("d")], [end("b")])
    abandon(writer)
    writer_of(tmp_path, clock).close()
    seals = [rows[-1] for rows in sealed(tmp_path)]
    assert [seal["open"] for seal in seals if seal["by"] == "recovery"] == [["a", "c", "d"]]


def test_F001_who_was_running_is_said_also_if_the_next_segment_has_no_head_yet(tmp_path: Path, clock) -> None:
    writer = writer_of(tmp_path, clock)
    writer.write([begin("a")])
    writer.seal()
    abandon(writer)
    (path,) = tmp_path.glob("*.open")
    path.write_bytes(b'{"v":1,"k":"he')
    recover(tmp_path)
    head, seal = lines(path.with_suffix(".jsonl"))
    assert head["prev"] == next(p.stem for p in tmp_path.glob("*.000000.*.jsonl"))
    assert (seal["open"], seal["by"], seal["torn"]) == (["a"], "recovery", 14)


def test_F001_more_running_requests_than_a_seal_can_hold_are_all_named(tmp_path: Path, clock) -> None:
    ids = [f"{i:036d}" for i in range(900)]
    writer = writer_of(tmp_path, clock)
    writer.write([begin(one) for one in ids])
    writer.seal()
    abandon(writer)
    recover(tmp_path)
    dead = [one for rows in sealed(tmp_path) if rows[-1]["by"] == "recovery" for one in rows[-1]["open"]]
    assert dead == ids
    assert all(len(line) <= 16384 for p in tmp_path.glob("*.jsonl") for line in p.read_bytes().splitlines(True))


@pytest.mark.parametrize("at", range(1, 9))
def test_F001_all_are_named_also_if_the_recovery_is_killed_between_two_seals(tmp_path: Path, at: int) -> None:
    ids = [f"{i:036d}" for i in range(900)]
    abandoned(tmp_path, [HEAD, *map(begin, ids)])
    count = 0

    def fail(fd: int, content: bytes) -> int:
        nonlocal count
        count += 1
        if count == at:
            raise OSError(5, "killed here")
        return os.write(fd, content)

    try:
        recover(tmp_path, Calls(write=fail))
    except OSError:
        recover(tmp_path)
    dead = [one for rows in sealed(tmp_path) for one in rows[-1]["open"]]
    assert dead == ids
    assert list(tmp_path.glob("*.open")) == []


def test_the_newest_sealed_segment_may_have_been_shipped_and_removed(tmp_path: Path) -> None:
    assert last_sealed(tmp_path, "w") == (None, None)
    names = []
    for sequence in range(3):
        segment = new_segment(tmp_path, sequence)
        segment.append([HEAD])
        segment.seal(open_ids=[], torn=0, by="writer")
        names.append(segment.name.stem)
    gone = tmp_path / f"{names[-1]}.jsonl"
    gone.unlink()
    gone.symlink_to(tmp_path / "nowhere")  # as if removed between listing and reading
    assert last_sealed(tmp_path, "w")[0] == names[1]
    assert last_sealed(tmp_path, "w", "ffffffff") == (None, None)


@pytest.mark.parametrize("hours", [(2, 0, 1, 1), (0, 3, 2, 1), (1, 1, 1, 1), (5, -100, 4, -200)])
def test_F018_a_life_goes_on_from_the_one_before_whatever_its_clock_said(
    tmp_path: Path, hours: tuple[int, ...]
) -> None:
    names: list[str] = []
    for life, hour in enumerate(hours):
        writer = writer_of(tmp_path, lambda hour=hour: AT + timedelta(hours=hour))
        writer.write([], [end("a")])
        writer.seal()
        writer.write([], [end("b")])
        writer.close()
        found = {path.stem for path in tmp_path.glob("*.jsonl")} - set(names)
        names += sorted(found, key=lambda stem: stem.split(".")[3])
        assert len(names) == 2 * (life + 1)
    assert [lines(tmp_path / f"{stem}.jsonl")[0]["prev"] for stem in names] == [None, *names[:-1]]


def test_F018_of_several_ends_of_a_chain_the_newest_is_taken_and_one_head_of_each_life_is_read(tmp_path: Path) -> None:
    asked: list[SegmentName] = []
    first, second, third = (
        [SegmentName("w", f"{life:08x}", f"20261122T1{hour}0{i}00Z", i, f"{i:08x}") for i in range(3)]
        for life, hour in enumerate((3, 1, 2))
    )
    prevs = {second[0]: first[2].stem, third[0]: first[2].stem}

    def prev_of(name: SegmentName) -> str | None:
        asked.append(name)
        return prevs.get(name)

    assert chain_ends([*third, *first, *second], prev_of) == [third[2], second[2]]
    assert sorted(asked, key=str) == sorted([first[0], second[0], third[0]], key=str)


@pytest.mark.parametrize("content", [b"", b"x\n", b"{}\n", None])
def test_a_sealed_file_that_cannot_be_read_names_nothing(tmp_path: Path, content: bytes | None) -> None:
    segment = new_segment(tmp_path)
    segment.append([HEAD])
    segment.seal(open_ids=[], torn=0, by="writer")
    odd = tmp_path / "w.00000000.20200101T000000Z.000000.00000000.jsonl"
    if content is None:
        os.mkfifo(odd)
    else:
        odd.write_bytes(content)
    assert last_sealed(tmp_path, "w")[0] == segment.name.stem


def test_a_recovered_segment_is_valid_to_its_last_byte(tmp_path: Path) -> None:
    path = abandoned(tmp_path, [HEAD, begin("a")])
    recover(tmp_path)
    content = path.with_suffix(".jsonl").read_bytes()
    found = scan(content)
    assert found.size == len(content)
    assert found.seal is not None
