"""Who our workload is compared with: baskets of hosted models, reviewed data in `baskets/*.toml`.

Owns the form of such a file. The rules by which a member enters stand in the file and in docs/list-prices.md; what a
member costs is `list_prices`'.
"""

import tomllib
from datetime import date
from pathlib import Path
from typing import Annotated

import msgspec

from spotinference_pipeline import shipped
from spotinference_pipeline.errors import OursError

Text = Annotated[str, msgspec.Meta(min_length=1, max_length=400)]


class Member(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One hosted model: `provider` and `model` as genai-prices calls them, `name` for people, and why it is in."""

    provider: Text
    model: Text
    name: Text
    why: Text
    checked_on: date
    link: Annotated[str, msgspec.Meta(pattern=r"^https://\S+$")]


class Basket(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A named, versioned list of members and the rules by which they are in it."""

    name: Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
    version: Annotated[int, msgspec.Meta(ge=1)]
    rules: Annotated[tuple[Text, ...], msgspec.Meta(min_length=1)]
    members: Annotated[tuple[Member, ...], msgspec.Meta(min_length=1)]


def read_baskets(folder: Path | None = None) -> list[Basket]:
    """Read every basket of a folder, by default the shipped ones, by name.

    Raises: OursError when a file cannot be read, is not in its form, is called otherwise than its basket, or has a member twice.
    """
    return [_read(path) for path in sorted((folder or shipped.path("baskets")).glob("*.toml"))]


def _read(path: Path) -> Basket:
    try:
        basket = msgspec.convert(tomllib.loads(path.read_text()), Basket)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise OursError(f"basket {path}: expected a basket in TOML, found {error}; correct the file") from None
    except OSError as error:
        raise OursError(f"basket {path}: expected a readable file, found {error.strerror}; correct it") from None
    if basket.name != path.stem:
        raise OursError(f"basket {path}: expected the name {path.stem!r}, found {basket.name!r}; rename one of them")
    keys = [(member.provider, member.model) for member in basket.members]
    for key in keys:
        if keys.count(key) > 1:
            raise OursError(f"basket {path}: expected each member once, found {' '.join(key)} twice; take one out")
    return basket
