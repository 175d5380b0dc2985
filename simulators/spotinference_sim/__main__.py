"""The command `spotinference-sim`: lay down past days, print the truth, serve both services live.

Owns arguments and exit codes: 0 done, 1 failed, 2 wrong use. The only place that reads the environment.
"""

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import msgspec

from spotinference_sim.books import render_books
from spotinference_sim.clock import Clock, SystemClock
from spotinference_sim.faults import NAMES, Faults
from spotinference_sim.features import Features
from spotinference_sim.instants import SECOND_US, parse_us, to_datetime
from spotinference_sim.lay_down import lay_down_raw
from spotinference_sim.lines import write_whole
from spotinference_sim.player import play
from spotinference_sim.request_log import lay_down_log
from spotinference_sim.scenario import Scenario
from spotinference_sim.simulators import API_KEY, Simulators, upstreams
from spotinference_sim.truth import truth

AFTER_LAST_DAY_S = 900
"""Laying down goes on for a while after the last midnight, so that requests across it have their end."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command."""
    options = _parser().parse_args(arguments)
    try:
        scenario = _scenario(options)
        options.faults = _faults(options)
    except ValueError as error:
        print(f"spotinference-sim: {error}", file=sys.stderr)
        return 2
    try:
        _run(scenario, options)
    except (OSError, OverflowError, ValueError) as error:
        print(f"spotinference-sim: {str(error).splitlines()[0]}; correct the argument", file=sys.stderr)
        return 1
    return 0


def _scenario(options: argparse.Namespace) -> Scenario:
    features = Features.all() if options.all_types else None
    make = Scenario.long if options.long else Scenario.generate
    return make(options.seed, options.start_day, options.days, features=features)


def _faults(options: argparse.Namespace) -> Faults | None:
    """Put the faults together; None where none was asked for.

    Raises: ValueError when there is no such fault or its value does not fit.
    """
    asked: list[str] = getattr(options, "fault", [])
    column = getattr(options, "faults", None)
    if column is None and not asked:
        return None
    start = Faults.lag() if getattr(options, "lag", False) else Faults.none()
    faults = Faults() if column == "default" else start
    for text in asked:
        faults = faults.with_text(text)
    return faults


def _run(scenario: Scenario, options: argparse.Namespace) -> None:
    if options.command == "lay-down":
        until_s = parse_us(options.until) // SECOND_US if options.until else scenario.end_s + AFTER_LAST_DAY_S
        lay_down_raw(scenario, options.data_dir, until_s, options.lag, options.faults)
        lay_down_log(scenario, options.log_dir or options.data_dir / "request_log", until_s)
    elif options.command == "truth":
        figures = render_books(scenario, options.day) if options.by_resource else truth(scenario, options.day)
        print(_indented(figures))
    elif options.command == "upstreams":
        print(msgspec.json.encode(upstreams(scenario, options.vllm_url)).decode())
    else:
        now = os.environ.get("SPOTINFERENCE_NOW")
        clock = SystemClock(to_datetime(parse_us(now)) if now else None)
        asyncio.run(_serve(scenario, clock, options))


def _indented(figures: dict[str, Any]) -> str:
    return msgspec.json.format(msgspec.json.encode(figures)).decode()


async def _serve(scenario: Scenario, clock: Clock, options: argparse.Namespace) -> None:
    """Serve until SIGINT or SIGTERM."""
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    ports = (options.hyperstack_port, options.vllm_port)
    simulators = Simulators(
        scenario, clock, lag=options.lag, api_key=options.api_key, ports=ports, faults=options.faults
    )
    await simulators.start()
    try:
        addresses = {"hyperstack_url": simulators.hyperstack_url, "vllm_url": simulators.vllm_url}
        listening = _indented({**addresses, "upstreams": simulators.upstreams()})
        print(listening, flush=True)
        if options.ports_file:
            write_whole(options.ports_file, listening.encode())
        await _play_until(stopped, scenario, clock, options)
    finally:
        await simulators.stop()


async def _play_until(stopped: asyncio.Event, scenario: Scenario, clock: Clock, options: argparse.Namespace) -> None:
    """Send the scenario's traffic where that is asked for, until told to stop."""
    if options.traffic:
        playing = asyncio.ensure_future(play(scenario, clock, options.traffic, options.traffic_key))
        await stopped.wait()
        playing.cancel()
        await asyncio.gather(playing, return_exceptions=True)
    await stopped.wait()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="spotinference-sim", description="Simulated Hyperstack and vLLM")
    commands = parser.add_subparsers(dest="command", required=True)
    about = argparse.ArgumentParser(add_help=False)
    about.add_argument("--seed", type=int, required=True)
    about.add_argument("--start-day", type=date.fromisoformat, required=True, help="first UTC day")
    about.add_argument("--days", type=int, required=True)
    about.add_argument("--all-types", action="store_true", help="also snapshots, buckets, clusters and all the rest")
    about.add_argument("--long", action="store_true", help="a fleet for hundreds of days, without requests")
    wrong = argparse.ArgumentParser(add_help=False)
    wrong.add_argument(
        "--faults", choices=("none", "default"), help="start from: honest, or as the real one is believed"
    )
    wrong.add_argument(
        "--fault",
        action="append",
        default=[],
        metavar="NAME[=VALUE]",
        help=f"set one, to its worst: {', '.join(NAMES)}",
    )
    lay = commands.add_parser("lay-down", parents=[about, wrong], help="write past days as raw files and log segments")
    lay.add_argument("--data-dir", type=Path, required=True)
    lay.add_argument("--log-dir", type=Path, help="default: DATA_DIR/request_log")
    lay.add_argument("--until", help="instant, default: 15 minutes after the last day")
    lay.add_argument("--lag", action="store_true", help="counters as late as the real ones")
    what = commands.add_parser("truth", parents=[about], help="print the true figures as JSON")
    what.add_argument("--day", type=date.fromisoformat, required=True)
    what.add_argument("--by-resource", action="store_true", help="the day's books: each resource, and the organisation")
    where = commands.add_parser("upstreams", parents=[about], help="print SPOTINFERENCE_PROXY_UPSTREAMS")
    where.add_argument("--vllm-url", required=True)
    live = commands.add_parser("serve", parents=[about, wrong], help="serve both on loopback by the system clock")
    live.add_argument("--hyperstack-port", type=int, default=0)
    live.add_argument("--vllm-port", type=int, default=0)
    live.add_argument("--api-key", default=API_KEY)
    live.add_argument("--lag", action="store_true")
    live.add_argument("--ports-file", type=Path, help="where the addresses go as JSON, once listening")
    live.add_argument("--traffic", metavar="URL", help="send the scenario's requests through this proxy")
    live.add_argument("--traffic-key", help="bearer key for the proxy")
    return parser


if __name__ == "__main__":
    sys.exit(main())
