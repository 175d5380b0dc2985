"""Small drawings for what an analyst sees beside an asset: the trend of a figure, the bar of a row.

SVG in a data URI as an image of markdown: Dagster's UI (1.13) shows these, also inside tables, and drops SVG and `img` that
are written as HTML. Colours stand on light and dark ground.
"""

from base64 import b64encode
from collections.abc import Sequence
from decimal import Decimal

Number = Decimal | int | float
WIDTH, HEIGHT = 160, 28
BAR_HEIGHT = 12
_LINE, _BELOW = "#4f7cff", "#d9534f"


def trend(figures: Sequence[Number | None]) -> str:
    """Draw figures of successive days as a line, with a point at the last one; an unknown one interrupts the line."""
    known = [float(figure) for figure in figures if figure is not None]
    if not known:
        return ""
    low, high = min(known), max(known)
    step = (WIDTH - 8) / max(len(figures) - 1, 1)
    points = [None if f is None else (4 + step * place, _level(float(f), low, high)) for place, f in enumerate(figures)]
    runs: list[list[str]] = [[]]
    for point in points:
        if point is None:
            runs.append([])
        else:
            runs[-1].append(f"{point[0]:.1f},{point[1]:.1f}")
    lines = [
        f'<polyline points="{" ".join(run)}" fill="none" stroke="{_LINE}" stroke-width="1.5"/>' for run in runs if run
    ]
    x, y = [point for point in points if point is not None][-1]
    dot = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{_LINE}"/>'
    return _image(f"{len(known)} days, {low:.6g} to {high:.6g}", HEIGHT, "".join(lines) + dot)


def bar(figure: Number | None, largest: Number) -> str:
    """Draw one figure of a row as a part of the largest in the table; below 0 in another colour."""
    if figure is None or not largest:
        return ""
    width = WIDTH * min(abs(float(figure)) / float(largest), 1.0)
    colour = _BELOW if figure < 0 else _LINE
    return _image("", BAR_HEIGHT, f'<rect y="1" width="{width:.1f}" height="{BAR_HEIGHT - 2}" fill="{colour}"/>')


def _level(figure: float, low: float, high: float) -> float:
    """Give the height of a figure between the lowest and the highest; a flat line is in the middle."""
    return HEIGHT / 2 if low == high else HEIGHT - 4 - (HEIGHT - 8) * (figure - low) / (high - low)


def _image(words: str, height: int, shapes: str) -> str:
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}">{shapes}</svg>'
    return f"![{words}](data:image/svg+xml;base64,{b64encode(svg.encode()).decode()})"
