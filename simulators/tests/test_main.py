"""The command line, as others call it."""

import json
import os
import signal
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from spotinference_sim.__main__ import main

ABOUT = ["--seed", "3", "--start-day", "2026-11-22", "--days", "1"]


def test_truth_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["truth", *ABOUT, "--day", "2026-11-22"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["day"] == "2026-11-22"
    assert float(figures["usd_per_million_tokens"]) > 0


def test_upstreams_print_what_the_proxy_reads(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["upstreams", *ABOUT, "--vllm-url", "http://127.0.0.1:9"]) == 0
    upstreams = json.loads(capsys.readouterr().out)
    assert upstreams[0] == {
        "url": "http://127.0.0.1:9/vm/700101",
        "vm_id": 700101,
        "models": ["llama-3.3-70b-instruct"],
    }
    assert len(upstreams) == 5


def test_lay_down_writes_both_kinds_of_files(tmp_path: Path) -> None:
    until = ["--until", "2026-11-22T01:30:00Z", "--lag"]
    assert main(["lay-down", *ABOUT, "--data-dir", str(tmp_path), *until]) == 0
    assert len(list(tmp_path.glob("raw/hyperstack/2026-11-22/*.jsonl"))) == 2
    assert len(list(tmp_path.glob("request_log/sim.*.jsonl"))) == 2
    elsewhere = ["--log-dir", str(tmp_path / "log")]
    assert main(["lay-down", *ABOUT, "--data-dir", str(tmp_path / "whole"), *elsewhere]) == 0
    assert len(list((tmp_path / "log").iterdir())) == 25


def test_wrong_use_exits_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["truth", "--seed", "1", "--start-day", "2026-11-22", "--days", "0", "--day", "2026-11-22"]) == 2
    assert "at least one day" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(["nothing"])


@pytest.mark.parametrize("traffic", [True, False])
def test_serve_listens_says_where_and_stops_on_a_signal(
    traffic: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ports_file = tmp_path / "ports.json"
    found: dict[str, Any] = {}

    def look() -> None:
        until = time.monotonic() + 20
        while not ports_file.exists() and time.monotonic() < until:
            time.sleep(0.02)
        try:
            addresses = json.loads(ports_file.read_bytes())
            request = urllib.request.Request(f"{addresses['hyperstack_url']}/billing/billing/usage?deleted=false")
            request.add_header("api_key", "k")
            with urllib.request.urlopen(request) as answer:
                found["usage"] = json.loads(answer.read())["data"]
            with urllib.request.urlopen(f"{addresses['upstreams'][2]['url']}/health") as answer:
                found["health"] = answer.status
        except urllib.error.HTTPError as refused:
            found["health"] = refused.code
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    if traffic:
        monkeypatch.setenv("SPOTINFERENCE_NOW", "2026-11-22T12:00:00Z")
    options = ["--api-key", "k", "--ports-file", str(ports_file)]
    options += ["--traffic", "http://127.0.0.1:9"] if traffic else []
    looking = threading.Thread(target=look)
    looking.start()
    begin = "2026-11-22" if traffic else time.strftime("%Y-%m-%d", time.gmtime(time.time() - 86_400))
    assert main(["serve", "--seed", "3", "--start-day", begin, "--days", "2", *options]) == 0
    looking.join()
    assert len(found["usage"]) >= 6
    assert found["health"] in ((200,) if traffic else (200, 503)), "by the real clock it may be asleep just now"
