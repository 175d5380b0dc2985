"""The proxies that are compared: how each is installed, configured and started on one port.

Owns command lines and configurations. Does not measure. Every proxy gets one upstream and no access log; ours
gets its full work (log on disk, commit before the end of an answer, usage read from every stream).
Peers come from Debian (nginx) or from PyPI into throw-away environments; one that cannot be had is missing.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.proxy.machine import free_port

OURS = "spotinference"
TWO_WORKERS = "spotinference-2"
ROUTER, LITELLM, NGINX = "vllm-router", "litellm", "nginx"
_NGINX_CONF = """
daemon off; worker_processes 1; user {user}; pid {folder}/nginx.pid; error_log {folder}/nginx-error.log warn;
worker_rlimit_nofile 16384;
events {{ worker_connections 8192; }}
http {{
  access_log off; tcp_nodelay on; keepalive_requests 1000000000; client_max_body_size 8m;
  client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
  uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
  upstream vllm {{ server 127.0.0.1:{upstream}; keepalive 1100; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://vllm; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
    }}
  }}
}}
"""
_LITELLM_CONF = """
model_list:
  - model_name: m
    litellm_params: {{model: openai/m, api_base: "http://127.0.0.1:{upstream}/v1", api_key: none}}
general_settings: {{disable_spend_logs: true}}
"""


@dataclass(frozen=True)
class Setup:
    """How to start a candidate: its words, its environment, the folder of its request log if it has one."""

    command: list[str]
    environ: dict[str, str] = field(default_factory=dict)
    log_dir: Path | None = None


@dataclass(frozen=True)
class Candidate:
    """A proxy: `setup(upstream port, own port, scratch folder)`; `workers` processes answer."""

    name: str
    setup: Callable[[int, int, Path], Setup]
    version: str
    workers: int = 1


def find_candidates(names: list[str], cache: Path) -> tuple[list[Candidate], dict[str, str]]:
    """Return the candidates that can be started, and for the others why not."""
    makers: dict[str, Callable[[], Candidate]] = {
        NGINX: _nginx,
        OURS: lambda: _ours(1),
        TWO_WORKERS: lambda: _ours(2),
        ROUTER: lambda: _router(cache),
        LITELLM: lambda: _litellm(cache),
    }
    found, missing = [], {}
    for name in names:
        try:
            found.append(makers[name]())
        except (OSError, subprocess.SubprocessError) as error:
            missing[name] = " ".join(str(error).split())[:200]
    return found, missing


def _ours(workers: int) -> Candidate:
    command = Path(sys.executable).parent / "spotinference-proxy"
    if override := os.environ.get("BENCH_PROXY_COMMAND"):
        words = override.split()
    elif command.exists():
        words = [str(command)]
    else:
        raise FileNotFoundError(f"{command.name}: not installed beside {sys.executable}; run: make test")

    def setup(upstream: int, port: int, folder: Path) -> Setup:
        served = [{"url": f"http://127.0.0.1:{upstream}", "vm_id": 1, "models": ["m"]}]
        environ = {
            "SPOTINFERENCE_PROXY_UPSTREAMS": json.dumps(served),
            "SPOTINFERENCE_PROXY_LISTEN": f"127.0.0.1:{port}",
            "SPOTINFERENCE_PROXY_ADMIN_LISTEN": f"127.0.0.1:{free_port()}",
            "SPOTINFERENCE_PROXY_LOG_DIR": str(folder / "request_log"),
        }
        if workers > 1:
            environ["SPOTINFERENCE_PROXY_WORKERS"] = str(workers)
        return Setup(words, environ, folder / "request_log")

    return Candidate(OURS if workers == 1 else TWO_WORKERS, setup, "this tree", workers)


def _nginx() -> Candidate:
    command = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if command is None:
        raise FileNotFoundError("nginx: not found; on Debian: apt-get install nginx-light")
    said = subprocess.run([command, "-v"], capture_output=True, text=True, check=True).stderr  # noqa: S603

    def setup(upstream: int, port: int, folder: Path) -> Setup:
        conf = folder / "nginx.conf"
        user = "root" if os.geteuid() == 0 else "nobody"
        conf.write_text(_NGINX_CONF.format(user=user, folder=folder, upstream=upstream, port=port))
        return Setup([command, "-c", str(conf), "-p", str(folder), "-e", str(folder / "nginx-error.log")])

    return Candidate(NGINX, setup, said.strip().rpartition("/")[2])


def _router(cache: Path) -> Candidate:
    folder, version = install("vllm-router", "vllm-router", cache)

    def setup(upstream: int, port: int, scratch: Path) -> Setup:
        words = [str(folder / "bin/vllm-router"), "--worker-urls", f"http://127.0.0.1:{upstream}"]
        words += ["--host", "127.0.0.1", "--port", str(port), "--policy", "round_robin", "--log-level", "warning"]
        words += ["--max-concurrent-requests", "4096", "--worker-startup-check-interval", "1"]
        words += ["--prometheus-port", str(free_port())]
        return Setup(words, {"TMPDIR": str(scratch)})

    return Candidate(ROUTER, setup, version)


def _litellm(cache: Path) -> Candidate:
    folder, version = install("litellm", "litellm[proxy]", cache)

    def setup(upstream: int, port: int, scratch: Path) -> Setup:
        conf = scratch / "litellm.yaml"
        conf.write_text(_LITELLM_CONF.format(upstream=upstream))
        words = [str(folder / "bin/litellm"), "--config", str(conf), "--host", "127.0.0.1", "--port", str(port)]
        environ = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR", "NO_DOCS": "True"}
        environ["LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY"] = "true"  # as the others: without keys
        return Setup([*words, "--num_workers", "1", "--telemetry", "False"], environ)

    return Candidate(LITELLM, setup, version)


def install(name: str, requirement: str, cache: Path) -> tuple[Path, str]:
    """Install a peer into an environment of its own under `cache`, once; return the folder and the version.

    Raises: OSError or SubprocessError when it cannot be had.
    """
    folder = cache / name
    python = folder / "bin/python"
    uv = Path(sys.executable).parent / "uv"
    tool = str(uv) if uv.exists() else shutil.which("uv")
    if not (folder / ".whole").exists():
        print(f"installing {requirement} into {folder}", file=sys.stderr, flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        if tool:
            _run([tool, "venv", "--quiet", "--python", sys.executable, str(folder)])
            _run([tool, "pip", "install", "--quiet", "--python", str(python), requirement])
        else:
            _run([sys.executable, "-m", "venv", str(folder)])
            _run([str(python), "-m", "pip", "install", "--quiet", requirement])
        (folder / ".whole").touch()
    code = "import importlib.metadata, sys; print(importlib.metadata.version(sys.argv[1]))"
    return folder, _run([str(python), "-c", code, name]).strip()


def _run(words: list[str]) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=900, check=False)  # noqa: S603
    if done.returncode:
        raise OSError(f"{words[0]}: {done.stderr.strip()[-180:] or done.returncode}")
    return done.stdout
