"""What a candidate goes through in one round, always in the same order, in one life of its process.

Owns the loads: plain JSON (64 connections), streams (256, an event every 10 ms), slow streams (1,000, an event a
second). Does not own how a load is put on (measure.py) nor what the figures mean (goals.py). Idle memory is read
before any load, memory under slow streams after all other loads, so that what they left behind counts.
"""

from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.proxy import machine
from benchmarks.proxy.candidates import Candidate
from benchmarks.proxy.log_check import LogCheck, check_log
from benchmarks.proxy.measure import Load, Run, Server

JSON_CONNECTIONS = 64
STREAMS, EVENTS, INTERVAL_MS = 256, 100, 10
SLOW_STREAMS, SLOW_EVENTS, SLOW_INTERVAL_MS = 1000, 7, 1000


@dataclass(frozen=True)
class Plan:
    """How long and what: seconds of a window, whether slow streams and streams that ask for usage are run."""

    seconds: float = 5.0
    has_slow: bool = True
    has_asked: bool = False

    def loads(self) -> dict[str, Load]:
        """Return the loads by name, in their order."""
        loads = {"json": Load("json", JSON_CONNECTIONS, self.seconds), "sse": self._streams()}
        if self.has_asked:
            loads["asked"] = self._streams(asks_usage=True)
        if self.has_slow:
            loads["slow"] = Load("sse", SLOW_STREAMS, 2.0, 3.0, 60.0, SLOW_EVENTS, SLOW_INTERVAL_MS)
        return loads

    def _streams(self, *, asks_usage: bool = False) -> Load:
        return Load("sse", STREAMS, self.seconds, 1.0, 60.0, EVENTS, INTERVAL_MS, asks_usage)


WARM_UP = (Load("json", JSON_CONNECTIONS, 0.7), Load("sse", JSON_CONNECTIONS, 0.3, 0.2, 30.0, 10, INTERVAL_MS))


@dataclass
class Visit:
    """What one candidate showed in one round."""

    start_seconds: float = 0.0
    idle_memory: tuple[int, int] = (0, 0)
    runs: dict[str, Run] = field(default_factory=dict)
    log: LogCheck | None = None
    is_clean: bool = True


@dataclass(frozen=True)
class Bench:
    """The gear: tools, upstream and the cores of each side."""

    folder: Path
    upstream: Server
    own_cores: set[int]
    other_cores: set[int]

    @property
    def tool(self) -> Path:
        """The load generator."""
        return self.folder / "load"

    def visit(self, candidate: Candidate, plan: Plan, number: int) -> Visit:
        """Take one candidate through one round. Raises: BenchError."""
        loads = plan.loads()
        with self._start(candidate, self.own_cores, number) as server:
            visit = Visit(server.start_seconds, machine.memory_bytes(server.pids()))
            for load in WARM_UP:
                server.put_load(self.tool, self.other_cores, load)
            for name, load in loads.items():
                visit.runs[name] = server.put_load(self.tool, self.other_cores, load, self.upstream)
        visit.log, visit.is_clean = check_log(server), server.is_clean
        return visit

    def visit_workers(self, candidate: Candidate, plan: Plan, number: int) -> Visit:
        """Let several workers answer plain JSON on as many cores, as many connections for each as one had alone."""
        load = Load("json", JSON_CONNECTIONS * candidate.workers, plan.seconds)
        cores = set(sorted(self.own_cores | self.other_cores, reverse=True)[: candidate.workers])
        spare = (self.own_cores | self.other_cores) - cores or self.other_cores
        with self._start(candidate, cores, number) as server:
            visit = Visit(server.start_seconds, machine.memory_bytes(server.pids()))
            server.put_load(self.tool, spare, WARM_UP[0])
            visit.runs["json"] = server.put_load(self.tool, spare, load, self.upstream)
        visit.log, visit.is_clean = check_log(server), server.is_clean
        return visit

    def visit_upstream(self, plan: Plan) -> Visit:
        """Put the same loads straight on the upstream: the limit of the gear, and the delay without any proxy."""
        visit = Visit()
        for name, load in plan.loads().items():
            if name != "slow":
                visit.runs[name] = self.upstream.put_load(self.tool, self.other_cores, load)
        return visit

    def _start(self, candidate: Candidate, cores: set[int], number: int) -> Server:
        folder = self.folder / f"{number}-{candidate.name}"
        folder.mkdir()
        port = machine.free_port()
        setup = candidate.setup(self.upstream.port, port, folder)
        return Server(candidate.name, setup, port, cores, folder / "output.txt")
