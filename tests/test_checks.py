"""The rules that block publication: each is found by its file, says what it means, and gives the rows that break it."""

from collections.abc import Callable
from datetime import date
from decimal import Decimal
from typing import Any

import polars as pl

from spotinference_pipeline import checks
from spotinference_pipeline.warehouse import SQL_DIR, Warehouse

DAY = date(2026, 11, 22)
Make = Callable[..., Any]


def test_every_file_is_a_rule_with_one_sentence_of_meaning() -> None:
    described = checks.describe()
    assert sorted(described) == list(described) == [file.stem for file in sorted((SQL_DIR / "check").glob("*.sql"))]
    assert len(described) >= 6
    assert all(meaning.endswith(".") and not meaning.startswith("--") for meaning in described.values())


def test_rules_look_at_one_day_except_those_about_files() -> None:
    without_day = {file.stem for file in (SQL_DIR / "check").glob("*.sql") if "$utc_day" not in file.read_text()}
    assert without_day == {"every_row_is_accounted_for"}


def test_all_rules_hold_on_an_empty_warehouse(scratch: Warehouse) -> None:
    findings = checks.run(scratch, DAY)
    assert [finding.name for finding in findings] == list(checks.describe())
    assert all(finding.passed for finding in findings)


def test_all_rules_hold_on_a_built_week_except_that_its_requests_are_not_there(
    scratch: Warehouse, fill_week: Make
) -> None:
    fill_week(scratch)
    broken = [finding for finding in checks.run(scratch, DAY) if not finding.passed]
    assert [finding.name for finding in broken] == ["sizes_are_the_tokens", "tokens_of_the_window_are_its_requests"]
    assert broken[1].broken.row(0, named=True)["served_tokens"] == 7_000_000


def test_a_broken_rule_gives_its_rows_and_its_meaning(scratch: Warehouse, insert: Make) -> None:
    insert(
        scratch,
        "rollup.cost_days",
        [
            {"utc_day": DAY, "resource_id": 1, "cost_kind": "busy", "cost_usd": Decimal("-1")},
            {"utc_day": DAY, "resource_id": 2, "cost_kind": "idle", "cost_usd": Decimal("-2")},
        ],
    )
    (finding,) = checks.run(scratch, DAY, ["only_credits_are_negative"])
    assert not finding.passed
    assert finding.meaning == "Cost lines below zero that are not credits."
    assert sorted(finding.broken["resource_id"]) == [1, 2]


def test_only_a_rule_that_blocks_says_to_build_again() -> None:
    rows = pl.DataFrame({"n": [1, 2]})
    blocking, warning = (checks.Finding(name, "Why.", rows) for name in ("each_request_counts_once", "clocks_agree"))
    assert blocking.describe(DAY) == (
        "2026-11-22 breaks each_request_counts_once: 2 rows. Why. Build it again, or look at "
        "sql/check/each_request_counts_once.sql"
    )
    assert warning.describe(DAY) == "2026-11-22 breaks clocks_agree: 2 rows. Why. Look at sql/check/clocks_agree.sql"


def test_a_rule_looks_at_the_day_it_is_asked_about(scratch: Warehouse, insert: Make) -> None:
    insert(scratch, "rollup.cost_days", [{"utc_day": date(2026, 11, 21), "cost_kind": "busy", "cost_usd": -1}])
    assert checks.run(scratch, DAY, ["only_credits_are_negative"])[0].passed
    assert not checks.run(scratch, date(2026, 11, 21), ["only_credits_are_negative"])[0].passed


def test_only_the_named_rules_run(scratch: Warehouse) -> None:
    names = ["every_row_is_accounted_for", "each_request_counts_once"]
    assert [finding.name for finding in checks.run(scratch, DAY, names)] == sorted(names)
    assert checks.run(scratch, DAY, []) == []


def test_several_days_are_judged_as_each_by_itself(scratch: Warehouse, insert: Make) -> None:
    days = [date(2026, 11, 21), DAY]
    insert(scratch, "rollup.cost_days", [{"utc_day": days[0], "cost_kind": "busy", "cost_usd": -1}])
    insert(scratch, "validated.ingested_files", [{"source_file": "torn", "rows_read": 1}])
    together = checks.run_days(scratch, days)
    assert list(together) == days
    for day in days:
        told = [(finding.name, finding.broken.rows()) for finding in together[day]]
        assert told == [(finding.name, finding.broken.rows()) for finding in checks.run(scratch, day)]
    broken = {day: {finding.name for finding in together[day] if not finding.passed} for day in days}
    assert broken[days[0]] - broken[days[1]] >= {"only_credits_are_negative"}
    assert "every_row_is_accounted_for" in broken[days[1]]
