"""The clocks that the simulators live by: the system's, or one that a test moves.

Owns waiting. Everything else takes a clock and asks it, so that a whole day can be played in one process
without waiting for it. `SPOTINFERENCE_NOW` shifts the system clock.
"""

import asyncio
import heapq
import itertools
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Protocol

SETTLE_TURNS = 60
"""Turns of the event loop after each woken sleeper: enough for a client, a proxy and a server on loopback."""


class Clock(Protocol):
    """What the simulators ask of a clock."""

    def now(self) -> datetime:
        """Tell the present instant, aware, UTC."""

    async def wait_until(self, instant: datetime) -> None:
        """Return once the clock shows the instant or later."""


class SystemClock:
    """The system's clock, optionally set to begin at another instant."""

    def __init__(self, starts_at: datetime | None = None) -> None:
        self._shift = timedelta() if starts_at is None else starts_at - datetime.now(UTC)

    def now(self) -> datetime:
        """Tell the present instant."""
        return datetime.now(UTC) + self._shift

    async def wait_until(self, instant: datetime) -> None:
        """Sleep until the instant."""
        while (left := (instant - self.now()).total_seconds()) > 0:
            await asyncio.sleep(left)


async def settle() -> None:
    """Let everything that is ready on the event loop run."""
    for _ in range(SETTLE_TURNS):
        await asyncio.sleep(0)


class VirtualClock:
    """A clock that stands still until `advance` moves it, waking sleepers in the order of their instants."""

    def __init__(self, now: datetime, settle: Callable[[], Awaitable[None]] = settle) -> None:
        self._now = now
        self._settle = settle
        self._order = itertools.count()
        self._sleepers: list[tuple[datetime, int, asyncio.Future[None]]] = []

    def now(self) -> datetime:
        """Tell the instant to which the clock was last moved."""
        return self._now

    async def wait_until(self, instant: datetime) -> None:
        """Return once `advance` has reached the instant; at once if it has."""
        if instant <= self._now:
            return
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (instant, next(self._order), woken))
        await woken

    async def advance(self, instant: datetime) -> None:
        """Move to the instant, stopping at each sleeper's on the way and letting what it starts run.

        Raises: ValueError when the instant lies in the past.
        """
        if instant < self._now:
            raise ValueError(f"clock stands at {self._now.isoformat()}, cannot go back to {instant.isoformat()}")
        await self._settle()
        while self._sleepers and self._sleepers[0][0] <= instant:
            due, _, woken = heapq.heappop(self._sleepers)
            if not woken.done():
                self._now = max(self._now, due)
                woken.set_result(None)
                await self._settle()
        self._now = instant
        await self._settle()
