"""Which columns a column of a SQL table is made of, read from the SQL itself, never restated. The only module that knows sqlglot.

Follows a column through every step of the query to columns of stored tables, those included that filter or order an
aggregate or a window it comes from. Does not follow what only decides which rows there are: joins' conditions, `where`.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from sqlglot import exp, parse_one
from sqlglot.errors import SqlglotError
from sqlglot.lineage import Node, lineage
from sqlglot.optimizer.qualify import qualify
from sqlglot.optimizer.scope import build_scope

from spotinference_pipeline.warehouse import Column, describe_tables, read_sql

Origins = Mapping[str, Sequence[tuple[str, str]]]
"""For each column, the (table, column) pairs that it is made of, sorted; none for constants, counts of rows and `$utc_day`."""


@cache
def read_origins(table: str) -> Origins:
    """Give what each column of a SQL table is made of, in the order of sql/schema.sql."""
    return origins_of(read_sql(table), describe_tables())


def origins_of(sql: str, tables: Mapping[str, Sequence[Column]]) -> Origins:
    """Give what each column that a SELECT returns is made of.

    Raises: ValueError when the SELECT reads a table or a column that is not among `tables`.
    """
    schema: dict[str, Any] = {}
    for name, columns in tables.items():
        stage, _, short = name.partition(".")
        schema.setdefault(stage, {})[short] = {column.name: column.type for column in columns}
    try:
        query = qualify(parse_one(sql, dialect="duckdb"), schema=schema, dialect="duckdb")
        for union in query.find_all(exp.SetOperation):
            _align(union)
        nodes = lineage(None, query, schema, dialect="duckdb", scope=build_scope(query), copy=False, trim_selects=False)
    except SqlglotError as error:
        raise ValueError(f"lineage: expected a SELECT over tables of sql/schema.sql, found {error}") from None
    return {column: _origins(node) for column, node in nodes.items()}


def _align(union: exp.SetOperation) -> None:
    """Put the right side's columns of a union by name in the left side's order: sqlglot follows unions by position."""
    if not union.args.get("by_name"):
        return
    right = {select.alias_or_name: select for select in union.right.selects}
    names = union.left.named_selects
    for name in right.keys() - set(names):
        raise ValueError(f"lineage: expected the columns {names} on the right of a union by name, found {name}")
    union.right.set("expressions", [right.get(name, exp.alias_(exp.null(), name)) for name in names])
    union.set("by_name", False)


def _origins(node: Node) -> list[tuple[str, str]]:
    found = set()
    for step in node.walk():
        if isinstance(step.expression, exp.Table):
            found.add((f"{step.expression.db}.{step.expression.name}", step.name.rpartition(".")[2].strip('"')))
    return sorted(found)
