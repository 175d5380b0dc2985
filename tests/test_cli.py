"""The command line: what each command prints, and its exit code (0 done, 1 failed, 2 wrong use, 3 a gate says no)."""

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import date, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import duckdb
import pytest
import stamina
from typer.testing import CliRunner

from spotinference_pipeline import cli, exit_codes, settings
from spotinference_pipeline.errors import PublicationError, SettingsError, WarehouseError, WarehouseLockedError
from spotinference_pipeline.warehouse import open_warehouse

DAYS = "2026-11-21..2026-11-22"
Make = Callable[..., Any]


class Desk:
    """A folder with two days of raw files, and the commands as somebody types them there."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.environment = {
            "SPOTINFERENCE_DATA_DIR": str(data_dir),
            "SPOTINFERENCE_NOW": "2026-11-23T02:10:00Z",
            "SPOTINFERENCE_MIN_SNAPSHOT_COVERAGE": "0",
        }

    @property
    def warehouse(self) -> Path:
        return self.data_dir / "warehouse.duckdb"

    @property
    def published(self) -> Path:
        return self.data_dir / "published"

    def type(self, *arguments: str, **environment: str) -> Any:
        return CliRunner().invoke(cli.app, list(arguments), env=self.environment | environment)

    def main(self, *arguments: str, **environment: str) -> SimpleNamespace:
        """Run the program's own entry, in this process."""
        handler = signal.getsignal(signal.SIGTERM)
        with CliRunner().isolation(env=self.environment | environment) as streams:
            with pytest.raises(SystemExit) as ended:
                cli.main(arguments)
            sys.stdout.flush()
            sys.stderr.flush()
            stdout, stderr = (stream.getvalue().decode() for stream in streams[:2])
        signal.signal(signal.SIGTERM, handler)
        return SimpleNamespace(code=ended.value.code, stdout=stdout, stderr=stderr)

    def run(self, *arguments: str, **environment: str) -> SimpleNamespace:
        """Run the installed program as a process of its own."""
        done = subprocess.run(
            [Path(sys.executable).with_name("spotinference"), *arguments],
            env=os.environ | self.environment | environment,
            capture_output=True,
            text=True,
            check=False,
        )
        return SimpleNamespace(code=done.returncode, stdout=done.stdout, stderr=done.stderr)


@pytest.fixture
def desk(tmp_path: Path, lay_raw_files: Make) -> Desk:
    desk = Desk(tmp_path / "data")
    for day in (21, 22):
        lay_raw_files(desk.data_dir, date(2026, 11, day))
    return desk


@pytest.fixture
def built(desk: Desk) -> Desk:
    assert desk.type("build", DAYS).exit_code == 0
    return desk


def test_ingest_tells_what_became_of_the_rows(desk: Desk) -> None:
    done = desk.type("ingest")
    assert done.exit_code == 0
    # Twelve exchanges, as many items, two requests; the midnight between the days was seen twice.
    # And today's prices: 18 members, three of which have a second tier.
    assert done.stdout == "9 files: 47 rows read, 45 accepted, 0 quarantined, 2 repeated\n"
    assert desk.type("ingest").stdout == "0 files: 0 rows read, 0 accepted, 0 quarantined, 0 repeated\n"


def test_build_reads_what_is_new_and_leaves_a_copy_for_analysts(desk: Desk) -> None:
    done = desk.type("build", DAYS)
    assert done.exit_code == 0
    assert done.stdout.splitlines() == [
        "2026-11-21 rolled up",
        "2026-11-22 rolled up",
        "2 windows built, from 2026-11-21 to 2026-11-22",
    ]
    with duckdb.connect(desk.data_dir / "analyst.duckdb", read_only=True) as copy:
        assert copy.execute("select count(*) from metric.cost_per_mtok").fetchone() == (2,)


@pytest.mark.parametrize("command", [("ingest",), ("build", DAYS)])
def test_list_prices_that_cannot_be_copied_are_told_and_keep_nothing_else(desk: Desk, command: tuple[str, ...]) -> None:
    (desk.data_dir / "raw" / "list_prices").write_text("a file where a folder should be")
    done = desk.type(*command)
    assert done.exit_code == 0
    assert re.fullmatch(
        r"spotinference: no copy of today's list prices, the last one counts: raw file .*\n", done.stderr
    )
    with open_warehouse(desk.warehouse) as warehouse:
        assert warehouse.query("select count(*) from validated.requests").item() == 2


def test_build_says_which_rule_is_broken_and_ends_with_3(built: Desk) -> None:
    with open_warehouse(built.warehouse) as warehouse:
        warehouse.execute("update validated.ingested_files set rows_read = rows_read + 1")
    done = built.type("build", "2026-11-22")
    assert done.exit_code == 3
    assert "2026-11-22 breaks every_row_is_accounted_for: 9 rows. Rows of raw files that got lost" in done.stderr


def test_build_refuses_fewer_minutes_unless_forced(built: Desk) -> None:
    with open_warehouse(built.warehouse) as warehouse:
        warehouse.execute("delete from validated.exchanges where scheduled_at = '2026-11-22T12:00:00Z'")
    refused = built.type("build", "2026-11-22")
    assert isinstance(refused.exception, WarehouseError)
    assert built.type("build", "2026-11-22", "--force").exit_code == 0


@pytest.mark.parametrize(
    ("days", "said"),
    [
        ("2026-11-23", "day 2026-11-23: expected a UTC day that is over, the last is 2026-11-22"),
        ("2026-11-22..2026-11-23", "day 2026-11-23: expected a UTC day that is over"),
        ("2026-11-22..2026-11-21", "expected the first day before the last"),
        ("yesterday", "expected YYYY-MM-DD"),
        ("2026-02-30", "expected YYYY-MM-DD"),
    ],
)
def test_days_that_cannot_be_built_are_wrong_use(desk: Desk, days: str, said: str) -> None:
    ended = desk.main("build", days)
    assert ended.code == 2
    assert re.fullmatch(rf"spotinference: .*{re.escape(said)}.*\n", ended.stderr)
    assert not desk.warehouse.exists()


def test_publish_prints_each_new_revision_and_the_number_last(built: Desk) -> None:
    done = built.type("publish")
    assert done.exit_code == 0
    assert done.stdout.splitlines() == [
        "2026-11-21 r1 provisional, 1440.000000000000 USD per million tokens",
        "2026-11-22 r1 provisional, 1440.000000000000 USD per million tokens",
        "2026-11-22: provisional, 1440.000000000000 USD per million tokens",
    ]
    again = built.type("publish")
    assert again.stdout.splitlines() == ["2026-11-22: provisional, 1440.000000000000 USD per million tokens"]


def test_publish_takes_one_day(built: Desk) -> None:
    assert built.type("publish", "2026-11-21").stdout.startswith("2026-11-21 r1 ")
    assert not (built.published / "economics" / "days" / "2026-11-22").exists()


def test_publish_of_a_withheld_day_ends_with_3(built: Desk) -> None:
    done = built.type("publish", SPOTINFERENCE_MIN_SNAPSHOT_COVERAGE="0.95")
    assert done.exit_code == 3
    assert done.stdout.splitlines()[-1] == "2026-11-22: withheld, no figure"


def test_publish_of_a_day_that_is_not_built_fails(built: Desk) -> None:
    done = built.type("publish", "2026-11-20")
    assert isinstance(done.exception, PublicationError)
    ended = built.main("publish", "2026-11-20")
    assert ended.code == 1
    assert ended.stderr.startswith("spotinference: day 2026-11-20: expected its figures in metric.cost_per_mtok")
    assert ended.stderr.count("\n") == 1


def test_publish_without_any_built_day_is_wrong_use(desk: Desk) -> None:
    done = desk.type("publish")
    assert isinstance(done.exception, SettingsError)
    assert "run `spotinference build DAY..DAY` first" in str(done.exception)


def test_verify_prints_what_was_checked(built: Desk) -> None:
    built.type("publish")
    done = built.type("verify", str(built.published))
    assert done.exit_code == 0
    assert re.fullmatch(
        r"verified: \d+ files, 2 revisions, 2 days recomputed; 2026-11-22 \$1,440\.00 per million tokens\n", done.stdout
    )


def test_verify_of_a_changed_file_ends_with_3_and_names_it(built: Desk) -> None:
    built.type("publish")
    page = built.published / "economics" / "index.html"
    page.write_text(page.read_text().replace("$1,440.00", "$1.00"))
    done = built.type("verify", str(built.published))
    assert done.exit_code == 3
    assert re.fullmatch(r"not verified: economics/index\.html: expected the digest .*\n", done.stderr)


def test_verify_of_an_empty_folder_ends_with_3(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli.app, ["verify", str(tmp_path)])
    assert done.exit_code == 3
    assert "economics/manifest.json: expected an object, found none" in done.stderr


def test_rebuild_gives_the_same_days_from_the_raw_files_alone(built: Desk) -> None:
    built.type("publish")
    before = {path: path.read_bytes() for path in built.published.rglob("*.json")}
    with open_warehouse(built.warehouse) as warehouse:
        warehouse.execute("update rollup.token_days set prompt_tokens = 1")
    done = built.type("rebuild")
    assert done.exit_code == 0
    assert done.stdout == "9 files read, 2 days built\n"
    built.type("publish", SPOTINFERENCE_NOW="2026-11-24T02:10:00Z")
    assert {path: path.read_bytes() for path in built.published.rglob("*.json")} == before
    assert sorted(path.name for path in built.data_dir.glob("*duckdb*")) == ["analyst.duckdb", "warehouse.duckdb"]


def test_a_rebuild_that_was_cut_off_before_is_no_hindrance(built: Desk) -> None:
    left = built.warehouse.with_suffix(".rebuilt")
    left.write_bytes(b"half of a database")
    assert built.type("rebuild").stdout == "9 files read, 2 days built\n"
    assert not left.exists()


def test_status_before_anything_was_done(tmp_path: Path) -> None:
    done = Desk(tmp_path).type("status", "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout) == {
        "files_read": 0,
        "last_good_snapshot": None,
        "last_request": None,
        "quarantined": 0,
        "last_built_day": None,
        "credit_drift_usd": None,
        "credit_drift_day": None,
        "files_waiting": 0,
        "segments_misnamed": 0,
        "last_closed_day": "2026-11-22",
        "published_day": None,
        "published_status": None,
        "usd_per_million_tokens": None,
    }


def test_status_tells_what_waits_what_was_built_and_what_is_published(desk: Desk) -> None:
    assert json.loads(desk.type("status", "--json").stdout)["files_waiting"] == 8
    desk.type("build", DAYS)
    desk.type("publish")
    facts = json.loads(desk.type("status", "--json").stdout)
    assert facts["files_waiting"] == 0
    assert facts["last_good_snapshot"] == "2026-11-23 00:00:00+00"
    assert facts["last_request"] == "2026-11-22 06:30:00+00"
    assert facts["last_built_day"] == facts["published_day"] == "2026-11-22"
    assert facts["usd_per_million_tokens"] == "1440.000000000000"


def test_status_for_people_has_a_line_for_each_fact(built: Desk) -> None:
    lines = built.type("status").stdout.splitlines()
    assert len(lines) == 13
    assert "last built day          2026-11-22" in lines
    assert "published day           –" in lines


class Answers(BaseHTTPRequestHandler):
    """Answers every path on loopback with one status and an empty object."""

    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        pass


class Refuses(Answers):
    status = 401


@pytest.mark.parametrize(
    ("handler", "code", "said"),
    [(Answers, 0, "6 answers, 0 failed, 2 left out"), (Refuses, 1, "3 answers, 3 failed, 5 left out")],
)
def test_a_snapshot_lands_a_file_and_says_how_many_answers_failed(
    tmp_path: Path, handler: type[Answers], code: int, said: str
) -> None:
    desk = Desk(tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        key = {"SPOTINFERENCE_HYPERSTACK_URL": url, "SPOTINFERENCE_HYPERSTACK_API_KEY": "not-a-real-key"}
        done = desk.type("snapshot", **key)
        server.shutdown()
        thread.join()
    assert done.exit_code == code, done.stdout
    (landed,) = (tmp_path / "raw" / "hyperstack").rglob("*.jsonl")
    assert done.stdout == f"{landed}: {said}\n"
    assert "not-a-real-key" not in landed.read_text() + done.stdout + done.stderr


def test_F056_a_refused_key_ends_with_1_once_and_with_3_while_the_pause_lasts(tmp_path: Path) -> None:
    desk, codes, said = Desk(tmp_path), [], []
    with ThreadingHTTPServer(("127.0.0.1", 0), Refuses) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        (tmp_path / "key").write_text("not-a-real-key")
        key = {"SPOTINFERENCE_HYPERSTACK_URL": url, "SPOTINFERENCE_HYPERSTACK_API_KEY_FILE": str(tmp_path / "key")}
        for minute, written in ((0, "01:00"), (1, "01:00"), (2, "02:01")):
            seconds = datetime.fromisoformat(f"2026-11-23T{written}:30Z").timestamp()
            os.utime(tmp_path / "key", (seconds, seconds))
            done = desk.type("snapshot", SPOTINFERENCE_NOW=f"2026-11-23T02:0{minute}:00Z", **key)
            codes.append(done.exit_code)
            said.append((done.stdout.partition(": ")[2].strip(), done.stderr.strip()))
        server.shutdown()
        thread.join()
    assert codes == [1, 3, 3]
    assert said[0][1].endswith("write a new key, or give this one the right to read billing")
    assert said[1][0].startswith("0 answers, 0 failed")
    assert said[1][1].startswith("spotinference: Hyperstack refuses the key (401 or 403): asked again from 2026-")
    assert said[2][0].startswith("1 answers, 1 failed"), "a new key is tried at once"


def test_a_snapshot_beside_a_running_one_ends_with_0_and_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "raw" / "hyperstack"
    folder.mkdir(parents=True)
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = Desk(tmp_path).type("snapshot", SPOTINFERENCE_HYPERSTACK_API_KEY="not-a-real-key")
    finally:
        os.close(lock)
    assert done.exit_code == 0
    assert "another snapshot is running" in done.stderr
    assert list(folder.iterdir()) == []


def test_a_missing_key_is_wrong_use(tmp_path: Path) -> None:
    ended = Desk(tmp_path).main("snapshot")
    assert ended.code == 2
    assert ended.stderr.startswith("spotinference: SPOTINFERENCE_HYPERSTACK_API_KEY: expected a key, found none")


@pytest.mark.parametrize("arguments", [["bogus"], ["build"], ["publish", "--bogus"], []])
def test_wrong_use_ends_with_2(desk: Desk, arguments: list[str]) -> None:
    assert desk.main(*arguments).code == 2


def test_help_names_every_command_and_ends_with_0(desk: Desk) -> None:
    ended = desk.main("--help")
    assert ended.code == 0
    for command in ("snapshot", "ingest", "build", "publish", "verify", "rebuild", "status"):
        assert command in ended.stdout


def test_a_gate_ends_the_program_with_3(tmp_path: Path) -> None:
    assert Desk(tmp_path).main("verify", str(tmp_path)).code == 3


def test_the_installed_program_ends_with_0_1_2_and_3_and_says_why_in_one_line(desk: Desk) -> None:
    done = desk.run("build", DAYS)
    assert (done.code, done.stderr) == (0, "")

    failed = desk.run("publish", "2026-11-20")
    assert failed.code == 1
    assert re.fullmatch(r"spotinference: day 2026-11-20: expected its figures .*\n", failed.stderr)

    wrong = desk.run("build", "tomorrow")
    assert wrong.code == 2
    assert re.fullmatch(r"spotinference: day 'tomorrow': expected .*\n", wrong.stderr)

    wrong = desk.run("status", SPOTINFERENCE_PUBLISH_INPUTS="everything")
    assert wrong.code == 2
    assert re.fullmatch(r"spotinference: SPOTINFERENCE_PUBLISH_INPUTS: .*found 'everything'.*\n", wrong.stderr)

    gate = desk.run("verify", str(desk.data_dir))
    assert gate.code == 3
    assert re.fullmatch(r"not verified: .*manifest\.json: expected an object, found none\n", gate.stderr)


def test_a_damaged_warehouse_fails_with_what_to_do(desk: Desk) -> None:
    desk.warehouse.write_bytes(b"this is no database" * 1000)
    ended = desk.main("status")
    assert ended.code == 1
    assert re.fullmatch(
        r"spotinference: warehouse .* cannot be opened .*; run `spotinference rebuild`.*\n", ended.stderr
    )


def test_a_warehouse_with_rotten_blocks_is_not_taken_for_a_locked_one_and_rebuild_mends_it(built: Desk) -> None:
    content = bytearray(built.warehouse.read_bytes())
    content[12_288:] = os.urandom(len(content) - 12_288)
    built.warehouse.write_bytes(content)
    ended = built.main("status")
    assert ended.code == 1
    assert "still locked" not in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert "spotinference rebuild" in ended.stderr
    assert built.main("rebuild").code == 0
    assert built.main("status").code == 0


@pytest.mark.parametrize("command", [["status"], ["build", "2026-11-20"]])
def test_a_data_folder_that_cannot_be_is_one_line(desk: Desk, tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "file").write_text("in the way")
    ended = desk.main(*command, SPOTINFERENCE_DATA_DIR=str(tmp_path / "file" / "data"))
    assert ended.code == 1
    assert re.fullmatch(
        r"spotinference: .*file.*: (expected it to be usable|could not be written), found .*\n", ended.stderr
    )


def test_a_segment_whose_name_is_none_is_told_about(built: Desk) -> None:
    (built.data_dir / "request_log" / "copy-of-a-segment.jsonl").write_text("{}")
    facts = json.loads(built.main("status", "--json").stdout)
    assert (facts["segments_misnamed"], facts["files_waiting"]) == (1, 0)


def test_a_day_before_there_was_anything_to_bill_is_wrong_use(desk: Desk) -> None:
    ended = desk.main("build", "0001-01-01")
    assert (ended.code, ended.stderr.count("\n")) == (2, 1)


_HOLD = """
import sys
from pathlib import Path
from spotinference_pipeline.warehouse import open_warehouse

with open_warehouse(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_rebuild_never_takes_a_warehouse_from_the_process_that_writes_it(built: Desk) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(built.warehouse)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(WarehouseLockedError, match="still locked"):
            cli.days_to_rebuild(settings.read(built.environment), deadline_seconds=0)
        holder.communicate("")


def test_a_rebuild_never_replays_the_log_of_the_warehouse_before(built: Desk) -> None:
    cut_off = (
        "import duckdb, os, sys; c = duckdb.connect(sys.argv[1]);"
        "c.execute('insert into validated.requests from validated.requests'); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", cut_off, str(built.warehouse)], check=False).returncode == 9
    log = built.warehouse.with_name("warehouse.duckdb.wal")
    left = built.warehouse.with_name("warehouse.rebuilt.wal")
    assert log.stat().st_size > 0
    left.write_bytes(log.read_bytes())
    built.warehouse.write_bytes(b"this is no database" * 1000)
    assert built.type("rebuild").exit_code == 0
    assert not log.exists()
    assert not left.exists()
    with open_warehouse(built.warehouse) as warehouse:
        assert warehouse.query("select count(*) as n from validated.requests").item() == 2


def test_reconcile_refuses_a_day_whose_bills_still_move_before_it_needs_a_key(desk: Desk) -> None:
    early = {"SPOTINFERENCE_NOW": "2026-11-23T01:00:00Z"}
    done = desk.main("reconcile", "2026-11-22", **early)
    assert done.code == exit_codes.WRONG_USE
    assert "expected one that ended 2 hours ago or more" in done.stderr
    done = desk.main("reconcile", "2026-11-23")
    assert done.code == exit_codes.WRONG_USE
    assert "expected a UTC day that is over" in done.stderr


def test_a_book_that_cannot_be_read_is_told_and_the_day_is_built_all_the_same(desk: Desk) -> None:
    nowhere = {
        "SPOTINFERENCE_HYPERSTACK_URL": "http://127.0.0.1:1/v1",
        "SPOTINFERENCE_HYPERSTACK_API_KEY": "canary",
    }
    with stamina.set_testing(True, attempts=1):
        done = desk.main("reconcile", "2026-11-22", **nowhere)
    assert done.code == exit_codes.GATE
    assert done.stdout == "2026-11-22 no whole book\n"
    assert "day 2026-11-22: expected a whole book, found 8 of 8 answers failed" in done.stderr
    assert (
        ": Hyperstack cannot be reached (no answer: ConnectError); correct SPOTINFERENCE_HYPERSTACK_URL" in done.stderr
    )
    assert "run `spotinference reconcile 2026-11-22` again" in done.stderr


def test_reconcile_with_a_refused_key_says_to_write_a_new_one(desk: Desk) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Refuses) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        key = {"SPOTINFERENCE_HYPERSTACK_URL": url, "SPOTINFERENCE_HYPERSTACK_API_KEY": "not-a-real-key"}
        done = desk.main("reconcile", "2026-11-21..2026-11-22", **key)
        server.shutdown()
        thread.join()
    assert done.code == exit_codes.GATE
    told = done.stderr.splitlines()
    assert len(told) == 2, "one line a day, also where the key was refused before the day's first call"
    for line in told:
        assert ": Hyperstack refuses the key (401 or 403); write a new key, or give this one the right" in line


def test_build_with_a_refused_key_says_so_once_a_day_and_builds_what_is_known(desk: Desk) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Refuses) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        key = {"SPOTINFERENCE_HYPERSTACK_URL": url, "SPOTINFERENCE_HYPERSTACK_API_KEY": "not-a-real-key"}
        done = desk.main("build", "2026-11-20..2026-11-21", **key)
        server.shutdown()
        thread.join()
    assert done.code == exit_codes.GATE
    assert done.stdout.splitlines() == [
        "2026-11-20 rolled up",
        "2026-11-21 rolled up",
        "2026-11-20 no whole book",
        "2 windows built, from 2026-11-20 to 2026-11-21",
    ]
    (told,) = done.stderr.splitlines()
    assert told.startswith("spotinference: day 2026-11-20: expected a whole book, found ")
    assert ": Hyperstack refuses the key (401 or 403); write a new key" in told


def test_build_says_of_which_days_nothing_is_known(desk: Desk) -> None:
    done = desk.main("build", "2026-11-18..2026-11-22")
    assert "3 days from 2026-11-18 to 2026-11-20 have neither snapshots nor books" in done.stderr
    assert "run `spotinference reconcile 2026-11-18..2026-11-20`" in done.stderr


def test_publish_leaves_out_days_of_which_nothing_is_known_unless_they_are_named_or_were_published(desk: Desk) -> None:
    blind = desk.main("build", "2020-01-01..2020-01-02")
    assert blind.code == exit_codes.GATE
    assert "2 days from 2020-01-01 to 2020-01-02 have neither snapshots nor books" in blind.stderr
    assert desk.main("publish").code == exit_codes.WRONG_USE, "there is nothing that anything is known of"
    desk.main("build", DAYS)
    done = desk.main("publish")
    assert done.code == 0
    assert [line[:10] for line in done.stdout.splitlines()] == ["2026-11-21", "2026-11-22", "2026-11-22"]
    assert "2 built days from 2020-01-01 to 2020-01-02 have neither snapshots nor books: not published" in done.stderr
    assert desk.main("publish", "2020-01-01").stdout.startswith("2020-01-01 r1 withheld")
    again = desk.main("publish")
    assert again.code == 0
    assert "1 built days from 2020-01-02 to 2020-01-02 have" in again.stderr


def test_reconcile_prints_a_line_a_day_and_says_yes(tmp_path: Path, simulated_days: Any) -> None:
    """Over HTTP, two of the three days without any snapshot."""
    data_dir = simulated_days.copy_to(tmp_path / "data")
    for day in ("2026-11-14", "2026-11-15"):
        shutil.rmtree(data_dir / "raw" / "hyperstack" / day)
    desk = Desk(data_dir)
    with simulated_days.served() as url:
        environment = {
            "SPOTINFERENCE_NOW": "2026-11-17T02:00:00Z",
            "SPOTINFERENCE_HYPERSTACK_URL": url,
            "SPOTINFERENCE_HYPERSTACK_API_KEY": "simulated-key",
        }
        done = desk.main("reconcile", "2026-11-14..2026-11-16", **environment)
    assert (done.code, done.stderr) == (0, "")
    _, missed, seen = done.stdout.splitlines()
    assert missed.startswith("2026-11-15 bill 100.599305 own ")
    assert re.search(r"unattributed 0\.000000: gap -?\d+\.\d+$", missed)
    assert seen == (
        "2026-11-16 bill 109.234349 own 109.234349 residual 0.000000 unattributed 0.000000: nothing to book"
    )


def test_explain_shows_the_division_with_its_sources(built: Desk) -> None:
    done = built.type("explain", "2026-11-22")
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert len(lines) <= 20
    assert lines[0].split()[:2] == ["2026-11-22", "$1,440.00"]
    assert any(line.endswith("1000000 * 2880.000000000000000 / 2000000") for line in lines)


def test_explain_gives_programs_the_same(built: Desk) -> None:
    shown = built.type("explain", "2026-11-22").stdout.splitlines()
    found = json.loads(built.type("explain", "2026-11-22", "--json").stdout)
    assert (found["day"], found["status"], found["usd_per_million_tokens"]) == (
        "2026-11-22",
        "provisional",
        "1440.000000000000",
    )
    assert len(found["lines"]) == len(shown)
    assert {frozenset(line) for line in found["lines"]} == {frozenset({"name", "figure", "unit", "source"})}


@pytest.mark.parametrize(
    ("day", "code", "said"),
    [
        ("2026-11-23", 2, "day 2026-11-23: expected a UTC day that is over, the last is 2026-11-22"),
        ("2026-11-21..2026-11-22", 2, "expected one day, found 2"),
        ("today", 2, "expected YYYY-MM-DD"),
        ("2026-11-20", 1, "day 2026-11-20: expected its figures in metric.cost_per_mtok, found none"),
    ],
)
def test_explain_of_a_day_without_figures_is_one_line(built: Desk, day: str, code: int, said: str) -> None:
    ended = built.main("explain", day)
    assert ended.code == code
    assert said in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_explain_makes_no_warehouse_where_there_is_none(desk: Desk, tmp_path: Path) -> None:
    ended = desk.main("explain", "2026-11-22", SPOTINFERENCE_DATA_DIR=str(tmp_path / "mistyped"))
    assert ended.code == 1
    assert re.fullmatch(
        r"spotinference: warehouse .*/mistyped/warehouse\.duckdb: .*, found no such file; .*\n", ended.stderr
    )
    assert not (tmp_path / "mistyped").exists()


def test_models_have_a_cost_where_the_setting_says_which_machines_serve_them(desk: Desk) -> None:
    models = {"SPOTINFERENCE_MODELS": '{"llama": [11], "spare": [12]}'}
    assert desk.type("build", DAYS, **models).exit_code == 0
    desk.type("publish", **models)
    latest = json.loads((desk.published / "economics" / "latest.json").read_bytes())
    assert [(entry["model"], entry["usd_per_million_tokens"]) for entry in latest["by_model"]] == [
        ("llama", "1440.000000000000"),
        ("spare", None),
    ]
    verified = desk.type("verify", str(desk.published))
    assert (verified.exit_code, verified.stderr) == (0, "")
    assert desk.type("build", DAYS).exit_code == 0
    desk.type("publish", SPOTINFERENCE_NOW="2026-11-24T02:10:00Z")
    latest = json.loads((desk.published / "economics" / "latest.json").read_bytes())
    assert [(entry["model"], entry["usd_per_million_tokens"]) for entry in latest["by_model"]] == [("llama", None)]
