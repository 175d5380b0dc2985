"""Where sealed segments are shipped to: a folder, or an object store by its URL. The only module that knows obstore.

Owns creating an object that must not exist yet, and knowing that it is there: what was written is read back, and a
folder's file is synced, because a local store leaves that to the operating system. Does not own what is shipped when:
shipping.py. obstore is imported by the first use: the proxy starts and idles without it.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

from spotinference_proxy.errors import ProxyError

_CLIENT: Any = {"allow_http": True, "connect_timeout": "5s", "read_timeout": "30s", "timeout": "120s"}
# http only where the operator has named such an endpoint
_RETRY: Any = {"max_retries": 1, "retry_timeout": timedelta(seconds=30)}
_MAX_REASON = 300


class ShipError(ProxyError):
    """The target or the log folder cannot be used now; what was not shipped stays where it is."""


class Store(Protocol):
    """The two calls of an obstore store that are used."""

    def put(self, path: str, file: bytes, *, mode: Any) -> Any:
        """Create an object."""

    def get(self, path: str) -> Any:
        """Read an object."""


class Target:
    """Immutable objects under one location; `store` and `fsync` are for tests."""

    def __init__(self, location: str, *, store: Store | None = None, fsync: Callable[[int], None] = os.fsync) -> None:
        self._location = location
        self._folder = None if "://" in location else Path(location)
        self._store = store
        self._fsync = fsync

    def place_of(self, name: str) -> str:
        """Return how an operator finds an object."""
        return f"{self._location.rstrip('/')}/{name}"

    def create(self, name: str, content: bytes) -> bool:
        """Put an object there for good; False when there is one of this name with other bytes.

        Raises: ShipError when the target does not take it, or cannot say that it has it.
        """
        with self._explained(name):
            store = self._opened()
            from obstore.exceptions import AlreadyExistsError  # noqa: PLC0415 - see above

            is_new = True
            try:
                store.put(name, content, mode="create")
            except AlreadyExistsError:  # by an earlier try that was killed, or by someone else
                is_new = False
            if _digest_of(store.get(name)) != hashlib.sha256(content).digest():
                if is_new:
                    raise ShipError(
                        f"{self.place_of(name)}: expected the bytes just written, found others; look at the target"
                    )
                return False
            if self._folder is not None:
                sync(self._folder / name, self._fsync)
                sync(self._folder, self._fsync)
        return True

    def _opened(self) -> Store:
        if self._store is None:
            from obstore.store import LocalStore, from_url  # noqa: PLC0415 - see above

            if self._folder is not None:
                self._store = LocalStore(self._folder, mkdir=True)
            else:
                self._store = from_url(self._location, client_options=_CLIENT, retry_config=_RETRY)
        return self._store

    @contextmanager
    def _explained(self, name: str) -> Iterator[None]:
        """Turn the store's failures into one line without what follows: it may quote signed requests."""
        from obstore.exceptions import BaseError  # noqa: PLC0415 - see above

        try:
            yield
        except (BaseError, OSError, ValueError, NotImplementedError) as error:
            reason = str(error).partition("\n")[0].partition("<")[0][:_MAX_REASON]
            raise ShipError(
                f"{self.place_of(name)}: expected a target that takes a new object, found {type(error).__name__}: {reason}; "
                "correct SPOTINFERENCE_REQUEST_LOG_URL or what it names"
            ) from None


def sync(path: Path, fsync: Callable[[int], None]) -> None:
    """Make a file or the names in a folder durable. Raises: OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fsync(fd)
    finally:
        os.close(fd)


def _digest_of(found: Any) -> bytes:
    digest = hashlib.sha256()
    for part in found.stream():
        digest.update(part)
    return digest.digest()
