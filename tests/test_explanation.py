"""`spotinference explain`: from ledger lines and token sums to the figure, each step with a source that gives it again."""

import re
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from typing import Any

import pytest

from spotinference_pipeline import explanation, publication
from spotinference_pipeline.errors import PublicationError
from spotinference_pipeline.explanation import Explanation, Line, explain
from spotinference_pipeline.settings import Settings
from spotinference_pipeline.storage import Storage
from spotinference_pipeline.warehouse import SQL_DIR, Warehouse, describe_tables

DAY = date(2026, 11, 22)
Make = Callable[..., Any]


@pytest.fixture
def explained(scratch: Warehouse, fill_week: Make, settings_in: Callable[..., Settings]) -> Explanation:
    settings = settings_in()
    fill_week(scratch)
    return explain(scratch, Storage(settings.published), settings, DAY)


def line(of: Explanation, name: str) -> Line:
    (found,) = (each for each in of.lines if each.name == name)
    return found


def test_the_parts_add_up_to_paid_and_the_tokens_to_served(explained: Explanation) -> None:
    parts: list[Any] = [each.figure for each in explained.lines if "cost_kind = " in each.source]
    assert parts == [42, 21, 7]
    assert sum(parts) == line(explained, "= paid").figure
    tokens: list[Any] = [line(explained, f"+ {name}").figure for name in ("prompt", "completion")]
    assert tokens == [5_600_000, 1_400_000]
    assert sum(tokens) == line(explained, "= served").figure


def test_programs_get_numbers_without_padding_and_the_unit_beside(explained: Explanation) -> None:
    found = {each["name"]: (each["figure"], each["unit"]) for each in explained.document()["lines"]}
    assert found["+ busy"] == ("42.000000000000000", "USD")
    assert found["= paid"] == ("70.000000000000000", "USD")
    assert found["= served"] == (7_000_000, "tokens")
    assert found["figure"] == ("10.000000000000", "USD per million")
    assert found["of tokens"] == (None, None)
    assert found["status"] == ("provisional", None)


def test_people_get_numbers_below_each_other(explained: Explanation) -> None:
    rows = {row[:12].strip(): row[12:62].rstrip() for row in explained.screen()}
    assert rows["= paid"] == "      70.000000000000000 USD"
    assert rows["= served"] == "                 7000000 tokens"
    assert rows["figure"] == "         10.000000000000 USD per million"
    assert rows["of tokens"] == "unknown"


def test_the_shown_division_gives_the_figure(explained: Explanation) -> None:
    figure = line(explained, "figure")
    million, paid, served = map(Decimal, re.findall(r"(\d+) \* ([\d.]+) / (\d+)", figure.source)[0])
    assert million * paid / served == figure.figure == Decimal("10")
    assert explained.usd_per_million_tokens == "10.000000000000"


def test_every_source_is_a_table_or_a_file_that_is_there(explained: Explanation) -> None:
    tables = describe_tables()
    sources = [each.source for each in explained.lines]
    files = [name for source in sources for name in re.findall(r"sql/[a-z_/]+\.sql", source)]
    assert len(files) > 3
    assert [name for name in files if not (SQL_DIR / name.removeprefix("sql/")).exists()] == []
    named = [re.match(r"(?:rollup|metric)\.[a-z_]+", source) for source in sources]
    assert [found[0] for found in named if found and found[0] not in tables] == []
    assert sum(found is not None for found in named) > 7


def columns(source: str) -> tuple[str, list[str]]:
    """Give the table that a source begins with, and the columns that it names."""
    table, *named = re.match(r"((?:rollup|metric)\.[a-z_]+)((?:, [a-z_]+)*)", source).groups()  # type: ignore[union-attr]
    return table, [name for name in named[0].split(", ") if name]


def test_every_column_that_a_source_names_is_in_its_table(explained: Explanation) -> None:
    tables = describe_tables()
    named = [columns(each.source) for each in explained.lines if re.match(r"rollup\.|metric\.", each.source)]
    assert sum(len(found) for _, found in named) > 12
    for table, found in named:
        assert found, f"{table}: no column is named"
        assert set(found) <= {column.name for column in tables[table]}


def test_coverage_and_books_are_what_the_named_columns_hold(
    scratch: Warehouse, fill_week: Make, settings_in: Callable[..., Settings]
) -> None:
    fill_week(scratch)
    scratch.execute("update metric.figures set snapshot_coverage_ratio = 0.96, exact_usage_ratio = 0.97")
    scratch.execute("update metric.figures set residual_usd = 0.25, unattributed_usd = 0.125, days_reconciled = 3")
    scratch.execute("update metric.coverage set token_coverage_ratio = 0.98, unexplained_tokens = 0, engine_tokens = 1")
    found = explain(scratch, Storage(settings_in().published), settings_in(), DAY)
    for name in ("coverage", "of tokens", "books"):
        shown = line(found, name)
        table, named = columns(shown.source)
        held = scratch.query(f"from {table} where utc_day = $day", {"day": DAY}).row(0, named=True)
        numbers = [
            Decimal(each) for each in re.findall(r"-?\d+(?:\.\d+)?", str(shown.figure).replace(" of 7 days", ""))
        ]
        assert numbers == [held[column] for column in named]


def test_a_day_fits_one_screen_also_with_every_kind_of_cost(
    scratch: Warehouse, fill_week: Make, insert: Make, settings_in: Callable[..., Settings]
) -> None:
    fill_week(scratch)
    kinds = ("cold_start", "parked", "network", "other", "credit")
    rows = [{"utc_day": DAY, "line": "cost", "cost_kind": kind, "cost_usd": Decimal("1.5")} for kind in kinds]
    insert(scratch, "metric.inputs", rows)
    for table in ("metric.paid", "metric.cost_per_mtok", "metric.cost_parts"):
        scratch.build_day(table, DAY)
    screen = explain(scratch, Storage(settings_in().published), settings_in(), DAY).screen()
    assert sum(row.startswith("+") for row in screen) == 8 + 2
    assert len(screen) <= 20
    assert max(map(len, screen)) <= 140


def test_the_published_revision_and_the_last_good_day_are_named(
    scratch: Warehouse, fill_week: Make, settings_in: Callable[..., Settings]
) -> None:
    settings = settings_in()
    target = Storage(settings.published)
    fill_week(scratch, days=2)
    publication.publish(scratch, target, settings)
    found = explain(scratch, target, settings, DAY)
    assert (found.published_revision, found.is_published) == (1, True)
    assert found.lines[0].source == "2026-11-16T00 to 2026-11-23T00 UTC, published as days/2026-11-22/r1.json"
    scratch.execute("update metric.figures set snapshot_coverage_ratio = 0.5 where utc_day = $day", {"day": DAY})
    found = explain(scratch, target, settings, DAY)
    assert (found.published_revision, found.is_published) == (1, False)
    assert found.lines[0].source.endswith(" UTC, not published yet; r1 says $10.00, provisional")
    assert (found.status, found.usd_per_million_tokens) == ("withheld", None)
    assert found.lines[0].figure == "10.00 computed, withheld"
    assert line(found, "status").source.endswith("the last good day is 2026-11-21")
    assert line(found, "bounds").figure == "unknown to unknown"


def test_figures_under_other_settings_are_not_called_published(
    scratch: Warehouse, fill_week: Make, settings_in: Callable[..., Settings]
) -> None:
    target = Storage(settings_in().published)
    fill_week(scratch)
    publication.publish(scratch, target, settings_in())
    strict = settings_in(min_snapshot_coverage="1")
    scratch.execute("update metric.figures set snapshot_coverage_ratio = 0.99")
    (published,) = publication.publish(scratch, target, strict, force=True)
    assert (published.revision, published.status) == (2, "withheld")
    assert explain(scratch, target, strict, DAY).lines[0].source.endswith("published as days/2026-11-22/r2.json")
    found = explain(scratch, target, settings_in(), DAY)
    assert found.lines[0].figure == "$10.00 per million tokens, provisional"
    assert found.lines[0].source.endswith(" UTC, not published yet; r2 says withheld")


@pytest.mark.parametrize("name", ["history.json", "days/2026-11-22/r1.json"])
def test_a_published_file_that_is_damaged_is_named(
    scratch: Warehouse, fill_week: Make, settings_in: Callable[..., Settings], name: str
) -> None:
    target = Storage(settings_in().published)
    fill_week(scratch)
    publication.publish(scratch, target, settings_in())
    target.write(f"economics/{name}", b"{")
    with pytest.raises(PublicationError, match=f"economics/{name}: expected JSON as it was published"):
        explain(scratch, target, settings_in(), DAY)


def test_books_and_invoices_are_unknown_or_told_in_dollars(
    explained: Explanation, scratch: Warehouse, settings_in: Callable[..., Settings]
) -> None:
    assert line(explained, "books").figure == "0 of 7 days, residual unknown, unattributed unknown"
    assert line(explained, "invoices").figure == "residual unknown"
    scratch.execute("update metric.figures set days_reconciled = 7, residual_usd = 0.25, unattributed_usd = -1")
    found = explain(scratch, Storage(settings_in().published), settings_in(), DAY)
    assert line(found, "books").figure == "7 of 7 days, residual 0.250000 USD, unattributed -1.000000 USD"
    assert found.status == "reconciled"


def test_nothing_served_is_nothing_to_divide(
    scratch: Warehouse, fill_week: Make, settings_in: Callable[..., Settings]
) -> None:
    fill_week(scratch)
    scratch.execute("delete from metric.inputs where line = 'tokens'")
    for table in ("metric.served", "metric.cost_per_mtok", "metric.cost_parts"):
        scratch.build_day(table, DAY)
    found = explain(scratch, Storage(settings_in().published), settings_in(), DAY)
    assert line(found, "figure").figure == "nothing to divide"
    assert (line(found, "+ prompt").figure, line(found, "+ prompt").shown()) == (None, "unknown")
    assert "no tokens were served" in line(found, "status").source


def test_a_day_that_is_not_built_is_told_with_the_next_step(
    scratch: Warehouse, settings_in: Callable[..., Settings]
) -> None:
    with pytest.raises(PublicationError, match="found none; run `spotinference build 2026-11-22`"):
        explanation.explain(scratch, Storage(settings_in().published), settings_in(), DAY)
