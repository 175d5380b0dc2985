"""Client keys: made once, stored as SHA-256, looked up by hash; and who fails with keys too often.

Owns the keys file (JSON lines: `sha256`, `label`, `created_at`) and the id that the log carries. The key
itself is 256 random bits, so an unsalted digest cannot be guessed back, and no rate of guessing finds one: the
limiter keeps floods cheap and visible. Addresses are kept in memory for a minute and written nowhere.
"""

import errno
import hashlib
import hmac
import ipaddress
import json
import os
import re
import secrets
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from spotinference_proxy.errors import SettingsError
from spotinference_proxy.record import render_instant

LOOK_SECONDS = 1.0  # between two looks at the keys file
MAX_FAILURES = 20
FAILURE_SECONDS = 60.0
_MAX_ADDRESSES = 10_000
_MAX_LABEL = 200
_SETTLED_NS = 2_000_000_000  # a younger file may change again without another mtime
_PREFIX = "sk-spot-"
_REMEDY = "make it with: spotinference-proxy key new --label NAME"


class KeyEntry(NamedTuple):
    """A line of the keys file."""

    sha256: str
    label: str
    created_at: str


def new_key(path: Path, label: str, created_at: datetime) -> str:
    """Append a new key's digest to the file, made with mode 0600, and return the key, which is kept nowhere.

    Raises: SettingsError for a label that would not stay on its line and a file that cannot be opened; OSError when
    the disk fails.
    """
    if not label.isprintable() or not label.strip() or len(label) > _MAX_LABEL:
        raise SettingsError(
            f"--label: expected 1 to {_MAX_LABEL} printable characters, found {label[:_MAX_LABEL]!r}; choose another label"
        )
    key = _PREFIX + secrets.token_urlsafe(32)
    entry = {"sha256": digest_of(key), "label": label, "created_at": render_instant(created_at)}
    try:
        fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError as error:
        step = f"make the folder {path.parent} first" if error.errno == errno.ENOENT else "let this user write there"
        reason = (error.strerror or str(error)).lower()
        raise SettingsError(
            f"keys file {path}: cannot be written ({reason}); {step}, or choose another file"
        ) from error
    try:
        size = os.fstat(fd).st_size
        is_cut = size > 0 and os.pread(fd, 1, size - 1) != b"\n"  # an editor left the last line without its end
        rest = memoryview((("\n" if is_cut else "") + json.dumps(entry) + "\n").encode())
        while rest:
            rest = rest[os.write(fd, rest) :]
        os.fsync(fd)
    finally:
        os.close(fd)
    return key


def digest_of(key: str) -> str:
    """Return the SHA-256 of a key, in hex."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def key_in(fields: Mapping[str, str]) -> str | None:
    """Return the key a request carries (`authorization: Bearer`, else `x-api-key`), or None; names in lower case."""
    scheme, _, key = fields.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and key.strip():
        return key.strip()
    return fields.get("x-api-key") or None


def read_entries(path: Path) -> list[KeyEntry]:
    """Return the entries of a keys file. Raises: SettingsError when it is missing or not what `key new` writes."""
    return _read(path)[1]


class KeyRing:
    """The digests of a keys file; a line added or taken away counts within a second, without a restart."""

    def __init__(
        self,
        path: Path,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Read the file; `tell` hears of later trouble with it. Raises: SettingsError, as `refresh` does."""
        self._path = path
        self._monotonic = monotonic
        self._tell = tell
        self._trouble: str | None = None
        self._stamp: tuple[int, ...] | None = None
        self._digests: dict[str, str] = {}
        self._next_look = 0.0
        self.refresh()

    def refresh(self) -> None:
        """Read the file now. Raises: SettingsError when it cannot be read; then the keys stay as they were."""
        self._next_look = self._monotonic() + LOOK_SECONDS
        stamp, entries = _read(self._path)
        self._stamp, self._trouble = stamp, None
        self._digests = {entry.sha256: entry.sha256 for entry in entries}

    def key_id(self, key: str | None) -> str | None:
        """Return the first 12 hex digits of a known key's digest, or None for an unknown key."""
        if key is None:
            return None
        if self._monotonic() >= self._next_look:
            self._look()
        digest = digest_of(key)
        known = self._digests.get(digest)
        return digest[:12] if known is not None and hmac.compare_digest(known, digest) else None

    def _look(self) -> None:
        self._next_look = self._monotonic() + LOOK_SECONDS
        try:
            if self._stamp is not None and _stamp_of(self._path.stat()) == self._stamp:
                return
            self.refresh()
        except (SettingsError, OSError) as error:  # a broken edit takes no key away: keep what was read
            trouble = str(error)
            if trouble != self._trouble:
                self._trouble = trouble
                self._tell(trouble)


class FailureLimiter:
    """Counts failed keys of an address: too many within a minute, and it is blocked until that minute is over.

    Ask `is_blocked` only about a request whose key is wrong: behind a NAT or an edge the address is shared, and
    nobody with a good key should wait for a neighbour's mistakes.
    """

    def __init__(
        self,
        monotonic: Callable[[], float] = time.monotonic,
        *,
        limit: int = MAX_FAILURES,
        seconds: float = FAILURE_SECONDS,
        max_addresses: int = _MAX_ADDRESSES,
    ) -> None:
        self._monotonic = monotonic
        self._limit = limit
        self._seconds = seconds
        self._max_addresses = max_addresses
        self._failures: dict[str, tuple[float, int]] = {}  # by address: end of its minute, count; oldest first

    def __len__(self) -> int:
        """Return how many addresses are remembered."""
        return len(self._failures)

    def is_blocked(self, address: str) -> bool:
        """Tell whether `address` has failed too often in its running minute."""
        end, count = self._failures.get(_network_of(address), (0.0, 0))
        return count >= self._limit and self._monotonic() < end

    def note(self, address: str) -> None:
        """Count a failure; the first one begins the minute."""
        now, network = self._monotonic(), _network_of(address)
        end, count = self._failures.get(network, (0.0, 0))
        if now < end:
            self._failures[network] = (end, count + 1)
            return
        self._failures.pop(network, None)
        self._forget(now)
        self._failures[network] = (now + self._seconds, 1)

    def _forget(self, now: float) -> None:
        """Drop what is over, and the oldest when the table is full."""
        while self._failures:
            oldest = next(iter(self._failures))
            if now < self._failures[oldest][0] and len(self._failures) < self._max_addresses:
                return
            del self._failures[oldest]


def _network_of(address: str) -> str:
    """Whoever has one IPv6 address has 2**64 of them."""
    if ":" not in address:
        return address
    try:
        found = ipaddress.IPv6Address(address)
    except ValueError:
        return address
    mapped = found.ipv4_mapped
    return str(mapped) if mapped is not None else found.packed[:8].hex()


def _read(path: Path) -> tuple[tuple[int, ...] | None, list[KeyEntry]]:
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            lines = file.read().decode().split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise SettingsError(f"keys file {path}: cannot be read ({reason}); {_REMEDY}") from error
    is_settled = time.time_ns() - status.st_mtime_ns > _SETTLED_NS
    entries = [_entry_in(path, line, i) for i, line in enumerate(lines, 1) if line.strip()]
    return _stamp_of(status) if is_settled else None, entries


def _stamp_of(status: os.stat_result) -> tuple[int, ...]:
    return status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_size


def _entry_in(path: Path, line: str, number: int) -> KeyEntry:
    try:
        found: Any = json.loads(line)
        digest, label, created_at = found["sha256"], found.get("label", ""), found.get("created_at", "")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        digest = None
    if not isinstance(digest, str) or not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise SettingsError(
            f"keys file {path}:{number}: expected an object with a 64-digit sha256; remove the line, or {_REMEDY}"
        )
    return KeyEntry(digest, str(label), str(created_at))
