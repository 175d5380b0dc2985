import fcntl
import hashlib
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from spotinference_proxy.record import parse_line
from spotinference_proxy.recovery import recover, render_head
from spotinference_proxy.segments import Calls, Segment, SegmentName, scan

AT = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
HEAD = render_head("w", AT, None, None)


def begin(request_id: str) -> dict:
    return {"k": "begin", "request_id": request_id, "started_at": "x"}


def end(request_id: str) -> dict:
    return {"k": "end", "request_id": request_id, "prompt_tokens": 3}


def new_segment(folder: Path, calls: Calls | None = None) -> Segment:
    return Segment.create(folder, SegmentName.new("w", "0badcafe", AT, 0), calls or Calls())


def lines(path: Path) -> list[dict]:
    return [parse_line(line) for line in path.read_bytes().splitlines(keepends=True)]


def test_a_name_is_spelled_and_read_back() -> None:
    name = SegmentName.new("gpu-host-1", "0123abcd", AT, 7)
    assert name.stem.startswith("gpu-host-1.0123abcd.20261122T120000Z.000007.")
    assert SegmentName.parse(f"{name.stem}.jsonl") == SegmentName.parse(f"{name.stem}.open") == name
    assert SegmentName.parse(f"{name.stem}.torn") is None


def test_a_sealed_segment_says_what_it_holds(tmp_path: Path) -> None:
    segment = new_segment(tmp_path)
    segment.append([HEAD, begin("a"), begin("b")])
    segment.append([end("a")])
    digest = segment.seal(open_ids=["b"], torn=0, by="writer")
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    *rows, seal = lines(path)
    assert path.suffix == ".jsonl"
    assert [row["n"] for row in [*rows, seal]] == [0, 1, 2, 3, 4]
    before = content[: content.rindex(b'{"v":1,"k":"seal"')]
    assert (seal["rows"], seal["bytes"], seal["sha256"]) == (
        4,
        len(before),
        hashlib.sha256(before).hexdigest(),
    )
    assert (seal["open"], seal["torn"], seal["by"]) == (["b"], 0, "writer")
    assert digest == hashlib.sha256(content).hexdigest()


def test_F008_short_writes_are_carried_on(tmp_path: Path) -> None:
    segment = new_segment(tmp_path, Calls(write=lambda fd, content: os.write(fd, content[:7])))
    segment.append([HEAD, begin("a")])
    segment.seal(open_ids=[], torn=0, by="writer")
    assert len(lines(next(tmp_path.iterdir()))) == 3


def test_a_file_that_cannot_be_made_durable_is_released(tmp_path: Path) -> None:
    def fail(fd: int) -> None:
        raise OSError("no")

    with pytest.raises(OSError, match="no"):
        new_segment(tmp_path, Calls(fsync=fail))


def test_F009_every_truncation_recovers_a_prefix(tmp_path: Path) -> None:
    segment = new_segment(tmp_path)
    segment.append([HEAD, begin("a"), begin("b"), {"k": "beat", "at": "x"}, end("a")])
    segment.seal(open_ids=["b"], torn=0, by="writer")
    (path,) = tmp_path.glob("*.jsonl")
    content = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(content) if byte == 10]
    for size in range(len(content) + 1):
        folder = tmp_path / str(size)
        folder.mkdir()
        (folder / path.with_suffix(".open").name).write_bytes(content[:size])
        assert recover(folder, Calls(fsync=lambda fd: None, fdatasync=lambda fd: None)) == [path.stem]
        whole = max((e for e in ends if e <= size), default=0)
        recovered = (folder / path.name).read_bytes()
        assert recovered.startswith(content[:whole])
        *rows, seal = lines(folder / path.name)
        if size == len(content):
            assert recovered == content
            continue
        assert (seal["by"], seal["torn"], seal["rows"]) == ("recovery", size - whole, len(rows))
        torn = folder / f"{path.stem}.torn"
        assert (torn.read_bytes() if torn.exists() else b"") == content[whole:size]
        begun, ended = ([r["request_id"] for r in rows if r["k"] == k] for k in ("begin", "end"))
        assert seal["open"] == [one for one in begun if one not in ended]
        assert recover(folder) == []


def test_F010_a_tail_of_zeros_is_torn(tmp_path: Path) -> None:
    segment = new_segment(tmp_path)
    segment.append([HEAD, begin("a")])
    os.write(segment.fd, bytes(4096))
    segment.close()
    assert recover(tmp_path) == [segment.name.stem]
    assert lines(tmp_path / f"{segment.name.stem}.jsonl")[-1]["torn"] == 4096


def test_F011_any_flipped_bit_ends_the_valid_prefix_there(tmp_path: Path) -> None:
    segment = new_segment(tmp_path)
    segment.append([HEAD, begin("a"), end("a")])
    content = segment.path.read_bytes()
    for bit in range(0, len(content) * 8, 3):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        assert content.startswith(bytes(flipped)[: scan(bytes(flipped)).size])
        assert scan(bytes(flipped)).rows < 3


def test_lines_out_of_order_end_the_valid_prefix(tmp_path: Path) -> None:
    segment = new_segment(tmp_path)
    segment.append([HEAD, begin("a"), end("a")])
    first, second, third = segment.path.read_bytes().splitlines(keepends=True)
    assert [scan(b"".join(p)).rows for p in ((first, third), (second,), (first, first), (first, second, second))] == [
        1,
        0,
        1,
        2,
    ]


def test_F016_two_segments_of_one_name_and_second_are_two_files(tmp_path: Path) -> None:
    assert len({new_segment(tmp_path).path for _ in range(8)}) == 8


def test_F017_the_segment_of_a_living_writer_is_left_alone(tmp_path: Path) -> None:
    segment = new_segment(tmp_path)
    segment.append([HEAD, begin("a")])
    assert recover(tmp_path) == []
    segment.close()
    assert recover(tmp_path) == [segment.name.stem]


def test_F074_what_is_no_plain_segment_is_left_alone(tmp_path: Path) -> None:
    stem = SegmentName.new("w", "0badcafe", AT, 0).stem
    os.mkfifo(tmp_path / f"{stem}.open")
    (tmp_path / "notes.open").write_text("mine")
    (tmp_path / f"{SegmentName.new('w', '0badcafe', AT, 1).stem}.open").symlink_to("/etc/passwd")
    with pytest.raises(OSError):
        recover(tmp_path)
    (tmp_path / f"{next(p for p in tmp_path.iterdir() if p.is_symlink()).name}").unlink()
    assert recover(tmp_path) == []
    assert len(list(tmp_path.iterdir())) == 2


def test_a_crash_between_seal_and_rename_only_lacks_the_rename(tmp_path: Path) -> None:
    segment = new_segment(tmp_path)
    segment.append([HEAD, begin("a")])
    segment.seal(open_ids=[], torn=0, by="writer")
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    path.with_suffix(".jsonl").rename(path.with_suffix(".open"))
    with path.with_suffix(".open").open("ab") as file:
        file.write(b"junk")
    assert recover(tmp_path) == [path.stem]
    assert path.read_bytes() == content
    assert path.with_suffix(".torn").read_bytes() == b"junk"


def test_the_lock_is_exclusive(tmp_path: Path) -> None:
    segment = new_segment(tmp_path)
    with segment.path.open() as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


WRITER = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from spotinference_proxy.writer import SegmentWriter
from spotinference_proxy.record import render_line
folder, durable = Path(sys.argv[1]), sys.argv[2] == "durable"
writer = SegmentWriter(folder, "kill", lambda: datetime.now(UTC), max_bytes=4000)
writer.start()
buffered = (folder / "buffered").open("wb", buffering=1 << 20)
for i in range(1, 100000):
    row = {"k": "end", "request_id": str(i)}
    if durable:
        writer.write([row])
    else:
        buffered.write(render_line(row, i))
    print(i, flush=True)
"""


def acknowledged_at_kill(folder: Path, mode: str, count: int) -> int:
    """Run a writer, kill -9 it after `count` acknowledgements; return the last number it gave."""
    folder.mkdir()
    child = subprocess.Popen([sys.executable, "-c", WRITER, str(folder), mode], stdout=subprocess.PIPE)
    assert child.stdout is not None
    for _ in range(count):
        child.stdout.readline()
    child.kill()
    rest = child.stdout.read().split(b"\n")
    child.stdout.close()
    child.wait()
    return max([count, *(int(number) for number in rest[:-1])])


@pytest.mark.parametrize("count", [1, 40, 333])
def test_F003_no_acknowledged_row_is_lost_by_kill_9(tmp_path: Path, count: int) -> None:
    folder = tmp_path / "log"
    acknowledged = acknowledged_at_kill(folder, "durable", count)
    recover(folder)
    kept = [row["request_id"] for path in sorted(folder.glob("*.jsonl")) for row in lines(path) if row["k"] == "end"]
    assert len(kept) == len(set(kept))
    assert {str(i) for i in range(1, acknowledged + 1)} <= set(kept)
    assert not list(folder.glob("*.open"))


def test_F003_control_a_buffered_writer_loses_what_it_acknowledged(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    acknowledged = acknowledged_at_kill(folder, "buffered", 100)
    assert len((folder / "buffered").read_bytes().splitlines()) < acknowledged
