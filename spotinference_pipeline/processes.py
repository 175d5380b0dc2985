"""Child processes that are started together and stopped together. Used by `spotinference serve` and the demo."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from spotinference_pipeline.errors import OursError

STOP_SECONDS = 20.0


class Processes:
    """Started processes, each with its own log file; leaving the block ends them, last started first.

    Each leads a group of its own: what a program has started and left behind, such as Dagster's code servers, goes with it.
    """

    def __init__(self, log_dir: Path, environment: Mapping[str, str], *, stop_seconds: float = STOP_SECONDS) -> None:
        self._log_dir = log_dir
        self._stop_seconds = stop_seconds
        self._environment = dict(environment)
        self._running: list[tuple[str, subprocess.Popen[bytes]]] = []
        log_dir.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for _, process in reversed(self._running):
            process.send_signal(signal.SIGTERM)
        for _, process in reversed(self._running):
            try:
                process.wait(self._stop_seconds)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for _, process in reversed(self._running):
            self._end_group(process.pid)

    def _end_group(self, group: int) -> None:
        """End what a program left behind; one of Dagster's runs that is told to can still note that it failed."""
        deadline = time.monotonic() + self._stop_seconds
        with suppress(ProcessLookupError):
            os.killpg(group, signal.SIGTERM)
            while time.monotonic() < deadline:
                os.killpg(group, 0)
                time.sleep(0.05)
            os.killpg(group, signal.SIGKILL)

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        """Start a program of this environment in the background; its output goes to `<name>.log`."""
        with self._log(name).open("ab") as log:
            process = subprocess.Popen(  # noqa: S603
                _resolved(command),
                env=self._environment | dict(environment or {}),
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._running.append((name, process))

    def run(self, name: str, command: Sequence[str]) -> str:
        """Run a program to its end and give what it printed.

        Raises: OursError when it fails, naming its log.
        """
        with self._log(name).open("ab") as log:
            done = subprocess.run(  # noqa: S603
                _resolved(command),
                env=self._environment,
                stdout=subprocess.PIPE,
                stderr=log,
                stdin=subprocess.DEVNULL,
                check=False,
            )
            log.write(done.stdout)
        if done.returncode != 0:
            raise OursError(f"{name}: expected exit 0, found {done.returncode}; see {self._log(name)}")
        return done.stdout.decode()

    def wait_until(self, ready: Callable[[], bool], name: str, seconds: float) -> None:
        """Wait until something is ready.

        Raises: OursError when the time is over or one of the processes has ended.
        """
        deadline = time.monotonic() + seconds
        while not ready():
            self.check()
            if time.monotonic() > deadline:
                raise OursError(f"{name}: expected to be ready within {seconds:.0f} s; see {self._log(name)}")
            time.sleep(0.1)

    def check(self) -> None:
        """Tell whether all processes still run.

        Raises: OursError naming one that has ended.
        """
        for name, process in self._running:
            if (code := process.poll()) is not None:
                raise OursError(f"{name}: expected to keep running, ended with {code}; see {self._log(name)}")

    def _log(self, name: str) -> Path:
        return self._log_dir / f"{name}.log"


def free_port(wanted: int) -> int:
    """Give the wanted port of loopback if nobody has it, else any free one."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise OursError("ports: expected a free one on 127.0.0.1, found none")


def _resolved(command: Sequence[str]) -> list[str]:
    """Take programs from the environment that runs this one, so that PATH does not matter."""
    program = Path(sys.executable).with_name(command[0])
    return [str(program) if program.exists() else command[0], *command[1:]]
