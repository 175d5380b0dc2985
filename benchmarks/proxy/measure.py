"""A running candidate, and loads put on it with CPU times read at both ends of their window.

Owns the life of a server and of the load generator. Does not own which loads there are (scenarios.py) nor what the
figures mean (goals.py). A server is up when it answers a chat request with 200, asked every few milliseconds.
"""

import http.client
import json
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.proxy import machine
from benchmarks.proxy.candidates import Setup

START_SECONDS = 120.0
PLAIN_TOKENS = 12  # what the fake upstream states for every plain answer
_BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1})


class BenchError(Exception):
    """Something that does not build, start, answer or end as it should; one line."""


@dataclass(frozen=True)
class Load:
    """What is asked: `mode` json or sse; the window; for streams the events of each and their distance."""

    mode: str
    connections: int
    seconds: float
    ramp: float = 0.3
    drain: float = 15.0
    events: int = 1
    interval_ms: int = 0
    asks_usage: bool = False

    def words(self, port: int) -> list[str]:
        """Return the load generator's arguments."""
        words = [port, self.mode, self.connections, self.seconds, self.ramp, self.drain, self.events, self.interval_ms]
        return [str(word) for word in words] + (["asked"] if self.asks_usage else [])


@dataclass
class Run:
    """What one load showed: the generator's result and CPU seconds by process of the candidate."""

    result: dict[str, Any]
    cpu: dict[int, float] = field(default_factory=dict)
    memory: tuple[int, int] = (0, 0)  # RSS and PSS at the end of the window
    gear_share: float = 0.0  # of one core: the load generator and the upstream
    other_share: float = 0.0  # of one core: everything else on the machine, the kernel's own threads included
    left_cores: float = 0.0  # what of its cores the candidate used or could have used

    @property
    def units(self) -> int:
        """Requests, or events of streams, in the window."""
        return int(self.result["window_events"] or self.result["window_answers"])

    @property
    def rate(self) -> float:
        """Units per second."""
        return float(self.units / self.result["window_s"])

    @property
    def cpu_us(self) -> float:
        """CPU microseconds of all processes per unit."""
        return sum(self.cpu.values()) / max(self.units, 1) * 1e6

    @property
    def rate_per_core(self) -> float:
        """Units per second for each core that was left to the candidate by everything else."""
        return self.rate / self.left_cores

    @property
    def busiest_share(self) -> float:
        """Share of the busiest process in the candidate's CPU time."""
        return max(self.cpu.values()) / max(sum(self.cpu.values()), 1e-9)

    @property
    def failures(self) -> int:
        """Answers that were wrong, cut off or never ended; without asking, usage must not be seen either."""
        return int(self.result["errors"] + self.result["unfinished"])


def build_tools(folder: Path) -> None:
    """Compile the fake upstream and the load generator into `folder`. Raises: BenchError."""
    source = Path(__file__).parent
    for name in ("upstream", "load"):
        words = ["cc", "-O2", "-Wall", "-o", str(folder / name), str(source / f"{name}.c")]
        try:
            done = subprocess.run(words, capture_output=True, text=True, check=False)  # noqa: S603
        except FileNotFoundError as error:
            raise BenchError("cc: not found; on Debian: apt-get install gcc libc6-dev") from error
        if done.returncode:
            raise BenchError(f"{name}.c: cc said: {done.stderr.strip()[-400:]}")


class Server:
    """A started candidate (or the upstream itself) that has answered its first request. Raises: BenchError."""

    def __init__(self, name: str, setup: Setup, port: int, cores: set[int], output: Path) -> None:
        self.name, self.port, self.setup, self.cores = name, port, setup, cores
        self.answers = 0  # with status 200 to POST requests
        self.tokens = 0
        self.is_clean = True
        self._output = output
        began = time.monotonic()
        self.process = machine.spawn(setup.command, cores, output, setup.environ)
        self._wait(began)
        self.start_seconds = time.monotonic() - began

    def _wait(self, began: float) -> None:
        while time.monotonic() - began < START_SECONDS and self.process.poll() is None:
            if _ask_once(self.port) == 200:
                self.answers += 1
                self.tokens += PLAIN_TOKENS
                return
            time.sleep(0.003)
        code = self.process.poll()
        self.stop()
        tail = " ".join(self._output.read_text(errors="replace").split())[-300:] or "nothing said"
        ended = "none" if code is None else f"exit {code}"
        raise BenchError(
            f"{self.name}: expected an answer within {START_SECONDS:.0f} s of start, found {ended}: {tail}"
        )

    def pids(self) -> list[int]:
        """Return its processes."""
        return machine.tree(self.process.pid)

    def put_load(self, tool: Path, cores: set[int], load: Load, upstream: "Server | None" = None) -> Run:
        """Put a load on it, from `cores`; wait for the end. Raises: BenchError."""
        words = [str(tool), *load.words(self.port)]
        gear = [upstream.process.pid] if upstream else []
        run = Run({})
        clocks: list[_Clocks] = []
        with machine.spawn_reading(words, cores) as generator:
            assert generator.stdout is not None
            for line in generator.stdout:
                if line.startswith("{"):
                    run.result = json.loads(line)
                    continue
                clocks.append(_Clocks(self.pids(), [*gear, generator.pid], self.cores))
                if line.startswith("end"):
                    run.memory = machine.memory_bytes(self.pids())
        if generator.returncode or len(clocks) != 2 or not run.result:
            raise BenchError(f"{self.name}: expected a result of the load generator, found exit {generator.returncode}")
        self.answers += run.result["answers"]
        self.tokens += run.result["tokens"]
        clocks[0].subtract(clocks[1], run)
        return run

    def stop(self) -> None:
        """End it; `is_clean` tells whether SIGTERM was enough."""
        self.is_clean = machine.stop(self.process) and self.is_clean

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()


class _Clocks:
    """CPU seconds used by candidate, gear and the whole machine, and idle ones of some cores, at one instant."""

    def __init__(self, candidate: list[int], gear: list[int], cores: set[int]) -> None:
        self.candidate = machine.cpu_seconds(candidate)
        self.gear = sum(machine.cpu_seconds(gear).values())
        self.all = machine.busy_seconds()
        self.idle = sum(seconds for core, seconds in machine.idle_seconds().items() if core in cores)

    def subtract(self, end: "_Clocks", run: Run) -> None:
        """Put what was used from here to `end` into `run`."""
        window = run.result["window_s"]
        run.cpu = {pid: seconds - self.candidate.get(pid, 0.0) for pid, seconds in end.candidate.items()}
        used = sum(run.cpu.values())
        run.gear_share = (end.gear - self.gear) / window
        run.other_share = (end.all - self.all - used) / window - run.gear_share
        run.left_cores = (used + end.idle - self.idle) / window


def _ask_once(port: int) -> int | None:
    """Ask for one short answer; return its status, None without one."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("POST", "/v1/chat/completions", _BODY, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        answer.read()
    except (OSError, http.client.HTTPException):
        return None
    else:
        return answer.status
    finally:
        connection.close()
