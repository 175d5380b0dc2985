"""Programs that are started and ended together."""

import socket
from pathlib import Path

import pytest

from spotinference_pipeline.errors import OursError
from spotinference_pipeline.processes import Processes, free_port


def test_a_program_gives_what_it_printed_and_its_log_keeps_it(tmp_path: Path) -> None:
    with Processes(tmp_path / "logs", {"WORD": "otter"}) as processes:
        assert processes.run("say", ["python", "-c", "import os; print(os.environ['WORD'])"]) == "otter\n"
    assert (tmp_path / "logs" / "say.log").read_text() == "otter\n"


def test_a_program_that_fails_is_named_with_its_log(tmp_path: Path) -> None:
    with (
        Processes(tmp_path, {}) as processes,
        pytest.raises(OursError, match=r"bad: expected exit 0, found 3; see .*bad\.log"),
    ):
        processes.run("bad", ["python", "-c", "import sys; print('why', file=sys.stderr); sys.exit(3)"])
    assert (tmp_path / "bad.log").read_text() == "why\n"


def test_leaving_ends_what_was_started_even_what_ignores_it(tmp_path: Path) -> None:
    stubborn = "import signal, time, pathlib; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    ready = tmp_path / "ready"
    with Processes(tmp_path, {}, stop_seconds=0.2) as processes:
        processes.start(
            "stubborn", ["python", "-c", f"{stubborn}pathlib.Path({str(ready)!r}).touch(); time.sleep(600)"]
        )
        processes.wait_until(ready.exists, "stubborn", 20)
        processes.check()
    with pytest.raises(OursError, match=r"stubborn: expected to keep running, ended with -9"):
        processes.check()


def test_waiting_stops_when_a_program_has_ended(tmp_path: Path) -> None:
    with Processes(tmp_path, {}) as processes:
        processes.start("short", ["python", "-c", ""])
        with pytest.raises(OursError, match=r"short: expected to keep running, ended with 0"):
            processes.wait_until(lambda: False, "short", 30)


def test_waiting_has_an_end(tmp_path: Path) -> None:
    with Processes(tmp_path, {}) as processes, pytest.raises(OursError, match=r"slow: expected to be ready within 0 s"):
        processes.wait_until(lambda: False, "slow", 0)


def test_a_port_that_is_taken_is_replaced_by_a_free_one() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert free_port(port) != port
    assert free_port(port) == port


def test_what_a_program_left_behind_goes_with_it(tmp_path: Path) -> None:
    child = tmp_path / "child"
    start = (
        "import subprocess, sys, pathlib; c = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])"
    )
    with Processes(tmp_path, {}) as processes:
        processes.start(
            "parent", ["python", "-c", f"{start}; pathlib.Path({str(child)!r}).write_text(str(c.pid)); c.wait()"]
        )
        processes.wait_until(lambda: child.exists() and child.read_text() != "", "parent", 20)
        left_behind = Path("/proc") / child.read_text()
        assert left_behind.exists()
    with Processes(tmp_path, {}) as others:
        others.wait_until(lambda: is_dead(left_behind), "child", 10)


def is_dead(process: Path) -> bool:
    """Tell whether a process is gone, or only waits for its parent to look."""
    try:
        return (process / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
