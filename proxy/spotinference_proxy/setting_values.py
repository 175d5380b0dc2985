"""One setting's text, or what a TOML file has in its place, turned into a checked value.

Owns what each kind of value may look like and how the error reads: one line that names the setting, what was
expected and what was found. Does not own which settings there are: settings.py.
"""

import ipaddress
import re
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import msgspec

from spotinference_proxy.errors import SettingsError

_SCHEMES = frozenset({"file", "s3", "s3a", "gs", "az", "azure", "adl", "abfs", "abfss", "https"})
_WORDS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
_HOST = "labels of 1 to 63 letters, digits, - and _, with dots between"
_EXAMPLE = 'a JSON list such as [{"url": "http://10.0.0.5:8000", "vm_id": 700123, "models": ["llama"]}]'


class UpstreamSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One vLLM: `url` is the base to which /v1/... is appended; no models means it is asked for any."""

    url: str
    vm_id: int | None = None
    models: tuple[str, ...] = ()
    api_key: str | None = None

    def __repr__(self) -> str:
        """Leave the key out: whatever prints settings must not print it."""
        return f"UpstreamSettings({self.url!r}, {self.vm_id!r}, {self.models!r})"


def upstreams(name: str, value: Any) -> tuple[UpstreamSettings, ...]:
    """Return the vLLM servers, each named once. Raises: SettingsError, here and below."""
    if not value:
        raise SettingsError(f"{name}: not set or empty; expected {_EXAMPLE}")
    try:
        if isinstance(value, str):
            found = msgspec.json.decode(value, type=tuple[UpstreamSettings, ...])
        else:
            found = msgspec.convert(value, tuple[UpstreamSettings, ...])
    except msgspec.DecodeError as error:
        raise SettingsError(f"{name}: {error}; expected {_EXAMPLE}") from error
    if not found:
        raise SettingsError(f"{name}: the list is empty; expected {_EXAMPLE}")
    for one in found:
        if not _is_server_url(one.url):
            raise SettingsError(
                f"{name}: expected an http(s) URL without login or query and with an IP address or a host name "
                f"({_HOST}), found {one.url!r}; correct it"
            )
        if one.api_key is not None and not re.fullmatch(r"[!-~]+", one.api_key):
            raise SettingsError(f"{name}: {one.url}: expected an api_key of printable ASCII, found other characters")
    found = tuple(msgspec.structs.replace(one, url=one.url.rstrip("/")) for one in found)
    for i, one in enumerate(found):
        if any(one.url == other.url for other in found[:i]):
            raise SettingsError(f"{name}: {one.url} is there twice; name each server once, with all its models")
    return found


def address(name: str, value: Any) -> tuple[str, int]:
    """Return host and port; an IPv6 host may stand in brackets."""
    host, _, port = str(value).rpartition(":")
    if not host or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise SettingsError(f"{name}: expected host:port, found {value!r}")
    host = host.removeprefix("[").removesuffix("]")
    if not _is_host(host):
        raise SettingsError(f"{name}: expected host:port with an IP address or a host name ({_HOST}), found {value!r}")
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach `host`."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def whole(name: str, value: Any, *, least: int, most: int = 2**53) -> int:
    """Return a whole number within limits."""
    is_whole = type(value) is int or (isinstance(value, str) and re.fullmatch(r"[0-9]{1,16}", value))
    if not is_whole or not least <= int(value) <= most:
        raise SettingsError(f"{name}: expected a whole number from {least} to {most}, found {value!r}")
    return int(value)


def seconds(name: str, value: Any) -> float:
    """Return a length of time."""
    try:
        found = -1.0 if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        found = -1.0
    if not 0 <= found <= 86_400:
        raise SettingsError(f"{name}: expected seconds from 0 to 86400, found {value!r}")
    return found


def switch(name: str, value: Any) -> bool:
    """Return what is on or off."""
    found = _WORDS.get(str(value).lower())
    if found is None:
        raise SettingsError(f"{name}: expected true or false, found {value!r}")
    return found


def instant(name: str, value: Any) -> datetime | None:
    """Return an instant with its zone, or None when there is none."""
    if value is None:
        return None
    try:
        found = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise SettingsError(f"{name}: expected an RFC 3339 instant such as 2026-11-22T00:00:00Z, found {value!r}")
    return found


def ship_url(name: str, value: Any, log_dir: Path) -> str | None:
    """Return the folder or URL where sealed segments go, or None when that is the log folder itself."""
    if value is None:
        return None
    text = str(value)
    scheme = re.match(r"([a-zA-Z][a-zA-Z0-9+.-]*):", text)
    if scheme and (scheme[1] not in _SCHEMES or re.search(r"[?#\s]|//[^/]*:[^/]*@", text)):
        raise SettingsError(  # without the value: it may hold a key
            f"{name}: expected a folder or a URL such as s3://bucket/prefix without login or query, found another form; "
            "credentials of object stores belong into the provider's own variables"
        )
    if scheme and scheme[1] != "file":
        return text
    folder = Path(unquote(urlsplit(text).path) if scheme else text).resolve()
    if folder == log_dir.resolve():
        return None
    if folder.is_relative_to(log_dir.resolve()):
        raise SettingsError(f"{name}: {folder} lies inside the proxy's log folder; choose a folder outside of it")
    return str(folder)


def _is_server_url(url: str) -> bool:
    if not re.fullmatch(r"https?://[!-~]+", url) or re.search(r"[@?#\\]", url):
        return False
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        return _is_host(host) and ("[" in parts.netloc) == (":" in host) and parts.port != 0
    except ValueError:
        return False


def _is_host(text: str) -> bool:
    """Tell whether a resolver would take it: it fails on other names only when they are asked for (RFC 1035, 2.3.4)."""
    if ":" in text:
        with suppress(ValueError):
            return ipaddress.ip_address(text).version == 6
        return False
    return len(text) <= 254 and re.fullmatch(r"([A-Za-z0-9_-]{1,63}\.)*[A-Za-z0-9_-]{1,63}\.?", text) is not None
