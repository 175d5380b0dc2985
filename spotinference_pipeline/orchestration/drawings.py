"""Small drawings for what an analyst sees beside an asset: the trend of a figure over days, the bars of a table's rows.

SVG in a data URI as an image of markdown: Dagster's UI (1.13) shows these, also inside tables, and drops SVG and `img` that
are written as HTML. It shows markdown of less than INLINE_CHARACTERS at once and hides a longer one behind a link, so
drawings are drawn with few words. Colours stand on light and dark ground.
"""

from base64 import b64encode
from collections.abc import Sequence
from decimal import Decimal

Number = Decimal | int | float
INLINE_CHARACTERS = 1_000
MOST_BARS = 10
LABEL_CHARACTERS = 14
_LINE = "#4f7cff"
_BAR, _LABELS, _LONGEST = 16, 110, 240


def trend(figures: Sequence[Number | None], width: int = 160, height: int = 28) -> str:
    """Draw figures of successive days as a line, with a point at the last one; an unknown one interrupts the line."""
    known = [float(figure) for figure in figures if figure is not None]
    if not known:
        return ""
    low, high = min(known), max(known)
    step = (width - 8) / max(len(figures) - 1, 1)
    places = [
        None if figure is None else (round(4 + step * place), _level(float(figure), low, high, height))
        for place, figure in enumerate(figures)
    ]
    path, is_drawing = "", False
    for place in places:
        path += "" if place is None else f"{'L' if is_drawing else 'M'}{place[0]} {place[1]}"
        is_drawing = place is not None
    x, y = [place for place in places if place is not None][-1]
    shapes = f'<path d="{path}" fill="none" stroke="{_LINE}"/><circle cx="{x}" cy="{y}" r="2.5" fill="{_LINE}"/>'
    return _image(f"{len(known)} days, {low:.6g} to {high:.6g}", width, height, shapes)


def bars(labels: Sequence[str], figures: Sequence[Number | None]) -> str:
    """Draw a bar per row, the first MOST_BARS of them, with its label; one below 0 is drawn hollow."""
    rows = [(label[:LABEL_CHARACTERS], float(figure or 0)) for label, figure in zip(labels, figures, strict=True)]
    rows = rows[:MOST_BARS]
    largest = max((abs(figure) for _, figure in rows), default=0)
    if not largest:
        return ""
    shapes = ""
    for place, (label, figure) in enumerate(rows):
        y, length = place * _BAR, round(_LONGEST * abs(figure) / largest)
        fill = 'fill="none" ' if figure < 0 else ""
        shapes += (
            f'<path {fill}d="M{_LABELS} {y + 2}h{length}v11h-{length}z"/><text y="{y + 12}">{_escaped(label)}</text>'
        )
    group = f'<g fill="{_LINE}" stroke="{_LINE}" stroke-width=".5" font-size="11" font-family="monospace">{shapes}</g>'
    return _image(f"largest {largest:.6g}", _LABELS + _LONGEST + 2, _BAR * len(rows), group)


def _level(figure: float, low: float, high: float, height: int) -> int:
    """Give the height of a figure between the lowest and the highest; a flat line is in the middle."""
    return height // 2 if low == high else round(height - 4 - (height - 8) * (figure - low) / (high - low))


def _escaped(label: str) -> str:
    return label.replace("&", "+").replace("<", "(").replace(">", ")")


def _image(words: str, width: int, height: int, shapes: str) -> str:
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}">{shapes}</svg>'
    return f"![{words}](data:image/svg+xml;base64,{b64encode(svg.encode()).decode()})"
