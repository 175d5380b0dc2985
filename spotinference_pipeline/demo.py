"""The demo: simulators, proxy and Dagster on this machine, nine past days, and the number.

Owns its own data folder, which is made anew at each start, and never touches one that it did not make. The programs
are the real ones, started as processes and pointed at each other by their settings; only Hyperstack and vLLM are
simulated.
"""

import json
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from time import sleep
from typing import Any

from spotinference_pipeline import serving
from spotinference_pipeline.errors import SettingsError
from spotinference_pipeline.processes import Processes, free_port
from spotinference_pipeline.settings import Settings
from spotinference_pipeline.warehouse import VIEWS
from spotinference_pipeline.windows import last_closed_day

PAST_DAYS = 9
SEED = 7
MARK = "demo.json"
DEFINITIONS = ["-m", "spotinference_pipeline.orchestration.definitions"]


@dataclass(frozen=True)
class Scenario:
    """The simulated days: nine closed ones, and today."""

    first_day: date
    last_day: date

    def flags(self) -> list[str]:
        return ["--seed", str(SEED), "--start-day", self.first_day.isoformat(), "--days", str(PAST_DAYS)]


def run(settings: Settings, environment: Mapping[str, str], *, once: bool) -> None:
    """Run the demo; with `once` end after publishing, else keep running until interrupted.

    Raises: SettingsError when the data folder holds something else; OursError when a program does not start.
    """
    make_empty(settings.data_dir)
    last_day = last_closed_day(datetime.now(UTC))
    scenario = Scenario(last_day - timedelta(days=PAST_DAYS - 1), last_day)
    ports = {name: free_port(port) for name, port in (("ui", 3000), ("proxy", 8080), ("admin", 8081), ("page", 8000))}
    proxy_url = f"http://127.0.0.1:{ports['proxy']}"
    key = secrets.token_hex(16)
    clean = clean_environment(environment)
    with Processes(settings.data_dir / "logs", clean) as simulators:
        print(f"laying down {PAST_DAYS} past days, {scenario.first_day} to {scenario.last_day} ...", flush=True)
        simulators.run(
            "lay-down",
            [
                "spotinference-sim",
                "lay-down",
                *scenario.flags(),
                "--data-dir",
                str(settings.data_dir),
                *_until(),
            ],
        )
        simulated = _start_simulators(simulators, settings.data_dir, scenario, key, proxy_url)
        child = clean | {
            "SPOTINFERENCE_DATA_DIR": str(settings.data_dir),
            "SPOTINFERENCE_HYPERSTACK_URL": simulated["hyperstack_url"],
            "SPOTINFERENCE_HYPERSTACK_API_KEY": key,
            "SPOTINFERENCE_PROXY_UPSTREAMS": json.dumps(simulated["upstreams"]),
            "SPOTINFERENCE_PROXY_LISTEN": f"127.0.0.1:{ports['proxy']}",
            "SPOTINFERENCE_PROXY_ADMIN_LISTEN": f"127.0.0.1:{ports['admin']}",
            "SPOTINFERENCE_PROXY_LOG_DIR": str(settings.data_dir / "request_log"),
            "SPOTINFERENCE_PROXY_MIN_FREE_BYTES": "0",  # whatever the reader's disk has left
            "SPOTINFERENCE_PROXY_STOP_SECONDS": "2",
        }
        with Processes(settings.data_dir / "logs", serving.dagster_environment(settings, child)) as programs:
            _run_programs(settings, programs, scenario, ports, once=once)


def _run_programs(
    settings: Settings, programs: Processes, scenario: Scenario, ports: Mapping[str, int], *, once: bool
) -> None:
    programs.start("proxy", ["spotinference-proxy"])
    admin = f"http://127.0.0.1:{ports['admin']}/healthz"
    programs.wait_until(lambda: serving.answers(admin), "proxy", 30)
    print("taking a snapshot over HTTP ...", flush=True)
    programs.run("snapshot", ["spotinference", "snapshot"])
    serving.prepare_home(settings, programs, settings.data_dir / "dagster")
    print("reading, building and publishing through Dagster ...", flush=True)
    programs.run("ingest", ["dagster", "job", "execute", "-j", "ingest", *DEFINITIONS])
    views = " or ".join(f'key:"{table.replace(".", "/")}"' for table in VIEWS)
    selection = f"(group:rollup or group:metric or group:publication) and not ({views})"
    days = f"{scenario.first_day}...{scenario.last_day}"
    programs.run(
        "build",
        ["dagster", "asset", "materialize", "--select", selection, "--partition-range", days, *DEFINITIONS],
    )
    page_dir = str(settings.data_dir / "published")
    programs.start(
        "page",
        ["python", "-m", "http.server", str(ports["page"]), "--bind", "127.0.0.1", "--directory", page_dir],
    )
    print("starting Dagster's UI and daemon ...", flush=True)
    ui = serving.start(programs, ports["ui"])
    _print_result(programs, settings, scenario)
    print(f"Dagster   {ui}")
    print(f"page      http://127.0.0.1:{ports['page']}/economics/")
    print(f"proxy     http://127.0.0.1:{ports['proxy']}/v1/models")
    print(f"files     {settings.data_dir}")
    if once:
        print(_read_latest(settings)["usd_per_million_tokens"], "USD per million tokens")
        return
    print("running; stop with Ctrl-C", flush=True)
    while True:
        programs.check()
        sleep(1)


def make_empty(data_dir: Path) -> None:
    """Make the demo's folder anew; refuse one that the demo did not make."""
    if data_dir.exists() and any(data_dir.iterdir()):
        if not (data_dir / MARK).exists():
            raise SettingsError(
                f"SPOTINFERENCE_DATA_DIR {data_dir}: expected an empty folder or one that the demo made, found other files; "
                "choose another folder for the demo"
            )
        for entry in data_dir.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            elif entry.name != MARK:
                entry.unlink()
    data_dir.mkdir(parents=True, exist_ok=True)
    (data_dir / MARK).write_text(json.dumps({"made_by": "spotinference demo"}) + "\n")


def clean_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Leave out what would lead the demo's programs elsewhere: settings of ours and of Dagster, and a web proxy."""
    return {
        name: text
        for name, text in environment.items()
        if not name.startswith(("SPOTINFERENCE_", "DAGSTER_")) and not name.lower().endswith("_proxy")
    }


def _until() -> list[str]:
    """Lay down up to the last full minute, so that the snapshots taken live go on from there."""
    return ["--until", datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:00Z")]


def _start_simulators(
    simulators: Processes, data_dir: Path, scenario: Scenario, key: str, proxy_url: str
) -> dict[str, Any]:
    addresses = data_dir / "logs" / "simulators.json"
    simulators.start(
        "simulators",
        [
            "spotinference-sim",
            "serve",
            *scenario.flags(),
            "--api-key",
            key,
            "--ports-file",
            str(addresses),
            "--traffic",
            proxy_url,
        ],
    )
    simulators.wait_until(addresses.exists, "simulators", 30)
    found: dict[str, Any] = json.loads(addresses.read_bytes())
    return found


def _read_latest(settings: Settings) -> dict[str, Any]:
    latest: dict[str, Any] = json.loads((settings.data_dir / "published" / "economics" / "latest.json").read_bytes())
    return latest


def _print_result(programs: Processes, settings: Settings, scenario: Scenario) -> None:
    """Print the number and hold it against what the simulator knows to be true."""
    latest = _read_latest(settings)
    truth = json.loads(
        programs.run("truth", ["spotinference-sim", "truth", *scenario.flags(), "--day", scenario.last_day.isoformat()])
    )
    names = ("paid_usd", "served_tokens", "usd_per_million_tokens", "usd_per_million_by_part")
    different = [name for name in names if latest[name] != truth[name]]
    print()
    print(f"{latest['display']} per million tokens, seven days to {latest['day']} ({latest['status']}, simulated)")
    print(f"paid {latest['paid_usd']} USD, served {latest['served_tokens']:,} tokens")
    print(
        "equal to the simulator's own truth"
        if not different
        else f"differs from the simulator's truth in {', '.join(different)}"
    )
