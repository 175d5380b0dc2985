"""What happens without a request: probes, the rows of a minute, progress of running streams, sealing by age.

Owns when. What a row says is upstreams.py and record.py. `probe`, `minute` and `progress` may be called
directly (a virtual clock does), then nothing here waits.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from spotinference_proxy.errors import LogError
from spotinference_proxy.record import render_instant
from spotinference_proxy.relay import Relay, Surroundings
from spotinference_proxy.upstreams import UpstreamPool

TICK_SECONDS = 1.0
PROBE_EVERY_SECONDS = 2.0
PROGRESS_EVERY_SECONDS = 4.0  # the format promises 5
MINUTE_SECONDS = 60.0
IDLE_SECONDS = 30.0  # of silence after which an upstream that fails its probe is given up


class Periodic:
    """The background work of one proxy."""

    def __init__(self, around: Surroundings, pool: UpstreamPool, relays: set[Relay]) -> None:
        self._around = around
        self._pool = pool
        self._relays = relays
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to repeat; the first probe was made by whoever started the proxy."""
        every = (
            (TICK_SECONDS, self._around.log.tick),
            (PROBE_EVERY_SECONDS, self.probe),
            (PROGRESS_EVERY_SECONDS, self._progress),
            (MINUTE_SECONDS, self.minute),
        )
        self._tasks = [asyncio.create_task(_repeat(seconds, call)) for seconds, call in every]

    async def stop(self) -> None:
        """End the background work."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    async def probe(self) -> None:
        """Probe every upstream, write what changed, give up silent relays of a dead one."""
        changed = await self._pool.probe(self._around.session)
        now = self._around.clock()
        with contextlib.suppress(LogError):
            await self._around.log.commit(*(upstream.health_row(now) for upstream in changed))
        silent_since = asyncio.get_running_loop().time() - IDLE_SECONDS
        for relay in list(self._relays):
            if not relay.upstream.is_ready and relay.last_heard < silent_since:
                relay.cut("upstream_timeout")

    async def minute(self) -> None:
        """Write health and counters of every upstream, and the beat."""
        around = self._around
        await self._pool.probe(around.session)
        rows = [upstream.health_row(around.clock()) for upstream in self._pool.upstreams]
        rows += await self._pool.engine_rows(around.session, around.clock)
        with contextlib.suppress(LogError):
            await around.log.commit(*rows, {"k": "beat", "at": render_instant(around.clock())})

    def progress(self) -> None:
        """Queue what vLLM has said so far about every running stream."""
        for relay in list(self._relays):
            relay.note_progress()

    async def _progress(self) -> None:
        self.progress()


async def _repeat(seconds: float, call: Callable[[], Awaitable[None]]) -> None:
    while True:
        await asyncio.sleep(seconds)
        await call()
