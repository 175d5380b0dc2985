"""Settings: one frozen object, read once from a mapping (the environment) and an optional TOML file.

Names and defaults are fixed by the documentation (README.md, .env.example). Only edges call `read`; everything else is
handed the object. An environment name wins over the same name in the TOML file.
"""

import tomllib
from collections.abc import Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError
from pydantic_core import from_json

from spotinference_pipeline.errors import SettingsError
from spotinference_pipeline.windows import parse_day

PREFIX = "SPOTINFERENCE_"
_SECRETS = frozenset({"hyperstack_api_key", "dagster_postgres_url"})
_FIRST_YEAR, _LAST_YEAR = 2015, 2199
"""Instants and days outside of these years are typing errors, and some have no day before or after them."""


def _utc(instant: object) -> object:
    if instant is None:
        return None
    parsed = datetime.fromisoformat(instant) if isinstance(instant, str) else instant
    if not isinstance(parsed, datetime) or parsed.tzinfo is None:
        raise ValueError("an instant with a zone, such as 2026-11-23T00:00:00Z")
    if not _FIRST_YEAR <= parsed.year <= _LAST_YEAR:
        raise ValueError(f"expected a year from {_FIRST_YEAR} to {_LAST_YEAR}")
    return parsed.astimezone(UTC)


def _from_json(given: object) -> object:
    return from_json(given) if isinstance(given, str) else given


def _parse_day(day: object) -> object:
    return parse_day(day) if isinstance(day, str) else day


_Day = Annotated[date, BeforeValidator(_parse_day), Field(ge=date(_FIRST_YEAR, 1, 1), le=date(_LAST_YEAR, 12, 31))]
_ModelName = Annotated[str, Field(pattern=r"\S")]
_VmId = Annotated[int, Field(strict=True, ge=1, le=2**63 - 1)]
_Models = Annotated[dict[_ModelName, list[_VmId]], BeforeValidator(_from_json)]


class Settings(BaseModel):
    """Everything that an operator can choose.

    Paths are absolute. `now` is the clock for tests, demos and replays; None means the real one. `models` maps a model's
    name to the ids of the VMs that serve it. Gates are ratios between 0 and 1; a day beyond one is withheld:
    `min_snapshot_coverage` of the window's minutes, `min_exact_usage` of the requests that reached an engine,
    `min_token_coverage` of the tokens that the log or vLLM's own counters have, `max_unattributed` of what was paid.
    `reconcile_requests_per_minute` is how often readers of the books may ask Hyperstack, which allows 500 to everybody
    behind one address.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    data_dir: Path = Path("data")
    hyperstack_url: Annotated[str, Field(pattern=r"^https?://[^\s/\[\]]+")] = "https://infrahub-api.nexgencloud.com/v1"
    hyperstack_api_key: SecretStr | None = None
    hyperstack_api_key_file: Path | None = None
    request_log_url: str | None = None
    publish_url: str | None = None
    models: _Models = {}
    now: Annotated[datetime | None, BeforeValidator(_utc)] = None
    publish_inputs: Literal["by_kind", "by_resource"] = "by_kind"
    dagster_postgres_url: SecretStr | None = None
    first_day: _Day | None = None
    min_snapshot_coverage: Annotated[Decimal, Field(ge=0, le=1)] = Decimal("0.95")
    min_exact_usage: Annotated[Decimal, Field(ge=0, le=1)] = Decimal("0.95")
    min_token_coverage: Annotated[Decimal, Field(ge=0, le=1)] = Decimal("0.95")
    max_unattributed: Annotated[Decimal, Field(ge=0, le=1)] = Decimal("0.05")
    reconcile_requests_per_minute: Annotated[int, Field(ge=1, le=450)] = 120

    @property
    def raw_dir(self) -> Path:
        """Folder of Hyperstack's raw exchanges."""
        return self.data_dir / "raw" / "hyperstack"

    @property
    def invoices_dir(self) -> Path:
        """Folder of the invoices that were loaded."""
        return self.data_dir / "raw" / "invoices"

    @property
    def list_prices_dir(self) -> Path:
        """Folder of our own copies of list prices."""
        return self.data_dir / "raw" / "list_prices"

    @property
    def warehouse_path(self) -> Path:
        return self.data_dir / "warehouse.duckdb"

    @property
    def request_log(self) -> str:
        """Folder or object-store URL of the sealed log segments."""
        return self.request_log_url or str(self.data_dir / "request_log")

    @property
    def published(self) -> str:
        """Folder or object-store URL under which `economics/` is published."""
        return self.publish_url or str(self.data_dir / "published")

    @property
    def has_api_key(self) -> bool:
        """Tell whether Hyperstack can be asked at all; whether the key is a good one is another question."""
        return self.hyperstack_api_key is not None or self.hyperstack_api_key_file is not None

    def api_key(self) -> str:
        """Give Hyperstack's key.

        Raises: SettingsError when neither the key nor a readable file with it is set.
        """
        if self.hyperstack_api_key is not None:
            return _checked_key("SPOTINFERENCE_HYPERSTACK_API_KEY", self.hyperstack_api_key.get_secret_value())
        if self.hyperstack_api_key_file is None:
            raise SettingsError(
                "SPOTINFERENCE_HYPERSTACK_API_KEY: expected a key, found none; set it, or set "
                "SPOTINFERENCE_HYPERSTACK_API_KEY_FILE to a file that holds it"
            )
        try:
            key = self.hyperstack_api_key_file.read_bytes().decode(errors="replace").strip()
            return _checked_key(f"SPOTINFERENCE_HYPERSTACK_API_KEY_FILE {self.hyperstack_api_key_file}", key)
        except OSError as error:
            raise SettingsError(
                f"SPOTINFERENCE_HYPERSTACK_API_KEY_FILE {self.hyperstack_api_key_file}: expected a readable file, "
                f"found {error.strerror}; correct the path or its permissions"
            ) from None

    def key_changed_at(self) -> datetime | None:
        """Give when the file of Hyperstack's key was last written; None for a key from the environment."""
        if self.hyperstack_api_key is not None or self.hyperstack_api_key_file is None:
            return None
        try:
            return datetime.fromtimestamp(self.hyperstack_api_key_file.stat().st_mtime, UTC)
        except OSError:
            return None

    def clock(self) -> datetime:
        """Give the present instant in UTC: the fixed one if set, else the machine's."""
        return self.now or datetime.now(UTC)


def read(environment: Mapping[str, str]) -> Settings:
    """Read settings from the environment's SPOTINFERENCE_ names and the TOML file that SPOTINFERENCE_CONFIG names.

    Raises: SettingsError naming the first setting that is wrong.
    """
    given: dict[str, Any] = {}
    if config := environment.get(f"{PREFIX}CONFIG"):
        given |= _read_toml(Path(config))
    given |= {
        name.removeprefix(PREFIX).lower(): text
        for name, text in environment.items()
        if name.startswith(PREFIX) and text
    }
    try:
        settings = Settings.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        found = "a secret" if name in _SECRETS else repr(str(first["input"])[:80])
        raise SettingsError(
            f"{PREFIX}{name.upper()}: {first['msg']}, found {found}; see .env.example for its form"
        ) from None
    return settings.model_copy(update={"data_dir": settings.data_dir.resolve()})


def _checked_key(where: str, key: str) -> str:
    """Give a key back if it can be sent in a header; an error never quotes it."""
    if not key or not (key.isascii() and key.isprintable()):
        raise SettingsError(f"{where}: expected one line of printable ASCII, found something else; write the key again")
    return key


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            found = tomllib.load(file)
    except OSError as error:
        raise SettingsError(
            f"SPOTINFERENCE_CONFIG {path}: expected a TOML file, found {error.strerror}; correct the path"
        ) from None
    except ValueError as error:
        raise SettingsError(f"SPOTINFERENCE_CONFIG {path}: expected TOML, found {error}; correct the file") from None
    for name in found:
        if not name.startswith(PREFIX.lower()):
            raise SettingsError(
                f"SPOTINFERENCE_CONFIG {path}: expected names such as spotinference_data_dir, found {name!r}; correct it"
            )
    return {name.removeprefix(PREFIX.lower()): setting for name, setting in found.items()}
