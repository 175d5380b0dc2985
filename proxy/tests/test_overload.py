"""The proxy under more load than it takes, on a slow disk, and stopped, reloaded or killed in parts under load.

Every answer that a client saw is held against the log: each of them has one record, and no record is of anything else.
"""

import asyncio
import contextlib
import functools
import importlib.util
import json
import os
import re
import signal
import statistics
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from spotinference_proxy import app
from spotinference_proxy.log import RequestLog
from spotinference_proxy.record import parse_line
from spotinference_proxy.segments import Calls
from spotinference_proxy.settings import UpstreamSettings

MIB = 1024 * 1024
PLACES, CLIENTS = 64, 640
STEPS = 60  # of a long stream, some 50 ms each
CLEAN = {name: text for name, text in os.environ.items() if not name.startswith("SPOTINFERENCE_")}


def _load_program():
    path = Path(__file__).parent / "faults" / "proxy_program.py"
    spec = importlib.util.spec_from_file_location("proxy_program", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PROGRAM = _load_program()
PLAIN, STREAM = PROGRAM.PLAIN, PROGRAM.STREAM


# ---------------------------------------------------------------------- the load


@dataclass
class Tally:
    """What clients saw."""

    seconds: dict[int, list[float]] = field(default_factory=dict)  # by status
    names: list[str] = field(default_factory=list)  # of requests answered with 200, as vLLM was told them
    reasons: Counter[str] = field(default_factory=Counter)  # of refusals
    unhelpful: int = 0  # refusals that do not say when to come back
    broken: int = 0
    is_over: bool = False

    def count(self, status: int) -> int:
        return len(self.seconds.get(status, []))

    def note(self, answer, seconds: float) -> None:
        self.seconds.setdefault(answer.status, []).append(seconds)
        if answer.status == 200:
            self.names.append(answer.request_id.decode())
        else:
            message = json.loads(answer.body)["error"]["message"].partition(";")[0]
            self.reasons[re.sub("[0-9]+", "N", message)] += 1
            self.unhelpful += b"retry-after: " not in answer.head

    async def wait(self, is_so: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not is_so():
                await asyncio.sleep(0.01)


async def hammer(tally: Tally, address: tuple[str, int], body: bytes, *, pause: float = 0.0) -> None:
    """Ask again and again, over a kept connection; over a new one when it broke."""
    while not tally.is_over:
        with contextlib.suppress(OSError):
            async with PROGRAM.Client(*address) as client:
                while not tally.is_over:
                    began = time.monotonic()
                    answer = await client.ask(body)
                    if answer is None:
                        tally.broken += 1
                        await asyncio.sleep(0.01)
                        break
                    tally.note(answer, time.monotonic() - began)
                    await asyncio.sleep(pause if answer.status != 200 else 0)
                    if b"connection: close" in answer.head:
                        break


@contextlib.asynccontextmanager
async def hammering(address: tuple[str, int], *bodies: bytes, pause: float = 0.0) -> AsyncIterator[Tally]:
    """Have one client for each body ask until the end; then wait for the last answers."""
    tally = Tally()
    clients = [asyncio.create_task(hammer(tally, address, body, pause=pause)) for body in bodies]
    try:
        yield tally
    finally:
        tally.is_over = True
        await asyncio.wait_for(asyncio.gather(*clients), 60)


@contextlib.asynccontextmanager
async def engine(*pace: float, steps: int = 3) -> AsyncIterator:
    """Run a fake vLLM; its `url` is known."""
    one = PROGRAM.Engine(*pace, steps=steps)
    one.url = await one.listen()
    try:
        yield one
    finally:
        await one.close()


# ---------------------------------------------------------------------- the proxy


class Served:
    """The command as a process, and what it says."""

    def __init__(self, child: asyncio.subprocess.Process, folder: Path) -> None:
        self.child, self.folder = child, folder
        self.said: list[dict] = []
        self._listener = asyncio.create_task(self._listen())

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.all_said("listening")[0]["address"].split(":")
        return host, int(port)

    @property
    def resident_bytes(self) -> int:
        status = Path(f"/proc/{self.child.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) * 1024

    def all_said(self, event: str) -> list[dict]:
        return [line for line in self.said if line["event"] == event]

    async def hear(self, event: str, count: int = 1) -> list[dict]:
        async with asyncio.timeout(60):
            while len(found := self.all_said(event)) < count:
                assert not self._listener.done(), self.said
                await asyncio.sleep(0.01)
        return found

    async def stop(self) -> int:
        """Have it end in order; return its exit code."""
        self.child.send_signal(signal.SIGTERM)
        return await self.ended()

    async def ended(self) -> int:
        async with asyncio.timeout(60):
            await self._listener
            return await self.child.wait()

    async def _listen(self) -> None:
        while line := await self.child.stderr.readline():
            self.said.append(json.loads(line))


@contextlib.asynccontextmanager
async def served(folder: Path, upstream: str | None, **changes: object) -> AsyncIterator[Served]:
    names = {"LISTEN": "127.0.0.1:0", "ADMIN_LISTEN": "127.0.0.1:0", "LOG_DIR": folder, "MIN_FREE_BYTES": 0}
    if upstream is not None:
        names["UPSTREAMS"] = json.dumps([{"url": upstream, "vm_id": 1}])
    environ = CLEAN | {f"SPOTINFERENCE_PROXY_{name}": str(value) for name, value in (names | changes).items()}
    if "CONFIG" in changes:
        environ["SPOTINFERENCE_CONFIG"] = environ.pop("SPOTINFERENCE_PROXY_CONFIG")
    command = (sys.executable, "-m", "spotinference_proxy")
    child = await asyncio.create_subprocess_exec(*command, env=environ, stderr=asyncio.subprocess.PIPE)
    proxy = Served(child, folder)
    try:
        await proxy.hear("listening", int(changes.get("WORKERS", 1)))
        yield proxy
    finally:
        if child.returncode is None:  # else its workers are gone, too
            for pid in (child.pid, *(line["pid"] for line in proxy.all_said("worker_started"))):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        await proxy.ended()


def sealed_rows(folder: Path) -> list[dict]:
    """Return the rows of a folder in which every segment is sealed."""
    paths = list(folder.iterdir())
    assert {path.suffix for path in paths} == {".jsonl"}
    return [parse_line(line) for path in paths for line in path.read_bytes().splitlines(keepends=True)]


def account(tally: Tally, rows: list[dict]) -> None:
    """Hold what the clients saw against the log: one record for each answer, and none more."""
    ends = [row for row in rows if row["k"] == "end"]
    complete = [row["request_id"] for row in ends if (row["status"], row["end_reason"]) == (200, "complete")]
    refused = [row for row in ends if (row["status"], row["end_reason"]) == (503, "refused")]
    assert sorted(tally.names) == sorted(complete)
    assert len(refused) == tally.count(503)
    assert len(complete) + len(refused) == len(ends)
    begun = [row["request_id"] for row in rows if row["k"] == "begin"]
    assert sorted(begun) == sorted(row["request_id"] for row in ends)
    assert len(set(begun)) == len(begun)


# ---------------------------------------------------------------------- overload


async def test_F027_ten_times_as_many_clients_as_places_get_early_refusals_and_nothing_is_lost(tmp_path: Path) -> None:
    async with engine(0.2, 0.2) as vllm, served(tmp_path / "log", vllm.url, MAX_IN_FLIGHT=PLACES) as proxy:
        async with hammering(proxy.address, *([PLAIN] * CLIENTS)) as tally:
            await tally.wait(lambda: tally.count(503) >= CLIENTS and tally.count(200) >= 2 * PLACES)
            await asyncio.sleep(1)
            before, answers = proxy.resident_bytes, sum(map(len, tally.seconds.values()))
            await asyncio.sleep(4)
            grown = proxy.resident_bytes - before
        assert await proxy.stop() == 0
    refusals, admitted = tally.seconds[503], tally.seconds[200]
    print(
        f"{len(admitted)} answers, median {statistics.median(admitted):.3f} s, longest {max(admitted):.3f} s; "
        f"{len(refusals)} refusals, median {statistics.median(refusals):.3f} s; {grown / MIB:.1f} MiB more"
    )
    assert set(tally.seconds) == {200, 503}
    assert set(tally.reasons) == {"too many requests in flight"}
    assert (tally.broken, tally.unhelpful) == (0, 0)
    assert vllm.most_running == PLACES
    assert statistics.median(refusals) < 0.7
    assert statistics.median(admitted) < 2.0
    assert sum(map(len, tally.seconds.values())) > answers + CLIENTS
    assert grown <= 32 * MIB
    rows = sealed_rows(tmp_path / "log")
    account(tally, rows)
    with pytest.raises(AssertionError):  # the control of the account: a record less
        account(tally, [row for row in rows if row.get("request_id") != tally.names[0]])


async def test_F027_control_without_a_limit_nobody_is_refused_and_vllm_gets_it_all(tmp_path: Path) -> None:
    async with engine(0.2, 0.2) as vllm, served(tmp_path / "log", vllm.url, MAX_IN_FLIGHT=10**6) as proxy:
        async with hammering(proxy.address, *([PLAIN] * CLIENTS)) as tally:
            await tally.wait(lambda: tally.count(200) > CLIENTS)
        assert await proxy.stop() == 0
    assert set(tally.seconds) == {200}
    assert vllm.most_running > 2 * PLACES
    account(tally, sealed_rows(tmp_path / "log"))


@pytest.mark.parametrize("most_waiting", [100, 10_000], ids=["limited", "control_unlimited"])
async def test_F007_on_a_slow_disk_admission_stops_by_waiting_rows_and_nothing_is_lost(
    rig, monkeypatch, most_waiting: int
) -> None:
    def sync(fd: int) -> None:
        time.sleep(0.2)
        os.fdatasync(fd)

    monkeypatch.setattr(app, "RequestLog", functools.partial(RequestLog, max_waiting=most_waiting))
    waiting = 0
    async with engine(0.0, 0.05) as vllm:
        proxy = await rig.start(
            calls=Calls(fdatasync=sync), upstreams=(UpstreamSettings(vllm.url),), max_in_flight=PLACES
        )
        async with hammering(proxy.address, *([PLAIN, STREAM] * 250), pause=0.05) as tally:
            until = time.monotonic() + 3
            while time.monotonic() < until:
                waiting = max(waiting, proxy.log.waiting)
                await asyncio.sleep(0.002)
            await tally.wait(lambda: tally.count(200) > PLACES)
        await proxy.stop()
    slow = tally.reasons["request log: N rows wait, expected at most N"]
    print(f"{tally.count(200)} answers, {dict(tally.reasons)}, at most {waiting} rows waiting")
    assert (tally.broken, tally.unhelpful) == (0, 0)
    assert (slow > 0) == (most_waiting == 100)
    # a running batch and the next, each with the rows of whoever had been taken in before
    assert (waiting < 2 * (100 + 2 * PLACES) + 50) == (most_waiting == 100)
    tally.seconds[503] = tally.seconds[503][: tally.count(503) - slow]  # who is refused by a full log is in no log
    account(tally, rig.rows())


async def test_F006_a_plain_answer_whose_record_cannot_be_written_is_a_503_with_retry_after(rig) -> None:
    is_bad: list[bool] = []

    def sync(fd: int) -> None:
        if is_bad:
            raise OSError(5, "Input/output error")
        os.fdatasync(fd)

    proxy = await rig.start(calls=Calls(fdatasync=sync))
    is_bad.append(True)
    status, content, fields = await rig.post("/v1/chat/completions", {"model": "otter"})
    assert (status, fields["Retry-After"]) == (503, "10")
    assert b"request log" in content
    is_bad.clear()
    await proxy.log.tick()
    assert (await rig.post("/v1/chat/completions", {"model": "otter"}))[0] == 200


# ---------------------------------------------------------------------- stop, reload, death of a worker


async def stream(address: tuple[str, int], begun: list[bytes]) -> object:
    """Ask for a stream; tell when it has begun."""
    async with PROGRAM.Client(*address) as client:
        return await client.ask(STREAM, tell=begun.append)


async def accepts(address: tuple[str, int]) -> bool:
    try:
        async with PROGRAM.Client(*address):
            return True
    except ConnectionRefusedError:
        return False


async def test_a_stop_under_load_ends_every_running_stream_and_seals_the_log(tmp_path: Path) -> None:
    async with engine(0.04, 0.06, steps=STEPS) as vllm, served(tmp_path / "log", vllm.url) as proxy:
        begun: list[bytes] = []
        async with hammering(proxy.address, *([PLAIN] * 8)) as tally:
            streams = [asyncio.create_task(stream(proxy.address, begun)) for _ in range(20)]
            await tally.wait(lambda: len(begun) == 20 and tally.count(200) > 20)
            proxy.child.send_signal(signal.SIGTERM)
            tally.is_over = True
            async with asyncio.timeout(30):
                while await accepts(proxy.address):
                    await asyncio.sleep(0.01)
            assert not any(one.done() for one in streams)
        answers = await asyncio.wait_for(asyncio.gather(*streams), 60)
        assert await proxy.ended() == 0
    for answer in answers:
        tally.note(answer, 0.0)
        assert answer.body.endswith(b"data: [DONE]\n\n")
        assert answer.body.count(b"data: ") == STEPS + 1  # without the usage that nobody asked for
    tally.seconds.pop(503, None)  # of whoever asked while it stopped: in no log
    rows = sealed_rows(tmp_path / "log")
    account(tally, rows)
    assert [(row["by"], row["open"], row["torn"]) for row in rows if row["k"] == "seal"] == [("writer", [], 0)]


async def test_control_a_proxy_that_is_killed_under_load_breaks_its_streams(tmp_path: Path) -> None:
    async with engine(0.04, 0.06, steps=STEPS) as vllm, served(tmp_path / "log", vllm.url) as proxy:
        begun: list[bytes] = []
        streams = [asyncio.create_task(stream(proxy.address, begun)) for _ in range(20)]
        await Tally().wait(lambda: len(begun) == 20)
        proxy.child.kill()
        assert await asyncio.wait_for(asyncio.gather(*streams), 60) == [None] * 20
    with pytest.raises(AssertionError):
        sealed_rows(tmp_path / "log")


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param(("both", "second"), id="one_after_the_other"),
        pytest.param(("second",), id="at_once"),
    ],
)
async def test_a_reload_under_load_drops_no_request(tmp_path: Path, steps: tuple[str, ...]) -> None:
    config = tmp_path / "proxy.toml"

    def write(*urls: str) -> None:
        tables = [f"[[spotinference_proxy_upstreams]]\nurl = {json.dumps(url)}\nvm_id = 1\n" for url in urls]
        config.write_text("\n".join(tables))

    async with engine() as first, engine() as second:
        second.health_seconds = 0.1  # so long nobody knows whether it is ready
        write(first.url)
        async with served(tmp_path / "log", None, CONFIG=config) as proxy:
            async with hammering(proxy.address, *([PLAIN, STREAM] * 8)) as tally:
                for number, step in enumerate(steps, 1):
                    await tally.wait(lambda before=first.asked: first.asked > before + 50)
                    write(*([first.url, second.url] if step == "both" else [second.url]))
                    proxy.child.send_signal(signal.SIGHUP)
                    await proxy.hear("reloaded", number)
                    await tally.wait(lambda before=second.asked: second.asked > before + 50)
                settled = first.asked
                await tally.wait(lambda before=second.asked: second.asked > before + 50)
                assert first.asked == settled
            assert await proxy.stop() == 0
    print({status: len(seconds) for status, seconds in tally.seconds.items()}, dict(tally.reasons))
    assert (set(tally.seconds), tally.broken) == ({200}, 0)
    account(tally, sealed_rows(tmp_path / "log"))


async def test_F001_a_worker_killed_under_load_is_replaced_and_its_answers_are_in_the_log_once(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    async with engine() as vllm, served(folder, vllm.url, WORKERS=2) as proxy:
        async with hammering(proxy.address, *([PLAIN, STREAM] * 12)) as tally:
            await tally.wait(lambda: tally.count(200) > 200)
            dead = proxy.all_said("worker_started")[0]
            os.kill(dead["pid"], signal.SIGKILL)
            fresh = (await proxy.hear("worker_started", 3))[2]
            await proxy.hear("listening", 3)
            seen = tally.count(200)
            await tally.wait(lambda: tally.count(200) > seen + 200)
        assert await proxy.stop() == 0
    assert (fresh["worker"], proxy.all_said("worker_died")[0]["code"]) == (dead["worker"], -9)
    assert set(tally.seconds) <= {200, 503}  # the latter until the new worker has heard from vLLM
    rows = sealed_rows(folder)
    ends = [row["request_id"] for row in rows if row["k"] == "end"]
    assert len(ends) == len(set(ends))
    assert set(tally.names) <= set(ends)
    seals = [row for row in rows if row["k"] == "seal"]
    recovered = [row for row in seals if row["by"] == "recovery"]
    assert len(recovered) == 1
    begun = {row["request_id"] for row in rows if row["k"] == "begin"}
    assert begun - set(ends) == set(recovered[0]["open"])
    assert {tuple(row["open"]) for row in seals if row["by"] == "writer"} == {()}
    writers = {row["writer"].rpartition("-")[2] for row in rows if row["k"] == "head"}
    assert writers == {"0", "1"}
