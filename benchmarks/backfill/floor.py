"""What the same bytes and rows cost at the least on this machine: written and synced, read and checked, stored by DuckDB."""

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import duckdb

from spotinference_pipeline import raw
from spotinference_pipeline.settings import Settings


def measure_floor(settings: Settings) -> dict[str, tuple[float, float]]:
    """Give wall and processor seconds of each thing that no implementation can leave out."""
    contents = [file.read_bytes() for file in raw.list_files(settings.raw_dir)]
    with tempfile.TemporaryDirectory() as folder:
        return {
            "the same raw files, written and synced": _time(lambda: _write(contents, Path(folder))),
            "the same lines, checksums and JSON read": _time(lambda: _read(contents)),
            "the same tables, stored anew by DuckDB": _time(
                lambda: _store(settings.warehouse_path, Path(folder) / "copy.duckdb")
            ),
        }


def _time(work: Callable[[], None]) -> tuple[float, float]:
    wall, cpu = time.monotonic(), time.process_time()
    work()
    return time.monotonic() - wall, time.process_time() - cpu


def _write(contents: list[bytes], folder: Path) -> None:
    for number, content in enumerate(contents):
        with (folder / str(number)).open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())


def _read(contents: list[bytes]) -> None:
    for content in contents:
        for _, line in raw.read_exchanges(content):
            assert isinstance(line, raw.Exchange)
            line.body_bytes()


def _store(warehouse: Path, copy: Path) -> None:
    """Copy every table, all rows of one at once: the rows are known, so this is storing alone."""
    with duckdb.connect(copy) as connection:
        connection.execute(f"attach '{warehouse}' as built (read_only)")
        tables = connection.execute("select schema_name, table_name from duckdb_tables() where database_name = 'built'")
        for schema, table in tables.fetchall():
            connection.execute(f"create schema if not exists {schema}")
            connection.execute(f"create table {schema}.{table} as from built.{schema}.{table}")
