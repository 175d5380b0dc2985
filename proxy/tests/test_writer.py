import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from spotinference_proxy.errors import LogError
from spotinference_proxy.record import parse_line
from spotinference_proxy.recovery import recover
from spotinference_proxy.segments import Calls
from spotinference_proxy.writer import SegmentWriter


def begin(request_id: str) -> dict:
    return {"k": "begin", "request_id": request_id}


def end(request_id: str) -> dict:
    return {"k": "end", "request_id": request_id}


def lines(path: Path) -> list[dict]:
    return [parse_line(line) for line in path.read_bytes().splitlines(keepends=True)]


def sealed(folder: Path) -> list[list[dict]]:
    return [lines(path) for path in sorted(folder.glob("*.jsonl"), key=lambda path: path.name.split(".")[3])]


def started(folder: Path, clock: object, **options: object) -> SegmentWriter:
    writer = SegmentWriter(folder, "w", clock, **options)
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
    writer.write([end("a")])
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
    writer.write([begin("a" * 300)])
    assert len(sealed(tmp_path)) == 1
    writer.write([])
    writer.write([begin("b")])
    writer.tick()
    assert len(sealed(tmp_path)) == 2
    writer.close()


def test_F006_after_a_failed_sync_the_batch_is_cut_and_the_next_segment_is_used(tmp_path: Path, clock) -> None:
    calls = Calls(fdatasync=failing(os.fdatasync, lambda n: n == 3))
    writer = started(tmp_path, clock, calls=calls)
    writer.write([begin("a")])
    with pytest.raises(LogError, match="Input/output error"):
        writer.write([end("lost")])
    assert writer.is_broken
    writer.write([end("a")])
    assert not writer.is_broken
    writer.close()
    first, second = sealed(tmp_path)
    assert [row["k"] for row in first] == ["head", "begin", "seal"]
    assert (first[-1]["open"], first[-1]["by"]) == (["a"], "writer")
    assert first[-1]["torn"] > 0
    assert [row["k"] for row in second] == ["head", "end", "seal"]
    assert not list(tmp_path.glob("*.open"))


@pytest.mark.parametrize("name", ["write", "fdatasync", "fsync", "ftruncate", "rename"])
@pytest.mark.parametrize("lasting", [False, True])
def test_F006_no_failing_call_loses_an_acknowledged_row(tmp_path: Path, clock, name: str, lasting: bool) -> None:
    for at in range(1, 16):
        folder = tmp_path / str(at)
        faults = [True]

        def when(n: int, at: int = at, faults: list[bool] = faults) -> bool:
            return bool(faults) and (n >= at if lasting else n == at)

        real = {
            "write": os.write,
            "fdatasync": os.fdatasync,
            "fsync": os.fsync,
            "ftruncate": os.ftruncate,
            "rename": os.rename,
        }[name]
        calls = Calls(**{name: failing(real, when)})
        writer = SegmentWriter(folder, "w", clock, calls=calls)
        acknowledged = []
        try:
            writer.start()
            for i in range(8):
                try:
                    writer.write([begin(str(i)), end(str(i))])
                    acknowledged.append(str(i))
                except LogError:
                    pass
                if i % 3 == 2:
                    writer.seal()
                    writer.tick()
        except LogError:
            pass
        faults.clear()
        writer.tick()
        assert not writer.is_broken
        writer.close()
        recover(folder)
        assert not list(folder.glob("*.open"))
        found = [row["request_id"] for rows in sealed(folder) for row in rows if row["k"] == "end"]
        assert set(acknowledged) <= set(found)
        assert len(found) == len(set(found))
        assert all(rows[-1]["k"] == "seal" for rows in sealed(folder))


def test_a_damaged_segment_is_not_sealed_as_if_it_were_whole(tmp_path: Path, clock) -> None:
    calls = Calls(fdatasync=failing(os.fdatasync, lambda n: n == 3))
    writer = started(tmp_path, clock, calls=calls)
    writer.write([begin("a")])
    (path,) = tmp_path.glob("*.open")
    content = bytearray(path.read_bytes())
    content[40] ^= 1
    path.write_bytes(content)
    with pytest.raises(LogError):
        writer.write([end("a")])
    assert sealed(tmp_path) == []
    writer.write([end("a")])
    writer.close()
    assert len(sealed(tmp_path)) == 1
    assert recover(tmp_path) == [path.stem]  # valid prefix, the rest moved aside
    assert path.with_suffix(".torn").exists()


def test_F001_who_was_running_when_the_writer_died_is_said_once(tmp_path: Path, clock) -> None:
    writer = started(tmp_path, clock)
    writer.write([begin("a"), begin("b"), begin("c")])
    writer.seal()
    writer.write([end("b"), begin("d")])
    abandon(writer)
    started(tmp_path, clock).close()
    seals = [rows[-1] for rows in sealed(tmp_path)]
    assert [seal["open"] for seal in seals if seal["by"] == "recovery"] == [["a", "c", "d"]]


def test_who_was_running_is_said_also_if_the_next_segment_has_no_head_yet(tmp_path: Path, clock) -> None:
    writer = started(tmp_path, clock)
    writer.write([begin("a")])
    writer.seal()
    abandon(writer)
    (path,) = tmp_path.glob("*.open")
    path.write_bytes(b'{"v":1,"k":"he')
    recover(tmp_path)
    head, seal = lines(path.with_suffix(".jsonl"))
    assert head["prev"] == next(p.stem for p in tmp_path.glob("*.000000.*.jsonl"))
    assert (seal["open"], seal["by"], seal["torn"]) == (["a"], "recovery", 14)


def test_more_running_requests_than_a_seal_can_hold_are_all_named(tmp_path: Path, clock) -> None:
    ids = [f"{i:036d}" for i in range(900)]
    writer = started(tmp_path, clock)
    writer.write([begin(one) for one in ids])
    writer.seal()
    abandon(writer)
    recover(tmp_path)
    dead = [one for rows in sealed(tmp_path) if rows[-1]["by"] == "recovery" for one in rows[-1]["open"]]
    assert dead == ids
    assert all(len(line) <= 16384 for p in tmp_path.glob("*.jsonl") for line in p.read_bytes().splitlines(True))


def test_who_has_no_end_row_at_the_stop_will_never_have_one(tmp_path: Path, clock) -> None:
    writer = started(tmp_path, clock)
    writer.write([begin("a"), begin("b"), end("b")])
    writer.close()
    (rows,) = sealed(tmp_path)
    assert (rows[-1]["by"], rows[-1]["open"]) == ("recovery", ["a"])


def test_a_folder_that_cannot_be_used_is_said(tmp_path: Path, clock) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(LogError, match="cannot start"):
        started(tmp_path / "file", clock)


def abandon(writer: SegmentWriter) -> None:
    """Do what kill -9 does to the writer's lock and file."""
    assert writer._segment is not None
    writer._segment.close()
