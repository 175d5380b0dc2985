"""From a day's copy of list prices to rows of validated.list_prices: one per basket, member and tier.

Prices are read at nano-dollars per million tokens: this is the named rounding that takes off binary float noise.
"""

from datetime import UTC
from decimal import ROUND_HALF_EVEN, Decimal

from spotinference_pipeline.batch import Batch
from spotinference_pipeline.list_prices import RawPrice, Tier, read_prices
from spotinference_pipeline.raw import BadLine

TABLE = "validated.list_prices"
NANO = Decimal("0.000000001")
MOST_USD = Decimal(10**6)


def add_prices(batch: Batch, content: bytes, file: str) -> None:
    """Add a copy's prices to the batch."""
    if not content:
        batch.flag(file, 1, "file", TABLE, "empty file: expected at least one line")
    for number, price in read_prices(content):
        if isinstance(price, BadLine):
            batch.refuse(file, number, "line", TABLE, price.reason, price.content)
            continue
        if problem := _problem(price):
            batch.refuse(file, number, "line", TABLE, problem, f"{price}".encode())
            continue
        who = (price.basket, price.basket_version, price.provider, price.model, price.name)
        head = (
            price.copied_at,
            price.copied_at.astimezone(UTC).date(),
            *who,
            f"{price.package} {price.package_version}",
        )
        for tier in price.tiers:
            batch.add(TABLE, (*head, tier.from_prompt_tokens, *_rates(tier), None, file, number))
        if not price.tiers:
            batch.add(TABLE, (*head, 0, None, None, None, price.unpriced, file, number))


def _problem(price: RawPrice) -> str | None:
    """Say what is wrong with a price that has the form of one: all of its tiers count, or none."""
    starts = [tier.from_prompt_tokens for tier in price.tiers]
    rates = [rate for tier in price.tiers for rate in (tier.input, tier.cached_input, tier.output) if rate is not None]
    if bool(starts) == (price.unpriced is not None):
        return "list price: expected either tiers or why there are none"
    if starts and (starts[0] != 0 or starts != sorted(set(starts))):
        return f"list price: expected tiers from 0 prompt tokens upwards, found {starts}"
    if not all(rate.is_finite() and 0 <= rate < MOST_USD for rate in rates):
        return "list price: expected rates from 0 to 1,000,000 USD per million tokens"
    return None


def _rates(tier: Tier) -> tuple[Decimal | None, ...]:
    rates = (tier.input, tier.cached_input, tier.output)
    return tuple(None if rate is None else rate.quantize(NANO, ROUND_HALF_EVEN) for rate in rates)
