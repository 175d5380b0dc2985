"""Turns of the loop: only with many streams, never longer than needed."""

import asyncio
import time

from spotinference_proxy.pacing import MANY_STREAMS, TURN_SECONDS, Pacer


async def count_turns(seconds: float) -> int:
    """Return how often the loop comes round in `seconds`."""
    until, turns = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        await asyncio.sleep(0)
        turns += 1
    return turns


async def test_few_streams_are_never_waited_for() -> None:
    pacer = Pacer()
    for _ in range(MANY_STREAMS - 1):
        pacer.begin()
    assert await count_turns(0.1) > 2 * 0.1 / TURN_SECONDS


async def test_many_streams_take_turns_until_enough_have_ended() -> None:
    pacer = Pacer()
    for _ in range(MANY_STREAMS):
        pacer.begin()
    assert 0 < await count_turns(0.1) <= 2 * 0.1 / TURN_SECONDS
    pacer.end()
    await asyncio.sleep(0.01)
    assert await count_turns(0.1) > 2 * 0.1 / TURN_SECONDS
    pacer.begin()
    assert await count_turns(0.1) <= 2 * 0.1 / TURN_SECONDS
