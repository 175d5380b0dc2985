"""The two roundings of the published number, on exact fractions.

Headline: half-even at 12 decimals. Parts: each toward negative infinity at 12 decimals, then the missing
units of 1e-12 one each to the largest fractional remainders, ties in the order of the kinds. So the parts
add up exactly.
"""

from fractions import Fraction

from spotinference_sim.resources import FEMTO

PLACES = 12


def decimal_text(units: int, places: int) -> str:
    """Spell a whole number of units of 10**-places as a decimal."""
    whole, rest = divmod(abs(units), 10**places)
    return f"{'-' if units < 0 else ''}{whole}.{rest:0{places}d}"


def ratio_text(numerator: int, denominator: int) -> str | None:
    """Divide, half-even at 12 decimals; None when there is nothing to divide by."""
    return decimal_text(round(Fraction(numerator * 10**PLACES, denominator)), PLACES) if denominator else None


def split_rate(paid: dict[str, int], served: int) -> tuple[str | None, dict[str, str] | None]:
    """Turn femto-dollars by kind and served tokens into dollars per million tokens, whole and by part."""
    if not served:
        return None, None
    scale = Fraction(10**6 * 10**PLACES, FEMTO * served)
    exact = {kind: femtos * scale for kind, femtos in paid.items()}
    headline = round(sum(exact.values(), Fraction()))
    units = {kind: rate.__floor__() for kind, rate in exact.items()}
    missing = headline - sum(units.values())
    by_remainder = sorted(exact, key=lambda kind: units[kind] - exact[kind])
    for kind in by_remainder[:missing]:
        units[kind] += 1
    parts = {kind: decimal_text(part, PLACES) for kind, part in units.items()}
    return decimal_text(headline, PLACES), parts
