import asyncio
import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from spotinference_proxy.__main__ import clock_of, run, serve
from spotinference_proxy.settings import Settings, UpstreamSettings

UPSTREAMS = '[{"url": "http://127.0.0.1:1", "vm_id": 1, "models": []}]'


def test_key_new_prints_a_key_once(tmp_path: Path, capsys) -> None:
    path = tmp_path / "keys"
    assert run(["key", "new", "--label", "a"], {"SPOTINFERENCE_PROXY_KEYS_FILE": str(path)}) == 0
    key = capsys.readouterr().out.strip()
    assert key not in path.read_text()
    assert json.loads(path.read_text())["label"] == "a"


@pytest.mark.parametrize(
    ("arguments", "environ", "code"),
    [
        ([], {}, 2),
        (["key", "new", "--label", "a"], {}, 2),
        (["key", "new", "--label", "a"], {"SPOTINFERENCE_PROXY_KEYS_FILE": "/nowhere/keys"}, 1),
        ([], {"SPOTINFERENCE_PROXY_UPSTREAMS": UPSTREAMS, "SPOTINFERENCE_PROXY_LOG_DIR": "/dev/null/x"}, 1),
    ],
)
def test_failures_are_one_line_and_a_code(arguments, environ, code, capsys) -> None:
    assert run(arguments, environ) == code
    error = capsys.readouterr().err
    assert error.startswith("spotinference-proxy: ")
    assert error.count("\n") == 1


def test_wrong_use_of_the_command_line_is_code_2() -> None:
    with pytest.raises(SystemExit) as caught:
        run(["key"], {})
    assert caught.value.code == 2


def test_a_given_now_is_where_the_clock_starts() -> None:
    start = datetime(2026, 2, 28, 23, 59, tzinfo=UTC)
    clock = clock_of(Settings((UpstreamSettings("http://x"),), now=start))
    first = clock()
    assert 0 <= (first - start).total_seconds() < 60
    assert clock() >= first


async def test_serving_ends_with_a_signal(tmp_path: Path) -> None:
    upstreams = (UpstreamSettings("http://127.0.0.1:1"),)
    listen = ("127.0.0.1", 0)
    settings = Settings(upstreams, listen=listen, admin_listen=listen, log_dir=tmp_path)
    serving = asyncio.create_task(serve(settings, clock_of(settings)))
    await asyncio.sleep(0)
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(serving, 20)
    assert [path.suffix for path in tmp_path.iterdir()] == [".jsonl"]


def test_the_command_serves_until_sigterm_and_seals_its_log(tmp_path: Path) -> None:
    environ = os.environ | {
        "SPOTINFERENCE_PROXY_UPSTREAMS": UPSTREAMS,
        "SPOTINFERENCE_PROXY_LOG_DIR": str(tmp_path),
        "SPOTINFERENCE_PROXY_LISTEN": "127.0.0.1:0",
        "SPOTINFERENCE_PROXY_ADMIN_LISTEN": "127.0.0.1:0",
    }
    child = subprocess.Popen(
        [sys.executable, "-m", "spotinference_proxy"], env=environ, stderr=subprocess.PIPE, text=True
    )
    assert child.stderr is not None
    assert child.stderr.readline().startswith("listening on 127.0.0.1:")
    child.send_signal(signal.SIGTERM)
    assert child.stderr.read() == ""
    child.stderr.close()
    assert child.wait(20) == 0
    (path,) = tmp_path.iterdir()
    assert path.suffix == ".jsonl"
