"""Money paid in: top-ups of the prepaid balance, with tax apart.

Owns what a payment is. The balance rises by the amount without tax; usage and history never show tax.

Source: Hyperstack API, payment details, as documented in 2026-11. Whether the balance rises by the amount with or
without tax is not published; without is chosen here.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Payment:
    """A top-up: `nanos` nano-dollars for the balance, `tax_nanos` on top of them."""

    at_s: int
    nanos: int
    tax_nanos: int = 0
