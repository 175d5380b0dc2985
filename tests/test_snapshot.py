"""One minute of Hyperstack: which calls it takes, and that it always lands."""

import fcntl
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from spotinference_pipeline import raw, snapshot
from spotinference_pipeline.errors import RawFileError, SnapshotRunningError
from spotinference_pipeline.hyperstack import Hyperstack

USAGE, DELETED = "/billing/billing/usage deleted=false", "/billing/billing/usage deleted=true"
EACH_MINUTE = [USAGE, "/billing/billing/history", "/core/virtual-machines", "/billing/user-credit/credit"]
PRICES, VOLUMES, SNAPSHOTS = "/pricebook", "/core/volumes", "/core/snapshots"


def events_of(vm_id: int) -> str:
    return f"/core/virtual-machines/{vm_id}/events"


class Vendor:
    """A fake Hyperstack whose fleet and counters are set by the test; it remembers what it was asked."""

    def __init__(self, words: Any, folder: Path) -> None:
        self.words = words
        self.folder = folder
        self.machines = {1: "ACTIVE"}
        self.failing: set[str] = set()
        self.failure = 500
        self.is_bill_empty = False
        self.asked: list[str] = []

    def answer(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path.removeprefix("/v1")
        deleted = request.url.params.get("deleted")
        name = path if deleted is None else f"{path} deleted={deleted}"
        self.asked.append(name)
        if name in self.failing:
            return httpx.Response(self.failure, stream=httpx.ByteStream(b'{"status": false}'))
        return httpx.Response(200, stream=httpx.ByteStream(self._content(path, deleted)))

    def _content(self, path: str, deleted: str | None) -> bytes:
        words = self.words
        if deleted is not None:
            shown = [] if self.is_bill_empty or deleted == "true" else self.machines
            items = [words.usage(resource_id=vm_id) for vm_id in shown]
            return words.usages(*items)
        if path == "/core/virtual-machines":
            fleet = [words.machine(vm_id, status) for vm_id, status in self.machines.items()]
            return words.fleet(*fleet)
        if path.endswith("/events"):
            return words.events()
        return b'{"status": true}'

    def take(self, at: str) -> list[str]:
        """Take a snapshot at an instant; give what was asked for."""
        self.asked = []
        now = self.words.at(at)
        transport = httpx.MockTransport(self.answer)
        with Hyperstack("https://hyperstack.test/v1", "key", lambda: now, transport=transport) as api:
            self.taken = snapshot.take(api, self.folder, lambda: now)
        return self.asked

    def left_out(self) -> list[str]:
        return [line.endpoint for line in self.landed() if isinstance(line, raw.Exchange) and line.error]

    def landed(self) -> list[raw.Exchange | raw.BadLine]:
        return [exchange for _, exchange in raw.read_exchanges(self.taken.path.read_bytes())]


@pytest.fixture
def vendor(words: Any, tmp_path: Path) -> Vendor:
    return Vendor(words, tmp_path)


def test_the_first_snapshots_ask_for_everything_two_calls_beside_the_four_at_a_time(vendor: Vendor) -> None:
    assert vendor.take("10:07:30") == [*EACH_MINUTE, DELETED, PRICES]
    assert vendor.taken.scheduled_at == datetime(2026, 11, 22, 10, 7, tzinfo=UTC)
    assert (vendor.taken.exchanges, vendor.taken.failed, vendor.taken.left_out) == (6, 0, 3)
    assert len(vendor.landed()) == 9, "what was left out is a line too"
    assert vendor.take("10:08:30") == [*EACH_MINUTE, VOLUMES, SNAPSHOTS]
    assert vendor.take("10:09:30") == [*EACH_MINUTE, events_of(1)]


def settle(vendor: Vendor) -> None:
    """Take the first minutes, after which nothing is owed."""
    for minute in ("10:01", "10:02", "10:03", "10:04", "10:05"):
        vendor.take(minute)


def test_a_quiet_minute_takes_four_calls(vendor: Vendor) -> None:
    settle(vendor)
    assert vendor.take("10:06") == EACH_MINUTE


def test_no_minute_of_a_quiet_day_takes_more_than_five_calls(vendor: Vendor) -> None:
    settle(vendor)
    calls = {
        f"{hour}:{minute:02d}": vendor.take(f"{hour}:{minute:02d}")
        for hour in (10, 11)
        for minute in range(60)
        if (hour, minute) > (10, 5)
    }
    extras = {at: names[4:] for at, names in calls.items() if len(names) > 4}
    assert extras == {
        "10:10": [VOLUMES],
        "10:15": [DELETED],
        "10:20": [SNAPSHOTS],
        "10:30": [DELETED],
        "10:45": [DELETED],
        "11:00": [DELETED],
        "11:05": [PRICES],
        "11:10": [VOLUMES],
        "11:15": [DELETED],
        "11:20": [SNAPSHOTS],
        "11:30": [DELETED],
        "11:45": [DELETED],
    }


def test_what_was_due_in_minutes_that_nobody_took_is_made_up_for(vendor: Vendor) -> None:
    settle(vendor)
    assert vendor.take("10:31") == [*EACH_MINUTE, DELETED, VOLUMES]
    assert vendor.take("10:32") == [*EACH_MINUTE, SNAPSHOTS]
    assert vendor.take("10:33") == EACH_MINUTE


def test_the_final_counter_is_asked_for_in_the_minute_in_which_an_id_has_left(vendor: Vendor) -> None:
    vendor.machines = {1: "ACTIVE", 2: "ACTIVE"}
    settle(vendor)
    vendor.take("10:07")
    del vendor.machines[2]
    assert vendor.take("10:08") == [*EACH_MINUTE, DELETED, events_of(2)]
    assert vendor.take("10:09") == EACH_MINUTE, "and only then"


def test_a_final_counter_that_could_not_be_read_is_asked_for_again(vendor: Vendor) -> None:
    vendor.machines = {1: "ACTIVE", 2: "ACTIVE"}
    settle(vendor)
    vendor.take("10:07")
    del vendor.machines[2]
    vendor.failing = {DELETED}
    assert vendor.take("10:08").count(DELETED) == 3, "asked, and tried again"
    vendor.failing = set()
    assert DELETED in vendor.take("10:09")
    assert DELETED not in vendor.take("10:10")


def test_events_are_asked_for_when_a_status_has_changed(vendor: Vendor) -> None:
    settle(vendor)
    vendor.machines = {1: "HIBERNATED"}
    assert vendor.take("10:06") == [*EACH_MINUTE, events_of(1)]
    assert vendor.take("10:07") == EACH_MINUTE


def test_events_that_could_not_be_read_are_asked_for_again_however_long_it_takes(vendor: Vendor) -> None:
    settle(vendor)
    vendor.machines = {1: "HIBERNATED"}
    vendor.failing = {events_of(1)}
    for minute in range(6, 40):
        assert events_of(1) in [*vendor.take(f"10:{minute:02d}"), *vendor.left_out()]
    vendor.failing = set()
    minute = next(minute for minute in range(40, 60) if events_of(1) in vendor.take(f"10:{minute}"))
    assert minute < 56, "the quota of a quarter of an hour frees itself"
    assert events_of(1) not in [*vendor.take(f"10:{minute + 1}"), *vendor.left_out()]


def test_events_of_a_machine_that_nobody_knows_any_more_are_not_asked_for_again(vendor: Vendor) -> None:
    settle(vendor)
    vendor.machines = {}
    vendor.failing, vendor.failure = {events_of(1)}, 404
    assert events_of(1) in vendor.take("10:06")
    assert vendor.take("10:07") == [*EACH_MINUTE, DELETED]
    assert vendor.take("10:08") == EACH_MINUTE


def test_a_quarter_of_an_hour_takes_at_most_seventy_five_calls_and_the_others_wait_their_turn(vendor: Vendor) -> None:
    vendor.machines = dict.fromkeys(range(1, 31), "ACTIVE")
    asked = [vendor.take(f"10:{minute:02d}") for minute in range(45)]
    assert max(map(len, asked)) == len(EACH_MINUTE) + snapshot.EXTRAS_AT_ONCE == 6
    for first in range(30):
        assert sum(map(len, asked[first : first + 15])) <= 75
    events = [name for calls in asked for name in calls if name.endswith("/events")]
    assert sorted(events) == sorted(map(events_of, range(1, 31))), "each machine once"


def test_an_empty_bill_beside_machines_makes_nobody_leave(vendor: Vendor) -> None:
    settle(vendor)
    vendor.is_bill_empty = True
    assert vendor.take("10:06") == EACH_MINUTE
    vendor.is_bill_empty = False
    assert vendor.take("10:07") == EACH_MINUTE
    vendor.machines = {}
    assert vendor.take("10:08") == [*EACH_MINUTE, events_of(1)]
    assert vendor.take("10:09") == [*EACH_MINUTE, DELETED], "once the fleet is empty too, the last one has left"


def test_F041_failed_calls_are_lines_and_the_snapshot_lands(vendor: Vendor) -> None:
    vendor.failing = {USAGE, "/core/virtual-machines"}
    vendor.take("10:07")
    landed = vendor.landed()
    assert all(isinstance(exchange, raw.Exchange) for exchange in landed)
    assert [exchange.status for exchange in landed].count(500) == vendor.taken.failed >= 4
    assert vendor.taken.exchanges + vendor.taken.left_out == len(landed)


def test_F041_a_counters_answer_that_cannot_be_read_makes_nobody_leave(vendor: Vendor) -> None:
    settle(vendor)
    vendor.failing = {USAGE}
    assert DELETED not in vendor.take("10:08")


def test_what_was_landed_badly_is_not_believed(vendor: Vendor, words: Any) -> None:
    settle(vendor)
    lying = words.exchange("/core/virtual-machines", words.fleet(words.machine(1, "ERROR")), "10:08", sha256="0" * 64)
    html = words.exchange("/core/virtual-machines", b"<html>", "10:08")
    usage = words.exchange("/billing/billing/usage", words.usages(words.usage(resource_id=1)), "10:08")
    (vendor.folder / "2026-11-22" / "20261122T100800Z.00000000.jsonl").write_bytes(
        b"".join(map(raw.encode_exchange, (usage, lying, html))) + b"torn"
    )
    assert vendor.take("10:09") == EACH_MINUTE


def test_memory_reaches_over_midnight(vendor: Vendor) -> None:
    for minute in range(55, 60):
        vendor.take(f"2026-11-21T23:{minute}")
    assert vendor.take("2026-11-22T00:00") == [*EACH_MINUTE, DELETED]
    assert vendor.take("2026-11-22T00:01") == EACH_MINUTE


def test_at_the_first_instant_of_a_month_there_is_no_history_yet(vendor: Vendor) -> None:
    assert "/billing/billing/history" not in vendor.take("2026-12-01T00:00:00")
    assert "/billing/billing/history" in vendor.take("2026-12-01T00:00:01")


def test_two_snapshots_of_one_minute_are_two_files(vendor: Vendor) -> None:
    vendor.take("10:07:01")
    first = vendor.taken.path
    vendor.take("10:07:01")
    assert first != vendor.taken.path
    assert len(raw.list_files(vendor.folder)) == 2


def test_a_folder_that_cannot_be_written_is_an_error(vendor: Vendor, tmp_path: Path) -> None:
    vendor.folder = tmp_path / "file"
    vendor.folder.touch()
    with pytest.raises(RawFileError):
        vendor.take("10:07")


def test_a_fleet_without_machines_costs_no_more_than_another(vendor: Vendor) -> None:
    vendor.machines = {}
    settle(vendor)
    assert vendor.take("10:06") == EACH_MINUTE


def test_a_second_snapshot_beside_a_running_one_asks_nothing_and_lands_nothing(vendor: Vendor) -> None:
    settle(vendor)
    landed = raw.list_files(vendor.folder)
    folder = os.open(vendor.folder, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        with pytest.raises(SnapshotRunningError, match="another snapshot is running"):
            vendor.take("10:06")
    finally:
        os.close(folder)
    assert (vendor.asked, raw.list_files(vendor.folder)) == ([], landed)
    assert vendor.take("10:06") == EACH_MINUTE


def test_files_of_the_books_in_the_same_folder_change_no_snapshot(vendor: Vendor, words: Any) -> None:
    settle(vendor)
    paths = ["/billing/billing/history", "/billing/billing/history/volume", "/core/virtual-machines/1/events"] * 60
    lists = [words.exchange(path, b"{}", "10:05:50", status=429) for path in paths]
    raw.append_exchanges(vendor.folder, lists, "00000000")
    assert vendor.take("10:06") == EACH_MINUTE
