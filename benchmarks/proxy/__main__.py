"""Command `python -m benchmarks.proxy`: compare the proxy with others on this machine, print one table.

Owns the command line and the order of the runs: round-robin, because machines drift. Does not own how a run is
done (scenarios.py, measure.py) nor what is made of it (goals.py, table.py).
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

from benchmarks.proxy import machine, table
from benchmarks.proxy.candidates import LITELLM, NGINX, OURS, ROUTER, TWO_WORKERS, Candidate, Setup, find_candidates
from benchmarks.proxy.goals import DIRECT
from benchmarks.proxy.measure import BenchError, Server, build_tools
from benchmarks.proxy.scenarios import Bench, Plan, Visit

PEERS = (NGINX, ROUTER, LITELLM)
ALL = (NGINX, OURS, ROUTER, LITELLM, TWO_WORKERS)


def main() -> int:
    """Entry point; 0 done, 1 failed."""
    options = read_options(sys.argv[1:])
    cache = Path(options.cache or os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser().resolve()
    if not options.cache:
        cache /= "spotinference-bench"
    cache.mkdir(parents=True, exist_ok=True)
    candidates, missing = find_candidates(pick_names(options), cache)
    plan = Plan(options.seconds, has_slow=not options.quick, has_asked=options.asked)
    try:
        with machine.take_turns(cache / "lock"), machine.take_precedence() if options.priority else nullcontext():
            for left_over in cache.glob("run-*"):  # by a benchmark that was killed
                shutil.rmtree(left_over, ignore_errors=True)
            folder = Path(tempfile.mkdtemp(prefix="run-", dir=cache))
            try:
                failures = compare(candidates, missing, plan, options, folder)
            finally:
                shutil.rmtree(folder, ignore_errors=True)
    except (BenchError, OSError) as error:
        print(f"benchmarks.proxy: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 1
    return 1 if failures else 0


def compare(
    candidates: list[Candidate], missing: dict[str, str], plan: Plan, options: argparse.Namespace, folder: Path
) -> dict[str, str]:
    """Run everything and print it; return which candidates failed and why. Raises: BenchError, OSError."""
    own, others = machine.split_cores()
    facts = read_facts(folder, own, others)
    build_tools(folder)
    print(table.describe_machine(facts), end="\n\n", flush=True)
    port = machine.free_port()
    setup = Setup([str(folder / "upstream"), str(port)])
    with Server("upstream", setup, port, others, folder / "upstream.txt") as upstream:
        bench = Bench(folder, upstream, own, others)
        visits, failures = run_rounds(bench, candidates, plan, options.rounds)
    print(table.render_table(visits, candidates, missing | failures), end="\n\n")
    print(table.render_ratios(visits), end="\n\n")
    print(table.render_goals(visits), end="\n\n")
    print(table.render_notes(visits))
    result = Path(options.json) if options.json else folder.parent / "result.json"
    result.write_text(json.dumps(table.to_json(visits, candidates, missing | failures, facts), indent=1))
    print(f"everything, round by round: {result}")
    return failures


def run_rounds(
    bench: Bench, candidates: list[Candidate], plan: Plan, rounds: int
) -> tuple[dict[str, list[Visit | None]], dict[str, str]]:
    """Take every candidate through every round, in turn; one that fails has None there, and why in the second."""
    visits: dict[str, list[Visit | None]] = {DIRECT: [], **{one.name: [] for one in candidates}}
    failures: dict[str, str] = {}
    for number in range(1, rounds + 1):
        visits[DIRECT].append(bench.visit_upstream(plan))
        for candidate in candidates:
            say(f"round {number} of {rounds}: {candidate.name}")
            visit = bench.visit if candidate.workers == 1 else bench.visit_workers
            try:
                visits[candidate.name].append(visit(candidate, plan, number))
            except BenchError as error:
                visits[candidate.name].append(None)
                failures[candidate.name] = f"round {number}: {error}"
            shutil.rmtree(bench.folder / f"{number}-{candidate.name}", ignore_errors=True)
    say("")
    return visits, failures


def say(text: str) -> None:
    """Show on a terminal, in one line, how far it is."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def read_facts(folder: Path, own: set[int], others: set[int]) -> dict[str, Any]:
    """Return what the machine is and how busy it was before."""
    cpu = "unknown"
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return {
        "cpu": cpu,
        "loadavg": os.getloadavg(),
        "own_cores": sorted(own),
        "other_cores": sorted(others),
        "filesystem": machine.filesystem_of(folder),
        "sync_ms": machine.time_sync(folder),
    }


def pick_names(options: argparse.Namespace) -> list[str]:
    """Return the candidates asked for; --quick leaves out what is slow."""
    if options.only:
        return list(options.only)
    if options.peers is not None:
        return [name for name in ALL if name not in PEERS or name in options.peers]
    return [NGINX, OURS, ROUTER] if options.quick else list(ALL)


def read_options(words: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.proxy", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one short round, no slow streams, no LiteLLM")
    parser.add_argument("--only", nargs="+", choices=ALL, help="just these")
    parser.add_argument("--peers", nargs="+", choices=(*PEERS, "none"), help="ours and just these peers")
    parser.add_argument("--seconds", type=float, help="length of each window (5; with --quick 2)")
    parser.add_argument("--rounds", type=int, help="how often each is started and measured (3; with --quick 1)")
    parser.add_argument("--asked", action="store_true", help="also streams whose client asks for usage itself")
    parser.add_argument("--priority", action="store_true", help="go before other work on this machine (needs root)")
    parser.add_argument("--cache", help="folder, on a disk, for the peers' environments and the logs")
    parser.add_argument("--json", help="file for the result (result.json in the cache folder)")
    options = parser.parse_args(words)
    options.seconds = options.seconds or (2.0 if options.quick else 5.0)
    options.rounds = options.rounds or (1 if options.quick else 3)
    return options


if __name__ == "__main__":
    sys.exit(main())
