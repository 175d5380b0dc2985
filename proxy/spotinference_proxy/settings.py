"""Settings of the proxy, read once from a mapping and an optional TOML file; the environment wins.

Owns names, defaults and their checks. Does not read the environment itself: __main__.py passes it in.
"""

import ipaddress
import re
import socket
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from spotinference_proxy.errors import SettingsError

PREFIX = "SPOTINFERENCE_"
CONFIG = "SPOTINFERENCE_CONFIG"


class UpstreamSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One vLLM: `url` is the base to which /v1/... is appended; no models means it is asked for any."""

    url: str
    vm_id: int | None = None
    models: tuple[str, ...] = ()
    api_key: str | None = None


@dataclass(frozen=True)
class Settings:
    """Everything the proxy is told from outside."""

    upstreams: tuple[UpstreamSettings, ...]
    listen: tuple[str, int] = ("127.0.0.1", 8080)
    admin_listen: tuple[str, int] = ("127.0.0.1", 8081)
    log_dir: Path = Path("request_log")
    keys_file: Path | None = None
    now: datetime | None = None
    writer: str = "proxy"


def read_settings(environ: Mapping[str, str]) -> Settings:
    """Return checked settings. Raises: SettingsError naming the setting, what was found, what to do."""
    values = _merged(environ)
    keys_file = values.get("proxy_keys_file")
    settings = Settings(
        upstreams=_upstreams(values.get("proxy_upstreams")),
        listen=_address("proxy_listen", values.get("proxy_listen", "127.0.0.1:8080")),
        admin_listen=_address("proxy_admin_listen", values.get("proxy_admin_listen", "127.0.0.1:8081")),
        log_dir=Path(str(values.get("proxy_log_dir", "./request_log"))),
        keys_file=Path(str(keys_file)) if keys_file else None,
        now=_instant(values.get("now")),
        writer=writer_name(socket.gethostname()),
    )
    check_exposure(settings)
    return settings


def read_keys_file(environ: Mapping[str, str]) -> Path:
    """Return the keys file for `key new`. Raises: SettingsError when none is set."""
    found = _merged(environ).get("proxy_keys_file")
    if not found:
        raise SettingsError(f"{PREFIX}PROXY_KEYS_FILE: not set; set it to the file that shall hold the keys' digests")
    return Path(str(found))


def check_exposure(settings: Settings) -> None:
    """Refuse to serve anyone but this machine without keys. Raises: SettingsError."""
    host = settings.listen[0]
    if settings.keys_file is None and not _is_loopback(host):
        raise SettingsError(
            f"{PREFIX}PROXY_LISTEN: {host} is not a loopback address and no {PREFIX}PROXY_KEYS_FILE is set; "
            "make a key with: spotinference-proxy key new --label NAME"
        )


def writer_name(host: str) -> str:
    """Return a host name as the writer part of segment names."""
    return re.sub(r"[^a-z0-9-]+", "-", host.lower()).strip("-")[:40] or "proxy"


def _merged(environ: Mapping[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    path = environ.get(CONFIG)
    if path:
        try:
            values = tomllib.loads(Path(path).read_text())
        except (OSError, ValueError) as error:
            raise SettingsError(f"{CONFIG}: {path}: {error}; give a readable TOML file") from error
    start = PREFIX.lower()
    lowered = values | {key.lower(): value for key, value in environ.items() if key.startswith(PREFIX) and value}
    return {key.removeprefix(start): value for key, value in lowered.items() if key.startswith(start)}


def _upstreams(value: Any) -> tuple[UpstreamSettings, ...]:
    name = f"{PREFIX}PROXY_UPSTREAMS"
    example = '[{"url": "http://10.0.0.5:8000", "vm_id": 700123, "models": ["llama"]}]'
    if not value:
        raise SettingsError(f"{name}: not set; expected a JSON list such as {example}")
    try:
        if isinstance(value, str):
            found = msgspec.json.decode(value, type=tuple[UpstreamSettings, ...])
        else:
            found = msgspec.convert(value, tuple[UpstreamSettings, ...])
    except msgspec.DecodeError as error:
        raise SettingsError(f"{name}: {error}; expected a JSON list such as {example}") from error
    for upstream in found:
        if not re.fullmatch(r"https?://[^@\s?#]+", upstream.url):
            raise SettingsError(f"{name}: expected an http(s) URL without login or query, found {upstream.url!r}")
    if not found:
        raise SettingsError(f"{name}: the list is empty; expected such as {example}")
    return tuple(msgspec.structs.replace(upstream, url=upstream.url.rstrip("/")) for upstream in found)


def _address(name: str, value: Any) -> tuple[str, int]:
    host, _, port = str(value).rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise SettingsError(f"{PREFIX}{name.upper()}: expected host:port, found {value!r}")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _instant(value: Any) -> datetime | None:
    if value is None:
        return None
    try:
        instant = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    except ValueError:
        instant = None
    if instant is None or instant.tzinfo is None:
        raise SettingsError(f"{PREFIX}NOW: expected an RFC 3339 instant such as 2026-11-22T00:00:00Z, found {value!r}")
    return instant
