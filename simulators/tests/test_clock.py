"""Clocks: a virtual one that stands until it is moved, and the system's."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from spotinference_sim.clock import SystemClock, VirtualClock

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


async def test_sleepers_wake_in_the_order_of_their_instants_and_see_their_own_time() -> None:
    clock = VirtualClock(NOON)
    woken: list[tuple[int, datetime]] = []

    async def sleep(minutes: int) -> None:
        await clock.wait_until(NOON + timedelta(minutes=minutes))
        woken.append((minutes, clock.now()))

    sleepers = [asyncio.ensure_future(sleep(minutes)) for minutes in (3, 1, 2, 9)]
    await clock.advance(NOON + timedelta(minutes=5))
    assert woken == [(m, NOON + timedelta(minutes=m)) for m in (1, 2, 3)]
    assert clock.now() == NOON + timedelta(minutes=5)
    sleepers[-1].cancel()
    await clock.advance(NOON + timedelta(minutes=10))
    assert len(woken) == 3


async def test_a_sleeper_may_sleep_again_within_one_advance() -> None:
    clock = VirtualClock(NOON)
    seen: list[datetime] = []

    async def tick() -> None:
        for minute in range(5):
            await clock.wait_until(NOON + timedelta(minutes=minute))
            seen.append(clock.now())

    task = asyncio.ensure_future(tick())
    await clock.advance(NOON + timedelta(hours=1))
    await task
    assert seen == [NOON + timedelta(minutes=minute) for minute in range(5)]


async def test_a_virtual_clock_does_not_go_back() -> None:
    clock = VirtualClock(NOON)
    with pytest.raises(ValueError, match="cannot go back"):
        await clock.advance(NOON - timedelta(seconds=1))


async def test_the_system_clock_runs_from_where_it_was_set() -> None:
    clock = SystemClock(NOON)
    await clock.wait_until(NOON + timedelta(milliseconds=20))
    assert NOON + timedelta(milliseconds=20) <= clock.now() < NOON + timedelta(minutes=5)
    await clock.wait_until(NOON)
    assert abs(SystemClock().now() - datetime.now(UTC)) < timedelta(seconds=5)
