import asyncio
import os
import threading
import time
from pathlib import Path

import pytest
from spotinference_proxy.errors import LogError, RecordError
from spotinference_proxy.log import COMMIT_SECONDS, RequestLog
from spotinference_proxy.record import parse_line
from spotinference_proxy.segments import Calls
from spotinference_proxy.writer import SegmentWriter


def rows_in(folder: Path) -> list[dict]:
    return [parse_line(line) for p in folder.iterdir() for line in p.read_bytes().splitlines(keepends=True)]


def new_log(
    folder: Path, clock: object, *, max_waiting: int = 10_000, stalled_seconds: float = 60, **calls: object
) -> RequestLog:
    options = {"min_free_bytes": 0, "min_free_ratio": 0, "reserve_bytes": 0}
    writer = SegmentWriter(folder, "w", clock, calls=Calls(**calls), **options)
    return RequestLog(writer, max_waiting=max_waiting, stalled_seconds=stalled_seconds)


def end(request_id: object) -> dict:
    return {"k": "end", "request_id": str(request_id)}


class Gate:
    """A disk whose syncs, but for the first, wait until they may."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.reached = threading.Event()
        self._may = threading.Event()

    def __call__(self, fd: int) -> None:
        self.sizes.append(os.fstat(fd).st_size)
        if len(self.sizes) > 1:
            self.reached.set()
            assert self._may.wait(30)

    def open(self) -> None:
        self._may.set()

    async def wait_reached(self) -> None:
        assert await asyncio.to_thread(self.reached.wait, 30)


async def test_F007_a_disk_that_hangs_admits_nobody_until_it_goes_on(tmp_path: Path, clock) -> None:
    gate = Gate()
    log = new_log(tmp_path, clock, fdatasync=gate, stalled_seconds=0.05)
    await log.start()
    first = asyncio.create_task(log.commit(end(0)))
    await gate.wait_reached()
    assert log.is_admitting
    await asyncio.sleep(0.1)
    assert "the disk hangs" in (log.why_not_admitting or "")
    gate.open()
    await first
    assert log.is_admitting
    await log.close()


async def test_rows_that_come_during_a_sync_are_one_batch(tmp_path: Path, clock) -> None:
    gate = Gate()
    log = new_log(tmp_path, clock, fdatasync=gate)
    await log.start()
    first = asyncio.create_task(log.commit(end(0)))
    await gate.wait_reached()
    others = [asyncio.create_task(log.commit(end(i))) for i in range(1, 50)]
    log.append({"k": "beat"})
    await asyncio.sleep(0)
    assert not first.done()
    assert log.waiting == 51
    gate.open()
    await asyncio.gather(first, *others)
    assert len(gate.sizes) == 3  # the head, the first row, all the others
    assert log.waiting == 0
    await log.close()
    assert len(rows_in(tmp_path)) == 53


async def test_rows_of_one_turn_of_the_loop_are_one_batch(tmp_path: Path, clock) -> None:
    syncs: list[int] = []
    log = new_log(tmp_path, clock, fdatasync=syncs.append)
    await log.start()
    done = asyncio.Event()
    errors: list[LogError | None] = []
    for i in range(100):
        log.commit_then([{"k": "begin", "request_id": str(i)}, end(i)], errors.append)
    log.commit_then([], lambda error: done.set())  # only wants to know when
    await done.wait()
    assert errors == [None] * 100
    assert len(syncs) == 2
    await log.close()


async def test_F003_a_commit_is_told_after_the_sync_and_not_before(tmp_path: Path, clock) -> None:
    synced = []

    def note(fd: int) -> None:
        os.fdatasync(fd)
        synced.append(os.fstat(fd).st_size)

    log = new_log(tmp_path, clock, fdatasync=note)
    await log.start()
    for i in range(20):
        await log.commit(end(i))
        assert len(synced) == i + 2
        assert synced[-1] == next(tmp_path.glob("*.open")).stat().st_size
    await log.commit()
    await log.close()


async def test_rows_nobody_waits_for_are_written_at_once_and_synced_by_the_tick(tmp_path: Path, clock) -> None:
    syncs: list[int] = []
    log = new_log(tmp_path, clock, fdatasync=syncs.append)
    await log.start()
    log.append({"k": "begin", "request_id": "a"})
    async with asyncio.timeout(30):
        while len(rows_in(tmp_path)) < 2:
            await asyncio.sleep(0.001)
    assert len(syncs) == 1
    await log.tick()
    assert (len(syncs), log.stats.open_requests) == (2, 1)
    await log.close()


async def test_F006_a_failed_batch_fails_its_waiters_and_the_log_heals(tmp_path: Path, clock) -> None:
    is_bad = True

    def sync(fd: int) -> None:
        if is_bad and os.fstat(fd).st_size > 300:
            raise OSError(5, "Input/output error")
        os.fdatasync(fd)

    log = new_log(tmp_path, clock, fdatasync=sync)
    await log.start()
    cancelled = asyncio.create_task(log.commit(end("x" * 300)))
    await asyncio.sleep(0)
    cancelled.cancel()
    with pytest.raises(LogError, match="Input/output error"):
        await log.commit(end("x" * 300))
    assert not log.is_writable
    assert log.why_not_admitting == "request log: the last write failed; repair the disk"
    is_bad = False
    await log.tick()
    assert log.is_writable
    assert log.is_admitting
    await log.commit(end("x" * 300))
    await log.seal()
    await log.close()
    assert [row["k"] for row in rows_in(tmp_path)].count("end") == 1
    assert log.stats.errors_total >= 1
    assert log.stats.torn_bytes_total > 300


async def test_a_row_that_cannot_be_written_fails_its_waiter_and_nobody_else(tmp_path: Path, clock) -> None:
    log = new_log(tmp_path, clock)
    await log.start()
    with pytest.raises(RecordError):
        await log.commit({"k": "x", "many": list(range(9000))})
    with pytest.raises(RecordError):
        log.append({"k": "x", "many": list(range(9000))})
    await log.commit({"k": "beat"})
    await log.close()
    assert [row["k"] for row in rows_in(tmp_path)] == ["head", "beat", "seal"]


async def test_a_waiter_that_fails_keeps_no_other_waiting(tmp_path: Path, clock) -> None:
    log = new_log(tmp_path, clock)
    await log.start()
    told: list[dict] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(context))
    log.commit_then([end(0)], lambda error: 1 / 0)
    await log.commit(end(1))
    await asyncio.sleep(0.01)
    assert [type(context["exception"]) for context in told] == [ZeroDivisionError]
    await log.close()


async def test_a_bug_while_writing_reaches_who_waits_and_ends_nothing(tmp_path: Path, clock) -> None:
    def fail(fd: int, content: bytes) -> int:
        raise ZeroDivisionError

    writer = SegmentWriter(tmp_path, "w", clock, reserve_bytes=0)
    log = RequestLog(writer)
    await log.start()
    told: list[dict] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(context))
    segment = writer._segment
    segment.calls = Calls(write=fail)
    with pytest.raises(LogError, match=r"ZeroDivisionError.*report this"):
        await log.commit(end(0))
    segment.calls = Calls()
    writer.roll = lambda: 1 / 0
    await log.commit(end(1))
    await log.tick()
    await asyncio.sleep(0.01)
    assert len(told) == 2
    await log.close()


async def test_F007_on_a_slow_disk_batches_grow_and_no_commit_waits_for_more_than_two_syncs(tmp_path, clock) -> None:
    slow, syncs = 0.02, []

    def sync(fd: int) -> None:
        syncs.append(time.monotonic())
        time.sleep(slow)

    log = new_log(tmp_path, clock, fdatasync=sync)
    await log.start()

    async def ask() -> None:
        for i in range(5):
            await log.commit(end(i))

    await asyncio.gather(*(ask() for _ in range(200)))
    assert 5 <= len(syncs) - 1 <= 20  # a thousand commits
    stats = log.stats
    assert (stats.commits_total, sum(stats.commit_seconds_counts)) == (1000, 1000)
    assert stats.commit_seconds_sum / 1000 >= slow
    assert sum(stats.commit_seconds_counts[: COMMIT_SECONDS.index(0.02)]) == 0
    await log.close()


async def test_F007_too_many_waiting_rows_stop_admission_until_they_are_written(tmp_path: Path, clock) -> None:
    gate = Gate()
    log = new_log(tmp_path, clock, max_waiting=50, fdatasync=gate)
    await log.start()
    first = asyncio.create_task(log.commit(end("first")))
    await gate.wait_reached()
    others = [asyncio.create_task(log.commit(end(i))) for i in range(50)]
    await asyncio.sleep(0)
    assert log.is_admitting
    others.append(asyncio.create_task(log.commit(end(50))))
    await asyncio.sleep(0)
    assert not log.is_admitting
    assert log.why_not_admitting == "request log: 52 rows wait, expected at most 50; the disk is too slow"
    assert log.is_writable
    gate.open()
    await asyncio.gather(first, *others)
    assert log.is_admitting
    await log.close()


async def test_what_comes_after_the_end_is_refused_and_a_second_end_does_nothing(tmp_path: Path, clock) -> None:
    log = new_log(tmp_path, clock)
    await log.start()
    await log.close()
    await log.close()
    with pytest.raises(LogError, match="closed"):
        await log.commit(end(0))
    with pytest.raises(LogError, match="closed"):
        await log.tick()


async def test_a_log_that_was_never_started_can_be_closed(tmp_path: Path, clock) -> None:
    (tmp_path / "file").write_text("x")
    log = new_log(tmp_path / "file", clock)
    with pytest.raises(LogError, match="cannot start"):
        await log.start()
    await log.close()


async def test_everything_queued_is_in_the_segment_that_is_sealed(tmp_path: Path, clock) -> None:
    log = new_log(tmp_path, clock)
    await log.start()
    for i in range(10):
        log.append({"k": "begin", "request_id": str(i)})
    await log.seal()
    (path,) = tmp_path.glob("*.jsonl")
    assert len(path.read_bytes().splitlines()) == 12
    await log.close()
