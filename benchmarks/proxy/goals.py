"""What the runs come to: figures of each candidate, and each goal with "met" or "not met".

Owns the goals' limits and the arithmetic. Does not own how they are printed: table.py. A figure is the median of
its rounds. A ratio is taken within each round, where both sides met the same machine, and then the median of those.
A figure that was not measured is None and its goal says so.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.proxy.candidates import LITELLM, NGINX, OURS, ROUTER, TWO_WORKERS
from benchmarks.proxy.measure import Run
from benchmarks.proxy.scenarios import Visit

DIRECT = "direct"
MIB = 1024 * 1024
Visits = Mapping[str, Sequence[Visit | None]]
Reader = Callable[[Visit], float]


@dataclass(frozen=True)
class Goal:
    """One goal: what is compared, what was found, what is allowed; `found` None when it was not measured."""

    text: str
    found: float | None
    limit: float
    at_least: bool = False

    @property
    def verdict(self) -> str:
        """Whether it is met."""
        if self.found is None:
            return "not measured"
        is_met = self.found >= self.limit if self.at_least else self.found <= self.limit
        return "met" if is_met else "NOT MET"


def _of(name: str, read: Callable[[Run], float]) -> Reader:
    """Read a figure of the load `name`; a KeyError says that it was not run."""
    return lambda visit: read(visit.runs[name])


FIGURES: dict[str, Reader] = {
    "json_cpu_us": _of("json", lambda run: run.cpu_us),
    "json_per_s": _of("json", lambda run: run.rate),
    "json_per_core": _of("json", lambda run: run.rate_per_core),
    "json_p50_ms": _of("json", lambda run: run.result["p50_us"] / 1000),
    "json_p99_ms": _of("json", lambda run: run.result["p99_us"] / 1000),
    "sse_cpu_us": _of("sse", lambda run: run.cpu_us),
    "sse_per_s": _of("sse", lambda run: run.rate),
    "sse_p50_ms": _of("sse", lambda run: run.result["p50_us"] / 1000),
    "sse_p99_ms": _of("sse", lambda run: run.result["p99_us"] / 1000),
    "asked_cpu_us": _of("asked", lambda run: run.cpu_us),
    "idle_rss_mib": lambda visit: visit.idle_memory[0] / MIB,
    "idle_pss_mib": lambda visit: visit.idle_memory[1] / MIB,
    "slow_rss_mib": _of("slow", lambda run: run.memory[0] / MIB),
    "slow_pss_mib": _of("slow", lambda run: run.memory[1] / MIB),
    "slow_cpu_us": _of("slow", lambda run: run.cpu_us),
    "start_s": lambda visit: visit.start_seconds,
}


def read_figure(visits: Visits, name: str, figure: str) -> float | None:
    """Return the median of a figure over a candidate's rounds."""
    return _median([_read(visit, FIGURES[figure]) for visit in visits.get(name, ())])


def compare(visits: Visits, name: str, peer: str, figure: str, *, minus: bool = False) -> float | None:
    """Return the median over the rounds of name / peer, or of name - peer."""
    pairs = zip(visits.get(name, ()), visits.get(peer, ()), strict=False)
    found: list[float | None] = []
    for one, other in pairs:
        left, right = _read(one, FIGURES[figure]), _read(other, FIGURES[figure])
        if left is not None and right is not None and (minus or right):
            found.append(left - right if minus else left / right)
    return _median(found)


def count_failures(visits: Visits, name: str) -> int:
    """Return how many answers were wrong or unfinished in all rounds."""
    return sum(run.failures for visit in visits.get(name, ()) if visit for run in visit.runs.values())


def judge(visits: Visits) -> list[Goal]:
    """Return every goal with what was found."""
    rate = read_figure(visits, OURS, "json_per_s")
    share = compare(visits, OURS, ROUTER, "json_per_s")
    # met by either: the absolute rate, or on a slow machine the share of the router's
    is_by_rate = rate is not None and (rate >= 4000 or share is None)
    return [
        Goal("CPU per JSON request / vllm-router's", compare(visits, OURS, ROUTER, "json_cpu_us"), 1.5),
        Goal("  (the aim)", compare(visits, OURS, ROUTER, "json_cpu_us"), 1.0),
        Goal("CPU per JSON request / LiteLLM's", compare(visits, OURS, LITELLM, "json_cpu_us"), 1 / 60),
        Goal("CPU per SSE chunk / vllm-router's", compare(visits, OURS, ROUTER, "sse_cpu_us"), 1.2),
        Goal("p99 chunk delay - nginx's, ms", compare(visits, OURS, NGINX, "sse_p99_ms", minus=True), 10.0),
        Goal("JSON requests/s on one core", rate, 4000, at_least=True)
        if is_by_rate
        else Goal("JSON requests/s on one core / vllm-router's", share, 0.4, at_least=True),
        Goal("idle RSS, MB", _megabytes(visits, "idle_rss_mib"), 50.0),
        Goal("RSS under 1,000 slow streams, MB", _megabytes(visits, "slow_rss_mib"), 100.0),
        Goal("start to first answer, s", read_figure(visits, OURS, "start_s"), 0.5),
        Goal("two workers' JSON requests/s / one's", scale_of_two(visits), 1.7, at_least=True),
        Goal("wrong or unfinished answers", _own_failures(visits), 0),
    ]


def scale_of_two(visits: Visits) -> float | None:
    """Return requests/s of two workers over those of one, both for whole cores.

    On two cores the load generator and whatever else runs there take a part of them; a rate is therefore divided by
    the cores left to the candidate: its own CPU time and idle time of its cores. Waiting counts against it.
    """
    found = compare(visits, TWO_WORKERS, OURS, "json_per_core")
    return None if found is None else 2 * found


def _own_failures(visits: Visits) -> float | None:
    own = [visit for name in (OURS, TWO_WORKERS) for visit in visits.get(name, ()) if visit]
    if not own:
        return None
    shown = sum(int(run.result["usage_seen"]) for visit in own for name, run in visit.runs.items() if name != "asked")
    unequal = sum(visit.log is None or not visit.log.is_equal for visit in own)
    return count_failures(visits, OURS) + count_failures(visits, TWO_WORKERS) + shown + unequal


def _megabytes(visits: Visits, figure: str) -> float | None:
    found = read_figure(visits, OURS, figure)
    return None if found is None else found * MIB / 1e6


def _read(visit: Visit | None, reader: Reader) -> float | None:
    try:
        return None if visit is None else reader(visit)
    except KeyError:
        return None


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None
