import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from obstore.store import LocalStore, MemoryStore
from spotinference_proxy.logs import Logs
from spotinference_proxy.record import parse_line, render_entry, render_line
from spotinference_proxy.recovery import last_sealed
from spotinference_proxy.segments import SegmentName
from spotinference_proxy.settings import Settings, UpstreamSettings
from spotinference_proxy.ship_target import ShipError, Target
from spotinference_proxy.shipping import ShipCalls, Shipper
from spotinference_proxy.writer import SegmentWriter

DAY = 86_400.0
NAMES = [SegmentName("host-0", "0000000a", f"20261122T12{i:02d}00Z", i, f"{i:08x}") for i in range(5)]


class Killed(BaseException):
    """As if the process had ended here."""


class Machine:
    """Counts the steps of a shipper that act outside of it; kills it before or after the n-th."""

    def __init__(self, store: MemoryStore | LocalStore, kill_at: float | None = None) -> None:
        self._store = store
        self._kill_at = kill_at
        self.steps = 0
        self.calls = ShipCalls(self._killing(os.utime), self._killing(os.rename), self._killing(lambda fd: None))
        self.put = self._killing(store.put)
        self.get = self._killing(store.get)

    def _killing(self, call: Callable) -> Callable:
        def step(*arguments: object, **options: object) -> object:
            self.steps += 1
            if self._kill_at == self.steps:
                raise Killed
            result = call(*arguments, **options)
            if self._kill_at == self.steps + 0.5:
                raise Killed
            return result

        return step


class Place:
    """A log folder, a target, and the lives of a shipper between them."""

    def __init__(self, root: Path) -> None:
        self.log_dir = root / "log"
        self.log_dir.mkdir()
        self.target_dir = root / "target"
        self.target_dir.mkdir()
        self.source, self.fd = os.pipe()
        self.logs = Logs(self.fd)
        self.now = 1_000_000_000.0
        self.contents: dict[SegmentName, bytes] = {}

    def write(
        self, name: SegmentName, *, by: str = "writer", content: bytes | None = None, prev: SegmentName | None = None
    ) -> None:
        head = render_line({"k": "head", "writer": name.stem, "prev": prev and prev.stem}, 0)
        self.contents[name] = content or head + f'{{"k":"seal","by":"{by}","c":"0"}}\n'.encode()
        (self.log_dir / f"{name.stem}.jsonl").write_bytes(self.contents[name])

    def open(self, name: SegmentName) -> Path:
        path = self.log_dir / f"{name.stem}.open"
        path.write_bytes(b"")
        return path

    def shipper(self, machine: Machine | None = None, target: Target | None = None) -> Shipper:
        calls = machine.calls if machine else None
        if target is None:
            fsync = machine.calls.fsync if machine else os.fsync
            target = Target(str(self.target_dir), store=machine, fsync=fsync)
        return Shipper(self.log_dir, target, self.logs, calls=calls, now=lambda: self.now, pause_seconds=0.01)

    def in_place(self) -> list[str]:
        return sorted(path.stem for path in self.log_dir.glob("*.jsonl"))

    def moved(self) -> list[str]:
        return sorted(path.stem for path in (self.log_dir / "shipped").glob("*.jsonl"))

    def arrived(self) -> dict[str, bytes]:
        return {path.stem: path.read_bytes() for path in self.target_dir.glob("*.jsonl")}

    def check_nothing_is_lost(self, *, all_arrived: bool = True) -> None:
        here = sorted([*self.in_place(), *self.moved()])
        assert here == sorted(name.stem for name in self.contents), "each segment is here exactly once"
        for name, content in self.contents.items():
            path = self.log_dir / f"{name.stem}.jsonl"
            kept = path if path.exists() else self.log_dir / "shipped" / path.name
            assert kept.read_bytes() == content
            if all_arrived or kept.parent.name == "shipped":
                assert self.arrived()[name.stem] == content, "what was moved has arrived"

    def told(self) -> list[dict]:
        os.set_blocking(self.source, False)
        try:
            return [json.loads(line) for line in os.read(self.source, 1 << 20).splitlines()]
        except BlockingIOError:
            return []

    def close(self) -> None:
        os.close(self.source)
        os.close(self.fd)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    place.close()


def test_sealed_segments_are_shipped_and_the_newest_stays_as_a_copy(place: Place) -> None:
    for name in NAMES[:3]:
        place.write(name)
    opened = place.open(NAMES[3])
    shipper = place.shipper()
    shipper.ship()
    assert place.arrived() == {name.stem: place.contents[name] for name in NAMES[:3]}
    assert place.in_place() == [NAMES[2].stem]
    assert place.moved() == [NAMES[0].stem, NAMES[1].stem]
    assert last_sealed(place.log_dir, "host-0")[0] == NAMES[2].stem
    assert opened.exists()
    assert (shipper.shipped_total, shipper.pending, shipper.errors_total) == (3, 0, 0)
    place.write(NAMES[3])
    shipper.ship()
    assert place.in_place() == [NAMES[3].stem]
    assert shipper.shipped_total == 4
    place.check_nothing_is_lost()


def test_a_pass_without_news_asks_the_target_nothing(place: Place) -> None:
    place.write(NAMES[0])
    machine = Machine(LocalStore(place.target_dir))
    shipper = place.shipper(machine)
    shipper.ship()
    steps = machine.steps
    shipper.ship()
    assert machine.steps == steps


def test_every_writer_keeps_its_newest_and_a_life_with_an_open_segment_too(place: Place) -> None:
    other = SegmentName("host-1", "0000000b", "20261122T110000Z", 0, "0000000b")
    later = SegmentName("host-0", "0000000c", "20261122T130000Z", 0, "0000000c")
    for name, prev in ((NAMES[0], None), (NAMES[1], NAMES[0]), (other, None), (later, NAMES[1])):
        place.write(name, prev=prev)
    opened = place.open(NAMES[2])
    shipper = place.shipper()
    shipper.ship()
    assert place.in_place() == sorted([NAMES[1].stem, other.stem, later.stem])
    opened.unlink()
    shipper.ship()
    assert place.in_place() == sorted([other.stem, later.stem])


def test_nothing_of_a_life_is_moved_while_its_recovery_is_unfinished(place: Place) -> None:
    place.write(NAMES[0])
    place.write(NAMES[1], by="recovery")
    place.write(NAMES[2], by="recovery")
    opened = place.open(NAMES[3])
    shipper = place.shipper()
    shipper.ship()
    assert place.in_place() == [name.stem for name in NAMES[:3]]
    opened.unlink()
    shipper.ship()
    assert place.in_place() == [NAMES[2].stem]


@pytest.mark.parametrize("jumps", [(0, 0, 0, 0), (7200, -7200, 600, -300), (0, -60, -3600, -86_400)])
def test_F018_the_chain_of_a_writer_holds_over_lives_while_segments_are_moved_away(place: Place, clock, jumps) -> None:
    begin = {"k": "begin", "request_id": "r", "started_at": "x"}
    for life, seconds in enumerate(jumps):
        clock.step(seconds)
        writer = SegmentWriter(place.log_dir, "host-0", clock, reserve_bytes=0)
        writer.start()
        for _ in range(3):
            clock.step(1)
            writer.write([render_entry({"k": "beat", "at": "x"})])
            writer.seal()
            place.shipper().ship()
        writer.write([render_entry(begin)])
        if life % 2:
            writer.close()
        else:  # as if killed: its lock is gone, its request never ends
            writer._segment.close()
    writer = SegmentWriter(place.log_dir, "host-0", clock, reserve_bytes=0)
    writer.start()
    writer.close()
    place.shipper().ship()
    assert len(place.in_place()) == 1
    heads, dead = {}, 0
    for stem, content in place.arrived().items():
        rows = [parse_line(line) for line in content.splitlines(keepends=True)]
        heads[stem] = (rows[0]["prev"], rows[0]["prev_sha256"])
        dead += len(rows[-1]["open"]) if rows[-1]["by"] == "recovery" else 0
    assert dead == 4
    assert len(heads) >= 16
    digests = {stem: hashlib.sha256(content).hexdigest() for stem, content in place.arrived().items()}
    previous = [prev for prev, _ in heads.values()]
    assert sorted(set(previous), key=str) == sorted(previous, key=str), "a chain, not a tree"
    assert previous.count(None) == 1
    assert all(digests[prev] == digest for prev, digest in heads.values() if prev is not None)


def kill_everywhere(place: Place, make_target: Callable[[Machine], Target | None]) -> int:
    """Kill at every step, before it and after it, each time going on with a new life; return the number of kills."""
    step, kills = 1.0, 0
    while True:
        machine = Machine(LocalStore(place.target_dir), step)
        try:
            place.shipper(machine, make_target(machine)).ship()
        except Killed:
            kills += 1
            place.check_nothing_is_lost(all_arrived=False)
        else:
            return kills
        if step == int(step) and len(place.contents) < 20:
            i = len(place.contents)
            place.write(SegmentName("host-0", "0000000a", f"20261122T13{i:02d}00Z", i, f"{i:08x}"))
        step += 0.5


def test_a_kill_at_any_step_loses_nothing(place: Place) -> None:
    for name in NAMES:
        place.write(name)
    kills = kill_everywhere(place, lambda machine: None)
    assert kills > 40
    place.shipper().ship()
    place.check_nothing_is_lost()
    assert len(place.in_place()) == 1


def test_control_a_target_that_only_says_so_is_caught_by_the_same_check(place: Place) -> None:
    class Boaster(Target):
        def create(self, name: str, content: bytes) -> bool:
            return True

    for name in NAMES:
        place.write(name)
    with pytest.raises((AssertionError, KeyError)):
        kill_everywhere(place, lambda machine: Boaster("nowhere"))


class Liar:
    """A store that keeps less than it was given."""

    def __init__(self, kept: int) -> None:
        self._store = MemoryStore()
        self._kept = kept

    def put(self, path: str, file: bytes, *, mode: object) -> object:
        return self._store.put(path, file[: self._kept], mode=mode)

    def get(self, path: str) -> object:
        return self._store.get(path)


@pytest.mark.parametrize("kept", [0, 10])
def test_what_was_written_is_read_back(place: Place, kept: int) -> None:
    place.write(NAMES[0])
    place.write(NAMES[1])
    shipper = place.shipper(target=Target("memory://x", store=Liar(kept)))
    with pytest.raises(ShipError, match="the bytes just written"):
        shipper.ship()
    assert place.in_place() == [NAMES[0].stem, NAMES[1].stem]
    assert (shipper.shipped_total, shipper.pending) == (0, 2)


def test_an_object_with_other_bytes_is_never_overwritten_and_holds_up_nobody(place: Place) -> None:
    for name in NAMES[:3]:
        place.write(name)
    existing = place.target_dir / f"{NAMES[0].stem}.jsonl"
    existing.write_bytes(b"other")
    (place.target_dir / f"{NAMES[1].stem}.jsonl").write_bytes(place.contents[NAMES[1]])
    machine = Machine(LocalStore(place.target_dir))
    shipper = place.shipper(machine)
    shipper.ship()
    assert existing.read_bytes() == b"other"
    assert place.in_place() == [NAMES[0].stem, NAMES[2].stem]
    assert (shipper.shipped_total, shipper.pending, shipper.errors_total) == (2, 1, 1)
    (told,) = place.told()
    assert (told["event"], told["level"], NAMES[0].stem in told["target"]) == ("ship_refused", "error", True)
    steps = machine.steps
    shipper.ship()
    assert machine.steps == steps, "trying once more cannot help"
    existing.unlink()
    place.shipper().ship()  # the next life, after an operator has looked
    place.check_nothing_is_lost()


@pytest.mark.parametrize("kind", ["symlink", "fifo", "folder"])
def test_F074_what_is_no_regular_file_is_not_shipped(place: Place, tmp_path: Path, kind: str) -> None:
    path = place.log_dir / f"{NAMES[0].stem}.jsonl"
    if kind == "symlink":
        (tmp_path / "secret").write_text("secret")
        path.symlink_to(tmp_path / "secret")
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.mkdir()
    (place.log_dir / "README.jsonl").write_text("no segment")
    place.write(NAMES[1])
    shipper = place.shipper()
    shipper.ship()
    assert list(place.arrived()) == [NAMES[1].stem]
    assert shipper.errors_total == 1


def test_a_moved_segment_is_deleted_after_a_week_and_nothing_else_is(place: Place) -> None:
    for name in NAMES[:2]:
        place.write(name)
    shipper = place.shipper()
    shipper.ship()
    (note := place.log_dir / "shipped" / "note.txt").write_text("mine")
    os.utime(note, (0, 0))
    place.now += 7 * DAY - 10
    shipper.ship()
    assert place.moved() == [NAMES[0].stem]
    place.now += 3600
    shipper.ship()
    assert place.moved() == []
    assert note.exists()
    assert place.in_place() == [NAMES[1].stem]


def test_a_segment_that_lies_in_the_shipped_folder_already_is_left_for_an_operator(place: Place) -> None:
    for name in NAMES[:2]:
        place.write(name)
    (place.log_dir / "shipped").mkdir()
    (place.log_dir / "shipped" / f"{NAMES[0].stem}.jsonl").write_bytes(b"other")
    shipper = place.shipper()
    shipper.ship()
    shipper.ship()
    assert place.in_place() == [NAMES[0].stem, NAMES[1].stem]
    assert (place.log_dir / "shipped" / f"{NAMES[0].stem}.jsonl").read_bytes() == b"other"
    assert shipper.errors_total == 1


async def test_a_target_that_is_away_is_tried_again_later_each_time(place: Place) -> None:
    place.write(NAMES[0])
    place.target_dir.rmdir()
    place.target_dir.write_text("a file where a folder should be")
    shipper = place.shipper()
    shipper.start()
    while shipper.errors_total < 3:
        threading.Event().wait(0.005)
    place.target_dir.unlink()
    while not shipper.shipped_total:
        threading.Event().wait(0.005)
    await shipper.stop()
    told = [line for line in place.told() if line["event"] == "ship_failed"]
    pauses = [line["next_try_seconds"] for line in told]
    assert pauses[:3] == [0.02, 0.04, 0.08]
    assert all("SPOTINFERENCE_REQUEST_LOG_URL" in line["problem"] and "\n" not in line["problem"] for line in told)
    assert place.arrived() == {NAMES[0].stem: place.contents[NAMES[0]]}


async def test_stopping_ships_what_was_sealed_last(place: Place) -> None:
    shipper = Shipper(place.log_dir, Target(str(place.target_dir)), place.logs, pause_seconds=60)
    shipper.start()
    place.write(NAMES[0])
    await shipper.stop()
    assert list(place.arrived()) == [NAMES[0].stem]
    await shipper.stop()


async def test_a_bug_does_not_end_shipping(place: Place) -> None:
    class Buggy(Target):
        def create(self, name: str, content: bytes) -> bool:
            raise KeyError(content)

    place.write(NAMES[0])
    shipper = place.shipper(target=Buggy("nowhere"))
    shipper.start()
    await shipper.stop()
    (told,) = place.told()
    assert (told["event"], told["exception"], shipper.errors_total) == ("ship_failed", "KeyError", 1)


def test_a_log_folder_that_cannot_be_read_is_one_line(place: Place) -> None:
    place.log_dir.rmdir()
    with pytest.raises(ShipError, match="log folder"):
        place.shipper().ship()


def test_F016_only_one_of_several_workers_ships(place: Place) -> None:
    settings = Settings((UpstreamSettings("http://x"),), log_dir=place.log_dir)
    shipping = [Settings(settings.upstreams, ship_url="s3://b/p", workers=3, worker=i) for i in (None, 0, 1, 2)]
    assert [Shipper.of(one, place.logs) is not None for one in shipping] == [True, True, False, False]
    assert Shipper.of(settings, place.logs) is None


class Bucket(BaseHTTPRequestHandler):
    """As much of S3 as a shipper uses; objects are the server's."""

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("If-None-Match") != "*" or self.path in self.server.objects:
            self._answer(412)
            return
        self.server.objects[self.path] = content
        self._answer(200)

    def do_GET(self) -> None:
        found = self.server.objects.get(self.path)
        self._answer(404 if found is None else 200, found or b"")

    def _answer(self, status: int, content: bytes = b"") -> None:
        self.send_response(status)
        for name, text in (
            ("Content-Length", str(len(content))),
            ("ETag", '"x"'),
            ("Last-Modified", "Sun, 22 Nov 2026 12:00:00 GMT"),
        ):
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def bucket(monkeypatch) -> Iterator[dict[str, bytes]]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Bucket)
    server.objects = {}
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    environ = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "id",
        "AWS_SECRET_ACCESS_KEY": "hush",
        "AWS_REGION": "eu-north-1",
    }
    for name, text in environ.items():
        monkeypatch.setenv(name, text)
    yield server.objects
    server.shutdown()
    server.server_close()
    thread.join()


def test_an_object_store_is_shipped_to_by_its_url(place: Place, bucket: dict[str, bytes]) -> None:
    for name in NAMES[:3]:
        place.write(name, content=os.urandom(6 * 1024 * 1024))
    path = f"/bucket/request_log/{NAMES[0].stem}.jsonl"
    bucket[path] = b"other"
    shipper = place.shipper(target=Target("s3://bucket/request_log"))
    shipper.ship()
    assert bucket.pop(path) == b"other"
    assert bucket == {f"/bucket/request_log/{name.stem}.jsonl": place.contents[name] for name in NAMES[1:3]}
    assert place.in_place() == [NAMES[0].stem, NAMES[2].stem]
    place.shipper(target=Target("s3://bucket/request_log")).ship()
    assert len(bucket) == 3


def test_an_object_store_that_does_not_answer_is_one_line_without_its_key(place: Place, monkeypatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "hush")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    place.write(NAMES[0])
    with pytest.raises(ShipError, match="s3://bucket/x/host-0") as caught:
        place.shipper(target=Target("s3://bucket/x")).ship()
    assert "hush" not in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(ShipError, match="nowhere"):
        place.shipper(target=Target("nowhere://x")).ship()
