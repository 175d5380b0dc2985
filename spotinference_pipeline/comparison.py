"""What our own requests would have cost elsewhere, and what other loads would cost here, as a published day says it.

Owns the form of `compared_with` and `what_if` and the words beside them. The arithmetic is in sql/metric:
list_price_comparison, list_price_baskets, load_costs, break_even and what_if.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any

from spotinference_pipeline.warehouse import Warehouse

CACHE_ASSUMPTION = (
    "Prompt tokens that our engine had in its cache are taken to be cached there too, at the price of a cache read where "
    "there is one, else at the full price. Where vLLM did not say, none was cached. Writing to a cache is not charged extra."
)
BREAK_EVEN_ASSUMPTION = (
    "break_even_duty_cycle, at today's fixed cost per token: 1e6 * usd_per_active_gpu_second / (tokens_per_busy_gpu_second * "
    "(P - fixed_usd_per_million_tokens)), P being the price. what_if_break_even_duty_cycle, with fixed costs spread over the "
    "tokens: the duty_cycle at which what_if is P. Both with the rates of the window, all machines together. Never: at no duty "
    "cycle up to 1."
)
WHAT_IF_FORMULA = (
    "what_if(d) = 1e6 * usd_per_active_gpu_second / (tokens_per_busy_gpu_second * d) + fixed_usd_per_million_tokens * "
    "measured duty_cycle / d"
)
WHAT_IF_ASSUMPTION = (
    "The same machines are on for the same seconds at the same fixed costs, and only busier or idler. Tokens per busy second "
    "stay as measured: at higher load that is pessimistic, because batches grow. Credits are left out."
)
NO_COMPARISON = (
    "No comparison with hosted APIs: there is no copy of their prices near this day, so this page cannot say whether they "
    "would be cheaper."
)
_TABLES = ("list_price_baskets", "list_price_comparison", "break_even", "load_costs", "what_if")

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Elsewhere:
    """What the metric tables say of one day, in their order: rows as mappings, none where there is nothing to say."""

    baskets: Sequence[Row] = ()
    members: Sequence[Row] = ()
    break_even: Sequence[Row] = ()
    load: Sequence[Row] = ()
    what_if: Sequence[Row] = ()

    @property
    def prices_version(self) -> str | None:
        """Name and version of the price list; one copy is made of one list."""
        return self.baskets[0]["prices_version"] if self.baskets else None


def read(warehouse: Warehouse, utc_day: date) -> Elsewhere:
    """Read the day's comparison."""
    given = {"utc_day": utc_day}
    return Elsewhere(
        *(warehouse.query(f"from metric.{table} where utc_day = $utc_day", given).rows(named=True) for table in _TABLES)
    )


def describe_baskets(elsewhere: Elsewhere, *, is_withheld: bool) -> list[dict[str, Any]]:
    """Give `compared_with`: one entry a basket, each member in it. A withheld day has no break-even."""
    return [
        {
            "basket": basket["basket"],
            "as_of": basket["as_of"].isoformat(),
            "min": _text(basket["min_usd_per_million_tokens"]),
            "median": _text(basket["median_usd_per_million_tokens"]),
            "max": _text(basket["max_usd_per_million_tokens"]),
            "members": [_member(row) for row in _members(elsewhere, basket) if row["unpriced_reason"] is None],
            "unpriced": [
                _name(row) | {"reason": row["unpriced_reason"]}
                for row in _members(elsewhere, basket)
                if row["unpriced_reason"] is not None
            ],
            "basket_version": basket["basket_version"],
            "prices_version": basket["prices_version"],
            "requests": basket["requests"],
            "unpriced_requests": basket["unpriced_requests"],
            "mix": {
                "prompt_tokens": basket["prompt_tokens"],
                "completion_tokens": basket["completion_tokens"],
                "cached_tokens": basket["cached_tokens"],
                "cached_known_requests": basket["cached_known_requests"],
            },
            "cache_assumption": CACHE_ASSUMPTION,
            "break_even_duty_cycle": _break_evens(elsewhere, basket, "", is_withheld=is_withheld),
            "what_if_break_even_duty_cycle": _break_evens(elsewhere, basket, "what_if_", is_withheld=is_withheld),
        }
        for basket in elsewhere.baskets
    ]


def describe_what_if(elsewhere: Elsewhere, *, is_withheld: bool) -> dict[str, Any] | None:
    """Give `what_if`: the measured rates, and the number at other duty cycles; None where it is not known."""
    if is_withheld or not elsewhere.load or any(row["usd_per_million_tokens"] is None for row in elsewhere.what_if):
        return None
    (load,) = elsewhere.load
    return {
        "usd_per_active_gpu_second": _text(load["usd_per_active_gpu_second"]),
        "tokens_per_busy_gpu_second": _text(load["tokens_per_busy_gpu_second"]),
        "fixed_usd_per_million_tokens": _text(load["fixed_usd_per_million_tokens"]),
        "at": [
            {
                "duty_cycle": _text(row["duty_cycle_ratio"]),
                "usd_per_million_tokens": _text(row["usd_per_million_tokens"]),
                "is_measured": row["is_measured"],
            }
            for row in elsewhere.what_if
        ],
        "assumption": WHAT_IF_ASSUMPTION,
        "formula": WHAT_IF_FORMULA,
        "break_even_assumption": BREAK_EVEN_ASSUMPTION,
    }


def caveat(elsewhere: Elsewhere, utc_day: date) -> str:
    """Say what the comparison is worth, or that there is none."""
    if not elsewhere.baskets:
        return NO_COMPARISON
    as_of = elsewhere.baskets[0]["as_of"]
    late = "" if as_of == utc_day else f", not of {utc_day}: there is no nearer copy"
    return (
        f"Compared with list prices as of {as_of}{late}. They say nothing of speed, limits or discounts, and other models "
        "give other answers."
    )


def _members(elsewhere: Elsewhere, basket: Row) -> list[Row]:
    return [row for row in elsewhere.members if row["basket"] == basket["basket"]]


def _name(row: Row) -> dict[str, Any]:
    return {"name": row["model_name"], "provider": row["provider"], "model": row["model"]}


def _member(row: Row) -> dict[str, Any]:
    figure = _text(row["usd_per_million_tokens"])
    return _name(row) | {"usd_per_million_tokens": figure, "is_cheapest": row["is_cheapest"]}


def _break_evens(elsewhere: Elsewhere, basket: Row, kind: str, *, is_withheld: bool) -> dict[str, str | None]:
    rows = (row for row in elsewhere.break_even if row["basket"] == basket["basket"])
    return {row["price_of"]: None if is_withheld else _break_even(row, kind) for row in rows}


def _break_even(row: Row, kind: str) -> str | None:
    return "never" if row[f"is_{kind}reachable"] is False else _text(row[f"{kind}duty_cycle_ratio"])


def _text(figure: Decimal | None) -> str | None:
    return None if figure is None else f"{figure:f}"
