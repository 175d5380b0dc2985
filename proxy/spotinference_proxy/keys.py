"""Client keys: made once, stored as SHA-256, looked up by hash.

Owns the keys file (JSON lines: `sha256`, `label`, `created_at`) and the id that the log carries. The key
itself is 256 random bits, so an unsalted digest cannot be guessed back.
"""

import contextlib
import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from spotinference_proxy.errors import SettingsError
from spotinference_proxy.record import render_instant

_PREFIX = "sk-spot-"


def new_key(path: Path, label: str, created_at: datetime) -> str:
    """Append a new key's digest to the file and return the key, which is kept nowhere.

    Raises: OSError when the file cannot be written.
    """
    key = _PREFIX + secrets.token_urlsafe(32)
    entry = {"sha256": digest_of(key), "label": label, "created_at": render_instant(created_at)}
    fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, (json.dumps(entry) + "\n").encode())
        os.fsync(fd)
    finally:
        os.close(fd)
    return key


def digest_of(key: str) -> str:
    """Return the SHA-256 of a key, in hex."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def key_in(headers: Mapping[str, str]) -> str | None:
    """Return the key a request carries (`Authorization: Bearer`, else `x-api-key`), or None."""
    scheme, _, key = headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer" and key.strip():
        return key.strip()
    return headers.get("x-api-key") or None


class KeyRing:
    """The digests of a keys file; a key added while the proxy runs works at once."""

    def __init__(self, path: Path) -> None:
        """Read the file. Raises: SettingsError when it is missing or not what `key new` writes."""
        self._path = path
        self._stamp = 0
        self._digests: frozenset[str] = frozenset()
        self._read()

    def key_id(self, key: str | None) -> str | None:
        """Return the first 12 hex digits of a known key's digest, or None for an unknown key."""
        if key is None:
            return None
        digest = digest_of(key)
        if digest not in self._digests and self._has_changed():
            with contextlib.suppress(SettingsError):  # a broken edit: keep what was read
                self._read()
        return digest[:12] if digest in self._digests else None

    def _has_changed(self) -> bool:
        try:
            return self._path.stat().st_mtime_ns != self._stamp
        except OSError:
            return False  # keep what was read

    def _read(self) -> None:
        try:
            self._stamp = self._path.stat().st_mtime_ns
            lines = self._path.read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not UTF-8"
            raise SettingsError(
                f"keys file {self._path}: cannot be read ({reason}); "
                "make it with: spotinference-proxy key new --label NAME"
            ) from error
        self._digests = frozenset(self._digest_in(line, i) for i, line in enumerate(lines, 1) if line.strip())

    def _digest_in(self, line: str, number: int) -> str:
        try:
            digest = json.loads(line)["sha256"]
        except (ValueError, KeyError, TypeError):
            digest = None
        if not isinstance(digest, str) or len(digest) != 64:
            raise SettingsError(
                f"keys file {self._path}:{number}: expected an object with a 64-digit sha256; "
                "remove the line or make a new file with: spotinference-proxy key new --label NAME"
            )
        return digest
