"""Folders and object stores by one interface. The only module that knows obstore.

A location is a folder's path or a URL (`s3://bucket/prefix`, `gs://…`, `az://…`, `file:///…`); credentials come from
the provider's usual environment names.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import from_url

from spotinference_pipeline.errors import RawFileError, SettingsError


class Storage:
    """Named objects under one location. Writing replaces an object as a whole; readers never see half of one."""

    def __init__(self, location: str, *, must_exist: bool = False) -> None:
        self.location = location
        if "://" not in location:
            folder = Path(location).absolute()
            if must_exist and not folder.is_dir():
                raise SettingsError(f"location {location}: expected a folder or a URL, found neither; correct the path")
            folder.mkdir(parents=True, exist_ok=True)
            location = folder.as_uri()
        try:
            self._store = from_url(location, client_options={"allow_http": location.startswith("http://")})
        except Exception as error:
            raise SettingsError(
                f"location {self.location}: expected a folder or an object-store URL such as s3://bucket/prefix, "
                f"found {type(error).__name__}; correct the setting"
            ) from None

    def names(self, prefix: str = "") -> list[str]:
        """Give the names of all objects, sorted.

        Raises: RawFileError, here and below, when the location cannot be reached.
        """
        with self._reached(prefix):
            return sorted(meta["path"] for page in self._store.list(prefix or None) for meta in page)

    def read(self, name: str) -> bytes:
        """Give an object's bytes.

        Raises: RawFileError when there is no such object, or it cannot be read.
        """
        content = self.find(name)
        if content is None:
            raise RawFileError(f"{self.location}/{name}: expected an object, found none")
        return content

    def find(self, name: str) -> bytes | None:
        """Give an object's bytes, None when there is none."""
        try:
            with self._reached(name):
                return bytes(self._store.get(name).bytes())
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        """Write or replace an object."""
        with self._reached(name):
            self._store.put(name, content)

    def create(self, name: str, content: bytes) -> None:
        """Write an object that must not exist yet.

        Raises: RawFileError when it exists with other content.
        """
        try:
            with self._reached(name):
                self._store.put(name, content, mode="create")
        except AlreadyExistsError:
            if self.read(name) != content:
                raise RawFileError(
                    f"{self.location}/{name}: expected no object or the same bytes, found others; it is immutable"
                ) from None

    @contextmanager
    def _reached(self, name: str) -> Iterator[None]:
        """Turn the store's failures, other than "not there" and "there already", into one line."""
        try:
            yield
        except (FileNotFoundError, AlreadyExistsError):
            raise
        except (BaseError, OSError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            raise RawFileError(
                f"{self.location}/{name}: expected a readable object in a place that can be written, found {reason}; "
                "correct the setting"
            ) from None
