"""A batch of rows on its way into the validated tables: nothing gets lost between reading and storing.

Owns the bookkeeping rows_read = rows_accepted + rows_quarantined + rows_repeated, per file. The four numbers are counted
where they happen and compared by a check, never derived from each other.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import repeat
from typing import Any

import polars as pl

from spotinference_pipeline import contracts

QUARANTINE_CHARACTERS = 2_000
QUARANTINE_SCHEMA = {
    "source_file": pl.String,
    "source_line": pl.Int64,
    "position": pl.String,
    "target_table": pl.String,
    "reason": pl.String,
    "content": pl.String,
}
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass
class Tally:
    """What became of one file's rows."""

    read: int = 0
    accepted: int = 0
    quarantined: int = 0
    repeated: int = 0
    unknown: int = 0


@dataclass
class Batch:
    """Rows by table, as tuples or column by column, quarantined things, and a tally per file."""

    rows: dict[str, list[tuple[Any, ...]]] = field(default_factory=lambda: defaultdict(list))
    columns: dict[str, dict[str, list[Any]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))
    quarantine: list[tuple[str, int, str, str, str, str]] = field(default_factory=list)
    tallies: dict[str, Tally] = field(default_factory=lambda: defaultdict(Tally))

    def add(self, table: str, row: tuple[Any, ...]) -> None:
        """Take a row that was read; its last two values are source_file and source_line."""
        self.rows[table].append(row)
        self.tallies[row[-2]].read += 1

    def add_columns(self, table: str, columns: Mapping[str, Iterable[Any]], file: str, lines: Sequence[int]) -> None:
        """Take many rows of one file that were read, column by column: what millions of log lines need.

        Columns of the table that are not given are null. Instants are times since EPOCH: polars reads these four times as
        fast as instants.
        """
        gathered = self.columns[table]
        for name, values in columns.items():
            gathered[name].extend(values)
        gathered["source_file"].extend(repeat(file, len(lines)))
        gathered["source_line"].extend(lines)
        self.tallies[file].read += len(lines)

    def tables(self) -> list[str]:
        """Give the tables that there are rows for, by name."""
        return sorted(self.rows.keys() | self.columns.keys())

    def keep(self, file: str, lines: int = 1) -> None:
        """Count lines that were read and are accepted without a row of their own."""
        self.tallies[file].read += lines
        self.tallies[file].accepted += lines

    def refuse(self, file: str, line: int, position: str, table: str, reason: str, content: bytes) -> None:
        """Quarantine something that was read but cannot become a row."""
        self.tallies[file].read += 1
        self._quarantine(file, line, position, table, reason, content.decode(errors="replace"))

    def flag(self, file: str, line: int, position: str, table: str, reason: str) -> None:
        """Note a fault by which no row is lost, so none is counted: of the file as a whole, or of a row's detail."""
        self.quarantine.append((file, line, position, table, reason, ""))

    def frame(self, table: str) -> pl.DataFrame:
        """Give the table's rows that keep its contract, without details that cannot be; the others go to quarantine."""
        schema = contracts.polars_schema(table)
        rows = to_frame(self.rows.get(table, []), schema)
        if table in self.columns:
            rows.extend(_from_columns(self.columns[table], schema))
        rows, doubts = contracts.without_impossible_details(table, rows)
        for file, line, reason in doubts.iter_rows():
            self.flag(file, line, "detail", table, reason)
        accepted, rejected = contracts.split(table, rows)
        for row in rejected.iter_rows(named=True):
            reason = row.pop("broken_rules")
            self._quarantine(row["source_file"], row["source_line"], "row", table, reason, str(row))
        return accepted

    def accept(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Count the rows of a frame as accepted."""
        for file, count in frame.group_by("source_file").len().iter_rows():
            self.tallies[file].accepted += count
        return frame

    def repeat(self, frame: pl.DataFrame) -> None:
        """Count the rows of a frame as exact repeats of rows that are stored or accepted."""
        for file, count in frame.group_by("source_file").len().iter_rows():
            self.tallies[file].repeated += count

    def conflict(self, table: str, frame: pl.DataFrame, key: Sequence[str]) -> None:
        """Quarantine rows that say something else than the stored row of the same key."""
        for row in frame.iter_rows(named=True):
            reason = f"conflict: {', '.join(key)} was stored before with other content"
            self._quarantine(row["source_file"], row["source_line"], "row", table, reason, str(row))

    def quarantine_frame(self) -> pl.DataFrame:
        """Give the quarantined things as rows."""
        return to_frame(self.quarantine, QUARANTINE_SCHEMA)

    def _quarantine(self, file: str, line: int, position: str, table: str, reason: str, content: str) -> None:
        self.tallies[file].quarantined += 1
        self.quarantine.append((file, line, position, table, reason, content[:QUARANTINE_CHARACTERS]))


def to_frame(rows: Sequence[tuple[Any, ...]], schema: dict[str, Any]) -> pl.DataFrame:
    """Build a typed frame from row tuples."""
    if not rows:
        return pl.DataFrame(schema=schema)
    return pl.DataFrame(
        [
            pl.Series(name, [row[place] for row in rows], dtype=dtype)
            for place, (name, dtype) in enumerate(schema.items())
        ]
    )


def _from_columns(columns: Mapping[str, list[Any]], schema: Mapping[str, Any]) -> pl.DataFrame:
    height = len(columns["source_line"])
    return pl.DataFrame([_series(name, columns.get(name), dtype, height) for name, dtype in schema.items()])


def _series(name: str, values: list[Any] | None, dtype: Any, height: int) -> pl.Series:
    if values is None:
        return pl.Series(name, [None], dtype=dtype).new_from_index(0, height)
    if isinstance(dtype, pl.Datetime):
        return pl.Series(name, values, dtype=pl.Duration("us")).cast(pl.Int64).cast(dtype)
    return pl.Series(name, values, dtype=dtype)
