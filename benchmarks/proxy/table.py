"""The table, the goals and the JSON file of a benchmark.

Owns what is printed. Does not own the figures: goals.py.
"""

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from statistics import median
from typing import Any

from benchmarks.proxy import goals
from benchmarks.proxy.candidates import LITELLM, NGINX, OURS, ROUTER, TWO_WORKERS, Candidate
from benchmarks.proxy.goals import DIRECT, Visits, compare, count_failures, read_figure

_COLUMNS = (  # heading, figure, decimals
    ("json us", "json_cpu_us", 1),
    ("req/s", "json_per_s", 0),
    ("p50 ms", "json_p50_ms", 2),
    ("p99 ms", "json_p99_ms", 2),
    ("sse us", "sse_cpu_us", 1),
    ("chunk/s", "sse_per_s", 0),
    ("p50 ms", "sse_p50_ms", 2),
    ("p99 ms", "sse_p99_ms", 2),
    ("idle MiB", "idle_rss_mib", 0),
    ("slow MiB", "slow_rss_mib", 0),
    ("start s", "start_s", 2),
)
BUSY_SHARE = 0.15  # of a core
_RATIOS = (("json", "json_cpu_us"), ("sse", "sse_cpu_us"))


def describe_machine(facts: Mapping[str, Any]) -> str:
    """Say in a few lines on what and how it was measured."""
    load = " ".join(f"{value:.2f}" for value in facts["loadavg"])
    text = (
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {os.cpu_count()} cores ({facts['cpu']}), load average {load}; "
        f"candidate on core {facts['own_cores']}, load and upstream on {facts['other_cores']}\n"
        f"log on {facts['filesystem']}, write + fdatasync of 4 KiB: "
        f"median {facts['sync_ms'][0]:.2f} ms, p99 {facts['sync_ms'][1]:.2f} ms"
    )
    if facts["own_cores"] == facts["other_cores"]:
        text += "\nONE CORE ONLY: rates and delays are not the candidate's; CPU times are"
    if facts["filesystem"] in {"tmpfs", "ramfs"}:
        text += "\nTHE LOG IS IN MEMORY: durability costs nothing here; give --cache on a disk"
    return text


def render_table(visits: Visits, candidates: list[Candidate], missing: Mapping[str, str]) -> str:
    """Return one row for each candidate."""
    versions = {one.name: one.version for one in candidates}
    head = f"{'':16} {'version':>10}" + "".join(f" {heading:>8}" for heading, _, _ in _COLUMNS) + f" {'wrong':>6}"
    lines = [head, "-" * len(head)]
    for name in visits:
        cells = [_cell(read_figure(visits, name, figure), digits) for _, figure, digits in _COLUMNS]
        if name == DIRECT:
            cells[0] = cells[4] = f"{'-':>8}"
        failures = count_failures(visits, name)
        lines.append(f"{name:16} {versions.get(name, ''):>10} {' '.join(cells)} {failures:6}")
    lines += [f"{name:16} failed or missing: {why}" for name, why in missing.items()]
    return "\n".join(lines)


def render_ratios(visits: Visits) -> str:
    """Return our CPU times as multiples of the peers'."""
    lines = []
    for peer in (ROUTER, NGINX, LITELLM):
        found = [(label, compare(visits, OURS, peer, figure)) for label, figure in _RATIOS]
        parts = [f"{label} {value:.4g} x" for label, value in found if value is not None]
        if parts:
            lines.append(f"{OURS} CPU against {peer}: {', '.join(parts)}")
    delay = [(name, compare(visits, name, DIRECT, "sse_p99_ms", minus=True)) for name in visits if name != DIRECT]
    parts = [f"{name} {value:+.2f}" for name, value in delay if value is not None]
    return "\n".join([*lines, f"added p99 chunk delay, ms: {', '.join(parts)}"] if parts else lines)


def render_goals(visits: Visits) -> str:
    """Return one line for each goal."""
    lines = []
    for goal in goals.judge(visits):
        found = "-" if goal.found is None else f"{goal.found:.4g}"
        sign = ">=" if goal.at_least else "<="
        lines.append(f"{goal.text:48} {found:>9}  {sign} {goal.limit:<7.4g} {goal.verdict}")
    return "\n".join(lines)


def render_notes(visits: Visits) -> str:
    """Return what qualifies the figures: the log's proof, the gear's share, overload, workers."""
    lines = []
    for name in (OURS, TWO_WORKERS):
        for number, visit in enumerate(visits.get(name, ()), 1):
            if visit is not None and visit.log is not None:
                word = "equal" if visit.log.is_equal else "NOT EQUAL"
                lines.append(f"log of {name}, round {number}: {word}: {visit.log.describe()}")
            if visit is not None and not visit.is_clean:
                lines.append(f"{name}, round {number}: did not end by SIGTERM within 10 s and was killed")
    offered = read_figure(visits, DIRECT, "sse_per_s")
    for name in visits:
        rate = read_figure(visits, name, "sse_per_s")
        if rate and offered and rate < 0.97 * offered:
            lines.append(f"{name}: passes {rate:,.0f} of {offered:,.0f} chunks/s; its delays are those of a queue")
        for failed in (run for visit in visits[name] if visit for run in visit.runs.values() if run.failures):
            lines.append(
                f"{name}: {failed.failures} wrong answers, the first: {failed.result['first_error'] or 'late'}"
            )
    runs = [run for some in visits.values() for visit in some if visit for run in visit.runs.values()]
    if runs:
        gear, other = max(run.gear_share for run in runs), median(run.other_share for run in runs)
        lines.append(
            f"load generator and upstream used at most {gear:.0%} of a core in a window, "
            f"everything else on the machine (also the kernel's own threads) {other:.0%} in the median"
        )
        if other > BUSY_SHARE:
            lines.append("THE MACHINE WAS BUSY with other things: rates and delays are too bad, CPU times somewhat")
    return "\n".join([*lines, *_describe_workers(visits)])


def _describe_workers(visits: Visits) -> list[str]:
    """Say how the goal of two workers was measured."""
    runs = [visit.runs["json"] for visit in visits.get(TWO_WORKERS, ()) if visit]
    ratio, scale = compare(visits, TWO_WORKERS, OURS, "json_per_s"), goals.scale_of_two(visits)
    if not runs or ratio is None or scale is None:
        return []
    left, share = median(run.left_cores for run in runs), median(run.busiest_share for run in runs)
    return [
        f"two workers had {left:.2f} of 2 cores (load, upstream and the rest of the machine took the others) and made "
        f"{ratio:.2f} x one worker's requests/s; for two whole cores that is {scale:.2f} x; "
        f"the busier worker did {share:.0%} of the work"
    ]


def to_json(visits: Visits, candidates: list[Candidate], missing: Mapping[str, str], facts: Mapping[str, Any]) -> Any:
    """Return everything as JSON values: medians, goals, and the figures of every round."""
    return {
        "at": datetime.now(UTC).isoformat(),
        "machine": dict(facts),
        "versions": {one.name: one.version for one in candidates},
        "missing": dict(missing),
        "medians": {name: {figure: read_figure(visits, name, figure) for figure in goals.FIGURES} for name in visits},
        "goals": [
            {"goal": goal.text.strip(), "found": goal.found, "limit": goal.limit, "verdict": goal.verdict}
            for goal in goals.judge(visits)
        ],
        "rounds": {name: [_round(visit) for visit in some] for name, some in visits.items()},
    }


def _round(visit: Any) -> Any:
    if visit is None:
        return None
    runs = {
        name: {
            **run.result,
            "cpu_us": run.cpu_us,
            "busiest_share": run.busiest_share,
            "left_cores": run.left_cores,
            "memory": run.memory,
        }
        | {"gear_share": run.gear_share, "other_share": run.other_share}
        for name, run in visit.runs.items()
    }
    log = visit.log and {"equal": visit.log.is_equal, "said": visit.log.describe()}
    return {"start_s": visit.start_seconds, "idle_memory": visit.idle_memory, "runs": runs, "log": log}


def _cell(value: float | None, digits: int) -> str:
    return f"{'-':>8}" if value is None else f"{value:8.{digits}f}"
