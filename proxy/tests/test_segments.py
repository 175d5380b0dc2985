import fcntl
import hashlib
import itertools
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
from spotinference_proxy.record import Entry, RequestRecord, parse_line, render_entry, render_lines
from spotinference_proxy.recovery import render_head
from spotinference_proxy.segments import Calls, Scan, Segment, SegmentName, scan
from spotinference_proxy.usage import Usage

AT = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
HEAD = render_head("w", AT, None, None)


def begin(request_id: str) -> Entry:
    return render_entry({"k": "begin", "request_id": request_id, "started_at": "x"})


def end(request_id: str) -> Entry:
    return render_entry({"k": "end", "request_id": request_id, "prompt_tokens": 3})


def new_segment(folder: Path, calls: Calls | None = None) -> Segment:
    return Segment.create(folder, SegmentName.new("w", "0badcafe", AT, 0), calls or Calls())


def lines(path: Path) -> list[dict]:
    return [parse_line(line) for line in path.read_bytes().splitlines(keepends=True)]


def sixty_records(folder: Path) -> bytes:
    """A sealed segment of 60 lines as a proxy writes them."""
    segment = new_segment(folder)
    entries = [HEAD]
    for i in range(28):
        record = RequestRecord(f"{i:08}-0000-7000-8000-000000000000", AT, "/v1/completions", usage=Usage(i, 2 * i))
        entries += [render_entry(record.begin()), render_entry(record.end(AT, "complete"))]
    segment.append([*entries, render_entry({"k": "beat", "at": "x"}), begin("last")])
    segment.seal(open_ids=["last"], torn=0, by="writer")
    content = next(folder.glob("*.jsonl")).read_bytes()
    assert content.count(b"\n") == 60
    return content


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


def test_what_is_written_without_a_sync_counts_with_the_next_sync(tmp_path: Path) -> None:
    syncs: list[int] = []
    segment = new_segment(tmp_path, Calls(fdatasync=syncs.append))
    segment.append([HEAD])
    segment.append([begin("a")], is_synced=False)
    assert (segment.rows, len(syncs), scan(segment.path.read_bytes()).rows) == (1, 1, 2)
    assert segment.is_intact()
    segment.append([begin("b")], is_synced=False)
    segment.append([end("a")])
    assert (segment.rows, len(syncs)) == (4, 2)
    size = segment.size
    segment.append([end("lost")], is_synced=False)
    assert segment.cut() == len(render_lines([end("lost")], 4))
    assert segment.path.stat().st_size == segment.size == size
    segment.append([end("b")], is_synced=False)
    segment.seal(open_ids=[], torn=0, by="writer")
    assert [row["n"] for row in lines(next(tmp_path.iterdir()))] == [0, 1, 2, 3, 4, 5]


def test_F008_short_writes_are_carried_on(tmp_path: Path) -> None:
    segment = new_segment(tmp_path, Calls(write=lambda fd, content: os.write(fd, content[:7])))
    segment.append([HEAD, begin("a")])
    segment.seal(open_ids=[], torn=0, by="writer")
    assert len(lines(next(tmp_path.iterdir()))) == 3


def test_F008_a_write_of_nothing_is_an_error_and_no_endless_loop(tmp_path: Path) -> None:
    segment = new_segment(tmp_path, Calls(write=lambda fd, content: 0))
    with pytest.raises(OSError, match="wrote none"):
        segment.append([HEAD])


def test_F008_control_who_ignores_what_write_returns_leaves_a_torn_line(tmp_path: Path) -> None:
    segment = new_segment(tmp_path)
    content = HEAD.rest * 3
    assert os.write(segment.fd, content[:7]) == 7  # a careless writer goes on here
    os.fdatasync(segment.fd)
    assert scan(segment.path.read_bytes()).rows == 0


def test_a_file_that_cannot_be_made_durable_is_removed(tmp_path: Path) -> None:
    def fail(fd: int) -> None:
        raise OSError("no")

    with pytest.raises(OSError, match="no"):
        new_segment(tmp_path, Calls(fsync=fail))
    assert list(tmp_path.iterdir()) == []


def test_F009_every_truncation_of_60_records_keeps_the_whole_lines(tmp_path: Path) -> None:
    content = sixty_records(tmp_path)
    whole, rows = 0, 0
    for size in range(len(content) + 1):
        before = Scan(rows, whole)  # of the shorter ones it is known by now
        if size and content[size - 1] == 10:
            whole, rows = size, rows + 1
        for found in (scan(content[:size], before), *([scan(content[:size])] if size % 16 == 0 else [])):
            assert (found.size, found.rows) == (whole, rows)
            assert (found.seal is None) == (size < len(content))


def test_F010_no_tail_of_zeros_or_junk_is_a_record(tmp_path: Path) -> None:
    content = sixty_records(tmp_path)
    tails = bytes(1), bytes(4096), b"\n" * 9, b"\xff" * 100, b'{"v":1', bytes(20_000) + b"\n"
    cuts = [i + 1 for i, byte in enumerate(content) if byte == 10][:-1]
    for cut, tail in itertools.product(cuts, tails):
        assert scan(content[:cut] + tail).size == cut


def test_F011_every_flipped_bit_of_60_records_ends_the_prefix_before_it(tmp_path: Path) -> None:
    content = sixty_records(tmp_path)
    start = rows = 0
    for at, byte in enumerate(content):
        after = content[at + 1 : start + 2000]  # the line and the next: what comes later is not reached
        for bit in range(8):
            damaged = content[:at] + bytes([byte ^ 1 << bit]) + after
            found = scan(damaged, Scan(rows, start))
            assert (found.size, found.rows) == (start, rows)
        if byte == 10:
            start, rows = at + 1, rows + 1
    assert rows == 60


def test_F011_control_a_sum_parsed_as_a_number_would_miss_a_flipped_letter(tmp_path: Path) -> None:
    line = next(
        line for line in sixty_records(tmp_path).splitlines(keepends=True) if set(line[-11:-3]) & set(b"abcdef")
    )
    at = next(i for i in range(len(line) - 11, len(line) - 3) if line[i] in b"abcdef")
    flipped = line[:at] + bytes([line[at] ^ 0x20]) + line[at + 1 :]
    assert int(flipped[-11:-3], 16) == int(line[-11:-3], 16)
    assert scan(flipped).rows == 0


def test_lines_out_of_order_end_the_valid_prefix(tmp_path: Path) -> None:
    segment = new_segment(tmp_path)
    segment.append([HEAD, begin("a"), end("a")])
    first, second, third = segment.path.read_bytes().splitlines(keepends=True)
    orders = ((first, third), (second,), (first, first), (first, second, second))
    assert [scan(b"".join(lines)).rows for lines in orders] == [1, 0, 1, 2]


def test_F014_a_reader_keeps_its_place_when_the_segment_is_sealed_and_renamed(tmp_path: Path) -> None:
    segment = new_segment(tmp_path)
    segment.append([HEAD, begin("a")])
    with segment.path.open("rb") as reader:
        before = reader.read()
        segment.append([end("a")])
        segment.seal(open_ids=[], torn=0, by="writer")
        assert before + reader.read() == next(tmp_path.glob("*.jsonl")).read_bytes()


def test_F016_two_segments_of_one_name_and_second_are_two_files(tmp_path: Path) -> None:
    assert len({new_segment(tmp_path).path for _ in range(8)}) == 8


def test_F016_a_file_is_locked_before_it_has_its_name(tmp_path: Path) -> None:
    def look(old: Path, new: Path) -> None:
        with old.open() as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert (old.suffix, new.suffix, new.exists()) == (".new", ".open", False)
        old.rename(new)

    assert new_segment(tmp_path, Calls(rename=look)).path.exists()


@pytest.mark.parametrize("harm", ["unlink", "rename", "replace", "truncate", "append"])
def test_F017_a_writer_notices_that_its_file_is_not_as_it_left_it(tmp_path: Path, harm: str) -> None:
    segment = new_segment(tmp_path)
    segment.append([HEAD, begin("a")])
    assert segment.is_intact()
    content = segment.path.read_bytes()
    if harm == "unlink":
        segment.path.unlink()
    elif harm == "rename":
        segment.path.rename(tmp_path / "elsewhere")
    elif harm == "replace":
        segment.path.unlink()
        segment.path.write_bytes(content)
    elif harm == "truncate":
        os.truncate(segment.path, 10)
    else:
        with segment.path.open("ab") as file:
            file.write(b"more")
    assert not segment.is_intact()


def test_the_lock_is_exclusive(tmp_path: Path) -> None:
    segment = new_segment(tmp_path)
    with segment.path.open() as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
