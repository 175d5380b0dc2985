"""One minute of Hyperstack: which calls it takes, and that it always lands."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import stamina

from spotinference_pipeline import raw, snapshot
from spotinference_pipeline.errors import RawFileError
from spotinference_pipeline.hyperstack import Hyperstack

USAGE, DELETED = "/billing/billing/usage deleted=false", "/billing/billing/usage deleted=true"
EACH_MINUTE = [USAGE, "/billing/billing/history", "/core/virtual-machines", "/billing/user-credit/credit"]
EACH_HOUR = ["/pricebook", "/core/volumes"]


def events_of(vm_id: int) -> str:
    return f"/core/virtual-machines/{vm_id}/events"


class Vendor:
    """A fake Hyperstack whose fleet and counters are set by the test; it remembers what it was asked."""

    def __init__(self, words: Any, folder: Path) -> None:
        self.words = words
        self.folder = folder
        self.machines = {1: "ACTIVE"}
        self.failing: set[str] = set()
        self.asked: list[str] = []

    def answer(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path.removeprefix("/v1")
        deleted = request.url.params.get("deleted")
        name = path if deleted is None else f"{path} deleted={deleted}"
        self.asked.append(name)
        if name in self.failing:
            return httpx.Response(500, stream=httpx.ByteStream(b"<h1>no</h1>"))
        return httpx.Response(200, stream=httpx.ByteStream(self._content(path, deleted)))

    def _content(self, path: str, deleted: str | None) -> bytes:
        words = self.words
        if deleted is not None:
            items = [words.usage(resource_id=vm_id) for vm_id in self.machines] if deleted == "false" else []
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

    def landed(self) -> list[raw.Exchange | raw.BadLine]:
        return [exchange for _, exchange in raw.read_exchanges(self.taken.path.read_bytes())]


@pytest.fixture
def vendor(words: Any, tmp_path: Path) -> Vendor:
    return Vendor(words, tmp_path)


@pytest.fixture(autouse=True)
def no_waiting() -> Iterator[None]:
    with stamina.set_testing(True, attempts=100, cap=True):
        yield


def test_the_first_snapshot_asks_for_everything(vendor: Vendor) -> None:
    assert vendor.take("10:07:30") == [*EACH_MINUTE, DELETED, *EACH_HOUR, events_of(1)]
    assert vendor.taken.scheduled_at == datetime(2026, 11, 22, 10, 7, tzinfo=UTC)
    assert vendor.taken.exchanges == len(vendor.asked)
    assert vendor.taken.failed == 0
    assert len(vendor.landed()) == len(vendor.asked)


def test_a_quiet_minute_takes_four_calls(vendor: Vendor) -> None:
    vendor.take("10:07")
    assert vendor.take("10:08") == EACH_MINUTE


@pytest.mark.parametrize("minute", ["10:15", "10:30", "10:45"])
def test_ended_resources_are_asked_for_every_fifteen_minutes(vendor: Vendor, minute: str) -> None:
    vendor.take("10:07")
    assert vendor.take(minute) == [*EACH_MINUTE, DELETED]


def test_prices_and_volumes_are_asked_for_every_hour(vendor: Vendor) -> None:
    vendor.take("10:07")
    assert vendor.take("11:00") == [*EACH_MINUTE, DELETED, *EACH_HOUR]


def test_the_final_counter_is_asked_for_in_the_minute_in_which_an_id_has_left(vendor: Vendor) -> None:
    vendor.machines = {1: "ACTIVE", 2: "ACTIVE"}
    vendor.take("10:07")
    del vendor.machines[2]
    assert vendor.take("10:08") == [*EACH_MINUTE, DELETED, events_of(2)]
    assert vendor.take("10:09") == EACH_MINUTE, "and only then"


def test_a_final_counter_that_could_not_be_read_is_asked_for_again(vendor: Vendor) -> None:
    vendor.machines = {1: "ACTIVE", 2: "ACTIVE"}
    vendor.take("10:07")
    del vendor.machines[2]
    vendor.failing = {DELETED}
    assert vendor.take("10:08").count(DELETED) == 2, "asked, and tried again"
    vendor.failing = set()
    assert DELETED in vendor.take("10:09")
    assert DELETED not in vendor.take("10:10")


def test_events_are_asked_for_when_a_status_has_changed(vendor: Vendor) -> None:
    vendor.take("10:07")
    vendor.machines = {1: "HIBERNATED"}
    assert vendor.take("10:08") == [*EACH_MINUTE, events_of(1)]
    assert vendor.take("10:09") == EACH_MINUTE


def test_events_that_could_not_be_read_are_asked_for_again(vendor: Vendor) -> None:
    vendor.take("10:07")
    vendor.machines = {1: "HIBERNATED"}
    vendor.failing = {events_of(1)}
    vendor.take("10:08")
    vendor.failing = set()
    assert vendor.take("10:09") == [*EACH_MINUTE, events_of(1)]


def test_a_snapshot_takes_at_most_ten_calls_and_the_others_wait_their_turn(vendor: Vendor) -> None:
    vendor.machines = dict.fromkeys(range(1, 21), "ACTIVE")
    asked = [vendor.take("10:00"), *(vendor.take(f"10:0{minute}") for minute in range(1, 6))]
    assert max(map(len, asked)) == snapshot.MOST_CALLS == 10
    events = [name for calls in asked for name in calls if name.endswith("/events")]
    assert sorted(events) == sorted(map(events_of, range(1, 21))), "each machine once"


def test_F041_failed_calls_are_lines_and_the_snapshot_lands(vendor: Vendor) -> None:
    vendor.failing = {USAGE, "/core/virtual-machines"}
    vendor.take("10:07")
    landed = vendor.landed()
    assert all(isinstance(exchange, raw.Exchange) for exchange in landed)
    assert [exchange.status for exchange in landed].count(500) == 4
    assert vendor.taken.failed == 4
    assert vendor.taken.exchanges == len(landed)


def test_F041_a_counters_answer_that_cannot_be_read_makes_nobody_leave(vendor: Vendor) -> None:
    vendor.take("10:07")
    vendor.failing = {USAGE}
    assert DELETED not in vendor.take("10:08")


def test_what_was_landed_badly_is_not_believed(vendor: Vendor, words: Any) -> None:
    vendor.take("10:07")
    lying = words.exchange("/core/virtual-machines", words.fleet(words.machine(1, "ERROR")), "10:08", sha256="0" * 64)
    html = words.exchange("/core/virtual-machines", b"<html>", "10:08")
    (vendor.folder / "2026-11-22" / "20261122T100800Z.00000000.jsonl").write_bytes(
        raw.encode_exchange(lying) + raw.encode_exchange(html) + b"torn"
    )
    assert vendor.take("10:09") == EACH_MINUTE


def test_memory_reaches_over_midnight(vendor: Vendor) -> None:
    vendor.take("2026-11-21T23:58")
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


def test_a_fleet_without_machines_costs_seven_calls(vendor: Vendor) -> None:
    vendor.machines = {}
    for minute in ("10:07", "10:08"):
        assert vendor.take(minute) == [*EACH_MINUTE, DELETED, *EACH_HOUR]
