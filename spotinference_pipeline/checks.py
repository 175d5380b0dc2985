"""Rules that must hold before a day is published. Each is one SELECT in `sql/check/` that returns the rows breaking it.

Owns the running of the rules; what each means is the first line of its file. All but WARNINGS block publication: each
broken one would make the published number wrong. How much was seen is no rule but the status of a day.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import polars as pl

from spotinference_pipeline.warehouse import Warehouse, read_checks

WARNINGS = frozenset(
    {
        "a_month_is_the_sum_of_its_days",
        "books_agree_with_the_counters",
        "clocks_agree",
        "counters_hold_what_the_total_does",
        "log_agrees_with_the_engines",
    }
)
"""Rules that somebody must look at when they are broken, while the number is right all the same."""


@dataclass(frozen=True)
class Finding:
    """The outcome of one rule: the rows that break it, none when it holds."""

    name: str
    meaning: str
    broken: pl.DataFrame

    @property
    def passed(self) -> bool:
        return self.broken.is_empty()

    @property
    def blocks(self) -> bool:
        """Tell whether a day that breaks the rule must not be published."""
        return not self.passed and self.name not in WARNINGS

    def describe(self, utc_day: date) -> str:
        """Say on one line which rule the day breaks and what that means; building it again helps only where it blocks."""
        advice = "Build it again, or look at" if self.blocks else "Look at"
        return f"{utc_day} breaks {self.name}: {self.broken.height} rows. {self.meaning} {advice} sql/check/{self.name}.sql"


def describe() -> dict[str, str]:
    """Give each rule's name and meaning."""
    return {name: _meaning(sql) for name, sql in read_checks()}


def run(warehouse: Warehouse, utc_day: date, names: Sequence[str] | None = None) -> list[Finding]:
    """Run all rules, or the named ones, for a day, by name."""
    return run_days(warehouse, [utc_day], names)[utc_day]


def run_days(
    warehouse: Warehouse, days: Sequence[date], names: Sequence[str] | None = None
) -> dict[date, list[Finding]]:
    """Run all rules, or the named ones, for each of the days; one that is about no day is run once for all of them."""
    found: dict[date, list[Finding]] = {day: [] for day in days}
    for name, sql in read_checks():
        if names is not None and name not in names:
            continue
        of_all_days = None if "$utc_day" in sql else Finding(name, _meaning(sql), warehouse.query(sql))
        for day, findings in found.items():
            findings.append(of_all_days or Finding(name, _meaning(sql), warehouse.query(sql, {"utc_day": day})))
    return found


def _meaning(sql: str) -> str:
    comment = [line.removeprefix("--").strip() for line in sql.splitlines() if line.startswith("--")]
    return " ".join(comment)
