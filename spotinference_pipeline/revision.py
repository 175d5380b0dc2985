"""One published day as a document. Pure: the same rows give the same bytes.

Owns the published shape (schema_version 1), the rounding of what is shown, the status of a day and why, the caveats, and
the reason for a new revision. Decimals are strings, counts integers, unknown is null. The document's schema is
`site/schema/revision.json`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Decimal
from typing import Any
from urllib.parse import urlsplit

from spotinference_pipeline import comparison
from spotinference_pipeline.comparison import Elsewhere
from spotinference_pipeline.windows import TRAILING_DAYS, format_second, trailing_window

SCHEMA_VERSION = 1
METHOD_VERSION = 1
KINDS = ("busy", "idle", "cold_start", "parked", "storage", "network", "other", "credit")
OTHER_DENOMINATORS = (
    "usd_per_million_prompt_tokens",
    "usd_per_million_completion_tokens",
    "usd_per_million_visible_tokens",
    "usd_per_request",
)
"""The same paid over other counts; withheld with the number."""
BOUND_UNIT = Decimal("0.000001")
_RANKS = {"reconciled": 1, "final": 2}
_CENT = Decimal("0.01")
_SHOWN_COVERAGE = Decimal("0.0001")
_UNEXPLAINED = 500
"""One token in so many is told of, as in sql/check/log_agrees_with_the_engines.sql."""
_WITNESSED = Decimal("0.99")
_SEEN_BY_REQUESTS = ("busy", "cold_start")
"""Kinds of cost that only requests and probes of a machine tell apart from idle time."""
_BOOKKEEPING = ("revision", "reason", "published_at", "previous")

Document = dict[str, Any]


@dataclass(frozen=True)
class Facts:
    """What the metric tables say of one day: rows as mappings, parts by their kinds, models by name."""

    cost: Mapping[str, Any]
    parts: Mapping[str, Decimal | None]
    figures: Mapping[str, Any]
    percentiles: Mapping[str, Any]
    coverage: Mapping[str, Any]
    bounds: Mapping[str, Any]
    models: Sequence[Mapping[str, Any]]
    invoice_residual_usd: Decimal | None = None
    elsewhere: Elsewhere = field(default_factory=Elsewhere)


@dataclass(frozen=True)
class Gates:
    """Ratios from 0 to 1 that a day must keep, or it is withheld; what is not known breaks none."""

    min_snapshot_coverage: Decimal
    min_exact_usage: Decimal
    min_token_coverage: Decimal
    max_unattributed: Decimal


@dataclass(frozen=True)
class Terms:
    """What holds for the publication as a whole."""

    gates: Gates
    hyperstack_url: str
    inputs_sha256: str
    paid_sql_sha256: str
    served_sql_sha256: str
    code_version: str


def build_document(utc_day: date, facts: Facts, terms: Terms, last_good_day: str | None) -> Document:
    """Build the day's document without its bookkeeping (revision, reason, published_at, previous)."""
    status, status_reason = _status(facts, terms, last_good_day)
    withheld = status == "withheld"
    figure = None if withheld else facts.cost["usd_per_million_tokens"]
    window = trailing_window(utc_day)
    return {
        "schema_version": SCHEMA_VERSION,
        "day": utc_day.isoformat(),
        "window": {
            "start": format_second(window.start),
            "end": format_second(window.end),
            "days": TRAILING_DAYS,
        },
        "revision": None,
        "reason": None,
        "status": status,
        "status_reason": status_reason,
        "published_at": None,
        "usd_per_million_tokens": _text(figure),
        "display": "withheld" if figure is None else format_usd(figure),
        "bounds": {"low": None, "high": None} if withheld else _bounds(facts),
        "paid_usd": _text(facts.cost["paid_usd"]),
        "served_tokens": facts.cost["served_tokens"],
        "requests": facts.cost["requests"],
        "tokens": {name: facts.cost[f"{name}_tokens"] for name in ("prompt", "completion", "cached", "reasoning")},
        "usd_per_million_by_part": {kind: None if withheld else _part(facts, kind) for kind in KINDS},
        "by_model": [_model(row, withheld=withheld) for row in facts.models],
        "figures": _figures(facts.figures, facts.percentiles, withheld=withheld),
        "coverage": {
            "snapshot": _text(facts.figures["snapshot_coverage_ratio"]),
            "exact_usage": _text(facts.figures["exact_usage_ratio"]),
            "token": _text(facts.coverage["token_coverage_ratio"]),
        },
        "reconciliation": {
            "days_reconciled": facts.figures["days_reconciled"],
            "residual_usd": _text(facts.figures["residual_usd"]),
            "unattributed_usd": _text(facts.figures["unattributed_usd"]),
            "invoice_residual_usd": _text(facts.invoice_residual_usd),
        },
        "compared_with": comparison.describe_baskets(facts.elsewhere, is_withheld=withheld),
        "what_if": comparison.describe_what_if(facts.elsewhere, is_withheld=withheld),
        "caveats": _caveats(utc_day, facts, terms),
        "previous": None,
        "provenance": {
            "inputs_sha256": terms.inputs_sha256,
            "paid_sql_sha256": terms.paid_sql_sha256,
            "served_sql_sha256": terms.served_sql_sha256,
            "method_version": METHOD_VERSION,
            "code_version": terms.code_version,
            "prices_version": facts.elsewhere.prices_version,
        },
    }


def revise(document: Document, newest: Document | None, published_at: datetime) -> Document | None:
    """Give the document as the day's next revision; None when the newest one says the same."""
    if newest is not None and says_the_same(document, newest):
        return None
    return document | {
        "revision": 1 if newest is None else newest["revision"] + 1,
        "reason": _reason(document, newest),
        "published_at": format_second(published_at),
        "previous": None
        if newest is None
        else {"revision": newest["revision"], "usd_per_million_tokens": newest["usd_per_million_tokens"]},
    }


def says_the_same(document: Document, newest: Document) -> bool:
    """Tell whether two documents of a day differ in nothing but their bookkeeping and the program's version."""
    return _substance(document) == _substance(newest)


def encode(document: Any) -> bytes:
    """Write a published JSON document: UTF-8, members in their order, a newline at the end."""
    return (json.dumps(document, ensure_ascii=False, allow_nan=False, indent=1) + "\n").encode()


def format_usd(figure: Decimal) -> str:
    """Write an amount for people, in dollars and cents."""
    cents = figure.quantize(_CENT, ROUND_HALF_EVEN)
    return f"-${-cents:,}" if cents < 0 else f"${abs(cents):,}"


def _text(figure: Decimal | None) -> str | None:
    return None if figure is None else f"{figure:f}"


def _status(facts: Facts, terms: Terms, last_good_day: str | None) -> tuple[str, str | None]:
    if broken := _broken_gate(facts, terms.gates):
        last = f"the last good day is {last_good_day}" if last_good_day else "there is no good day yet"
        return "withheld", f"{broken}; {last}"
    if not _is_reconciled(facts):
        return "provisional", None
    return "final" if facts.figures["days_final"] == TRAILING_DAYS else "reconciled", None


def _broken_gate(facts: Facts, gates: Gates) -> str | None:
    """Say which gate the day does not pass: what was found, what is needed."""
    snapshots = facts.figures["snapshot_coverage_ratio"]
    if not _is_reconciled(facts) and snapshots < gates.min_snapshot_coverage:
        found = _shown(snapshots)
        return f"snapshots cover {found} of the window's minutes, {gates.min_snapshot_coverage} are needed"
    if facts.cost["paid_usd"] is None:
        return "no billed resource is known in the window"
    if not facts.cost["served_tokens"]:
        return "no tokens were served in the window"
    return _broken_share(facts, gates)


def _broken_share(facts: Facts, gates: Gates) -> str | None:
    exact, tokens = facts.figures["exact_usage_ratio"], facts.coverage["token_coverage_ratio"]
    if exact is not None and exact < gates.min_exact_usage:
        return f"{_shown(exact)} of the requests have vLLM's final usage, {gates.min_exact_usage} are needed"
    if tokens is not None and tokens < gates.min_token_coverage:
        needed = gates.min_token_coverage
        return f"the log and vLLM's own counters have {_shown(tokens)} of their tokens in common, {needed} are needed"
    unattributed, paid = abs(facts.figures["unattributed_usd"] or 0), facts.cost["paid_usd"]
    if unattributed > gates.max_unattributed * abs(paid):
        most = gates.max_unattributed
        return f"${unattributed:.2f} of what was billed are on no resource, at most {most} of ${paid:.2f} may be"
    return None


def _shown(ratio: Decimal) -> Decimal:
    return ratio.quantize(_SHOWN_COVERAGE, ROUND_FLOOR)


def _is_reconciled(facts: Facts) -> bool:
    """Tell whether every day of the window costs what Hyperstack's books say: then no snapshot is needed for that."""
    days: int = facts.figures["days_reconciled"]
    return days == TRAILING_DAYS


def _bounds(facts: Facts) -> dict[str, str | None]:
    """Low: only spend that is surely inside, over the most tokens that can be defended. High: all spend that may be
    inside, over exact tokens only. Where credits outweigh the spend, the tokens change places."""
    inside, most = facts.bounds["inside_usd"], facts.bounds["most_usd"]
    exact, largest = facts.bounds["exact_tokens"], facts.bounds["largest_tokens"]
    return {
        "low": _bound(inside, exact if inside < 0 else largest, ROUND_FLOOR),
        "high": None if most is None else _bound(most, largest if most < 0 else exact, ROUND_CEILING),
    }


def _bound(usd: Decimal, tokens: int | None, rounding: str) -> str | None:
    return f"{(10**6 * usd / tokens).quantize(BOUND_UNIT, rounding):f}" if tokens else None


def _part(facts: Facts, kind: str) -> str | None:
    """Give a part of the number; null where all of it may be in `idle`, as the log names no machine that was busy or cold."""
    part = facts.parts.get(kind)
    is_unknown = kind in _SEEN_BY_REQUESTS and not part and facts.figures["unplaced_tokens"]
    return None if is_unknown else _text(part)


def _model(row: Mapping[str, Any], *, withheld: bool) -> dict[str, Any]:
    return {
        "model": row["model"],
        "served_tokens": row["served_tokens"],
        "usd_per_million_tokens": None if withheld else _text(row["usd_per_million_tokens"]),
        "paid_usd": _text(row["cost_usd"]),
    }


def _figures(row: Mapping[str, Any], percentiles: Mapping[str, Any], *, withheld: bool) -> dict[str, Any]:
    figures = {
        "duty_cycle": _text(row["duty_cycle_ratio"]),
        "powered_fraction": _text(row["powered_ratio"]),
        "cold_starts": row["cold_starts"],
        "cold_start_seconds": _text(row["cold_start_seconds"]),
        "cold_start_usd": _text(row["cold_start_usd"]),
        "failed_cold_starts": row["failed_cold_starts"],
        "failed_cold_start_seconds": _text(row["failed_cold_start_seconds"]),
        "failed_cold_start_usd": _text(row["failed_cold_start_usd"]),
        "cache_hit_ratio": _text(row["cache_hit_ratio"]),
        "cache_hit_known_share": _text(row["cache_hit_known_ratio"]),
        "reasoning_share": _text(row["reasoning_ratio"]),
        "reasoning_known_share": _text(row["reasoning_known_ratio"]),
        "output_input_ratio": _text(row["output_input_ratio"]),
        "output_input_percentiles": {
            each: _text(percentiles[f"output_input_{each}_ratio"]) for each in ("p10", "p50", "p90")
        },
        "tokens_per_busy_second": _text(row["tokens_per_busy_second"]),
        "latency_seconds": _seconds(percentiles, "latency"),
        "time_to_first_token_seconds": _seconds(percentiles, "first_token"),
        "answered_requests": row["answered_requests"],
    }
    return figures | {name: None if withheld else _text(row[name]) for name in OTHER_DENOMINATORS}


def _seconds(percentiles: Mapping[str, Any], figure: str) -> dict[str, str | None]:
    micros = {each: percentiles[f"{figure}_{each}_microseconds"] for each in ("p50", "p90", "p99")}
    return {each: None if found is None else f"{Decimal(found).scaleb(-6):f}" for each, found in micros.items()}


def _caveats(utc_day: date, facts: Facts, terms: Terms) -> list[str]:
    caveats = [
        "One blended figure for the whole fleet and all models: prompt, cached and completion tokens count alike.",
        "It contains idle time, cold starts, parked machines, storage, public IPs and credits; not tax, traffic or people.",
        comparison.caveat(facts.elsewhere, utc_day),
    ]
    if not _is_reconciled(facts):
        days = facts.figures["days_reconciled"]
        rests = "it rests on the running counters alone" if not days else f"{days} of {TRAILING_DAYS} days are"
        caveats.insert(2, f"Not yet reconciled with Hyperstack's billing history: {rests}.")
    if unmeasured := facts.figures["unmeasured_requests"]:
        caveats.append(
            f"{unmeasured:,} of {facts.figures['answered_requests']:,} answered requests ended without vLLM's final usage: "
            "tokens it did not report are not counted, so the true figure is at most this high on their account."
        )
    if unplaced := facts.figures["unplaced_tokens"]:
        caveats.append(
            f"The log of requests names no machine for {unplaced:,} of {facts.cost['served_tokens']:,} tokens: when it was busy "
            "or starting is not known, so that time is in idle, and duty cycle, cold starts and break-even are not given."
        )
    caveats += _token_caveats(facts.coverage)
    host = urlsplit(terms.hyperstack_url).hostname
    if host in ("127.0.0.1", "localhost", "::1"):
        caveats.insert(0, "Simulated: the billing answers came from a program on this machine, not from Hyperstack.")
    return caveats


def _token_caveats(coverage: Mapping[str, Any]) -> list[str]:
    caveats = []
    segments, rows = coverage["lost_segments"], coverage["rows_missing"]
    if segments or rows:
        caveats.append(
            f"The log of requests tells of its own losses: {segments:,} segments and {rows:,} rows are missing in it, "
            "and with them the tokens of their requests."
        )
    if not coverage["engine_lives"]:
        return [*caveats, "The log of requests was not held against vLLM's own counters: none are known."]
    if _UNEXPLAINED * coverage["unexplained_tokens"] > coverage["engine_tokens"]:
        caveats.append(
            f"vLLM's own counters and the log of requests differ by {coverage['unexplained_tokens']:,} of "
            f"{coverage['engine_tokens']:,} tokens that no known cause explains: rows that were lost, "
            "traffic past the proxy, or more in the log than was made."
        )
    if (witnessed := coverage["witnessed_ratio"]) is not None and witnessed < _WITNESSED:
        caveats.append(f"vLLM's own counters are known for {_shown(witnessed)} of the tokens only.")
    return caveats


def _substance(document: Document) -> Document:
    kept = {name: value for name, value in document.items() if name not in _BOOKKEEPING}
    provenance = {name: value for name, value in document["provenance"].items() if name != "code_version"}
    return kept | {"provenance": provenance}


def _reason(document: Document, newest: Document | None) -> str:
    if newest is None:
        return "first"
    sqls = ("paid_sql_sha256", "served_sql_sha256", "method_version")
    if any(document["provenance"][name] != newest["provenance"][name] for name in sqls):
        return "method_change"
    if document["tokens"] != newest["tokens"] or document["requests"] != newest["requests"]:
        return "late_logs"
    if _RANKS.get(document["status"], 0) > _RANKS.get(newest["status"], 0):
        return "reconciled"
    if document["paid_usd"] != newest["paid_usd"] or document["coverage"] != newest["coverage"]:
        return "late_billing"
    return "correction"
