"""What an engine's own /metrics page says of its counters: a page in, the members of an `engine` row out.

Owns the names under which vLLM's versions have had these counters, and how series become one number. Does not
fetch pages (upstreams.py) nor serve ours (metrics.py). vLLM has one series per engine, summed here; a counter
that is absent, or that one series states as something else than a whole number, is unknown and not 0.
vLLM declares `vllm:prompt_tokens` and exposes it with `_total`; pages without the suffix and with `_` for `:`
(a collector in between) are read too. Source: https://docs.vllm.ai, metrics; the OpenMetrics exposition format.
"""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from spotinference_proxy.record import render_instant

COUNTERS: Mapping[str, Sequence[str]] = {
    "prompt_tokens_total": (
        "vllm:prompt_tokens_total",
        "vllm:prompt_tokens",
        "vllm_prompt_tokens_total",
        "vllm_prompt_tokens",
    ),
    "generation_tokens_total": (
        "vllm:generation_tokens_total",
        "vllm:generation_tokens",
        "vllm_generation_tokens_total",
        "vllm_generation_tokens",
    ),
}
"""Member of an `engine` row and the accepted names, the first that is there counts: never two, that would be twice."""

NEEDED = ("process_started_at", *COUNTERS)
_STARTS = ("process_start_time_seconds",)
_NAMES = frozenset(name for names in (*COUNTERS.values(), _STARTS) for name in names)
_LABELS = r'\{(?:[^"{}]|"(?:[^"\\]|\\.)*")*\}'
_SERIES = re.compile(
    rf"(?P<name>[a-zA-Z_:][\w:]*)\s*(?:{_LABELS})?\s*(?<=[\s}}])(?P<value>\S+)(?:\s+[^\s#]\S*)?(?:\s+#.*)?"
)
_LIMIT = 2**63


def parse_counters(page: str) -> dict[str, Any]:
    """Return the members of an `engine` row from a Prometheus or OpenMetrics page; null where it is not known."""
    found = _values_in(page)
    row: dict[str, Any] = {"process_started_at": _instant(_first(found, _STARTS))}
    for member, names in COUNTERS.items():
        row[member] = _whole_sum(_first(found, names))
    return row


def missing_counters(row: Mapping[str, Any]) -> list[str]:
    """Return the members that are unknown in a parsed row: a metric and a log line are due for each."""
    return [member for member in NEEDED if row.get(member) is None]


def _values_in(page: str) -> dict[str, list[Decimal]]:
    found: dict[str, list[Decimal]] = {}
    for line in page.split("\n"):
        match = _SERIES.fullmatch(line.strip()) if line.lstrip().startswith(("vllm", "process_start")) else None
        if match is None or match["name"] not in _NAMES:
            continue
        value = Decimal("NaN")  # said, but not understood
        with suppress(InvalidOperation):
            value = Decimal(match["value"])
        found.setdefault(match["name"], []).append(value)
    return found


def _first(found: Mapping[str, list[Decimal]], names: Sequence[str]) -> list[Decimal]:
    return next((found[name] for name in names if name in found), [])


def _whole_sum(values: Sequence[Decimal]) -> int | None:
    """Sum what every series says; one that says no whole number makes the sum unknown."""
    if not values or not all(value.is_finite() and 0 <= value < _LIMIT and value == int(value) for value in values):
        return None
    total = sum(int(value) for value in values)
    return total if total < _LIMIT else None


def _instant(values: Sequence[Decimal]) -> str | None:
    """Render the latest of the starts in seconds since 1970: a restart of any of the processes is seen."""
    if not values or not all(value.is_finite() and 0 < value < _LIMIT for value in values):
        return None
    try:
        return render_instant(datetime.fromtimestamp(float(max(values)), UTC))
    except (OverflowError, ValueError, OSError):
        return None
