"""The log on real kernels' faults: full file systems, failing system calls, stopped and many processes."""

import asyncio
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from spotinference_proxy.errors import LogError
from spotinference_proxy.log import RequestLog
from spotinference_proxy.record import parse_line
from spotinference_proxy.recovery import recover
from spotinference_proxy.segments import scan
from spotinference_proxy.writer import SegmentWriter

PROGRAM = Path(__file__).parent / "faults" / "log_program.py"
MIB = 1024 * 1024


def end(request_id: str) -> dict:
    return {"k": "end", "request_id": request_id}


def sealed_rows(folder: Path) -> list[dict]:
    """Recover, see that every segment is whole, return all rows."""
    recover(folder)
    assert {path.suffix for path in folder.iterdir()} <= {".jsonl", ".torn"}
    rows = []
    for path in folder.glob("*.jsonl"):
        content = path.read_bytes()
        found = scan(content)
        assert (found.size, found.seal is None) == (len(content), False)
        rows += [parse_line(line) for line in content.splitlines(keepends=True)]
    return rows


def ended(folder: Path) -> list[str]:
    return [row["request_id"] for row in sealed_rows(folder) if row["k"] == "end"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode:
        pytest.skip(
            f"F005 NOT TESTED on a real full disk: expected to mount a tmpfs (root), found {found.stderr.strip()}"
        )
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Take every byte that is left."""
    path = folder / "filler"
    with path.open("ab", buffering=0) as file:
        for size in (65536, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                pass
    return path


@pytest.mark.parametrize("reserve_bytes", [MIB, 0])
async def test_F005_a_full_disk_ends_what_runs_refuses_what_comes_and_heals(small_disk, clock, reserve_bytes) -> None:
    options = {"reserve_bytes": reserve_bytes, "min_free_bytes": 2 * MIB, "min_free_ratio": 0.05}
    log = RequestLog(SegmentWriter(small_disk / "log", "w", clock, **options))
    await log.start()
    assert log.is_admitting
    safe = []
    for i in range(50):
        log.append({"k": "begin", "request_id": str(i)})
    await log.commit(end("first"))
    filler = fill(small_disk)
    await asyncio.sleep(1.1)  # it is looked at once a second
    await log.tick()
    assert not log.is_admitting
    assert "MiB free, expected at least 2 MiB" in (log.why_not_admitting or "")
    for i in range(50):
        try:
            await log.commit(end(str(i)))
        except LogError:
            continue
        safe.append(str(i))
    if reserve_bytes:
        assert len(safe) == 50
        assert log.is_writable
    else:
        assert len(safe) < 50  # the control: without a reserve running requests cannot end
    assert not log.is_admitting
    filler.unlink()
    async with asyncio.timeout(10):
        while not log.is_admitting:
            await asyncio.sleep(0.2)
            await log.tick()
    await log.commit(end("last"))
    await log.close()
    filler.unlink(missing_ok=True)
    found = ended(small_disk / "log")
    assert {"first", *safe, "last"} <= set(found)
    assert len(found) == len(set(found))


async def test_F008_a_disk_that_fills_in_the_middle_of_a_line_leaves_no_half_line(small_disk, clock) -> None:
    options = {"reserve_bytes": 0, "min_free_bytes": 0, "min_free_ratio": 0}
    log = RequestLog(SegmentWriter(small_disk / "log", "w", clock, **options))
    await log.start()
    safe, failed = [], 0
    long = "m" * 3000
    for i in range(20_000):
        try:
            await log.commit({**end(f"{i}"), "model": long})
        except LogError:
            failed += 1
            if failed > 3:
                break
        else:
            safe.append(str(i))
    assert len(safe) > 1000
    subprocess.run(["mount", "-o", "remount,size=16m", str(small_disk)], check=True)
    await log.tick()
    await log.commit(end("last"))
    await log.close()
    found = ended(small_disk / "log")
    assert {*safe, "last"} <= set(found)
    assert len(found) == len(set(found))


@pytest.mark.parametrize(
    "faults",
    [
        ("fdatasync:error=EIO:when=5+7",),
        ("fsync:error=EIO:when=3+4", "rename:error=EIO:when=2+3"),
        ("fdatasync:error=ENOSPC:when=3+5", "fsync:error=EINTR:when=2+5"),
        ("fdatasync:delay_enter=20000:when=3+2",),  # F007
    ],
    ids=lambda faults: faults[0],
)
def test_F006_system_calls_that_fail_lose_no_acknowledged_row(tmp_path: Path, faults: tuple[str, ...]) -> None:
    if shutil.which("strace") is None:
        pytest.skip("F006 NOT TESTED on real system calls: expected strace, found none")
    folder, trace = tmp_path / "log", tmp_path / "trace"
    strace = ["strace", "-f", "-qq", "-o", str(trace)]
    probe = subprocess.run([*strace, "true"], capture_output=True, text=True, check=False)
    if probe.returncode:
        pytest.skip(f"F006 NOT TESTED on real system calls: expected ptrace, found {probe.stderr.strip()[-200:]}")
    for fault in faults:
        strace += ["-e", f"inject={fault}"]
    command = [*strace, "-e", "trace=fdatasync,fsync,rename", sys.executable, "-B", str(PROGRAM), str(folder), "300"]
    found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert found.returncode == 0, found.stderr
    assert len(re.findall("INJECTED|DELAYED", trace.read_text())) > 2
    acknowledged = found.stdout.split()
    assert len(acknowledged) == 300  # the program asks again until a row is safe
    assert sorted(ended(folder)) == sorted(acknowledged)


def test_F016_eight_writers_start_at_once_in_one_folder(tmp_path: Path) -> None:
    command = [sys.executable, str(PROGRAM), str(tmp_path / "log"), "60"]
    writers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(8)]
    acknowledged = [line for writer in writers for line in writer.communicate(timeout=60)[0].split()]
    assert [writer.returncode for writer in writers] == [0] * 8
    assert len(acknowledged) == 480
    rows = sealed_rows(tmp_path / "log")
    assert sorted(row["request_id"] for row in rows if row["k"] == "end") == sorted(acknowledged)
    assert {row["by"] for row in rows if row["k"] == "seal"} == {"writer"}  # none took another's for a dead one's


def test_F017_a_stopped_writer_is_not_touched_and_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    command = [sys.executable, str(PROGRAM), str(folder), "2000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        acknowledged = [writer.stdout.readline().strip() for _ in range(20)]
        writer.send_signal(signal.SIGSTOP)
        os.waitpid(writer.pid, os.WUNTRACED)
        before = sorted(path.name for path in folder.glob("*.open"))
        for _ in range(3):
            assert recover(folder) == []
        assert sorted(path.name for path in folder.glob("*.open")) == before
        assert before
        writer.send_signal(signal.SIGCONT)
        acknowledged += writer.stdout.read().split()
    assert writer.returncode == 0
    assert len(acknowledged) == 2000
    assert sorted(ended(folder)) == sorted(acknowledged)
