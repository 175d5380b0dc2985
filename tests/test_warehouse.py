"""The DuckDB file: opening, locks, days, and what a connection may not do."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path

import duckdb
import polars as pl
import pytest

from spotinference_pipeline import warehouse
from spotinference_pipeline.errors import WarehouseError
from spotinference_pipeline.warehouse import Warehouse, open_scratch, open_warehouse

DAY, EVE = date(2026, 11, 22), date(2026, 11, 21)
TABLE = "metric.paid"
HOLD = "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print('held', flush=True); sys.stdin.read()"
ZONE = """
import sys, pathlib
from spotinference_pipeline.warehouse import open_warehouse
with open_warehouse(pathlib.Path(sys.argv[1])) as opened:
    print(opened.query("select cast(timestamptz '2026-11-22 00:30:00+02' as varchar) as x").item())
"""


def paid(amount: str, utc_day: date = DAY) -> pl.DataFrame:
    return pl.DataFrame({"utc_day": [utc_day], "paid_usd": [amount]}).cast({"paid_usd": pl.Decimal(38, 15)})


def stored(opened: Warehouse) -> list[tuple[date, float]]:
    return [(day, float(amount)) for day, amount in opened.query(f"from {TABLE} order by all").rows()]


@contextmanager
def another_process_holding(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that has the file open until its input ends."""
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_warehouse_is_made_on_first_use_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "warehouse.duckdb"
    with open_warehouse(path) as opened:
        opened.append(TABLE, paid("1.5"))
    with open_warehouse(path) as opened:
        assert stored(opened) == [(DAY, 1.5)]
    assert [file.name for file in path.parent.iterdir()] == ["warehouse.duckdb"]


def test_F062_the_leftover_of_a_creation_that_was_cut_off_is_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "warehouse.duckdb"
    (tmp_path / "warehouse.99999999.new").write_bytes(b"half of a file")
    with open_warehouse(path) as opened:
        assert stored(opened) == []


def test_a_warehouse_that_another_process_has_made_meanwhile_is_used(tmp_path: Path) -> None:
    path = tmp_path / "warehouse.duckdb"
    with open_warehouse(path) as opened:
        opened.append(TABLE, paid("1.5"))
    warehouse._create(path)
    with open_warehouse(path) as opened:
        assert stored(opened) == [(DAY, 1.5)]


def test_F059_a_warehouse_locked_by_another_process_names_it(tmp_path: Path) -> None:
    path = tmp_path / "warehouse.duckdb"
    with open_warehouse(path):
        pass
    with another_process_holding(path) as holder:
        expected = rf"still locked after 0 s .*PID {holder.pid}.*analyst\.duckdb"
        with pytest.raises(WarehouseError, match=expected) as caught, open_warehouse(path, deadline_seconds=0.0):
            pass
    assert "\n" not in str(caught.value)


def test_F059_opening_is_tried_again_until_the_lock_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "warehouse.duckdb"
    with open_warehouse(path):
        pass
    until_free = "import time; time.sleep(0.3)"
    held = HOLD.replace("sys.stdin.read()", until_free)
    with subprocess.Popen([sys.executable, "-c", held, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        started = time.monotonic()
        with open_warehouse(path, deadline_seconds=30.0) as opened:
            assert stored(opened) == []
        assert time.monotonic() - started > 0.1


def test_F061_a_damaged_file_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "warehouse.duckdb"
    path.write_bytes(b"this is no database" * 1000)
    with pytest.raises(WarehouseError, match=r"cannot be opened .*`spotinference "), open_warehouse(path):
        pass


@pytest.mark.parametrize("zone", ["Pacific/Auckland", "America/Los_Angeles", "UTC"])
def test_instants_are_utc_whatever_the_zone_of_the_machine(tmp_path: Path, zone: str) -> None:
    path = tmp_path / "warehouse.duckdb"
    done = subprocess.run(
        [sys.executable, "-c", ZONE, str(path)], env={"TZ": zone}, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "2026-11-21 22:30:00+00"


def test_instants_come_back_in_utc(scratch: Warehouse) -> None:
    frame = scratch.query("select timestamptz '2026-11-22 00:30:00+02' as at")
    assert frame["at"].item() == datetime(2026, 11, 21, 22, 30, tzinfo=UTC)
    assert frame.schema["at"] == pl.Datetime("us", "UTC")


def test_a_connection_reads_and_writes_no_other_file_and_cannot_be_talked_into_it(
    scratch: Warehouse, tmp_path: Path
) -> None:
    secret = tmp_path / "secret.csv"
    secret.write_text("a\n1\n")
    for sql in (
        f"from '{secret}'",
        f"from read_text('{secret}')",
        "install httpfs",
        "from 'https://elsewhere.test/x.csv'",
    ):
        with pytest.raises(duckdb.Error):
            scratch.query(sql)
    for sql in (
        f"copy (select 1) to '{tmp_path / 'out.csv'}'",
        f"attach '{tmp_path / 'other.duckdb'}'",
        "set enable_external_access = true",
        "set timezone = 'Europe/Paris'",
    ):
        with pytest.raises(duckdb.Error):
            scratch.execute(sql)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["secret.csv"]


def test_parameters_are_never_sql(scratch: Warehouse) -> None:
    nasty = "'; drop table metric.paid; --"
    assert scratch.query("select $text as text", {"text": nasty}).item() == nasty
    assert stored(scratch) == []


def test_a_frame_can_be_queried_as_source_and_is_forgotten_afterwards(scratch: Warehouse) -> None:
    frame = pl.DataFrame({"a": [1, 2, None]})
    assert scratch.query("select sum(a) as total from source", source=frame).item() == 3
    with pytest.raises(duckdb.Error):
        scratch.query("from source")
    with pytest.raises(duckdb.Error):
        scratch.query("select nothing from source", source=frame)
    with pytest.raises(duckdb.Error):
        scratch.query("from source")


def test_columns_are_matched_by_name_and_an_empty_frame_adds_nothing(scratch: Warehouse) -> None:
    scratch.append(TABLE, paid("1.5").select("paid_usd", "utc_day"))
    scratch.append(TABLE, paid("2").clear())
    assert stored(scratch) == [(DAY, 1.5)]
    with pytest.raises(duckdb.Error):
        scratch.append(TABLE, paid("1").rename({"paid_usd": "mood"}))


def test_replacing_a_day_leaves_the_other_days_and_says_how_many_rows_there_are(scratch: Warehouse) -> None:
    scratch.replace_day(TABLE, EVE, paid("1", EVE))
    assert scratch.replace_day(TABLE, DAY, paid("2")) == 1
    assert scratch.replace_day(TABLE, DAY, paid("3")) == 1
    assert stored(scratch) == [(EVE, 1.0), (DAY, 3.0)]
    assert scratch.replace_day(TABLE, EVE, paid("1").clear()) == 0
    assert stored(scratch) == [(DAY, 3.0)]


def test_a_day_that_cannot_be_replaced_stays_as_it_was(scratch: Warehouse) -> None:
    scratch.replace_day(TABLE, DAY, paid("2"))
    with pytest.raises(duckdb.Error):
        scratch.replace_day(TABLE, DAY, paid("3").with_columns(utc_day=pl.lit(None, pl.Date)))
    assert stored(scratch) == [(DAY, 2.0)]


def test_a_transaction_is_kept(scratch: Warehouse) -> None:
    with scratch.transaction():
        scratch.append(TABLE, paid("1"))
    assert stored(scratch) == [(DAY, 1.0)]


def test_a_transaction_inside_another_is_kept_or_undone_with_it(scratch: Warehouse) -> None:
    def outer_fails() -> None:
        with scratch.transaction():
            scratch.replace_day(TABLE, DAY, paid("1"))
            raise ValueError

    with pytest.raises(ValueError):
        outer_fails()
    assert stored(scratch) == []
    with scratch.transaction():
        scratch.replace_day(TABLE, DAY, paid("1"))
        scratch.replace_day(TABLE, DAY, paid("2"))
    assert stored(scratch) == [(DAY, 2.0)]
    with scratch.transaction():
        scratch.append(TABLE, paid("3"))
    assert stored(scratch) == [(DAY, 2.0), (DAY, 3.0)]


def test_an_interrupt_undoes_what_was_begun(scratch: Warehouse) -> None:
    def interrupted() -> None:
        with scratch.transaction():
            scratch.append(TABLE, paid("1"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert stored(scratch) == []


def test_building_a_day_runs_the_sql_file_of_the_table(scratch: Warehouse) -> None:
    assert scratch.build_day("rollup.snapshot_days", DAY) == 1
    assert scratch.query("select utc_day, minutes_good from rollup.snapshot_days").rows() == [(DAY, 0)]


def test_every_check_has_a_name_and_is_one_select() -> None:
    found = warehouse.read_checks()
    assert [name for name, _ in found] == sorted(name for name, _ in found)
    assert found
    with open_scratch() as opened:
        for _, sql in found:
            opened.query(sql, {"utc_day": DAY} if "$utc_day" in sql else None)


def test_the_tables_of_the_schema_are_described() -> None:
    tables = warehouse.describe_tables()
    assert [column.name for column in tables["rollup.cost_days"]][-1] == "cost_usd"
    kinds = {column.name: column for column in tables["rollup.cost_days"]}
    assert kinds["cost_usd"].type == "DECIMAL(38,15)"
    assert kinds["cost_kind"].comment is not None
    assert kinds["utc_day"].comment is None


def test_what_a_table_is_made_of_is_read_from_its_sql() -> None:
    assert warehouse.read_upstreams("rollup.token_days") == ["validated.requests"]
    assert "metric.inputs" in warehouse.read_upstreams("metric.paid")


def test_the_copy_for_analysts_is_a_whole_database_and_old_readers_keep_theirs(tmp_path: Path) -> None:
    path = tmp_path / "warehouse.duckdb"
    with open_warehouse(path) as opened:
        opened.append(TABLE, paid("1"))
        copy = opened.copy_for_analysts()
    assert copy == tmp_path / "analyst.duckdb"
    with duckdb.connect(copy, read_only=True) as reader:
        with open_warehouse(path) as opened:
            opened.append(TABLE, paid("2"))
            opened.copy_for_analysts()
        assert reader.sql(f"select count(*) from {TABLE}").fetchall() == [(1,)]
    with duckdb.connect(copy, read_only=True) as reader:
        assert reader.sql(f"select count(*) from {TABLE}").fetchall() == [(2,)]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["analyst.duckdb", "warehouse.duckdb"]


def test_upstreams_of_a_table_are_named_once_and_without_their_aliases() -> None:
    assert warehouse.read_upstreams("metric.invoice_residuals") == [
        "rollup.invoice_days",
        "rollup.known_days",
        "validated.invoice_lines",
    ]
