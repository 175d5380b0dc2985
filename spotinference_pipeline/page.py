"""The static pages, drawn at publication and complete without JavaScript. Pure: the same documents give the same bytes.

The only module that knows Jinja2. Every value is escaped; nothing is loaded from anywhere else.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Decimal
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from spotinference_pipeline import shipped

SHOWN_DECIMALS = 4
MOST_MODELS = 10
WIDTH, HEIGHT = 720, 200
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 14, 26
_ROUNDING = {"nearest": ROUND_HALF_EVEN, "down": ROUND_FLOOR, "up": ROUND_CEILING}
KIND_TEXTS = {
    "busy": "GPUs on, with at least one request in flight",
    "idle": "GPUs on, waiting",
    "cold_start": "GPUs on, engine not ready yet",
    "parked": "machines switched off or hibernated that still bill",
    "storage": "volumes, snapshots, buckets",
    "network": "public IPs",
    "other": "anything else on the account",
    "credit": "credits by the provider",
}


@dataclass(frozen=True)
class Point:
    """One day of the history on the drawing; `y` is None for a day that is withheld."""

    day: str
    x: float
    y: float | None
    figure: str | None


@dataclass(frozen=True)
class Chart:
    """Everything that the drawing shows, in its own units."""

    points: Sequence[Point]
    lines: Sequence[str]
    ticks: Sequence[tuple[float, str]]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    bottom: int = HEIGHT - BOTTOM


def render_index(newest: Mapping[str, Any], history: Sequence[Mapping[str, Any]]) -> bytes:
    """Draw the page of the number from the newest day's document and the history."""
    good = [day for day in history if day["usd_per_million_tokens"] is not None]
    return _render(
        "index.html",
        day=newest,
        shown_parts=shown_parts(newest),
        cheaper=cheaper_rivals(newest),
        has_priced=any(basket["members"] for basket in newest["compared_with"]),
        has_unpriced=any(basket["unpriced"] for basket in newest["compared_with"]),
        models=sorted(newest["by_model"], key=lambda model: -model["served_tokens"]),
        most_models=MOST_MODELS,
        history=history,
        last_good=good[-1] if good else None,
        chart=_chart(history),
        kinds=KIND_TEXTS,
    )


def render_method(newest: Mapping[str, Any], paid_sql: str, served_sql: str) -> bytes:
    """Draw the page of the method: both queries verbatim, and how to run them."""
    return _render("method.html", day=newest, paid_sql=paid_sql, served_sql=served_sql, kinds=KIND_TEXTS)


def shown_parts(day: Mapping[str, Any]) -> dict[str, str | None]:
    """Give each part with four decimals so that what is shown adds up to the shown number, by largest remainders."""
    parts, number = day["usd_per_million_by_part"], day["usd_per_million_tokens"]
    if number is None:
        return dict.fromkeys(parts)
    scaled = {kind: Decimal(part) * 10**SHOWN_DECIMALS for kind, part in parts.items() if part is not None}
    units = {kind: part.to_integral_value(ROUND_FLOOR) for kind, part in scaled.items()}
    missing = int((Decimal(number) * 10**SHOWN_DECIMALS).to_integral_value() - sum(units.values()))
    for kind in sorted(scaled, key=lambda kind: units[kind] - scaled[kind])[:missing]:
        units[kind] += 1
    return dict.fromkeys(parts) | {kind: str(unit.scaleb(-SHOWN_DECIMALS)) for kind, unit in units.items()}


def cheaper_rivals(day: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Give each basket's cheapest member where it would have been cheaper than we were; none for a withheld day."""
    number = day["usd_per_million_tokens"]
    if number is None:
        return []
    return [
        member | {"basket": basket["basket"].replace("_", " ")}
        for basket in day["compared_with"]
        for member in basket["members"]
        if member["is_cheapest"] and Decimal(member["usd_per_million_tokens"]) < Decimal(number)
    ]


def break_even_shares(basket: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """Give both kinds of break-even by their names, for least and median: "never" only where neither is to be had."""
    held, spread = basket["break_even_duty_cycle"], basket["what_if_break_even_duty_cycle"]
    never = {of: held[of] == spread[of] == "never" for of in held}
    return [
        (name, ["none" if shares[of] == "never" and not never[of] else _share(shares[of]) for of in ("min", "median")])
        for name, shares in (
            ("at today's fixed cost per token", held),
            ("with fixed costs spread over the tokens", spread),
        )
    ]


def _render(template: str, **values: Any) -> bytes:
    environment = Environment(
        loader=FileSystemLoader(shipped.path("site")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"usd": _usd, "count": _count, "percent": _percent, "hours": _hours, "share": _share}
    environment.filters |= {"known": _known, "seconds": _seconds, "name": _name, "break_even_shares": break_even_shares}
    return environment.get_template(template).render(**values).encode()


def _chart(history: Sequence[Mapping[str, Any]]) -> Chart:
    """Lay the days out along time; a withheld day interrupts the line."""
    figures = [Decimal(day["usd_per_million_tokens"]) for day in history if day["usd_per_million_tokens"] is not None]
    top = max([*figures, Decimal(0)]) * Decimal("1.15") or Decimal(1)
    first = date.fromisoformat(history[0]["day"])
    span = max((date.fromisoformat(history[-1]["day"]) - first).days, 1)
    points = []
    for day in history:
        x = LEFT + (WIDTH - LEFT - RIGHT) * (date.fromisoformat(day["day"]) - first).days / span
        figure = day["usd_per_million_tokens"]
        y = (
            None
            if figure is None
            else HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * float(max(Decimal(figure), Decimal(0)) / top)
        )
        points.append(Point(day["day"], round(x, 1), None if y is None else round(y, 1), figure))
    ticks = [
        (round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * float(level / top), 1), _usd(str(level)))
        for level in (Decimal(0), top / 2, top)
    ]
    return Chart(points, _polylines(points), ticks)


def _polylines(points: Sequence[Point]) -> list[str]:
    runs: list[list[str]] = [[]]
    for point in points:
        if point.y is None:
            runs.append([])
        else:
            runs[-1].append(f"{point.x},{point.y}")
    return [" ".join(run) for run in runs if len(run) > 1]


def _usd(figure: str | None, places: int = 2, rounding: str = "nearest") -> str:
    """Write dollars; a bound goes "down" or "up", that it still holds."""
    if figure is None:
        return "–"
    rounded = Decimal(figure).quantize(Decimal(1).scaleb(-places), _ROUNDING[rounding])
    return f"−${-rounded:,}" if rounded < 0 else f"${abs(rounded):,}"


def _count(number: int | None) -> str:
    return "–" if number is None else f"{number:,}"


def _percent(ratio: str | None) -> str:
    return "–" if ratio is None else f"{Decimal(ratio) * 100:.2f} %"


def _known(ratio: str | None, known: str | None, tokens: str) -> str:
    """Write a share of what is known, with its base."""
    return (
        "not known of any" if ratio is None else f"{_percent(ratio)} of the {_percent(known)} of {tokens} where known"
    )


def _share(ratio: str | None) -> str:
    """Write a share of time; one that cannot be had is a word already."""
    return "never" if ratio == "never" else _percent(ratio)


def _hours(seconds: str | None) -> str:
    return "–" if seconds is None else f"{Decimal(seconds) / 3600:.1f} h"


def _seconds(seconds: str | None) -> str:
    return "–" if seconds is None else f"{Decimal(seconds):,.3f} s"


def _name(name: str) -> str:
    """Write a name from outside without letters that cannot be seen or that turn the line around."""
    return "".join(letter if letter.isprintable() else "�" for letter in name)
