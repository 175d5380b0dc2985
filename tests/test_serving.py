"""Dagster as operators and analysts meet it: a backfill launched as the UI does, a UI that can launch nothing."""

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from spotinference_pipeline import serving

pytestmark = pytest.mark.timeout(400)
Serve = Callable[..., AbstractContextManager[Any]]
LAUNCH_BACKFILL = """
mutation($params: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $params) { __typename ... on LaunchBackfillSuccess { backfillId } }
}
"""
BACKFILL = """
query($id: String!) { partitionBackfillOrError(backfillId: $id) { ... on PartitionBackfill { status } } }
"""
LAUNCH_JOB = """
mutation { launchRun(executionParams: { mode: "default", selector: {
  repositoryLocationName: "spotinference", repositoryName: "__repository__", jobName: "ingest" } }) { __typename } }
"""
KEY = b"canary-of-the-server"
BUILT = ("rollup", "metric", "publication")


def test_a_backfill_from_the_ui_publishes_the_truth_late_tokens_revise_it_and_nothing_stays_behind(
    serve: Serve, simulated_days: Any, lines: Any, tmp_path: Path
) -> None:
    data_dir = simulated_days.copy_to(tmp_path / "data")
    with serve(data_dir) as server:
        launched = server.ask(LAUNCH_JOB)["data"]["launchRun"]["__typename"]
        assert launched == "LaunchRunSuccess"
        server.wait_until(lambda: "SUCCESS" in statuses(server, "ingest"), 120)
        nodes = server.ask("{ assetNodes { groupName isPartitioned assetKey { path } } }")["data"]["assetNodes"]
        keys = [node["assetKey"] for node in nodes if node["groupName"] in BUILT]
        days = [f"{day}" for day in simulated_days.days]
        params = {"assetSelection": keys, "partitionNames": days, "fromFailure": False, "allPartitions": False}
        launched = server.ask(LAUNCH_BACKFILL, params=params)["data"]["launchPartitionBackfill"]
        assert launched["__typename"] == "LaunchBackfillSuccess"
        server.wait_until(lambda: status_of(server, launched["backfillId"]) == "COMPLETED_SUCCESS", 200)
        published = data_dir / "published" / "economics"
        truth = simulated_days.truth(simulated_days.last)
        assert read(published / "latest.json", truth) == truth
        assert sorted(path.name for path in (published / "days").iterdir()) == days
        late = lines.segment(lines.end(1, f"{days[1]}T10:00", f"{days[1]}T10:01"))
        (data_dir / "request_log" / lines.name(9)).write_bytes(late)
        server.ask(LAUNCH_JOB)
        server.wait_until((published / "days" / days[2] / "r2.json").exists, 120)
        server.wait_until(lambda: statuses(server, "daily_build") == {"SUCCESS"}, 60)
        assert server.process_ids()
        assert server.stop() == 0
        assert_gone(server)
    assert read(published / "latest.json", ["served_tokens"]) == {"served_tokens": truth["served_tokens"] + 150}
    assert sorted(path.name for path in published.glob("days/*/r2.json")) == ["r2.json", "r2.json"], (
        "days two and three"
    )
    assert not [path for path in data_dir.rglob("*") if path.is_file() and KEY in path.read_bytes()]


def test_a_read_only_ui_refuses_mutations_however_they_are_sent_and_listens_on_loopback_only(
    serve: Serve, tmp_path: Path
) -> None:
    with serve(tmp_path / "data", "--read-only") as server:
        assert server.ask(LAUNCH_JOB)["data"]["launchRun"]["__typename"] == "UnauthorizedError"
        answer = server.fetch(f"/graphql?query={quote(LAUNCH_JOB)}")
        assert answer["data"]["launchRun"]["__typename"] == "UnauthorizedError"
        assert server.ask("{ runsOrError { ... on Runs { results { id } } } }")["data"]["runsOrError"]["results"] == []
        assert listening_addresses(int(server.url.rpartition(":")[2])) == {"127.0.0.1"}


class Answer(BaseHTTPRequestHandler):
    """Answers 200 at /server_info, else 500."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/server_info" else 500)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def loopback() -> Iterator[str]:
    """A web server on loopback that knows one path."""
    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_only_an_answer_of_200_is_one(loopback: str) -> None:
    assert serving.answers(f"{loopback}/server_info")
    assert not serving.answers(f"{loopback}/else")
    assert not serving.answers("http://127.0.0.1:1/server_info")


def test_a_port_that_speaks_another_language_does_not_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def greet() -> None:
            talking, _ = listener.accept()
            with talking:
                talking.recv(1000)
                talking.sendall(b"SSH-2.0-otter\r\n")

        thread = threading.Thread(target=greet)
        thread.start()
        assert not serving.answers(f"http://127.0.0.1:{listener.getsockname()[1]}/server_info")
        thread.join()


def test_the_ui_is_asked_directly_where_the_environment_names_a_web_proxy(loopback: str) -> None:
    ask = f"from spotinference_pipeline import serving; print(serving.answers({loopback + '/server_info'!r}))"
    environment = {"http_proxy": "http://127.0.0.1:1", "HTTP_PROXY": "http://127.0.0.1:1"}
    done = subprocess.run([sys.executable, "-c", ask], env=environment, capture_output=True, check=True, text=True)
    assert done.stdout == "True\n"


def test_dagsters_home_is_the_environments_or_in_the_data_folder(settings_in: Callable[..., Any]) -> None:
    settings = settings_in()
    assert serving.dagster_home(settings, {}) == settings.data_dir / "dagster"
    assert serving.dagster_home(settings, {"DAGSTER_HOME": "/srv/dagster"}) == Path("/srv/dagster")
    shared = serving.dagster_environment(settings, {"PATH": "/usr/bin"})
    assert shared["DAGSTER_HOME"] == str(settings.data_dir / "dagster")
    assert shared["SPOTINFERENCE_DATA_DIR"] == str(settings.data_dir)
    assert shared["PATH"] == "/usr/bin"


def statuses(server: Any, job: str) -> set[str]:
    """Give the statuses of the runs of a job."""
    asked = "query($job: String!) { runsOrError(filter: {pipelineName: $job}) { ... on Runs { results { status } } } }"
    return {run["status"] for run in server.ask(asked, job=job)["data"]["runsOrError"]["results"]}


def read(file: Path, names: Iterable[str]) -> dict[str, Any]:
    """Give some members of a published file."""
    document = json.loads(file.read_bytes())
    return {name: document[name] for name in names}


def status_of(server: Any, backfill_id: str) -> str:
    found = server.ask(BACKFILL, id=backfill_id)["data"]["partitionBackfillOrError"]["status"]
    assert found not in ("FAILED", "COMPLETED_FAILED", "CANCELED"), server.read_logs()[-4000:]
    return str(found)


def listening_addresses(port: int) -> set[str]:
    """Give the addresses on which somebody listens at a port, as the kernel lists them."""
    found = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        address, state = line.split()[1], line.split()[3]
        host, _, hex_port = address.partition(":")
        if state == "0A" and int(hex_port, 16) == port:
            found.add(socket.inet_ntoa(bytes.fromhex(host)[::-1]))
    for line in Path("/proc/net/tcp6").read_text().splitlines()[1:]:
        if line.split()[3] == "0A" and int(line.split()[1].rpartition(":")[2], 16) == port:
            found.add("IPv6")
    return found


def assert_gone(server: Any) -> None:
    """All processes are gone; a killed one may take the kernel a moment."""
    deadline = time.monotonic() + 10
    while server.process_ids() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert server.process_ids() == []
