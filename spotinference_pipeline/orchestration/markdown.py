"""Rows as markdown: what an analyst reads beside an asset, with a bar to each row or the trend of each figure.

Numbers are shown as they are stored, to the last digit.
"""

from decimal import Decimal

import polars as pl

from spotinference_pipeline.orchestration import drawings
from spotinference_pipeline.orchestration.steps import Written

CELL_CHARACTERS = 200


def lying(frame: pl.DataFrame) -> str:
    """Write a row per row; where there are several, with a bar for their leading measure."""
    if frame.is_empty():
        return "no rows"
    names, rows = list(frame.columns), [[_cell(cell) for cell in row] for row in frame.iter_rows()]
    measure = _measure(frame)
    if measure is not None and frame.height > 1:
        figures = frame[measure].to_list()
        largest = max((abs(figure) for figure in figures if figure is not None), default=0)
        names.append(f"{measure} as a bar")
        rows = [[*row, drawings.bar(figure, largest)] for row, figure in zip(rows, figures, strict=True)]
    sides = ["---:" if name in frame.columns and frame[name].dtype.is_numeric() else "---" for name in names]
    return _table(names, sides, rows)


def upright(written: Written) -> str:
    """Write the one row of a day as a row per column, each figure with its trend up to that day."""
    row = written.sample.row(0, named=True)
    days = written.trend.height
    rows = [
        [
            name,
            _cell(value),
            drawings.trend(written.trend[name].to_list())
            if written.trend[name].dtype.is_numeric() and days > 1
            else "",
        ]
        for name, value in row.items()
    ]
    return _table(["column", f"{written.utc_day}", f"last {days} days"], ["---", "---:", "---"], rows)


def _measure(frame: pl.DataFrame) -> str | None:
    """Choose the column that a bar shows: money before tokens before time, the last of a kind."""
    numeric = [name for name in frame.columns if frame[name].dtype.is_numeric()]
    for word in ("usd", "tokens", "seconds"):
        found = [name for name in numeric if word in name]
        if found:
            return found[-1]
    return None


def _table(names: list[str], sides: list[str], rows: list[list[str]]) -> str:
    head = [f"| {' | '.join(names)} |", f"| {' | '.join(sides)} |"]
    return "\n".join(head + [f"| {' | '.join(row)} |" for row in rows])


def _cell(cell: object) -> str:
    if cell is None:
        return ""
    text = f"{cell:f}" if isinstance(cell, Decimal) else f"{cell}"
    return text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")[:CELL_CHARACTERS]
