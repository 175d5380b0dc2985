"""Dagster's home and its two long-running programs, as `spotinference serve` starts them."""

from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from urllib.request import ProxyHandler, build_opener

from spotinference_pipeline import shipped
from spotinference_pipeline.processes import Processes
from spotinference_pipeline.settings import Settings

UI_START_SECONDS = 120.0
_DIRECT = build_opener(ProxyHandler({}))
"""Asks loopback itself, whatever web proxy the environment names."""


def dagster_home(settings: Settings, environment: Mapping[str, str]) -> Path:
    """Give the folder that Dagster calls its home: DAGSTER_HOME, or one in the data folder."""
    return Path(environment.get("DAGSTER_HOME") or settings.data_dir / "dagster").absolute()


def dagster_environment(settings: Settings, environment: Mapping[str, str]) -> dict[str, str]:
    """Give the environment that every process of the instance must share."""
    url = settings.dagster_postgres_url
    postgres = {} if url is None else {"SPOTINFERENCE_DAGSTER_POSTGRES_URL": url.get_secret_value()}
    return dict(environment) | {
        "DAGSTER_HOME": str(dagster_home(settings, environment)),
        "SPOTINFERENCE_DATA_DIR": str(settings.data_dir),
        "PYTHONWARNINGS": "ignore",
        **postgres,
    }


def prepare_home(settings: Settings, processes: Processes, home: Path) -> None:
    """Put Dagster's instance file into its home and let one process make the storage.

    Several processes that touch a new SQLite home at once break it; so the first one is alone.
    """
    name = "deploy/dagster.yaml" if settings.dagster_postgres_url else "dagster.yaml"
    home.mkdir(parents=True, exist_ok=True)
    (home / "dagster.yaml").write_bytes(shipped.path(name).read_bytes())
    processes.run("dagster-instance", ["dagster", "instance", "migrate"])


def start(processes: Processes, port: int, *, read_only: bool = False) -> str:
    """Start Dagster's web server and daemon on loopback, wait until the UI answers, and give its address.

    A read-only UI is for analysts, beside the service that another `serve` runs: it has no daemon.
    """
    workspace = ["-w", str(shipped.path("workspace.yaml"))]
    flags = ["--read-only"] if read_only else []
    processes.start("dagster-webserver", ["dagster-webserver", *workspace, "-h", "127.0.0.1", "-p", str(port), *flags])
    if not read_only:
        processes.start("dagster-daemon", ["dagster-daemon", "run", *workspace])
    url = f"http://127.0.0.1:{port}"
    processes.wait_until(lambda: answers(f"{url}/server_info"), "dagster-webserver", UI_START_SECONDS)
    return url


def answers(url: str) -> bool:
    """Tell whether an address on loopback answers 200."""
    try:
        with _DIRECT.open(url, timeout=5) as response:
            return bool(response.status == 200)
    except (OSError, HTTPException):
        return False
