"""Several worker processes on one address: started, watched, told, waited for.

Owns the processes of PROXY_WORKERS > 1 and what happens when one dies. Does not serve: each worker is a proxy of its
own with its own segments, and the kernel divides the connections among them (SO_REUSEPORT,
https://man7.org/linux/man-pages/man7/socket.7.html). The supervisor waits in one system call and imports no event loop.
Workers lead process groups of their own, so a terminal's Ctrl-C reaches them once, through here; one whose supervisor
is gone stops by itself (serving.py). While nobody has served yet a worker that fails ends the whole service, as one
process would; later it is tried again and again, because the others serve well without it. When all have ended, what
they sealed last is shipped from here.
"""

import math
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

from spotinference_proxy.addresses import reserved, text_of
from spotinference_proxy.logs import Logs
from spotinference_proxy.settings import START, SUPERVISOR, WORKER, Settings, hand_down, setting_name

DONE, FAILED, WRONG_USE = 0, 1, 2
_LOOK_SECONDS = 1.0  # at least so often the workers are looked at
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)


@dataclass(frozen=True)
class Pace:
    """How long the supervisor waits for what, in seconds."""

    settled: float = 5.0  # a worker that lives so long has started
    first_pause: float = 0.5  # before a worker that died at its start is started again; doubled each time
    longest_pause: float = 30.0
    tries: int = 5  # deaths of a worker, one after the other, until all is given up if none has ever settled
    grace: float = 15.0  # beyond PROXY_STOP_SECONDS for workers to end
    last_grace: float = 5.0  # after a second signal

    def pause_after(self, deaths: int) -> float:
        """Return how long to wait after so many quick deaths, one after the other."""
        if not deaths:
            return 0.0
        return min(self.first_pause * 2.0 ** (min(deaths, 64) - 1), self.longest_pause)


@dataclass
class Worker:
    """One place among the workers; `pid` is None between two lives."""

    index: int
    pid: int | None = None
    started: float = 0.0
    due: float = 0.0
    quick_deaths: int = 0


class Supervisor:
    """Keeps the workers running until it is told to stop, or until one fails before any has settled."""

    def __init__(
        self,
        settings: Settings,
        command: Sequence[str],
        environ: Mapping[str, str],
        logs: Logs,
        pace: Pace | None = None,
    ) -> None:
        self._settings = settings
        self._command = list(command)
        self._environ = environ
        self._logs = logs
        self._pace = pace or Pace()
        self._workers = [Worker(i) for i in range(settings.workers)]
        self._has_settled = False  # one of them, at any time
        self._code = DONE
        self._deadline: float | None = None  # set as soon as all shall end
        self._signals = 0

    def run(self) -> int:
        """Start all, watch them, return the exit code."""
        with _blocked(_SIGNALS):
            while True:
                self._start_due()
                if self._deadline is not None and not self._living():
                    self._ship_rest()
                    return self._code
                found = signal.sigtimedwait(_SIGNALS, self._seconds_to_wait())
                if found is not None and found.si_signo != signal.SIGCHLD:
                    self._hear(signal.Signals(found.si_signo))
                self._reap()
                self._kill_late()

    def _start_due(self) -> None:
        now = time.monotonic()
        for worker in self._workers:
            if self._deadline is None and worker.pid is None and worker.due <= now:
                names = {WORKER: str(worker.index), SUPERVISOR: str(os.getpid()), START: hand_down(self._settings)}
                worker.pid = os.posix_spawn(
                    self._command[0], self._command, {**self._environ, **names}, setpgroup=0, setsigmask=()
                )
                worker.started = now
                self._logs.info("worker_started", worker=worker.index, pid=worker.pid)

    def _hear(self, number: signal.Signals) -> None:
        if number == signal.SIGHUP:
            self._pass_on(signal.SIGHUP)
            for worker in self._workers:  # what kept one from starting may have been put right
                worker.due = 0.0
            return
        self._signals += 1
        self._logs.info("stopping", signal=number.name, workers=len(self._living()))
        self._end(self._settings.stop_seconds + self._pace.grace if self._signals == 1 else self._pace.last_grace)

    def _end(self, seconds: float) -> None:
        """Tell all workers to stop, and give them so long; told again they stop at once."""
        self._deadline = time.monotonic() + seconds
        self._pass_on(signal.SIGTERM)

    def _reap(self) -> None:
        for worker in self._living():
            pid, status = os.waitpid(worker.pid or 0, os.WNOHANG)
            if pid:
                worker.pid = None
                self._bury(worker, os.waitstatus_to_exitcode(status))

    def _bury(self, worker: Worker, code: int) -> None:
        now = time.monotonic()
        if self._deadline is not None:
            is_fine = code in (DONE, -signal.SIGTERM)  # the latter: it was told before it could listen
            self._code = self._code or (DONE if is_fine else FAILED)
            self._logs.info("worker_ended", worker=worker.index, code=code)
            return
        self._has_settled |= any(now - one.started >= self._pace.settled for one in (worker, *self._living()))
        worker.quick_deaths = 0 if now - worker.started >= self._pace.settled else worker.quick_deaths + 1
        is_hopeless = code in (FAILED, WRONG_USE) or worker.quick_deaths >= self._pace.tries
        if is_hopeless and not self._has_settled:
            self._logs.error("worker_given_up", worker=worker.index, code=code, deaths=worker.quick_deaths)
            self._code = WRONG_USE if code == WRONG_USE else FAILED
            self._end(self._settings.stop_seconds + self._pace.grace)
            return
        pause = self._pace.pause_after(worker.quick_deaths)
        worker.due = now + pause
        told = {"deaths": worker.quick_deaths, "next_start_seconds": round(pause, 1)}
        self._logs.error("worker_died", worker=worker.index, code=code, **told)

    def _kill_late(self) -> None:
        if self._deadline is not None and time.monotonic() >= self._deadline and self._living():
            self._logs.error("workers_killed", workers=[worker.index for worker in self._living()])
            self._code = FAILED
            self._pass_on(signal.SIGKILL)
            self._deadline = time.monotonic() + self._pace.last_grace

    def _ship_rest(self) -> None:
        """Ship what the last of the workers sealed: the first one, which ships, may have ended long before, or be dead."""
        from spotinference_proxy.recovery import recover  # noqa: PLC0415 - small as long as the workers run
        from spotinference_proxy.shipping import Shipper  # noqa: PLC0415 - see above

        shipper = Shipper.of(self._settings, self._logs)
        if shipper is not None:
            with suppress(OSError):  # the next start seals what a killed worker left
                recover(self._settings.log_dir)
            shipper.finish()

    def _living(self) -> list[Worker]:
        return [worker for worker in self._workers if worker.pid is not None]

    def _pass_on(self, number: signal.Signals) -> None:
        for worker in self._living():
            with suppress(ProcessLookupError):
                os.kill(worker.pid or 0, number)

    def _seconds_to_wait(self) -> float:
        moments = [self._deadline] if self._deadline is not None else [w.due for w in self._workers if w.pid is None]
        return min(max(0.0, min(moments, default=math.inf) - time.monotonic()), _LOOK_SECONDS)


def supervise(settings: Settings, environ: Mapping[str, str], logs: Logs, pace: Pace | None = None) -> int:
    """Run the workers that the settings ask for; return the exit code. Raises: ListenError when the address is taken."""
    command = (sys.executable, "-m", "spotinference_proxy")
    with reserved(settings) as address:
        names = {} if address == settings.listen else {setting_name("listen"): text_of(address)}  # port 0 is one now
        return Supervisor(replace(settings, listen=address), command, {**environ, **names}, logs, pace).run()


@contextmanager
def _blocked(numbers: Sequence[signal.Signals]) -> Iterator[None]:
    """Let signals wait until they are asked for: none is lost between two looks."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
