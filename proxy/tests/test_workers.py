import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from spotinference_proxy.addresses import ListenError, reserved
from spotinference_proxy.logs import Logs
from spotinference_proxy.settings import Settings, UpstreamSettings
from spotinference_proxy.workers import Pace, Supervisor

QUICK = Pace(settled=60.0, first_pause=0.01, longest_pause=0.02, tries=3, grace=20.0, last_grace=20.0)
LEFT = "vm-0.0000000a.20261122T120000Z.000000.00000000"
WORKER = """
import os, signal, sys, time

def note(what):
    with open(sys.argv[1], "a") as file:
        print(what, os.environ["SPOTINFERENCE_PROXY_WORKER"], os.getpid(), file=file, flush=True)

def end(*_):
    note("term")
    if "stubborn" not in sys.argv[2]:
        sys.exit(3 if "failing" in sys.argv[2] else 0)

signal.signal(signal.SIGTERM, end)
signal.signal(signal.SIGINT, end)
signal.signal(signal.SIGHUP, lambda *_: note("hup"))
if "dying" in sys.argv[2] and os.environ["SPOTINFERENCE_PROXY_WORKER"] == "1":
    note("start")
    sys.exit(int(sys.argv[2].rpartition(" ")[2]))
with open(sys.argv[1]) as file:
    if "spoilt" in sys.argv[2] and "start 1 " in file.read() and os.environ["SPOTINFERENCE_PROXY_WORKER"] == "1":
        note("start")
        sys.exit(int(sys.argv[2].rpartition(" ")[2]))
assert os.environ["SPOTINFERENCE_PROXY_SUPERVISOR"] == str(os.getppid())
assert os.getpgid(0) == os.getpid(), "a terminal's Ctrl-C must not reach it"
assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()
note("start")
while True:
    time.sleep(60)
"""


class Crew:
    """A supervisor of scripts that write down what happens to them; acts on it from another thread."""

    def __init__(self, folder: Path) -> None:
        self.notes = folder / "notes"
        self.notes.write_text("")
        self.script = folder / "worker.py"
        self.script.write_text(WORKER)
        self.source, self.fd = os.pipe()
        os.set_blocking(self.source, False)
        self.main = threading.get_ident()
        self.trouble: list[BaseException] = []
        self.is_over = False

    def noted(self, what: str) -> list[tuple[int, int]]:
        """Give index and process id of each worker to which it happened."""
        found = [line.split() for line in self.notes.read_text().splitlines()]
        return [(int(index), int(pid)) for kind, index, pid in found if kind == what]

    def wait(self, is_so: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not is_so():
            assert time.monotonic() < deadline, self.notes.read_text()
            assert not self.is_over, self.notes.read_text()
            time.sleep(0.01)

    def send(self, number: int) -> None:
        """Signal the supervisor, which is this process's main thread."""
        signal.pthread_kill(self.main, number)

    def run(
        self, act: Callable[["Crew"], None], kind: str = "", workers: int = 2, pace: Pace = QUICK, **changes: object
    ) -> int:
        settings = Settings((UpstreamSettings("http://x"),), workers=workers, **changes)
        command = [sys.executable, "-S", "-E", str(self.script), str(self.notes), kind]
        supervisor = Supervisor(settings, command, os.environ, Logs(self.fd), pace)

        def acting() -> None:
            signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD))
            try:
                act(self)
            except BaseException as error:
                self.trouble.append(error)
                self.send(signal.SIGTERM)
                self.send(signal.SIGINT)

        before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
        thread = threading.Thread(target=acting)
        thread.start()
        try:
            return supervisor.run()
        finally:
            self.is_over = True
            thread.join()
            while signal.sigtimedwait((signal.SIGTERM, signal.SIGINT, signal.SIGHUP), 0):
                pass  # what came too late must not reach the test run
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            if self.trouble:
                raise self.trouble[0]

    def told(self, event: str) -> list[dict]:
        lines = [json.loads(line) for line in os.read(self.source, 1 << 20).splitlines()]
        return [line for line in lines if line["event"] == event]


@pytest.fixture
def crew(tmp_path: Path) -> Iterator[Crew]:
    crew = Crew(tmp_path)
    yield crew
    os.close(crew.source)
    os.close(crew.fd)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_signals_are_passed_on_and_all_are_waited_for(crew: Crew) -> None:
    def act(crew: Crew) -> None:
        crew.wait(lambda: len(crew.noted("start")) == 3)
        crew.send(signal.SIGHUP)
        crew.wait(lambda: len(crew.noted("hup")) == 3)
        crew.send(signal.SIGTERM)

    assert crew.run(act, workers=3) == 0
    assert sorted(index for index, _ in crew.noted("term")) == [0, 1, 2]
    assert not any(is_alive(pid) for _, pid in crew.noted("start"))


def test_F001_a_worker_that_was_killed_is_started_again_in_its_place(crew: Crew) -> None:
    def act(crew: Crew) -> None:
        crew.wait(lambda: len(crew.noted("start")) == 2)
        dead = dict(crew.noted("start"))[1]
        os.kill(dead, signal.SIGKILL)
        crew.wait(lambda: len(crew.noted("start")) == 3)
        crew.send(signal.SIGINT)

    assert crew.run(act) == 0
    assert [index for index, _ in crew.noted("start")][2] == 1
    (died,) = crew.told("worker_died")
    assert (died["worker"], died["code"], died["level"]) == (1, -9, "error")


def test_a_worker_that_does_not_start_is_given_up_and_the_others_end_in_order(crew: Crew) -> None:
    assert crew.run(lambda crew: None, "dying 7") == 1
    assert [index for index, _ in crew.noted("start")].count(1) == QUICK.tries
    assert [index for index, _ in crew.noted("term")] in ([0], [])  # told perhaps before it could listen


def test_control_a_worker_that_lives_long_enough_is_never_given_up(crew: Crew) -> None:
    def act(crew: Crew) -> None:
        crew.wait(lambda: sum(index == 1 for index, _ in crew.noted("start")) > QUICK.tries + 2)
        crew.send(signal.SIGTERM)

    crew.run(act, "dying 1", pace=Pace(settled=0.0))
    assert crew.told("worker_given_up") == []


@pytest.mark.parametrize("code", [1, 2])
def test_a_worker_that_says_why_it_cannot_start_ends_the_start_at_once(crew: Crew, code: int) -> None:
    assert crew.run(lambda crew: None, f"dying {code}") == code
    assert [index for index, _ in crew.noted("start")].count(1) == 1


@pytest.mark.parametrize("code", [1, 2, 7])
def test_F001_after_the_start_a_worker_that_cannot_start_again_takes_nothing_from_the_others(
    crew: Crew, code: int
) -> None:
    pace = Pace(settled=1.0, first_pause=0.01, longest_pause=0.02, tries=3)

    def act(crew: Crew) -> None:
        crew.wait(lambda: len(crew.noted("start")) == 2)
        time.sleep(1.2)
        os.kill(dict(crew.noted("start"))[1], signal.SIGKILL)
        crew.wait(lambda: len(crew.noted("start")) > 2 + pace.tries + 2)
        assert crew.noted("term") == []
        crew.send(signal.SIGTERM)

    crew.run(act, f"spoilt {code}", pace=pace)  # returns 1 if the stop falls into one of its short lives
    assert [index for index, _ in crew.noted("start")].count(0) == 1
    assert {(line["level"], line["code"]) for line in crew.told("worker_died")} == {("error", -9), ("error", code)}


def test_a_worker_that_waits_for_its_next_start_is_started_at_a_reload(crew: Crew) -> None:
    pace = Pace(settled=1.0, first_pause=3600.0, longest_pause=3600.0)

    def act(crew: Crew) -> None:
        crew.wait(lambda: len(crew.noted("start")) == 2)
        time.sleep(1.2)
        os.kill(dict(crew.noted("start"))[1], signal.SIGKILL)  # has settled: is started at once, and dies again
        crew.wait(lambda: bool(is_waiting(crew)))
        crew.send(signal.SIGHUP)
        crew.wait(lambda: len(crew.noted("start")) >= 4)
        crew.send(signal.SIGTERM)

    def is_waiting(crew: Crew) -> bool:
        found = [pid for index, pid in crew.noted("start") if index == 1]
        return len(found) > 1 and not is_alive(found[-1])

    crew.run(act, "spoilt 2", pace=pace)


def test_the_pauses_double_and_have_an_end() -> None:
    pace = Pace(first_pause=0.5, longest_pause=30.0)
    assert [pace.pause_after(deaths) for deaths in (0, 1, 2, 3, 7, 5000)] == [0.0, 0.5, 1.0, 2.0, 30.0, 30.0]


def test_a_worker_that_fails_at_its_end_fails_the_whole(crew: Crew) -> None:
    def act(crew: Crew) -> None:
        crew.wait(lambda: len(crew.noted("start")) == 2)
        crew.send(signal.SIGTERM)

    assert crew.run(act, "failing") == 1


def test_F016_what_dead_workers_left_is_sealed_and_shipped_when_all_have_ended(crew: Crew, tmp_path: Path) -> None:
    folder, target = tmp_path / "log", tmp_path / "target"

    def act(crew: Crew) -> None:
        crew.wait(lambda: len(crew.noted("start")) == 2)
        folder.mkdir()
        (folder / f"{LEFT}.open").write_bytes(b"")
        (folder / f"{LEFT}.reserve").write_bytes(b"")
        crew.send(signal.SIGTERM)

    assert crew.run(act, log_dir=folder, ship_url=str(target)) == 0
    assert [path.name for path in target.iterdir()] == [f"{LEFT}.jsonl"]
    assert crew.told("ship_failed") == []


def test_a_second_signal_is_passed_on_and_then_there_is_little_time(crew: Crew) -> None:
    def act(crew: Crew) -> None:
        crew.wait(lambda: len(crew.noted("start")) == 2)
        crew.send(signal.SIGTERM)
        crew.wait(lambda: len(crew.noted("term")) == 2)
        crew.send(signal.SIGTERM)

    assert crew.run(act, "stubborn", pace=Pace(last_grace=1.0), stop_seconds=3600.0) == 1
    assert len(crew.noted("term")) == 4
    assert not any(is_alive(pid) for _, pid in crew.noted("start"))


def test_a_worker_that_does_not_end_in_time_is_killed(crew: Crew) -> None:
    def act(crew: Crew) -> None:
        crew.wait(lambda: len(crew.noted("start")) == 2)
        crew.send(signal.SIGTERM)

    assert crew.run(act, "stubborn", pace=Pace(grace=0.1), stop_seconds=0.1) == 1
    assert not any(is_alive(pid) for _, pid in crew.noted("start"))


def with_listen(port: int) -> Settings:
    return Settings((UpstreamSettings("http://x"),), listen=("127.0.0.1", port), workers=2)


def test_an_address_is_held_for_workers_and_for_nobody_else() -> None:
    with reserved(with_listen(0)) as (host, port):
        assert port > 0
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((host, port), 5)
        servers = [socket.create_server((host, port), reuse_port=True) for _ in range(2)]
        with pytest.raises(OSError, match="in use"):
            socket.create_server((host, port))
        for _ in range(8):  # each goes to one that listens
            socket.create_connection((host, port), 5).close()
        for server in servers:
            server.close()


@pytest.mark.parametrize("shares", [True, False])
def test_F016_an_address_that_another_program_has_is_not_shared_with_it(shares: bool) -> None:
    with socket.create_server(("127.0.0.1", 0), reuse_port=shares) as server:
        port = server.getsockname()[1]
        message = f"SPOTINFERENCE_PROXY_LISTEN: cannot listen on 127.0.0.1:{port}: "
        with pytest.raises(ListenError, match=message), reserved(with_listen(port)):
            pytest.fail("held")
