"""The DuckDB file: open, query, replace one day in one transaction. The only module that knows DuckDB.

The file is a cache of the raw files and can be deleted. One writer at a time: DuckDB's own file lock refuses a second
one, so connections are short and opening is tried again until the deadline. Frames go in and out through Arrow
capsules, so pyarrow is not needed.
"""

import json
import os
import random
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

import duckdb
import polars as pl

from spotinference_pipeline import shipped
from spotinference_pipeline.errors import WarehouseError, WarehouseLockedError

LOCK_DEADLINE_SECONDS = 60.0
SQL_DIR = shipped.path("sql")
VIEWS = ("rollup.wakes", "rollup.known_days", "rollup.invoice_days", "metric.invoice_residuals")
"""Tables that are questions asked anew at each reading, because rows of any later day change what they say."""
QueryError = duckdb.Error
"""What a query raises that cannot run."""


class _ArrowStream:
    """Hands a polars frame to DuckDB without pyarrow."""

    def __init__(self, frame: pl.DataFrame) -> None:
        self._frame = frame

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self._frame.__arrow_c_stream__(requested_schema)


class Warehouse:
    """One open connection in UTC, without access to files or network. Use `open_warehouse` or `open_scratch`."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection
        self._is_in_transaction = False

    def query(
        self, sql: str, parameters: Mapping[str, Any] | None = None, source: pl.DataFrame | None = None
    ) -> pl.DataFrame:
        """Run one SELECT and give its rows; a frame given as `source` can be read under that name."""
        if source is None:
            return self._fetch(sql, parameters)
        self._connection.register("source", _ArrowStream(source))
        try:
            return self._fetch(sql, parameters)
        finally:
            self._connection.unregister("source")

    def _fetch(self, sql: str, parameters: Mapping[str, Any] | None) -> pl.DataFrame:
        try:
            return pl.DataFrame(self._connection.sql(sql, params=dict(parameters or {})))
        except RuntimeError as error:
            if "interrupted" in str(error).lower():
                raise KeyboardInterrupt from None
            raise

    def execute(self, sql: str, parameters: Mapping[str, Any] | None = None) -> None:
        """Run statements that give no rows."""
        self._connection.execute(sql, dict(parameters or {}))

    def append(self, table: str, frame: pl.DataFrame) -> None:
        """Append a frame's rows to a table, columns matched by name."""
        if frame.is_empty():
            return
        source = _ArrowStream(frame)
        self._connection.register("source", source)
        try:
            columns = ", ".join(frame.columns)
            self._connection.execute(f"insert into {table} ({columns}) select {columns} from source")  # noqa: S608
        finally:
            self._connection.unregister("source")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit at the end, roll back when the body raises. One inside another is a part of it."""
        if self._is_in_transaction:
            yield
            return
        self._connection.execute("begin transaction")
        self._is_in_transaction = True
        try:
            yield
        except BaseException:
            self._connection.execute("rollback")
            raise
        else:
            self._connection.execute("commit")
        finally:
            self._is_in_transaction = False

    def copy_for_analysts(self) -> Path:
        """Copy the whole file to `analyst.duckdb` beside it, replaced at once; open readers keep the old copy.

        The file's lock is held meanwhile, so no other process writes.
        """
        self._connection.execute("checkpoint")
        path = Path(self._connection.execute("select path from duckdb_databases() where not internal").fetchall()[0][0])
        target, aside = path.with_name("analyst.duckdb"), path.with_name("analyst.duckdb.new")
        shutil.copyfile(path, aside)
        with aside.open("rb") as file:
            os.fsync(file.fileno())
        aside.replace(target)
        return target

    def replace_day(self, table: str, utc_day: date, frame: pl.DataFrame) -> int:
        """Replace one day's rows of a table in one transaction; give the number of rows now there."""
        with self.transaction():
            self._connection.execute(f"delete from {table} where utc_day = $utc_day", {"utc_day": utc_day})  # noqa: S608
            self.append(table, frame)
        return frame.height

    def build_day(self, table: str, utc_day: date) -> int:
        """Replace one day's rows by the result of the table's own SQL file; give their number."""
        return self.replace_day(table, utc_day, self.query(read_sql(table), {"utc_day": utc_day}))


@dataclass(frozen=True)
class Column:
    """A column of a table as `sql/schema.sql` declares it."""

    name: str
    type: str
    comment: str | None


@cache
def describe_tables() -> Mapping[str, Sequence[Column]]:
    """Give every table's columns, in order, by `stage.table`; asked for beside each table that is built, and always the same."""
    with duckdb.connect(":memory:") as connection:
        _make_tables(connection)
        connection.execute(
            "select schema_name || '.' || table_name, column_name, data_type, comment from duckdb_columns() "
            "where not internal order by schema_name, table_name, column_index"
        )
        tables: dict[str, list[Column]] = {}
        for table, *column in connection.fetchall():
            tables.setdefault(table, []).append(Column(*column))
    return tables


def read_upstreams(table: str) -> list[str]:
    """Give the tables that a table's SQL reads, found by DuckDB's parser: those with a stage before their name."""
    with duckdb.connect(":memory:") as connection:
        (parsed,) = connection.execute("select json_serialize_sql($sql)", {"sql": read_sql(table)}).fetchall()[0]
    return sorted(set(_read_tables(json.loads(parsed))))


def _read_tables(node: object) -> Iterator[str]:
    """Walk a parsed query; steps of `with` have no stage."""
    children: Iterable[object] = node if isinstance(node, list) else ()
    if isinstance(node, dict):
        if node.get("type") == "BASE_TABLE" and node["schema_name"]:
            yield f"{node['schema_name']}.{node['table_name']}"
        children = node.values()
    for child in children:
        yield from _read_tables(child)


@contextmanager
def open_warehouse(path: Path, deadline_seconds: float = LOCK_DEADLINE_SECONDS) -> Iterator[Warehouse]:
    """Open the warehouse, made on first use; wait for another process's lock until the deadline.

    Raises: WarehouseError when the file stays locked (naming the holder) or cannot be opened.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        _create(path)
    connection = _connect(path, deadline_seconds)
    try:
        _prepare(connection)
        yield Warehouse(connection)
    finally:
        connection.close()


@contextmanager
def open_scratch(threads: int | None = None) -> Iterator[Warehouse]:
    """Open an empty warehouse in memory, by default with a thread for each processor."""
    connection = duckdb.connect(":memory:", config={} if threads is None else {"threads": threads})
    try:
        _prepare(connection)
        yield Warehouse(connection)
    finally:
        connection.close()


def replace_warehouse(path: Path, aside: Path) -> None:
    """Put a closed warehouse in another one's place."""
    discard_log(path)
    aside.replace(path)


def discard_log(path: Path) -> None:
    """Take away the write-ahead log of a warehouse that is replaced: the next one would replay it into its own rows."""
    path.with_name(f"{path.name}.wal").unlink(missing_ok=True)


def read_sql(table: str) -> str:
    """Give the SQL that builds a table: `rollup.token_days` is `sql/rollup/token_days.sql`."""
    return (SQL_DIR / f"{table.replace('.', '/')}.sql").read_text()


def read_checks() -> Sequence[tuple[str, str]]:
    """Give name and SQL of every check, by name."""
    return [(file.stem, file.read_text()) for file in sorted((SQL_DIR / "check").glob("*.sql"))]


def _create(path: Path) -> None:
    """Make the file under another name first: one that was cut off in the making cannot be opened again."""
    aside = path.with_suffix(f".{os.getpid()}.new")
    aside.unlink(missing_ok=True)
    with duckdb.connect(aside) as connection:
        _make_tables(connection)
    try:
        os.link(aside, path)
    except FileExistsError:
        pass
    finally:
        aside.unlink()


def _connect(path: Path, deadline_seconds: float) -> duckdb.DuckDBPyConnection:
    started, delay = time.monotonic(), 0.02
    while True:
        try:
            return duckdb.connect(path)
        except (duckdb.IOException, duckdb.SerializationException, duckdb.InternalException) as error:
            if "Could not set lock" not in str(error):
                raise WarehouseError(
                    f"warehouse {path}: cannot be opened ({str(error).splitlines()[0]}); run "
                    "`spotinference rebuild`: the raw files hold everything"
                ) from None
            if time.monotonic() - started > deadline_seconds:
                raise WarehouseLockedError(
                    f"warehouse {path}: still locked after {deadline_seconds:.0f} s ({str(error).splitlines()[0]}); "
                    "end that process, or read the copy analyst.duckdb instead"
                ) from None
            time.sleep(delay * (0.5 + random.random()))  # noqa: S311
            delay = min(2 * delay, 1.0)


def _prepare(connection: duckdb.DuckDBPyConnection) -> None:
    for setting in (
        "set timezone = 'UTC'",
        "set checkpoint_threshold = '128MiB'",  # at 16 MB every batch of an ingest packs the rows of the last one again
        "set enable_progress_bar = false",
        "set enable_external_access = false",
        "set autoinstall_known_extensions = false",
        "set autoload_known_extensions = false",
        "set lock_configuration = true",
    ):
        connection.execute(setting)
    _make_tables(connection)


def _make_tables(connection: duckdb.DuckDBPyConnection) -> None:
    for file in ("macros.sql", "schema.sql"):
        connection.execute((SQL_DIR / file).read_text())
    for view in VIEWS:
        connection.execute(f"create or replace view {view} as {read_sql(view)}")
