"""Group commit: rows from the event loop, one write and one sync for all that came meanwhile, no timer.

Owns the queue, the one thread that touches the disk, and who is told when. Does not own files: writer.py.
While a sync runs, rows gather; they are the next batch: a lone row waits for one sync, a crowd shares one.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from spotinference_proxy.errors import ProxyError
from spotinference_proxy.record import Row
from spotinference_proxy.writer import SegmentWriter


class RequestLog:
    """The durable request log as the event loop sees it."""

    def __init__(self, writer: SegmentWriter) -> None:
        self._writer = writer
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="request-log")
        self._rows: list[Row] = []
        self._waiters: list[asyncio.Future[None]] = []
        self._flushing: asyncio.Task[None] | None = None

    @property
    def is_writable(self) -> bool:
        """False from an error until a row became durable again."""
        return not self._writer.is_broken

    async def start(self) -> None:
        """Recover and open. Raises: LogError."""
        await self._run(self._writer.start)

    def append(self, row: Row) -> None:
        """Queue a row; it is written with the next batch, nobody waits for it."""
        self._rows.append(row)
        if self._flushing is None or self._flushing.done():
            self._flushing = asyncio.get_running_loop().create_task(self._flush())

    async def commit(self, *rows: Row) -> None:
        """Return when `rows` and all queued before them are on disk. Raises: LogError."""
        if not rows:
            return
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        for row in rows:
            self.append(row)
        await waiter

    async def seal(self) -> None:
        """Seal the current segment if it holds a row; everything queued before is in it."""
        await self._drain()
        await self._run(self._writer.seal)

    async def tick(self) -> None:
        """Seal by age; look whether a broken disk works again."""
        await self._run(self._writer.tick)

    async def close(self) -> None:
        """Write what is queued, seal, end the thread."""
        await self._drain()
        await self._run(self._writer.close)
        self._thread.shutdown()

    async def _drain(self) -> None:
        while self._flushing is not None and not self._flushing.done():
            await asyncio.wait([self._flushing])

    async def _flush(self) -> None:
        while self._rows:
            rows, self._rows = self._rows, []
            waiters, self._waiters = self._waiters, []
            try:
                await self._run(partial(self._writer.write, rows))
            except ProxyError as error:
                _resolve(waiters, error)
            else:
                _resolve(waiters, None)

    async def _run(self, call: Callable[[], None]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, call)


def _resolve(waiters: Sequence[asyncio.Future[None]], error: ProxyError | None) -> None:
    for waiter in waiters:
        if waiter.done():  # its task was cancelled
            continue
        if error is None:
            waiter.set_result(None)
        else:
            waiter.set_exception(error)
