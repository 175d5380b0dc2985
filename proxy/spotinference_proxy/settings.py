"""Settings of the proxy, read once from a mapping and an optional TOML file; the environment wins.

Owns names, defaults, their checks, and which of them may change while the proxy runs. Does not read the
environment itself: __main__.py passes it in. A name that begins with ours and is not known is a misspelling
and an error, in the environment and in the file; the pipeline's names (without PROXY_) are not ours to judge.
Workers are handed the settings their supervisor started with, so that all of them have the same until a restart.
"""

import dataclasses
import re
import socket
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from spotinference_proxy import setting_values
from spotinference_proxy.errors import SettingsError
from spotinference_proxy.setting_values import UpstreamSettings, is_loopback

__all__ = [
    "Settings",
    "UpstreamSettings",
    "check_exposure",
    "hand_down",
    "read_keys_file",
    "read_settings",
    "reloaded",
    "take_over",
]

PREFIX = "SPOTINFERENCE_"
CONFIG = "SPOTINFERENCE_CONFIG"
WORKER = "SPOTINFERENCE_PROXY_WORKER"
SUPERVISOR = "SPOTINFERENCE_PROXY_SUPERVISOR"
START = "SPOTINFERENCE_PROXY_START"
_INTERNAL = frozenset({"proxy_worker", "proxy_supervisor", "proxy_start"})  # set by workers.py for its children
_MIB = 1024 * 1024
_MAX_WORKERS = 64


@dataclass(frozen=True)
class Settings:
    """Everything the proxy is told from outside; of several workers each has its share of the limits."""

    upstreams: tuple[UpstreamSettings, ...]
    listen: tuple[str, int] = ("127.0.0.1", 8080)
    admin_listen: tuple[str, int] = ("127.0.0.1", 8081)
    log_dir: Path = Path("request_log")
    keys_file: Path | None = None
    now: datetime | None = None
    writer: str = "proxy"
    max_body_bytes: int = 8 * _MIB
    max_in_flight: int = 2048
    max_in_flight_per_key: int = 512
    stop_seconds: float = 60.0
    workers: int = 1
    worker: int | None = None
    access_log: bool = False
    ship_url: str | None = None
    min_free_bytes: int | None = None
    """None: 5 % of the disk, at least 512 MiB."""


def read_settings(environ: Mapping[str, str]) -> Settings:
    """Return checked settings. Raises: SettingsError naming the setting, what was found, what to do."""
    values = _merged(environ)
    _check_names(values)

    def named(field: str) -> tuple[str, Any]:
        default = Settings.__dataclass_fields__[field].default
        return setting_name(field), values.get(_key(field), default)

    log_dir = Path(str(values.get("proxy_log_dir", "./request_log")))
    keys_file = values.get("proxy_keys_file")
    is_free_given = "proxy_min_free_bytes" in values
    settings = Settings(
        upstreams=setting_values.upstreams(setting_name("upstreams"), values.get("proxy_upstreams")),
        listen=setting_values.address(setting_name("listen"), values.get("proxy_listen", "127.0.0.1:8080")),
        admin_listen=setting_values.address(
            setting_name("admin_listen"), values.get("proxy_admin_listen", "127.0.0.1:8081")
        ),
        log_dir=log_dir,
        keys_file=Path(str(keys_file)) if keys_file else None,
        now=setting_values.instant(*named("now")),
        writer=writer_name(socket.gethostname()),
        max_body_bytes=setting_values.whole(*named("max_body_bytes"), least=1, most=1024 * _MIB),
        max_in_flight=setting_values.whole(*named("max_in_flight"), least=1),
        max_in_flight_per_key=setting_values.whole(*named("max_in_flight_per_key"), least=1),
        stop_seconds=setting_values.seconds(*named("stop_seconds")),
        workers=setting_values.whole(*named("workers"), least=1, most=_MAX_WORKERS),
        access_log=setting_values.switch(*named("access_log")),
        ship_url=setting_values.ship_url(*named("ship_url"), log_dir),
        min_free_bytes=setting_values.whole(*named("min_free_bytes"), least=0) if is_free_given else None,
    )
    check_exposure(settings)
    _check_ports(settings)
    if "proxy_worker" not in values:
        return settings
    count = (_handed_down(environ) or settings).workers
    index = setting_values.whole(WORKER, values["proxy_worker"], least=0, most=count - 1)
    return worker_settings(settings, index, count)


def read_keys_file(environ: Mapping[str, str]) -> Path:
    """Return the keys file for `key new`. Raises: SettingsError when none is set."""
    values = _merged(environ)
    _check_names(values)
    found = values.get("proxy_keys_file")
    if not found:
        raise SettingsError(f"{PREFIX}PROXY_KEYS_FILE: not set; set it to the file that shall hold the keys' digests")
    return Path(str(found))


def check_exposure(settings: Settings) -> None:
    """Refuse to serve anyone but this machine without keys. Raises: SettingsError."""
    host = settings.listen[0]
    if settings.keys_file is None and not is_loopback(host):
        raise SettingsError(
            f"{PREFIX}PROXY_LISTEN: {host} is not a loopback address and no {PREFIX}PROXY_KEYS_FILE is set; "
            "make a key with: spotinference-proxy key new --label NAME"
        )


def reloaded(old: Settings, new: Settings) -> tuple[Settings, list[str]]:
    """Return `old` with what may change at once (upstreams, keys file), and the names that need a restart.

    Raises: SettingsError when the result would serve others without keys.
    """
    result = dataclasses.replace(old, upstreams=new.upstreams, keys_file=new.keys_file)
    check_exposure(result)
    fields = (field.name for field in dataclasses.fields(Settings))
    return result, [setting_name(name) for name in fields if getattr(result, name) != getattr(new, name)]


def hand_down(settings: Settings) -> str:
    """Return a supervisor's settings as text for its workers, without the upstreams and their keys: those may change."""
    return msgspec.json.encode(dataclasses.replace(settings, upstreams=()), enc_hook=str).decode()


def take_over(settings: Settings, environ: Mapping[str, str]) -> tuple[Settings, list[str]]:
    """Return what a process that starts now shall have, and the names that need a restart of its supervisor.

    Raises: SettingsError, as `reloaded` does.
    """
    handed = _handed_down(environ)
    if handed is None or settings.worker is None:
        return settings, []
    return reloaded(worker_settings(handed, settings.worker, handed.workers), settings)


def worker_settings(settings: Settings, index: int, count: int) -> Settings:
    """Return the settings of one of `count` workers: own segments, own admin port, its share of the limits."""
    host, port = settings.admin_listen
    suffix = f"-{index}"
    return dataclasses.replace(
        settings,
        worker=index,
        writer=settings.writer[: 40 - len(suffix)] + suffix,
        admin_listen=(host, port + index if port else 0),
        max_in_flight=-(-settings.max_in_flight // count),
        max_in_flight_per_key=-(-settings.max_in_flight_per_key // count),
    )


def setting_name(field: str) -> str:
    """Return the environment's name of a field of Settings."""
    return PREFIX + _key(field).upper()


def writer_name(host: str) -> str:
    """Return a host name as the writer part of segment names."""
    return re.sub(r"[^a-z0-9-]+", "-", host.lower()).strip("-")[:40] or "proxy"


def _key(field: str) -> str:
    return {"now": "now", "ship_url": "request_log_url"}.get(field, f"proxy_{field}")


def _merged(environ: Mapping[str, str]) -> dict[str, Any]:
    values = _read_file(path) if (path := environ.get(CONFIG)) else {}
    start = PREFIX.lower()
    lowered = values | {key.lower(): value for key, value in environ.items() if key.startswith(PREFIX) and value}
    return {key.removeprefix(start): value for key, value in lowered.items() if key.startswith(start)}


def _read_file(path: str) -> dict[str, Any]:
    try:
        values = tomllib.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise SettingsError(f"{CONFIG}: {path}: {error}; give a readable TOML file") from error
    for name in values:
        if not re.fullmatch(r"spotinference_(proxy_|(?!proxy))[a-z0-9_]+", name):
            meant = re.sub(r"[^a-z0-9]+", "_", name.lower()).removeprefix("spotinference_")
            found = next((one for one in (meant, f"proxy_{meant}") if one in _known()), "proxy_listen")
            raise SettingsError(
                f"{CONFIG}: {path}: expected names such as {PREFIX.lower()}{found}, in lower case and outside of tables, "
                f"found {name!r}; correct it"
            )
        if name.removeprefix(PREFIX.lower()) in _INTERNAL:
            raise SettingsError(f"{name.upper()}: no such setting; correct its name or take it away")
    return values


def _handed_down(environ: Mapping[str, str]) -> Settings | None:
    text = environ.get(START)
    if not text:
        return None
    try:
        return msgspec.json.decode(text, type=Settings, dec_hook=lambda kind, value: kind(value))
    except msgspec.MsgspecError as error:
        raise SettingsError(f"{START}: expected what a supervisor sets ({error}); take it away") from error


def _known() -> frozenset[str]:
    return frozenset(_key(field.name) for field in dataclasses.fields(Settings)) - {"proxy_writer", "proxy_worker"}


def _check_names(values: Mapping[str, Any]) -> None:
    known = _known() | _INTERNAL
    for name in values:
        if name.startswith("proxy_") and name not in known:
            raise SettingsError(f"{PREFIX}{name.upper()}: no such setting; correct its name or take it away")


def _check_ports(settings: Settings) -> None:
    """Worker i has its admin listener at the admin port + i: all must be ports, and not the clients'."""
    (host, port), (admin_host, first) = settings.listen, settings.admin_listen
    last = first + settings.workers - 1
    is_one_machine = host == admin_host or {host, admin_host} & {"0.0.0.0", "::"}  # noqa: S104 - compared, not bound
    if first and (last > 65535 or (is_one_machine and first <= port <= last)):
        raise SettingsError(
            f"{PREFIX}PROXY_ADMIN_LISTEN: expected free ports from {first} on for {settings.workers} worker(s), up to 65535 "
            f"and without that of {PREFIX}PROXY_LISTEN, found {first} to {last} and {port}; choose others"
        )
