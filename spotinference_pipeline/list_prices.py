"""List prices of hosted APIs: one copy of our own a UTC day, for every member of every basket.

The only module that knows genai-prices: the pinned package's bundled prices, never its updater, so nothing is asked over
the network. Owns the raw file of a day's copy (docs/raw-files.md). A copy is never made twice nor changed, so that
history never reprices itself: a day is compared with the copy of its day, whatever the package says later.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time
from decimal import Decimal
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from genai_prices import Usage
from genai_prices.data import providers
from genai_prices.data_snapshot import DataSnapshot
from genai_prices.types import TieredPrices

from spotinference_pipeline.errors import RawFileError
from spotinference_pipeline.price_baskets import Basket, Member, read_baskets
from spotinference_pipeline.raw import BadLine, Instant, frame, land, read_records
from spotinference_pipeline.windows import format_instant

PACKAGE = "genai-prices"
_DAY_FILE = "[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9].jsonl"
_INPUT, _CACHED, _OUTPUT = "input_mtok", "cache_read_mtok", "output_mtok"
_NOT_COMPARED = frozenset(
    {
        "requests_kcount",
        "input_mchars",
        "input_text_messages_kcount",
        "input_text_mtok",
        "output_text_mtok",
        "cache_text_read_mtok",
        "output_reasoning_mtok",
        "output_text_reasoning_mtok",
    }
)
"""What a provider would charge for a request of plain text beside or instead of its prompt and completion tokens."""

Text = Annotated[str, msgspec.Meta(max_length=4_000)]


class Tier(msgspec.Struct, frozen=True, kw_only=True):
    """USD per million tokens for requests with so many prompt tokens or more, up to the next tier; the whole request is
    charged at it. `cached_input` is None where cached tokens cost what others do."""

    from_prompt_tokens: Annotated[int, msgspec.Meta(ge=0, le=10**15)]
    input: Decimal
    cached_input: Decimal | None
    output: Decimal


class RawPrice(msgspec.Struct, frozen=True, kw_only=True):
    """What one member of one basket cost on the day of the copy; without tiers, `unpriced` says why."""

    v: Literal[1] = 1
    copied_at: Instant
    basket: Text
    basket_version: Annotated[int, msgspec.Meta(ge=1, le=10**6)]
    provider: Text
    model: Text
    name: Text
    package: Text
    package_version: Text
    tiers: tuple[Tier, ...]
    unpriced: Text | None


class UnpricedError(Exception):
    """A price list has no price for a model that could be compared; the message says why, for people."""


@dataclass(frozen=True)
class PriceList:
    """A list of prices under a name and version. `find` gives the tiers of a provider's model at an instant, lowest
    first, or raises UnpricedError."""

    package: str
    version: str
    find: Callable[[str, str, datetime], tuple[Tier, ...]]


def installed() -> PriceList:
    """Give the price list that is installed with this program."""
    return PriceList(PACKAGE, version(PACKAGE), _find)


def folder_beside(raw_dir: Path) -> Path:
    """Give the folder of the copies, beside that of Hyperstack's exchanges."""
    return raw_dir.with_name("list_prices")


def list_files(folder: Path) -> list[Path]:
    """Give the copies that were made, oldest first; links and folders are none."""
    return sorted(path for path in folder.glob(_DAY_FILE) if path.is_file() and not path.is_symlink())


def copy_prices(
    folder: Path, now: datetime, prices: PriceList | None = None, baskets: Sequence[Basket] | None = None
) -> Path | None:
    """Copy what every member costs today into the record, as one immutable file; None when today has its copy.

    Prices that depend on the hour are those at noon UTC.
    Raises: RawFileError when the file cannot be written.
    """
    target = folder / f"{now.astimezone(UTC):%Y-%m-%d}.jsonl"
    if target.exists():
        return None
    of, among = prices or installed(), read_baskets() if baskets is None else baskets
    lines = [_copy(basket, member, of, now) for basket in among for member in basket.members]
    try:
        land(target, b"".join(map(_encode, lines)))
    except OSError as error:
        if target.exists():  # another process was first
            return None
        raise RawFileError(
            f"raw file {target}: could not be written, found {error.strerror}; free space or correct permissions, then "
            "run `spotinference ingest`"
        ) from None
    return target


_DECODER = msgspec.json.Decoder(RawPrice)


def read_prices(content: bytes) -> Iterator[tuple[int, RawPrice | BadLine]]:
    """Give each line's number and its price, or why it cannot be one."""
    return read_records(content, _DECODER, "list price")


def _copy(basket: Basket, member: Member, prices: PriceList, now: datetime) -> RawPrice:
    tiers: tuple[Tier, ...] = ()
    unpriced = None
    try:
        tiers = prices.find(member.provider, member.model, _noon(now))
    except UnpricedError as error:
        unpriced = str(error)
    return RawPrice(
        copied_at=now,
        basket=basket.name,
        basket_version=basket.version,
        provider=member.provider,
        model=member.model,
        name=member.name,
        package=prices.package,
        package_version=prices.version,
        tiers=tiers,
        unpriced=unpriced,
    )


def _noon(now: datetime) -> datetime:
    return datetime.combine(now.astimezone(UTC).date(), time(12), UTC)


def _encode(line: RawPrice) -> bytes:
    return frame(msgspec.json.encode(msgspec.structs.asdict(line) | {"copied_at": format_instant(line.copied_at)}))


@cache
def _bundled() -> DataSnapshot:
    """The prices inside the package; one that somebody downloaded into it in this process would not be here."""
    return DataSnapshot(providers=providers, from_auto_update=False)


def _find(provider: str, model: str, at: datetime) -> tuple[Tier, ...]:
    try:
        found = _bundled().calc(Usage(input_tokens=1, output_tokens=1), model, provider, None, at)
    except LookupError:
        raise UnpricedError(f"{PACKAGE} has no such model") from None
    except ValueError as error:
        raise UnpricedError(f"{PACKAGE} cannot price it: {error}") from None
    if found.model.id != model:
        raise UnpricedError(f"{PACKAGE} has no such model, the nearest is {found.model.id}")
    rates = {key: rate for key, rate in vars(found.model_price).items() if rate is not None}
    if charged := sorted(_NOT_COMPARED & rates.keys()):
        raise UnpricedError(f"it charges by {', '.join(charged)} too, which is not compared")
    if missing := sorted({_INPUT, _OUTPUT} - rates.keys()):
        raise UnpricedError(f"{PACKAGE} has no price for its {' and '.join(missing)}")
    return _tiers(rates[_INPUT], rates.get(_CACHED), rates[_OUTPUT])


Rate = Decimal | TieredPrices


def _tiers(input_rate: Rate, cached_rate: Rate | None, output_rate: Rate) -> tuple[Tier, ...]:
    """Lay the three rates' tiers over each other. The package charges a tier above its start, we from the next token."""
    tiered = [rate for rate in (input_rate, cached_rate, output_rate) if isinstance(rate, TieredPrices)]
    starts = sorted({0, *(tier.start + 1 for rate in tiered for tier in rate.tiers)})
    return tuple(
        Tier(
            from_prompt_tokens=start,
            input=_rate_at(input_rate, start),
            cached_input=None if cached_rate is None else _rate_at(cached_rate, start),
            output=_rate_at(output_rate, start),
        )
        for start in starts
    )


def _rate_at(rate: Rate, prompt_tokens: int) -> Decimal:
    if not isinstance(rate, TieredPrices):
        return rate
    return next((tier.price for tier in reversed(rate.tiers) if prompt_tokens > tier.start), rate.base)
