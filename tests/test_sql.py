"""Every SQL file against given and expected rows, as it is: `tests/sql/<stage>/<table>/<fact>.yaml`.

A case: `why`, `params` (default: utc_day 2026-11-22), `given` (rows by table; columns that are not named are null, or
plausible where null is refused: see `insert` in conftest.py) and `expect` (all rows, in order; only the named columns
are compared). Numbers with a point stand in quotes and are compared as decimals.
"""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import date, datetime
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import duckdb
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from spotinference_pipeline import ledger, transform, wakes
from spotinference_pipeline.warehouse import SQL_DIR, VIEWS, Warehouse, open_scratch, open_warehouse
from spotinference_pipeline.windows import BOUNDED_DAYS, TRAILING_DAYS

DAY = date(2026, 11, 22)
CASES = Path(__file__).parent / "sql"
CASE_FILES = sorted(CASES.glob("*/*/*.yaml"))
SQL_FILES = sorted(SQL_DIR.glob("*/*.sql"))
TABLE_FILES = [file for file in SQL_FILES if file.parent.name in ("rollup", "metric")]


def name_of(file: Path) -> str:
    return str(file.relative_to(SQL_DIR).with_suffix(""))


def plain(value: Any) -> Any:
    """Bring a cell and what a case says about it into one form."""
    if isinstance(value, str) and re.fullmatch(r"-?\d+(\.\d+)?", value):
        return Decimal(value)
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    return value


def run(warehouse: Warehouse, sql: str, utc_day: date) -> list[dict[str, Any]]:
    parameters = {"utc_day": utc_day} if "$utc_day" in sql else None
    return warehouse.query(sql, parameters).rows(named=True)


@pytest.fixture
def in_threads() -> Iterator[Callable[[int], Warehouse]]:
    with ExitStack() as stack:
        yield lambda threads: stack.enter_context(open_scratch(threads))


@pytest.mark.parametrize("file", CASE_FILES, ids=lambda file: str(file.relative_to(CASES).with_suffix("")))
def test_sql_gives_the_expected_rows(file: Path, scratch: Warehouse, insert: Callable[..., None]) -> None:
    case = yaml.safe_load(file.read_text())
    assert case.keys() <= {"why", "params", "given", "expect"}, "a case has no other members"
    assert case["why"].strip()
    for table, rows in case["given"].items():
        insert(scratch, table, rows)

    sql = (SQL_DIR / file.relative_to(CASES).parent).with_suffix(".sql").read_text()
    found = run(scratch, sql, case.get("params", {}).get("utc_day", DAY))

    expected = [{column: plain(cell) for column, cell in row.items()} for row in case["expect"]]
    assert all(row.keys() <= found[0].keys() for row in expected if found), "a case names a column that is not there"
    assert not any(isinstance(cell, float) for row in expected for cell in row.values()), "quote decimals"
    columns = [list(row) for row in expected] or [[] for _ in found]
    assert len(found) == len(expected), found
    shown = [{column: plain(row[column]) for column in names} for row, names in zip(found, columns, strict=True)]
    assert shown == expected


def test_every_sql_file_has_a_case_and_every_case_an_sql_file() -> None:
    tested = {str(file.relative_to(CASES).parent) for file in CASE_FILES}
    assert tested == {name_of(file) for file in SQL_FILES}


@pytest.mark.parametrize("name", [name_of(file) for file in SQL_FILES if file.parent.name == "check"])
def test_every_check_has_a_case_that_passes_and_one_that_breaks_it(name: str) -> None:
    cases = [yaml.safe_load(file.read_text()) for file in sorted((CASES / name).glob("*.yaml"))]
    assert {bool(case["expect"]) for case in cases} == {True, False}


@pytest.mark.parametrize("file", SQL_FILES, ids=name_of)
def test_every_sql_file_is_one_select_that_begins_with_a_comment(file: Path) -> None:
    sql = file.read_text()
    (statement,) = duckdb.extract_statements(sql)
    assert statement.type == duckdb.StatementType.SELECT
    assert sql.startswith("-- ")
    assert set(re.findall(r"\$\w+", sql)) <= {"$utc_day"}
    assert "{{" not in sql
    assert "select *" not in sql


@pytest.mark.parametrize("file", TABLE_FILES, ids=name_of)
def test_a_tables_sql_gives_exactly_the_columns_of_the_schema(file: Path, scratch: Warehouse) -> None:
    declared = scratch.query(
        "select column_name, data_type from information_schema.columns "
        "where table_schema = $stage and table_name = $name order by ordinal_position",
        {"stage": file.parent.name, "name": file.stem},
    ).rows()
    sql = file.read_text().replace("$utc_day", f"date '{DAY}'")
    found = scratch.query(f"select column_name, column_type from (describe {sql})").rows()
    assert [name for name, _ in found] == [name for name, _ in declared]
    decimals = {name: kind for name, kind in declared if kind.startswith("DECIMAL")}
    assert {name: kind for name, kind in found if name in decimals} == decimals
    assert not any(kind in ("DOUBLE", "FLOAT", "HUGEINT") for _, kind in found)


def test_only_bounds_read_days_before_the_window_and_no_more_than_are_built_again() -> None:
    asked = {
        file.stem: {int(days) for days in re.findall(r"as date\) - interval (\d+) days?\b", file.read_text())}
        for file in SQL_FILES
        if file.parent.name == "metric"
    }
    assert {max(days, default=0) for name, days in asked.items() if name != "bounds"} <= {0, 6, TRAILING_DAYS}
    assert max(asked["bounds"]) == BOUNDED_DAYS


def test_no_column_of_any_table_is_a_binary_float(scratch: Warehouse) -> None:
    kinds = scratch.query("select distinct data_type from information_schema.columns")["data_type"].to_list()
    assert {"DATE", "BIGINT", "VARCHAR"} <= set(kinds)
    assert not {"DOUBLE", "FLOAT", "REAL"} & set(kinds)


def test_every_instant_is_with_time_zone_and_every_day_a_date(scratch: Warehouse) -> None:
    columns = scratch.query("select column_name, data_type from information_schema.columns").rows()
    assert {kind for name, kind in columns if name.endswith("_at")} == {"TIMESTAMP WITH TIME ZONE"}
    assert {kind for name, kind in columns if name == "utc_day"} == {"DATE"}
    assert not {kind for _, kind in columns} & {"TIMESTAMP", "TIME"}


def test_every_rollup_and_metric_is_built_by_sql_or_by_the_ledger(scratch: Warehouse) -> None:
    tables = scratch.query(
        "select table_schema || '.' || table_name as name from information_schema.tables "
        "where table_schema in ('rollup', 'metric')"
    )["name"].to_list()
    by_sql = {name_of(file).replace("/", ".") for file in TABLE_FILES}
    assert by_sql == {*transform.ROLLUPS, *transform.METRICS, *VIEWS}
    assert set(tables) == by_sql | {*ledger.TABLES, *wakes.TABLES}


@settings(max_examples=20)
@given(
    st.lists(
        st.tuples(st.integers(-(10**24), 10**24), st.integers(0, 10**13) | st.integers(0, 12)), min_size=1, max_size=40
    )
)
def test_quotients_are_those_of_whole_numbers_half_to_even(pairs: list[tuple[int, int]]) -> None:
    lines = ", ".join(f"({dividend}::hugeint, {divisor}::hugeint)" for dividend, divisor in pairs)
    sql = f"select metric.floor_quotient(a, b), metric.quotient(a, b) from (values {lines}) as pairs(a, b)"
    with open_scratch() as warehouse:
        found = warehouse.query(f"select column0::varchar, column1::varchar from ({sql}) as q(column0, column1)").rows()
    expected = [
        (str(dividend // divisor), str(round(Fraction(dividend, divisor)))) if divisor else (None, None)
        for dividend, divisor in pairs
    ]
    assert found == expected


def test_a_percentile_is_the_value_at_its_nearest_rank_whatever_the_number_of_values(scratch: Warehouse) -> None:
    asked = {"[0.5, 0.9, 0.99]": (50, 90, 99), "[0.1, 0.5, 0.9]": (10, 50, 90)}
    sql = (SQL_DIR / "metric" / "request_percentiles.sql").read_text()
    for quantiles, percents in asked.items():
        assert f"{quantiles})" in sql
        rows = scratch.query(
            f"select n, quantile_disc(i, {quantiles}) from range(1, 301) as counts(n), range(1, 301) as numbers(i) "
            "where i <= n group by n"
        ).rows()
        assert len(rows) == 300
        for count, found in rows:
            assert found == [-(-count * percent // 100) for percent in percents]


def many_rows(warehouse: Warehouse) -> None:
    warehouse.execute(
        """
        insert into validated.requests
            (request_id, started_at, finished_at, endpoint, model, is_stream, is_canary, vm_id, end_reason,
             usage_source, prompt_tokens, completion_tokens, cached_tokens, is_recovered, source_file, source_line)
        select
            'request' || i, timestamptz '2026-11-22 00:00:00Z', timestamptz '2026-11-22 00:00:00Z'
            + interval (i % 86400) second, '/v1/completions', 'model' || (i % 17), false, i % 50 = 0, 1, 'complete',
            case when i % 5 = 0 then 'none' else 'engine_final' end,
            case when i % 5 != 0 then i % 9973 end, case when i % 5 != 0 then i % 997 end,
            case when i % 3 = 0 then i % 101 end, false, 'file', i
        from range(150000) as numbers(i)
        """
    )
    warehouse.execute(
        """
        insert into metric.inputs (utc_day, line, resource_type, resource_id, cost_kind, cost_usd)
        select
            date '2026-11-16' + cast(i % 7 as integer), 'cost', 'vm', i,
            ['busy', 'idle', 'cold_start', 'credit'][1 + i % 4],
            cast(case when i % 4 = 3 then -i else i end as decimal(38, 15)) * 0.000000000000007
        from range(150000) as numbers(i)
        """
    )
    warehouse.execute(
        """
        insert into metric.inputs (utc_day, line, model, usage_source, requests, prompt_tokens)
        select date '2026-11-16' + cast(i % 7 as integer), 'tokens', 'model' || i, 'engine_final', 1, i
        from range(1000) as numbers(i)
        """
    )


def test_the_number_of_threads_changes_no_digit(in_threads: Callable[[int], Warehouse]) -> None:
    built = []
    for threads in (1, 2, 8):
        warehouse = in_threads(threads)
        many_rows(warehouse)
        for table in ("metric.paid", "metric.served", "metric.cost_per_mtok", "metric.cost_parts"):
            assert warehouse.build_day(table, DAY)
        tables = ["metric/cost_per_mtok", "metric/cost_parts", "rollup/token_days", "publication/inputs_by_kind"]
        ordered = [*tables, "publication/inputs_by_resource"]
        built.append([warehouse.query((SQL_DIR / f"{name}.sql").read_text(), {"utc_day": DAY}) for name in ordered])
    assert built[0][-1].height == 151_000
    assert built[0][0]["usd_per_million_tokens"].item() is not None
    for one, two, eight in zip(*built, strict=True):
        assert one.equals(two)
        assert one.equals(eight)


_COUNT_BY_DAY = """
from datetime import date
from spotinference_pipeline.warehouse import open_scratch, read_sql

with open_scratch() as warehouse:
    for at in ("2026-11-21T23:59:59.999999Z", "2026-11-22T00:00:00Z", "2026-11-22T23:59:59.999999Z"):
        warehouse.execute(
            "insert into validated.requests select $at, $at::timestamptz, null, $at::timestamptz, $at, null, null,"
            " false, false, null, null, null, null, $at, $at, null, null, null, null, null, false, $at, 1",
            {"at": at},
        )
    built = warehouse.query(read_sql("rollup.token_days"), {"utc_day": date(2026, 11, 22)})
    print(sorted(built["usage_source"]))
"""


@pytest.mark.parametrize("zone", ["Asia/Kolkata", "America/St_Johns"])
def test_the_zone_of_the_machine_moves_no_request_to_another_day(zone: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _COUNT_BY_DAY], env=os.environ | {"TZ": zone}, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "['2026-11-22T00:00:00Z', '2026-11-22T23:59:59.999999Z']"


_VIEWED: dict[str, list[dict[str, Any]]] = {
    "rollup.wake_days": [{"utc_day": DAY, "vm_id": 7, "started_at": f"{DAY}T{hour}:00:00Z"} for hour in ("02", "20")],
    "rollup.cost_days": [{"utc_day": DAY, "resource_type": "vm", "resource_id": 7, "cost_kind": "busy"}],
    "rollup.snapshot_days": [{"utc_day": DAY, "minutes_good": 1440}],
    "validated.invoice_lines": [{"invoice_number": "1", "period_start": DAY, "period_end": date(2026, 11, 23)}],
}


@pytest.mark.parametrize("zone", ["Asia/Kolkata", "America/St_Johns"])
def test_a_view_says_the_same_in_every_readers_time_zone(
    zone: str, tmp_path: Path, insert: Callable[..., None]
) -> None:
    path = tmp_path / "analyst.duckdb"
    with open_warehouse(path) as warehouse:
        for table, rows in _VIEWED.items():
            insert(warehouse, table, rows)
    with duckdb.connect(path, read_only=True) as reader:
        for view in VIEWS:
            said = [reader.execute(f"set timezone = '{each}'; from {view}").fetchall() for each in ("UTC", zone)]
            assert said[0] == said[1] != [], view
