"""What happens without a request: probes, the rows of a minute, progress of running streams, time-outs, sealing.

Owns when. What a row says is upstreams.py and record.py. `probe`, `minute` and `progress` may be called
directly (a virtual clock does), then nothing here waits. Each upstream is probed at its own pace: one that sleeps, and
does not answer, holds up nobody else's probe; nor does the disk.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from spotinference_proxy.errors import LogError
from spotinference_proxy.record import Row, render_instant
from spotinference_proxy.relay import Relay, Surroundings
from spotinference_proxy.upstreams import Upstream

TICK_SECONDS = 1.0
SWEEP_SECONDS = 0.5
PROBE_EVERY_SECONDS = 2.0
PROGRESS_EVERY_SECONDS = 4.0  # the format promises 5
MINUTE_SECONDS = 60.0
IDLE_SECONDS = 30.0  # of silence after which an upstream that fails its probe is given up


class Periodic:
    """The background work of one proxy; `sweeps` are called twice a second."""

    def __init__(
        self,
        around: Surroundings,
        relays: set[Relay],
        sweeps: Sequence[Callable[[], None]],
        engine_read: Callable[[Row], None],
        failed: Callable[[Exception], None],
        *,
        reports_fleet: bool,
    ) -> None:
        self._around = around
        self._relays = relays
        self._sweeps = sweeps
        self._engine_read = engine_read
        self._failed = failed
        self._reports_fleet = reports_fleet
        self._tasks: list[asyncio.Task[None]] = []
        self._watches: dict[Upstream, asyncio.Task[None]] = {}

    def start(self) -> None:
        """Begin to repeat; the first probe was made by whoever started the proxy."""
        every: tuple[tuple[float, Callable[[], Awaitable[None]]], ...] = (
            (SWEEP_SECONDS, self._sweep),
            (TICK_SECONDS, self._around.log.tick),
            (SWEEP_SECONDS, self._watch),
            (PROGRESS_EVERY_SECONDS, self._progress),
            (MINUTE_SECONDS, self.minute),
        )
        self._tasks = [asyncio.create_task(self._repeat(seconds, call)) for seconds, call in every]

    async def stop(self) -> None:
        """End the background work."""
        tasks = [*self._tasks, *self._watches.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._tasks, self._watches = [], {}

    async def probe(self, *chosen: Upstream) -> None:
        """Probe the chosen upstreams, else all, queue a row of what changed, give up silent relays of a dead one."""
        around = self._around
        for upstream in await around.pool.probe(*chosen):
            around.health_changed(upstream)
            around.log.append(upstream.health_row(around.clock()))
        now_seconds = time.monotonic()
        for relay in list(self._relays):
            if relay.is_heard:
                relay.is_heard, relay.silent_since = False, now_seconds
            elif not relay.upstream.is_ready and now_seconds - relay.silent_since > IDLE_SECONDS:
                relay.cut("upstream_timeout")

    async def minute(self) -> None:
        """Write health, as last probed, and counters of every upstream, and the beat; of several workers one does the former."""
        around = self._around
        rows = []
        if self._reports_fleet:
            rows = [upstream.health_row(around.clock()) for upstream in around.pool.upstreams]
            engines = await around.pool.engine_rows(around.clock)
            for row in engines:
                self._engine_read(row)
            rows += engines
        with contextlib.suppress(LogError):
            await around.log.commit(*rows, {"k": "beat", "at": render_instant(around.clock())})

    def progress(self) -> None:
        """Queue what vLLM has said so far about every running stream."""
        for relay in list(self._relays):
            relay.note_progress()

    async def _repeat(self, seconds: float, call: Callable[[], Awaitable[None]]) -> None:
        """Begin a call every so many seconds, however long each takes; never two at once."""
        due = time.monotonic()
        while True:
            due = max(due + seconds, time.monotonic())
            await asyncio.sleep(due - time.monotonic())
            try:
                await call()
            except Exception as error:  # a bug: it is told, and what goes on all the time goes on
                self._failed(error)

    async def _progress(self) -> None:
        self.progress()

    async def _watch(self) -> None:
        """See to it that each upstream, and none that is gone, has a probe of its own."""
        everyone = self._around.pool.everyone
        for upstream in [one for one in self._watches if one not in everyone]:
            self._watches.pop(upstream).cancel()
        for upstream in everyone:
            if upstream not in self._watches:
                probing = self._repeat(PROBE_EVERY_SECONDS, partial(self.probe, upstream))
                self._watches[upstream] = asyncio.create_task(probing)

    async def _sweep(self) -> None:
        for sweep in self._sweeps:
            sweep()
