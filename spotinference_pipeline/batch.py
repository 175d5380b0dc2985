"""A batch of rows on its way into the validated tables: nothing gets lost between reading and storing.

Owns the bookkeeping rows_read = rows_accepted + rows_quarantined + rows_repeated, per file. The four numbers are counted
where they happen and compared by a check, never derived from each other.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
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
    """Rows by table, quarantined things, and a tally per file."""

    rows: dict[str, list[tuple[Any, ...]]] = field(default_factory=lambda: defaultdict(list))
    quarantine: list[tuple[str, int, str, str, str, str]] = field(default_factory=list)
    tallies: dict[str, Tally] = field(default_factory=lambda: defaultdict(Tally))

    def add(self, table: str, row: tuple[Any, ...]) -> None:
        """Take a row that was read; its last two values are source_file and source_line."""
        self.rows[table].append(row)
        self.tallies[row[-2]].read += 1

    def keep(self, file: str, lines: int = 1) -> None:
        """Count lines that were read and are accepted without a row of their own."""
        self.tallies[file].read += lines
        self.tallies[file].accepted += lines

    def refuse(self, file: str, line: int, position: str, table: str, reason: str, content: bytes) -> None:
        """Quarantine something that was read but cannot become a row."""
        self.tallies[file].read += 1
        self._quarantine(file, line, position, table, reason, content.decode(errors="replace"))

    def flag(self, file: str, line: int, position: str, table: str, reason: str) -> None:
        """Note a fault of the file as a whole; no row is lost by it, so none is counted."""
        self.quarantine.append((file, line, position, table, reason, ""))

    def frame(self, table: str) -> pl.DataFrame:
        """Give the table's rows that keep its contract; the others go to quarantine."""
        accepted, rejected = contracts.split(table, to_frame(self.rows.get(table, []), contracts.polars_schema(table)))
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
    columns = zip(*rows, strict=True)
    return pl.DataFrame(
        [pl.Series(name, column, dtype=dtype) for (name, dtype), column in zip(schema.items(), columns, strict=True)]
    )
