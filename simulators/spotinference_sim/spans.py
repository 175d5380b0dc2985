"""Half-open spans of microseconds: union, intersection, rest. Lists are sorted and disjoint."""

from collections.abc import Iterable

Span = tuple[int, int]


def union(spans: Iterable[Span]) -> list[Span]:
    """Join overlapping and touching spans; empty ones vanish."""
    joined: list[Span] = []
    for start, end in sorted(spans):
        if end <= start:
            continue
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined


def clip(spans: Iterable[Span], start: int, end: int) -> list[Span]:
    """Keep what lies inside [start, end)."""
    return [(max(a, start), min(b, end)) for a, b in spans if max(a, start) < min(b, end)]


def subtract(spans: Iterable[Span], holes: list[Span]) -> list[Span]:
    """Take the holes out; both sorted and disjoint."""
    rest: list[Span] = []
    for start, end in spans:
        at = start
        for hole_start, hole_end in clip(holes, start, end):
            if hole_start > at:
                rest.append((at, hole_start))
            at = hole_end
        if at < end:
            rest.append((at, end))
    return rest


def length(spans: Iterable[Span]) -> int:
    """Add up."""
    return sum(end - start for start, end in spans)
