"""Fixtures: a tiny scenario written by hand, the demo scenario, and both servers in virtual time."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import google_crc32c
import pytest
from spotinference_sim.clock import VirtualClock
from spotinference_sim.instants import FOREVER_S, SECOND_US, day_start_s, to_datetime
from spotinference_sim.prices import FLAVORS, PriceBook
from spotinference_sim.request import Request
from spotinference_sim.resources import Credit, Spell, Vm, VmEvent, Volume, Wake
from spotinference_sim.scenario import Scenario
from spotinference_sim.simulators import API_KEY, Simulators

DAY = date(2026, 11, 22)
START_S = day_start_s(DAY)
VM_ID = 700101
MODEL = "tiny-model"
READY_S = 1_100
SLEEP_S = 7_200


def tiny_request(**changes: Any) -> Request:
    """One request of 100 + 50 tokens, from second 2,000 to second 2,010 of the day."""
    start_us = START_S * SECOND_US
    request = Request(
        "0198aaaa-0000-7000-8000-000000000001",
        VM_ID,
        MODEL,
        start_us + 2_000 * SECOND_US,
        start_us + 2_010 * SECOND_US,
        100,
        50,
        first_byte_us=start_us + 2_001 * SECOND_US,
        requested_model=MODEL,
        stream=True,
        key_id="3f1c9a04b7de",
        engine_prompt_tokens=100,
        engine_completion_tokens=50,
    )
    return replace(request, **changes)


def tiny_vm() -> Vm:
    """A machine at 1,000 + 10 nano-dollars per second: created at 0, ACTIVE 1,000 to 7,200, then saved."""
    ip = ("publicip", 10)
    spells = (
        Spell(START_S, START_S + 1_000, "CREATING", ()),
        Spell(START_S + 1_000, START_S + SLEEP_S, "ACTIVE", (("gpu", 1_000), ip)),
        Spell(START_S + SLEEP_S, START_S + 7_300, "HIBERNATING", (("disk", 7),)),
        Spell(START_S + 7_300, FOREVER_S, "HIBERNATED", (("disk", 7),)),
    )
    return Vm(
        VM_ID,
        "tiny",
        spells,
        (Credit(START_S + 3_000, 1_500_000),),
        flavor=FLAVORS["n3-L40x1"],
        model=MODEL,
        wakes=(Wake(START_S + 1_000, START_S + READY_S, START_S + SLEEP_S, START_S + 1_015),),
        events=(
            VmEvent(START_S, "InstanceCreationRequest"),
            VmEvent(START_S + 1_000, "InstanceCreationSuccess"),
            VmEvent(START_S + SLEEP_S, "HibernateInstanceRequest"),
            VmEvent(START_S + 7_300, "HibernateInstanceSuccess"),
        ),
    )


@pytest.fixture
def make_request() -> Callable[..., Request]:
    return tiny_request


@pytest.fixture
def make_tiny() -> Callable[..., Scenario]:
    def make(*requests: Request, **changes: Any) -> Scenario:
        spells = (Spell(START_S + 500, START_S + 4_500, "AVAILABLE", (("disk", 27),)),)
        volume = Volume(VM_ID, "disk", spells, size=1)
        return replace(Scenario(1, DAY, 1, (tiny_vm(),), (volume,), requests, PriceBook()), **changes)

    return make


@pytest.fixture(scope="session")
def demo() -> Scenario:
    return Scenario.generate(7, DAY - timedelta(days=8), 9)


@pytest.fixture(scope="session")
def short() -> Scenario:
    return Scenario.generate(3, DAY, 1)


@pytest.fixture(scope="session")
def read_lines() -> Callable[[Path], list[dict[str, Any]]]:
    """Read a file of checksummed lines, checking each line's last member."""

    def read(path: Path) -> list[dict[str, Any]]:
        rows = []
        for line in path.read_bytes().splitlines(keepends=True):
            body, checksum = line[:-17], line[-17:]
            assert checksum == b',"c":"%08x"}\n' % google_crc32c.value(body)
            assert len(line) <= (16_384 if "request_log" in str(path) else 10**7)
            rows.append(json.loads(line))
        return rows

    return read


class Stage:
    """Both servers, a client and the clock; `at` moves to a second of the tiny scenario's day."""

    def __init__(self, simulators: Simulators, clock: VirtualClock, client: aiohttp.ClientSession) -> None:
        self.simulators = simulators
        self.clock = clock
        self.client = client
        self.engine = f"{simulators.vllm_url}/vm/{VM_ID}"

    async def at(self, second: float) -> None:
        await self.clock.advance(to_datetime(round((START_S + second) * SECOND_US)))

    async def post(self, path: str, body: Any, **options: Any) -> tuple[int, bytes]:
        """Send a request and read the whole answer; it must end by itself."""
        async with self.client.post(f"{self.engine}/{path}", json=body, **options) as answer:
            return answer.status, await answer.read()

    async def ask(self, path: str, body: Any, until: float, **options: Any) -> tuple[int, bytes]:
        """Send a request, move the clock so that it can end, return its answer."""
        asked = asyncio.ensure_future(self.post(path, body, **options))
        await self.at(until)
        return await asked

    async def read(self, path: str) -> tuple[int, str]:
        async with self.client.get(f"{self.engine}/{path}") as answer:
            return answer.status, await answer.text()

    async def hyperstack(self, path: str, **query: str) -> tuple[int, Any]:
        headers = {"api_key": API_KEY}
        url = f"{self.simulators.hyperstack_url}{path}"
        async with self.client.get(url, params=query, headers=headers) as answer:
            return answer.status, await answer.json()


@pytest.fixture
async def make_stage(make_tiny: Callable[..., Scenario]) -> AsyncIterator[Callable[..., Any]]:
    closing: list[Any] = []

    async def make(second: float = 2_000, **options: Any) -> Stage:
        clock = VirtualClock(to_datetime(round((START_S + second) * SECOND_US)))
        simulators = Simulators(options.pop("scenario", make_tiny()), clock, **options)
        await simulators.start()
        client = aiohttp.ClientSession()
        closing.extend([client.close, simulators.stop])
        return Stage(simulators, clock, client)

    yield make
    for close in closing:
        await close()


@pytest.fixture
async def stage(make_stage: Callable[..., Any]) -> Stage:
    made: Stage = await make_stage()
    return made
