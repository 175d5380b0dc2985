import asyncio
import os
import threading
from pathlib import Path

import pytest
from spotinference_proxy.errors import LogError, RecordError
from spotinference_proxy.log import RequestLog
from spotinference_proxy.record import parse_line
from spotinference_proxy.segments import Calls
from spotinference_proxy.writer import SegmentWriter


def rows_in(folder: Path) -> list[dict]:
    return [parse_line(line) for p in folder.iterdir() for line in p.read_bytes().splitlines(keepends=True)]


async def test_rows_that_come_during_a_sync_are_one_batch(tmp_path: Path, clock) -> None:
    gate, syncs = threading.Event(), []

    def slow(fd: int) -> None:
        syncs.append(fd)
        gate.wait(5 if len(syncs) == 2 else 0)
        os.fdatasync(fd)

    log = RequestLog(SegmentWriter(tmp_path, "w", clock, calls=Calls(fdatasync=slow)))
    await log.start()
    first = asyncio.create_task(log.commit({"k": "end", "request_id": "0"}))
    while len(syncs) < 2:
        await asyncio.sleep(0)
    others = [asyncio.create_task(log.commit({"k": "end", "request_id": str(i)})) for i in range(1, 50)]
    log.append({"k": "beat"})
    await asyncio.sleep(0)
    assert not first.done()
    gate.set()
    await asyncio.gather(first, *others)
    assert len(syncs) == 3  # the head, the first row, all the others
    await log.close()
    assert len(rows_in(tmp_path)) == 53


async def test_F003_a_commit_returns_after_the_sync_and_not_before(tmp_path: Path, clock) -> None:
    synced = []

    def note(fd: int) -> None:
        os.fdatasync(fd)
        synced.append(os.fstat(fd).st_size)

    log = RequestLog(SegmentWriter(tmp_path, "w", clock, calls=Calls(fdatasync=note)))
    await log.start()
    for i in range(20):
        await log.commit({"k": "end", "request_id": str(i)})
        assert len(synced) == i + 2
    await log.commit()
    await log.close()


async def test_F006_a_failed_batch_fails_its_waiters_and_the_log_heals(tmp_path: Path, clock) -> None:
    is_bad = True

    def sync(fd: int) -> None:
        if is_bad and os.fstat(fd).st_size > 300:
            raise OSError(28, "No space left on device")
        os.fdatasync(fd)

    log = RequestLog(SegmentWriter(tmp_path, "w", clock, calls=Calls(fdatasync=sync)))
    await log.start()
    row = {"k": "end", "request_id": "x" * 300}
    cancelled = asyncio.create_task(log.commit(row))
    await asyncio.sleep(0)
    cancelled.cancel()
    with pytest.raises(LogError, match="No space left"):
        await log.commit(row)
    assert not log.is_writable
    is_bad = False
    await log.tick()
    assert log.is_writable
    await log.commit(row)
    await log.seal()
    await log.close()
    assert [row["k"] for row in rows_in(tmp_path)].count("end") == 1


async def test_a_row_that_cannot_be_written_fails_its_waiter(tmp_path: Path, clock) -> None:
    log = RequestLog(SegmentWriter(tmp_path, "w", clock))
    await log.start()
    with pytest.raises(RecordError):
        await log.commit({"k": "x", "many": list(range(9000))})
    await log.commit({"k": "beat"})
    await log.close()
