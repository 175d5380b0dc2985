"""The static pages, drawn at publication and complete without JavaScript. Pure: the same documents give the same bytes.

The only module that knows Jinja2. Every value is escaped; nothing is loaded from anywhere else.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import ROUND_FLOOR, Decimal
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from spotinference_pipeline import shipped

SHOWN_DECIMALS = 4
WIDTH, HEIGHT = 720, 200
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 14, 26
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
    scaled = {kind: Decimal(part) * 10**SHOWN_DECIMALS for kind, part in parts.items()}
    units = {kind: part.to_integral_value(ROUND_FLOOR) for kind, part in scaled.items()}
    missing = int((Decimal(number) * 10**SHOWN_DECIMALS).to_integral_value() - sum(units.values()))
    for kind in sorted(scaled, key=lambda kind: units[kind] - scaled[kind])[:missing]:
        units[kind] += 1
    return {kind: str(unit.scaleb(-SHOWN_DECIMALS)) for kind, unit in units.items()}


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


def _usd(figure: str | None, places: int = 2) -> str:
    if figure is None:
        return "–"
    rounded = f"{abs(Decimal(figure)):,.{places}f}"
    is_negative = Decimal(figure) < 0 and Decimal(rounded.replace(",", "")) != 0
    return f"−${rounded}" if is_negative else f"${rounded}"


def _count(number: int | None) -> str:
    return "–" if number is None else f"{number:,}"


def _percent(ratio: str | None) -> str:
    return "–" if ratio is None else f"{Decimal(ratio) * 100:.2f} %"


def _share(ratio: str | None) -> str:
    """Write a share of time; one that cannot be had is a word already."""
    return "never" if ratio == "never" else _percent(ratio)


def _hours(seconds: str | None) -> str:
    return "–" if seconds is None else f"{Decimal(seconds) / 3600:.1f} h"
