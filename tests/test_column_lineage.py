"""Which columns a column of a SQL table is made of, read from the SQL."""

import pytest

from spotinference_pipeline import transform, warehouse
from spotinference_pipeline.column_lineage import origins_of, read_origins
from spotinference_pipeline.warehouse import Column

TABLES = sorted(f"{file.parent.name}.{file.stem}" for file in warehouse.SQL_DIR.glob("[rm]*/*.sql"))
OF_TWO = {
    "a.left": [Column("day", "DATE", None), Column("usd", "DECIMAL(38,15)", None)],
    "a.right": [Column("usd", "DECIMAL(38,15)", None), Column("day", "DATE", None), Column("kind", "VARCHAR", None)],
}


def test_every_table_that_is_sql_is_looked_at() -> None:
    assert {*transform.ROLLUPS, *transform.METRICS, *warehouse.VIEWS} <= set(TABLES)


@pytest.mark.parametrize("table", TABLES)
def test_every_column_of_a_sql_table_leads_to_columns_that_exist(table: str) -> None:
    tables = {name: [column.name for column in columns] for name, columns in warehouse.describe_tables().items()}
    origins = read_origins(table)
    assert list(origins) == tables[table]
    found = {origin for column in origins.values() for origin in column}
    assert found, "no column comes from anywhere"
    assert all(column in tables[upstream] for upstream, column in found)
    assert {upstream for upstream, _ in found} <= set(warehouse.read_upstreams(table))


@pytest.mark.parametrize(
    ("table", "column", "origins"),
    [
        (
            "metric.cost_per_mtok",
            "usd_per_million_tokens",
            [("metric.paid", "paid_usd"), ("metric.served", "served_tokens")],
        ),
        ("metric.paid", "paid_usd", [("metric.inputs", "cost_usd")]),
        ("metric.inputs", "cost_usd", [("rollup.cost_days", "cost_usd")]),
        (
            "metric.served",
            "served_tokens",
            [("metric.inputs", "completion_tokens"), ("metric.inputs", "prompt_tokens")],
        ),
        ("rollup.token_days", "prompt_tokens", [("validated.requests", "prompt_tokens")]),
        ("rollup.token_days", "requests", []),
        (
            "rollup.token_days",
            "cached_known_prompt_tokens",
            [("validated.requests", "cached_tokens"), ("validated.requests", "prompt_tokens")],
        ),
        ("metric.invoice_residuals", "unit", [("validated.invoice_lines", "unit")]),
    ],
)
def test_a_column_is_made_of_what_its_sql_says(table: str, column: str, origins: list[tuple[str, str]]) -> None:
    assert list(read_origins(table)[column]) == origins


def test_a_union_by_name_is_followed_by_name() -> None:
    sql = "select day, usd, null as kind from a.left union all by name select kind, usd, day from a.right"
    assert origins_of(sql, OF_TWO) == {
        "day": [("a.left", "day"), ("a.right", "day")],
        "usd": [("a.left", "usd"), ("a.right", "usd")],
        "kind": [("a.right", "kind")],
    }


def test_a_column_that_one_side_of_a_union_by_name_lacks_comes_from_the_other() -> None:
    sql = "select day, usd from a.left union all by name select usd from a.right"
    assert origins_of(sql, OF_TWO)["day"] == [("a.left", "day")]


@pytest.mark.parametrize(
    "sql",
    [
        "select usd from a.other",
        "select eur from a.left",
        "select day from a.left union all by name select day, kind from a.right",
        "selec day",
    ],
)
def test_sql_that_cannot_be_followed_is_refused_with_the_reason(sql: str) -> None:
    with pytest.raises(ValueError, match=r"lineage: expected .*, found"):
        origins_of(sql, OF_TWO)
