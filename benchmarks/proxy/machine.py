"""What the operating system says: cores, CPU time and memory of a process and all its descendants.

Owns /proc and pinning. Does not own what is started or when it is read. CPU time is utime + stime of every
process of the tree, threads included, plus what the tree's dead children had used (proc(5), fields 14 to 17),
in ticks of 10 ms.
"""

import ctypes
import fcntl
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
_PR_SET_PDEATHSIG = 1
_NICE = -15
_LIBC = ctypes.CDLL(None)


def split_cores() -> tuple[set[int], set[int]]:
    """Return the core of the candidate and the cores of load and upstream; the same one when there is only one."""
    cores = sorted(os.sched_getaffinity(0))
    return {cores[-1]}, set(cores[:-1]) or set(cores)


def pin(cores: set[int]) -> Callable[[], None]:
    """Return what a child does before exec: keep to `cores`, die with the benchmark."""

    def prepare() -> None:
        os.sched_setaffinity(0, cores)
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        _raise_session(os.getpriority(os.PRIO_PROCESS, 0))

    return prepare


@contextmanager
def take_precedence() -> Iterator[None]:
    """Go before other work on the machine, with everything started meanwhile. Raises: PermissionError without root."""
    os.nice(_NICE)
    _raise_session(_NICE)
    try:
        yield
    finally:
        os.nice(-_NICE)
        _raise_session(0)


def _raise_session(nice: int) -> None:
    """Give the own session this weight: Linux shares cores among sessions first (sched(7), autogroup)."""
    with suppress(OSError):
        Path("/proc/self/autogroup").write_text(str(nice))


def spawn(
    command: Sequence[str], cores: set[int], log: Path, environ: Mapping[str, str] | None = None
) -> "subprocess.Popen[bytes]":
    """Start a process of its own session on `cores`; what it says goes to the file `log`."""
    with log.open("ab") as output:
        return subprocess.Popen(  # noqa: S603
            command,
            preexec_fn=pin(cores),  # noqa: PLW1509
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, **(environ or {})},
        )


def spawn_reading(command: Sequence[str], cores: set[int]) -> "subprocess.Popen[str]":
    """Start a process on `cores` whose output is read line by line."""
    return subprocess.Popen(  # noqa: S603
        command,
        preexec_fn=pin(cores),  # noqa: PLW1509
        start_new_session=True,
        stdout=subprocess.PIPE,
        text=True,
    )


def stop(process: "subprocess.Popen[bytes]", seconds: float = 10.0) -> bool:
    """End a process by SIGTERM, else with all its descendants by SIGKILL; False when it had to be killed."""
    family = tree(process.pid)
    process.terminate()
    try:
        process.wait(seconds)
        is_clean = True
    except subprocess.TimeoutExpired:
        is_clean = False
    for pid in family:
        with suppress(ProcessLookupError, PermissionError):
            if os.getsid(pid) == process.pid:
                os.kill(pid, signal.SIGKILL)
    process.wait()
    return is_clean


def tree(root: int) -> list[int]:
    """Return `root` and all its living descendants."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                parent = int(_stat_fields(int(entry.name))[1])
                children.setdefault(parent, []).append(int(entry.name))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def _stat_fields(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat after the name, which may hold anything."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def cpu_seconds(pids: Sequence[int]) -> dict[int, float]:
    """Return CPU seconds used so far by each of `pids`, its dead children included."""
    used = {}
    for pid in pids:
        with suppress(OSError):
            used[pid] = sum(map(int, _stat_fields(pid)[11:15])) / TICKS
    return used


def idle_seconds() -> dict[int, float]:
    """Return for each core the seconds in which nothing ran on it, waiting for the disk included."""
    return {core: (fields[3] + fields[4]) / TICKS for core, fields in _core_fields().items()}


def busy_seconds() -> float:
    """Return CPU seconds used so far by everything on this machine."""
    return sum(sum(fields[:8]) - sum(fields[3:5]) - fields[7] for fields in _core_fields().values()) / TICKS


def _core_fields() -> dict[int, list[int]]:
    """Return ticks by core: user, nice, system, idle, iowait, irq, softirq, steal (proc(5), /proc/stat)."""
    lines = [line.split() for line in Path("/proc/stat").read_text().splitlines()]
    cores = [words for words in lines if words[0].startswith("cpu") and words[0] != "cpu"]
    return {int(words[0][3:]): list(map(int, words[1:9])) for words in cores}


def memory_bytes(pids: Sequence[int]) -> tuple[int, int]:
    """Return (RSS, PSS) summed over `pids`; PSS counts shared pages once."""
    rss = pss = 0
    for pid in pids:
        with suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                name, _, value = line.partition(":")
                if name == "Rss":
                    rss += int(value.split()[0]) * 1024
                elif name == "Pss":
                    pss += int(value.split()[0]) * 1024
    return rss, pss


def free_port() -> int:
    """Return a free TCP port of the loopback interface, outside the range from which clients get theirs."""
    while True:
        port = random.randrange(20000, 30000)  # noqa: S311
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def filesystem_of(path: Path) -> str:
    """Return the type of the file system that holds `path`."""
    best, kind = "", "unknown"
    for line in Path("/proc/mounts").read_text().splitlines():
        mount, found = line.split()[1:3]
        if path.is_relative_to(mount) and len(mount) >= len(best):
            best, kind = mount, found
    return kind


def time_sync(folder: Path, times: int = 200) -> tuple[float, float]:
    """Return median and 99th percentile of appending 4 KiB and fdatasync, in milliseconds."""
    path, taken = folder / "sync.probe", []
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        for _ in range(times):
            began = time.perf_counter()
            os.write(descriptor, bytes(4096))
            os.fdatasync(descriptor)
            taken.append((time.perf_counter() - began) * 1000)
    finally:
        os.close(descriptor)
        path.unlink()
    taken.sort()
    return taken[times // 2], taken[times * 99 // 100]


@contextmanager
def take_turns(path: Path) -> Iterator[None]:
    """Wait until no other benchmark holds `path`: two at once would measure each other."""
    with path.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("another benchmark runs on this machine: waiting for its end", file=sys.stderr, flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
