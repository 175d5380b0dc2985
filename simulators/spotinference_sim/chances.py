"""Seeded draws: what happens by chance, decided by names and instants alone.

Owns randomness of faults. The same seed and the same parts give the same draw on every machine and in any
order of calls.
"""

from hashlib import blake2b


def chance(*parts: object) -> float:
    """Draw from [0, 1) by what is given, the seed first."""
    digest = blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def pick(low: int, high: int, *parts: object) -> int:
    """Draw a whole number from low to high, both included."""
    return low + int(chance(*parts) * (high - low + 1))
