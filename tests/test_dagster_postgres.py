"""One day with Dagster's storage in a real PostgreSQL, started by the test on the machine's own binaries."""

import json
import os
import pwd
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from spotinference_pipeline import serving
from spotinference_pipeline.processes import Processes
from spotinference_pipeline.public_files import LATEST
from spotinference_pipeline.settings import Settings
from spotinference_pipeline.storage import Storage

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
ASK = """
import dagster as dg, json
with dg.DagsterInstance.get() as instance:
    print(json.dumps({
        "storage": [type(s).__name__ for s in (instance.run_storage, instance.event_log_storage, instance.schedule_storage)],
        "runs": [record.dagster_run.status.value for record in instance.get_run_records()],
        "days": sorted(instance.get_materialized_partitions(dg.AssetKey(["publication", "economics"]))),
    }))
"""


@pytest.fixture
def postgres() -> Iterator[str]:
    """A PostgreSQL of its own on loopback, owned by an ordinary user; gives its address."""
    if not BINARIES:
        pytest.skip("no PostgreSQL in /usr/lib/postgresql: install Debian's package postgresql to run this test")
    bin_dir = BINARIES[-1].parent
    owner = pwd.getpwnam("postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        os.chown(folder, owner.pw_uid, owner.pw_gid)

        def run(*command: str) -> None:
            subprocess.run(command, user=owner.pw_uid, group=owner.pw_gid, cwd=folder, check=True, capture_output=True)

        data = f"{folder}/data"
        run(f"{bin_dir}/initdb", "-D", data, "-U", "dagster", "-A", "trust", "--no-sync")
        flags = f"-F -p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder}"
        run(f"{bin_dir}/pg_ctl", "-D", data, "-o", flags, "-l", f"{folder}/log", "-w", "start")
        try:
            yield f"postgresql://dagster@127.0.0.1:{port}/postgres"
        finally:
            run(f"{bin_dir}/pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")


def test_a_day_runs_on_postgresql_and_gives_the_truth(postgres: str, simulated_days: Any, tmp_path: Path) -> None:
    data_dir = simulated_days.copy_to(tmp_path / "data")
    settings = Settings.model_validate(
        {"data_dir": data_dir, "dagster_postgres_url": postgres, "hyperstack_url": "http://127.0.0.1:1/v1"}
    )
    environment = serving.dagster_environment(
        settings,
        {
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "SPOTINFERENCE_NOW": simulated_days.now,
            "SPOTINFERENCE_MIN_SNAPSHOT_COVERAGE": "0.1",
        },
    )
    definitions = ["-m", "spotinference_pipeline.orchestration.definitions"]
    with Processes(tmp_path / "logs", environment) as processes:
        serving.prepare_home(settings, processes, data_dir / "dagster")
        processes.run("ingest", ["dagster", "job", "execute", "-j", "ingest", *definitions])
        day = f"{simulated_days.first}"
        build = ["dagster", "job", "execute", "-j", "daily_build", *definitions]
        processes.run("build", [*build, "--tags", f'{{"dagster/partition": "{day}"}}'])
        found = ask(environment)
    assert found["storage"] == ["PostgresRunStorage", "PostgresEventLogStorage", "PostgresScheduleStorage"]
    assert found["runs"] == ["SUCCESS", "SUCCESS"]
    assert found["days"] == [day]
    assert not list(data_dir.rglob("*.db")), "nothing is kept in SQLite"
    assert postgres.encode() not in (data_dir / "dagster" / "dagster.yaml").read_bytes()
    latest = read_json(Storage(settings.published).read(LATEST))
    truth = simulated_days.truth(simulated_days.first)
    assert {name: latest[name] for name in truth} == truth


def ask(environment: dict[str, str]) -> dict[str, Any]:
    """Ask the instance, in a process that sees it as Dagster's own processes do."""
    command: Sequence[str] = [sys.executable, "-W", "ignore", "-c", ASK]
    done = subprocess.run(command, env=environment, capture_output=True, check=True)
    return read_json(done.stdout)


def read_json(content: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(content)
    return found
