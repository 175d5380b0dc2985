import asyncio
import contextlib
import dataclasses
import json
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from spotinference_proxy import serving
from spotinference_proxy.addresses import ListenError, explain_listening, text_of
from spotinference_proxy.app import utc_now
from spotinference_proxy.errors import LogError
from spotinference_proxy.logs import Logs
from spotinference_proxy.serving import clock_of, serve
from spotinference_proxy.settings import Settings, UpstreamSettings

ENVIRON = {"SPOTINFERENCE_PROXY_UPSTREAMS": '[{"url": "http://a"}, {"url": "http://b"}]'}
SETTINGS = Settings((UpstreamSettings("http://a"),), listen=("127.0.0.1", 0), admin_listen=("127.0.0.1", 0))


class Fake:
    """A proxy that takes its time; `rig` says how long."""

    def __init__(self, rig: "Rig", settings: Settings, logs: Logs) -> None:
        self.address, self.admin_address = ("127.0.0.1", 8080), ("::1", 8081)
        self._rig = rig

    async def start(self) -> None:
        self._rig.calls.append("start")
        await self._rig.starting()

    async def stop(self) -> None:
        self._rig.calls.append("stop")
        await self._rig.stopping()
        self._rig.calls.append("stopped")

    async def stop_now(self) -> None:
        self._rig.calls.append("stop_now")
        self._rig.is_quiet.set()

    def reload(self, settings: Settings) -> None:
        self._rig.calls.append(f"reload {len(settings.upstreams)}")


async def at_once() -> None:
    """Take no time."""


class Rig:
    """One life of a fake proxy, and what it said."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.is_quiet = asyncio.Event()
        self.starting: Callable[[], Awaitable[object]] = at_once
        self.stopping: Callable[[], Awaitable[object]] = at_once
        self.source, self.fd = os.pipe()
        os.set_blocking(self.source, False)
        self._said: list[dict] = []

    def begin(self, settings: Settings = SETTINGS, environ: dict[str, str] = ENVIRON) -> asyncio.Task[None]:
        made = lambda settings, clock, logs: Fake(self, settings, logs)  # noqa: E731
        return asyncio.create_task(serve(settings, utc_now, environ, Logs(self.fd), made))

    async def wait(self, is_so: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not is_so():
                await asyncio.sleep(0.005)

    def said(self, event: str) -> list[dict]:
        with contextlib.suppress(BlockingIOError):
            self._said += [json.loads(line) for line in os.read(self.source, 1 << 20).splitlines()]
        return [line for line in self._said if line["event"] == event]


@pytest.fixture
async def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    os.close(rig.source)
    os.close(rig.fd)


def tell(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_in_order(rig: Rig, number: int) -> None:
    life = rig.begin()
    await rig.wait(lambda: bool(rig.said("listening")))
    assert rig.said("listening")[0]["message"] == "listening on 127.0.0.1:8080, log in request_log"
    assert rig.said("listening")[0]["admin_address"] == "[::1]:8081"
    assert rig.said("admin_is_public") == []
    tell(number)
    await asyncio.wait_for(life, 30)
    assert rig.calls == ["start", "stop", "stopped"]
    assert rig.said("stopped")


async def test_a_second_signal_does_not_wait_for_running_requests(rig: Rig) -> None:
    rig.stopping = rig.is_quiet.wait
    life = rig.begin()
    await rig.wait(lambda: bool(rig.said("listening")))
    tell(signal.SIGTERM)
    await rig.wait(lambda: "stop" in rig.calls)
    tell(signal.SIGTERM)
    await asyncio.wait_for(life, 30)
    assert rig.calls == ["start", "stop", "stop_now", "stopped"]
    assert rig.said("stopping_now")


async def test_a_signal_while_it_starts_is_not_lost_and_a_second_one_cuts_the_start(rig: Rig) -> None:
    rig.starting = rig.is_quiet.wait
    life = rig.begin()
    await rig.wait(lambda: "start" in rig.calls)
    tell(signal.SIGTERM)
    await asyncio.sleep(0.01)
    rig.is_quiet.set()
    await asyncio.wait_for(life, 30)
    assert rig.calls == ["start", "stop", "stopped"]
    rig.is_quiet.clear()
    life = rig.begin()
    await rig.wait(lambda: rig.calls.count("start") == 2)
    tell(signal.SIGTERM)
    tell(signal.SIGINT)
    await asyncio.wait_for(life, 30)
    assert rig.calls[3:] == ["start"]


async def test_a_reload_that_came_too_early_is_made_good(rig: Rig) -> None:
    rig.starting = rig.is_quiet.wait
    life = rig.begin()
    await rig.wait(lambda: "start" in rig.calls)
    tell(signal.SIGHUP)
    await asyncio.sleep(0.01)
    assert rig.calls == ["start"]
    rig.is_quiet.set()
    await rig.wait(lambda: bool(rig.said("reloaded")))
    tell(signal.SIGTERM)
    await asyncio.wait_for(life, 30)
    assert rig.calls == ["start", "reload 2", "stop", "stopped"]


async def test_a_wrong_setting_at_a_reload_is_told_and_changes_nothing(rig: Rig) -> None:
    life = rig.begin(environ={})
    await rig.wait(lambda: bool(rig.said("listening")))
    tell(signal.SIGHUP)
    await rig.wait(lambda: bool(rig.said("reload_refused")))
    assert "PROXY_UPSTREAMS: not set" in rig.said("reload_refused")[0]["problem"]
    tell(signal.SIGTERM)
    await asyncio.wait_for(life, 30)
    assert rig.calls == ["start", "stop", "stopped"]


async def test_a_worker_without_its_supervisor_ends(rig: Rig) -> None:
    settings = dataclasses.replace(SETTINGS, workers=2, worker=1)
    await asyncio.wait_for(rig.begin(settings, ENVIRON | {"SPOTINFERENCE_PROXY_SUPERVISOR": "999999999"}), 30)
    assert rig.said("supervisor_gone")
    assert rig.calls == ["start", "stop", "stopped"]


async def test_control_a_worker_with_its_supervisor_goes_on(rig: Rig) -> None:
    settings = dataclasses.replace(SETTINGS, workers=2, worker=1)
    life = rig.begin(settings, ENVIRON | {"SPOTINFERENCE_PROXY_SUPERVISOR": str(os.getppid())})
    await rig.wait(lambda: bool(rig.said("listening")))
    tell(signal.SIGTERM)
    await asyncio.wait_for(life, 30)
    assert not rig.said("supervisor_gone")


async def test_F038_admin_pages_that_others_can_reach_are_told(rig: Rig) -> None:
    life = rig.begin(dataclasses.replace(SETTINGS, admin_listen=("0.0.0.0", 0)))
    await rig.wait(lambda: bool(rig.said("admin_is_public")))
    tell(signal.SIGTERM)
    await asyncio.wait_for(life, 30)


@pytest.mark.parametrize("error", [LogError("no disk"), OSError(98, "Address already in use")])
async def test_a_start_that_fails_ends_it_with_one_line(rig: Rig, error: Exception) -> None:
    async def fail() -> None:
        raise error

    rig.starting = fail
    with pytest.raises(LogError if isinstance(error, LogError) else ListenError) as caught:
        await asyncio.wait_for(rig.begin(), 30)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("field", ["listen", "admin_listen"])
def test_an_address_that_cannot_be_had_is_named(field: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()
        settings = dataclasses.replace(SETTINGS, **{field: taken})
        found = explain_listening(OSError("x"), settings)
        assert f"SPOTINFERENCE_PROXY_{field.upper()}: cannot listen on {text_of(taken)}: " in found
        assert f"PROXY_{field.upper()}" in explain_listening(OSError("x"), dataclasses.replace(settings, worker=0))
    elsewhere = dataclasses.replace(SETTINGS, **{field: ("192.0.2.1", 8080)})
    assert "192.0.2.1:8080: cannot assign" in explain_listening(OSError("x"), elsewhere)
    assert "cannot listen: x" in explain_listening(OSError("x"), SETTINGS)


@pytest.mark.parametrize(
    ("host", "next_step"),
    [
        ("127.0.0.1", "; stop the program that has it, or choose another address"),
        ("192.0.2.1", "; choose an address that this machine has"),
        ("fe80::1%nowhere", "; correct the address, or choose another"),  # a name that nobody knows, asked of no server
    ],
)
def test_an_address_that_cannot_be_had_comes_with_a_next_step_that_helps(host: str, next_step: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        settings = dataclasses.replace(SETTINGS, listen=(host, server.getsockname()[1]))
        found = explain_listening(OSError("x"), settings)
    assert found.startswith("SPOTINFERENCE_PROXY_LISTEN: cannot listen on ")
    assert found.endswith(next_step)


def test_a_real_proxy_that_cannot_listen_is_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        settings = dataclasses.replace(SETTINGS, listen=server.getsockname(), log_dir=tmp_path)
        with pytest.raises(ListenError, match="PROXY_LISTEN: cannot listen"):
            serving.run(settings, ENVIRON)


def test_a_given_now_is_where_the_clock_starts() -> None:
    start = datetime(2026, 2, 28, 23, 59, tzinfo=UTC)
    clock = clock_of(dataclasses.replace(SETTINGS, now=start))
    first = clock()
    assert 0 <= (first - start).total_seconds() < 60
    assert clock() >= first
    assert clock_of(SETTINGS) is utc_now
