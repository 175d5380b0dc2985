"""From a day's copy of list prices to rows of validated.list_prices: one per basket, member and tier. A copy counts as a
whole or not at all.

Prices are read at nano-dollars per million tokens: this is the named rounding that takes off binary float noise.
"""

from datetime import UTC
from decimal import ROUND_HALF_EVEN, Decimal
from pathlib import PurePath

from spotinference_pipeline.batch import Batch
from spotinference_pipeline.list_prices import RawPrice, Tier, read_prices
from spotinference_pipeline.raw import BadLine

TABLE = "validated.list_prices"
NANO = Decimal("0.000000001")
MOST_USD = Decimal(10**6)


def add_prices(batch: Batch, content: bytes, file: str) -> None:
    """Add a copy's prices to the batch: all of them, or none.

    A copy with a line that cannot be read says less than was copied, and a rival would be gone without a word. All its
    lines are quarantined, and its day has the next older copy's prices.
    """
    if not content:
        batch.flag(file, 1, "file", TABLE, "empty file: expected at least one line")
    lines = list(read_prices(content))
    problems = {number: reason for number, price in lines if (reason := _problem(price, PurePath(file).stem))}
    for number, price in lines:
        if problems:
            whole = f"list price: expected a copy without damage, found line {min(problems)} of it refused"
            kept = price.content if isinstance(price, BadLine) else f"{price}".encode()
            batch.refuse(file, number, "line", TABLE, problems.get(number, whole), kept)
        elif not isinstance(price, BadLine):
            _add_price(batch, price, file, number)


def _add_price(batch: Batch, price: RawPrice, file: str, number: int) -> None:
    who = (price.basket, price.basket_version, price.provider, price.model, price.name)
    head = (price.copied_at, price.copied_at.astimezone(UTC).date(), *who, f"{price.package} {price.package_version}")
    for tier in price.tiers:
        batch.add(TABLE, (*head, tier.from_prompt_tokens, *_rates(tier), None, file, number))
    if not price.tiers:
        batch.add(TABLE, (*head, 0, None, None, None, price.unpriced, file, number))


def _problem(price: RawPrice | BadLine, day: str) -> str | None:
    """Say what is wrong with a line, or with a price that has the form of one and should be of the file's UTC day."""
    if isinstance(price, BadLine):
        return price.reason
    if (found := _day(price)) != day:
        return f"list price: expected a copy of {day} as the file's name says, found one of {found}"
    starts = [tier.from_prompt_tokens for tier in price.tiers]
    rates = [rate for tier in price.tiers for rate in (tier.input, tier.cached_input, tier.output) if rate is not None]
    if bool(starts) == (price.unpriced is not None):
        return "list price: expected either tiers or why there are none"
    if starts and (starts[0] != 0 or starts != sorted(set(starts))):
        return f"list price: expected tiers from 0 prompt tokens upwards, found {starts}"
    if not all(rate.is_finite() and 0 <= rate < MOST_USD for rate in rates):
        return "list price: expected rates from 0 to 1,000,000 USD per million tokens"
    return None


def _day(price: RawPrice) -> str:
    try:
        return price.copied_at.astimezone(UTC).date().isoformat()
    except OverflowError:
        return f"no day: {price.copied_at}"


def _rates(tier: Tier) -> tuple[Decimal | None, ...]:
    rates = (tier.input, tier.cached_input, tier.output)
    return tuple(None if rate is None else rate.quantize(NANO, ROUND_HALF_EVEN) for rate in rates)
