import importlib.metadata
import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from spotinference_proxy.__main__ import raise_file_limit, run
from spotinference_proxy.settings import read_settings

ROOT = Path(__file__).parents[2]
UPSTREAMS = '[{"url": "http://127.0.0.1:1", "vm_id": 1, "models": []}]'
ANYWHERE = {
    "SPOTINFERENCE_PROXY_UPSTREAMS": UPSTREAMS,
    "SPOTINFERENCE_PROXY_LISTEN": "127.0.0.1:0",
    "SPOTINFERENCE_PROXY_ADMIN_LISTEN": "127.0.0.1:0",
}


class Child:
    """The installed command as a process, and the lines it says."""

    def __init__(self, environ: dict[str, str], program: tuple[str, str] = ("-m", "spotinference_proxy")) -> None:
        clean = {name: text for name, text in os.environ.items() if not name.startswith("SPOTINFERENCE_")}
        command = [sys.executable, *program]
        self.process = subprocess.Popen(command, env=clean | environ, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        self.stderr = self.process.stderr

    def hear(self, event: str) -> dict:
        """Read lines up to one that tells `event`."""
        for line in self.stderr:
            if line.startswith("{") and (found := json.loads(line))["event"] == event:
                return found
        raise AssertionError(f"{event}: expected a line, found the end")

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def wait(self) -> int:
        for _ in self.stderr:
            pass
        return self.process.wait(30)


WELL_ON_ITS_WAY = """
import os, sys
from spotinference_proxy.logs import Logs
from spotinference_proxy.settings import read_settings
from spotinference_proxy.workers import Pace, supervise
sys.exit(supervise(read_settings(os.environ), os.environ, Logs(), Pace(settled=0.0)))
"""  # as if its workers had run for a while


@contextmanager
def child(folder: Path, program: tuple[str, str] = ("-m", "spotinference_proxy"), **changes: str) -> Iterator[Child]:
    names = {f"SPOTINFERENCE_{name}": text for name, text in changes.items()}
    started = Child(ANYWHERE | {"SPOTINFERENCE_PROXY_LOG_DIR": str(folder)} | names, program)
    try:
        yield started
    finally:
        started.process.kill()
        started.process.wait()
        started.stderr.close()


def ask(address: str, path: str = "/healthz", **headers: str) -> int:
    request = urllib.request.Request(f"http://{address}{path}", headers=headers)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=30) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_key_new_prints_a_key_once_and_key_list_what_is_known_of_it(tmp_path: Path, capsys) -> None:
    path = tmp_path / "keys"
    environ = {"SPOTINFERENCE_PROXY_KEYS_FILE": str(path)}
    assert run(["key", "new", "--label", "team a"], environ) == 0
    key = capsys.readouterr().out.strip()
    assert key not in path.read_text()
    stored = json.loads(path.read_text())
    assert stored["label"] == "team a"
    path.write_text(path.read_text() + json.dumps({"sha256": "0" * 64, "label": "x\u001b[31m"}) + "\n")
    assert run(["key", "list"], environ) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"{stored['sha256'][:12]}  {stored['created_at']}  team a"
    assert second == "000000000000    'x\\x1b[31m'"


def test_the_version_is_printed(capsys) -> None:
    assert run(["--version"], {}) == 0
    assert re.fullmatch(r"spotinference-proxy \d+\.\d+\.\d+\n", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("arguments", "environ", "code"),
    [
        ([], {}, 2),
        ([], ANYWHERE | {"SPOTINFERENCE_PROXY_KEYS_FILE": "/nowhere/keys"}, 2),
        ([], ANYWHERE | {"SPOTINFERENCE_PROXY_PORT": "80"}, 2),
        (["key", "new", "--label", "a"], {}, 2),
        (["key", "new", "--label", "a\nb"], {"SPOTINFERENCE_PROXY_KEYS_FILE": "/nowhere/keys"}, 2),
        (["key", "list"], {"SPOTINFERENCE_PROXY_KEYS_FILE": "/nowhere/keys"}, 2),
        (["key", "new", "--label", "a"], {"SPOTINFERENCE_PROXY_KEYS_FILE": "/nowhere/keys"}, 2),
        ([], {"SPOTINFERENCE_PROXY_UPSTREAMS": '[{"url": "http://gpu..internal"}]'}, 2),
        ([], ANYWHERE | {"SPOTINFERENCE_PROXY_LOG_DIR": "/dev/null/x"}, 1),
    ],
)
def test_failures_are_one_line_and_a_code(tmp_path: Path, monkeypatch, arguments, environ, code, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(arguments, environ) == code
    error = capsys.readouterr().err
    assert error.startswith("spotinference-proxy: ")
    assert error.count("\n") == 1


@pytest.mark.parametrize("arguments", [["key"], ["serve"], ["--port", "80"], ["key", "new"], ["key", "list", "x"]])
def test_wrong_use_of_the_command_line_is_code_2_and_one_line(arguments: list[str], capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        run(arguments, {})
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("spotinference-proxy")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "workers"), [("PROXY_LISTEN", "1"), ("PROXY_ADMIN_LISTEN", "1"), ("PROXY_LISTEN", "2")]
)
def test_an_address_in_use_is_one_line_that_names_it(tmp_path: Path, name: str, workers: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with child(tmp_path, **{name: f"127.0.0.1:{port}", "PROXY_WORKERS": workers}) as started:
            lines = started.stderr.read().splitlines()
            assert started.process.wait(30) == 1
    said = [line for line in lines if not line.startswith("{")]
    assert len(said) == 1
    assert f"SPOTINFERENCE_{name}: cannot listen on 127.0.0.1:{port}: address already in use; " in said[0]


def test_the_command_serves_until_sigterm_and_seals_its_log(tmp_path: Path) -> None:
    with child(tmp_path) as started:
        found = started.hear("listening")
        assert found["message"] == f"listening on {found['address']}, log in {tmp_path}"
        assert ask(found["admin_address"]) == 200
        assert ask(found["admin_address"], "/metrics") == 200
        assert ask(found["address"]) == 404, "the admin pages are on their own address only"
        started.process.send_signal(signal.SIGTERM)
        assert started.hear("stopping")["seconds"] == 60.0
        started.hear("stopped")
        assert started.wait() == 0
    assert [path.suffix for path in tmp_path.iterdir()] == [".jsonl"]


def test_a_reload_takes_upstreams_and_keys_and_names_what_needs_a_restart(tmp_path: Path) -> None:
    log_dir, config, keys = tmp_path / "log", tmp_path / "config.toml", tmp_path / "keys"
    assert run(["key", "new", "--label", "a"], {"SPOTINFERENCE_PROXY_KEYS_FILE": str(keys)}) == 0
    config.write_text("spotinference_proxy_max_in_flight = 5\n")
    with child(log_dir, CONFIG=str(config), PROXY_KEYS_FILE=str(keys)) as started:
        address = started.hear("listening")["address"]
        config.write_text("spotinference_proxy_max_in_flight = 6\n")
        started.process.send_signal(signal.SIGHUP)
        found = started.hear("reloaded")
        assert (found["upstreams"], found["needs_restart"]) == (1, ["SPOTINFERENCE_PROXY_MAX_IN_FLIGHT"])
        config.write_text("spotinference_proxy_max_in_flight = 'many'\n")
        started.process.send_signal(signal.SIGHUP)
        assert "MAX_IN_FLIGHT" in started.hear("reload_refused")["problem"]
        assert ask(address, "/v1/models") == 401, "it goes on with what it had"
        assert started.end() == 0


def test_several_workers_share_an_address_and_have_logs_of_their_own(tmp_path: Path) -> None:
    with child(tmp_path, PROXY_WORKERS="2") as started:
        found = [started.hear("listening") for _ in range(2)]
        assert {one["worker"] for one in found} == {0, 1}
        assert len({one["address"] for one in found}) == 1
        assert {ask(one["admin_address"]) for one in found} == {200}
        for _ in range(10):
            assert ask(found[0]["address"]) == 404
        dead = found[1]
        os.kill(dead["pid"], signal.SIGKILL)
        assert started.hear("worker_died")["worker"] == dead["worker"]
        again = started.hear("listening")
        assert (again["worker"], again["address"]) == (dead["worker"], dead["address"])
        assert started.end() == 0
    assert {path.suffix for path in tmp_path.iterdir()} == {".jsonl"}
    assert {path.name.partition(".")[0][-2:] for path in tmp_path.iterdir()} == {"-0", "-1"}


def test_F016_what_the_last_worker_seals_is_shipped_too(tmp_path: Path) -> None:
    folder, target = tmp_path / "log", tmp_path / "target"
    with child(folder, PROXY_WORKERS="3", REQUEST_LOG_URL=str(target)) as started:
        pids = {line["worker"]: line["pid"] for line in (started.hear("listening") for _ in range(3))}
        os.kill(pids[2], signal.SIGSTOP)  # as if its streams still ran
        started.process.send_signal(signal.SIGTERM)
        while started.hear("worker_ended")["worker"] != 0:
            pass
        os.kill(pids[2], signal.SIGCONT)
        assert started.wait() == 0
    sealed = sorted(path.name for path in folder.rglob("*.jsonl"))
    assert len(sealed) >= 3
    assert sorted(path.name for path in target.glob("*.jsonl")) == sealed


def test_F001_a_broken_keys_file_and_a_killed_worker_leave_the_others_serving(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    assert run(["key", "new", "--label", "a"], {"SPOTINFERENCE_PROXY_KEYS_FILE": str(keys)}) == 0
    good = keys.read_text()
    names = {"PROXY_WORKERS": "2", "PROXY_KEYS_FILE": str(keys)}
    with child(tmp_path / "log", ("-c", WELL_ON_ITS_WAY), **names) as started:
        found = [started.hear("listening") for _ in range(2)]
        keys.write_text(good + "{broken\n")
        os.kill(found[1]["pid"], signal.SIGKILL)
        assert [started.hear("worker_died")["code"] for _ in range(3)] == [-9, 2, 2]
        assert ask(found[0]["admin_address"]) == 200
        assert ask(found[0]["address"], "/v1/models") == 401
        keys.write_text(good)
        assert started.hear("listening")["worker"] == found[1]["worker"]
        assert started.end() == 0


def test_F001_workers_in_the_file_need_a_restart_and_a_killed_worker_is_what_it_was(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text("spotinference_proxy_workers = 2\n")
    with child(tmp_path / "log", ("-c", WELL_ON_ITS_WAY), CONFIG=str(config)) as started:
        found = {one["worker"]: one for one in (started.hear("listening"), started.hear("listening"))}
        config.write_text(f"spotinference_proxy_workers = 1\nspotinference_proxy_log_dir = '{tmp_path}'\n")
        started.process.send_signal(signal.SIGHUP)
        assert [started.hear("reloaded")["needs_restart"] for _ in range(2)] == [["SPOTINFERENCE_PROXY_WORKERS"]] * 2
        os.kill(found[1]["pid"], signal.SIGKILL)
        assert started.hear("settings_kept")["needs_restart"] == ["SPOTINFERENCE_PROXY_WORKERS"]
        again = started.hear("listening")
        assert (again["worker"], again["address"]) == (1, found[1]["address"])
        assert started.end() == 0


def test_a_log_folder_that_is_a_file_ends_several_workers_at_their_start(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("")
    with child(tmp_path / "log", PROXY_WORKERS="2") as started:
        lines = started.stderr.read().splitlines()
        assert started.process.wait(60) == 1
    assert not [line for line in lines if '"worker_died"' in line]
    assert [line for line in lines if "expected a folder; move the file away" in line]


def test_a_worker_ends_when_its_supervisor_is_killed(tmp_path: Path) -> None:
    with child(tmp_path, PROXY_WORKERS="2", PROXY_STOP_SECONDS="0") as started:
        found = [started.hear("listening") for _ in range(2)]
        started.process.kill()
        deadline = time.monotonic() + 60
        while any(Path(f"/proc/{one['pid']}/cmdline").exists() for one in found):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert {path.suffix for path in tmp_path.iterdir()} == {".jsonl"}


def test_as_many_descriptors_are_taken_as_may_be_had() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, before[1]), before[1]))
        raise_file_limit()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (before[1], before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize("statement", ["import spotinference_proxy.__main__", "import spotinference_proxy.workers"])
def test_commands_and_the_supervisor_load_no_event_loop(statement: str) -> None:
    heavy = "{'asyncio', 'uvloop', 'prometheus_client', 'obstore', 'ssl'}"
    program = f"{statement}; import sys; print(sorted({heavy} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_the_proxy_starts_without_the_object_store_client_and_without_the_pipeline() -> None:
    program = "import spotinference_proxy.serving, sys; print(sorted(m.partition('.')[0] for m in sys.modules))"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "uvloop" in found.stdout
    for name in ("obstore", "aiohttp", "spotinference_pipeline", "dagster"):
        assert f"'{name}'" not in found.stdout


def test_F038_the_unit_is_hardened_and_names_settings_that_exist() -> None:
    text = (ROOT / "deploy" / "spotinference-proxy.service").read_text()
    for line in (
        "DynamicUser=yes",
        "ProtectSystem=strict",
        "NoNewPrivileges=yes",
        "PrivateTmp=yes",
        "SystemCallFilter=@system-service",
        "ExecReload=kill -HUP $MAINPID",
    ):
        assert f"\n{line}\n" in text
    for name in ("MemoryMax=", "RestrictAddressFamilies=", "StateDirectory=", "TimeoutStopSec="):
        assert f"\n{name}" in text
    assigned = dict(re.findall(r"^Environment=(SPOTINFERENCE_\w+)=(\S+)$", text, flags=re.MULTILINE))
    assert assigned["SPOTINFERENCE_PROXY_ADMIN_LISTEN"].startswith("127.0.0.1:")
    del assigned["SPOTINFERENCE_CONFIG"]  # is not on this machine
    assert read_settings(assigned | {"SPOTINFERENCE_PROXY_UPSTREAMS": UPSTREAMS}).log_dir.is_absolute()


def test_at_most_twelve_packages_are_installed() -> None:
    found: set[str] = set()
    waiting = ["spotinference-proxy"]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            needed = [one for one in importlib.metadata.requires(name) or () if "extra ==" not in one]
            waiting += [re.match(r"[\w.-]+", one)[0].lower() for one in needed]
    assert {"uvloop", "msgspec"} <= found
    assert len(found) <= 12, found
