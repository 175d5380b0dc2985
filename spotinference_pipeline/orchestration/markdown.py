"""Rows as markdown: what an analyst reads beside an asset, and the drawing that goes with them.

Numbers are shown as they are stored, to the last digit. No list of tables or columns is kept here: what is drawn follows
from the columns' types and names.
"""

from decimal import Decimal

import polars as pl

from spotinference_pipeline.orchestration import drawings
from spotinference_pipeline.orchestration.steps import Written

CELL_CHARACTERS = 200
PLOT_WIDTH, PLOT_HEIGHT = 420, 90


def lying(frame: pl.DataFrame) -> str:
    """Write a row per row."""
    if frame.is_empty():
        return "no rows"
    rows = [[_cell(cell) for cell in row] for row in frame.iter_rows()]
    return _table(list(frame.columns), ["---:" if dtype.is_numeric() else "---" for dtype in frame.dtypes], rows)


def upright(frame: pl.DataFrame) -> str:
    """Write the one row of a day as a row per column."""
    rows = [[name, _cell(value)] for name, value in frame.row(0, named=True).items()]
    return _table(["column", "of the day"], ["---", "---:"], rows)


def trends(frame: pl.DataFrame) -> str:
    """Write each figure of successive days with its trend, its lowest and its highest; frame: one row a day, oldest first."""
    rows = []
    for name in measures(frame):
        known = frame[name].drop_nulls()
        rows.append([name, drawings.trend(frame[name].to_list()), _cell(known.min()), _cell(known.max())])
    return _table(["figure", f"last {frame.height} days", "lowest", "highest"], ["---", "---", "---:", "---:"], rows)


def plot(written: Written) -> str:
    """Draw the leading measure: over the last days where there is one row a day, else a bar per row; empty without one."""
    names = [] if written.trend.height else _naming(written.sample)
    measure = leading_measure(written.sample.drop(names))
    if measure is None or written.sample.is_empty():
        return ""
    words, drawn = measure, ""
    if not written.trend.height:
        drawn = drawings.bars(_labels(written.sample.select(names)), written.sample[measure].to_list())
    elif written.trend.height > 1:
        figures = [float(figure) for figure in written.trend[measure].drop_nulls()]
        words = f"{measure}, last {written.trend.height} days" + (
            f", {min(figures):.6g} to {max(figures):.6g}" if figures else ""
        )
        drawn = drawings.trend(written.trend[measure].to_list(), PLOT_WIDTH, PLOT_HEIGHT)
    return f"{words}\n\n{drawn}" if drawn else ""


def measures(frame: pl.DataFrame) -> list[str]:
    """Give the columns that are figures: numbers that name nothing."""
    return [name for name, dtype in frame.schema.items() if dtype.is_numeric() and not name.endswith("_id")]


def leading_measure(frame: pl.DataFrame) -> str | None:
    """Choose the column that is drawn: the number, else money before tokens before time, the first of a kind."""
    for word in ("usd_per_million", "usd", "tokens", "seconds", "ratio"):
        found = [name for name in measures(frame) if word in name]
        if found:
            return found[0]
    return None


def _naming(frame: pl.DataFrame) -> list[str]:
    """Choose the columns that name a row: its words and ids, else the first that is not the day."""
    words = [name for name, dtype in frame.schema.items() if dtype == pl.String or name.endswith("_id")]
    return words or [name for name in frame.columns if name != "utc_day"][:1]


def _labels(frame: pl.DataFrame) -> list[str]:
    """Name each row by the columns that name rows; those that all rows share say nothing."""
    telling = [name for name in frame.columns if frame[name].n_unique() > 1] or frame.columns
    return [
        " ".join(_cell(cell) for cell in reversed(row) if cell is not None) for row in frame.select(telling).iter_rows()
    ]


def _table(names: list[str], sides: list[str], rows: list[list[str]]) -> str:
    head = [f"| {' | '.join(names)} |", f"| {' | '.join(sides)} |"]
    return "\n".join(head + [f"| {' | '.join(row)} |" for row in rows])


def _cell(cell: object) -> str:
    if cell is None:
        return ""
    text = f"{cell:f}" if isinstance(cell, Decimal) else f"{cell}"
    return text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")[:CELL_CHARACTERS]
