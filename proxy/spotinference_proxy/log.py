"""Group commit: rows from the event loop, one write and one sync for all that came meanwhile, no timer.

Owns the queue, the one thread that touches the disk, and who is told when. Does not own files: writer.py.
While a sync runs, rows gather; they are the next batch: a lone row waits for one sync, a crowd shares one. A batch
starts after everything else the loop had to do: a busy loop makes larger batches, and a sync costs more processor
time than all the rest. Batches go to the thread by a queue of its own: an executor's future costs 10 us more.
"""

import asyncio
import contextlib
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue

from spotinference_proxy.errors import LogError
from spotinference_proxy.record import Entry, Row, render_entry
from spotinference_proxy.writer import SegmentWriter

MAX_WAITING = 10_000  # rows
STALLED_SECONDS = 5.0  # of one write and sync, from which the disk counts as hanging
_CLOSED = "request log: closed, nothing is written any more"
COMMIT_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)

Done = Callable[[LogError | None], None]


@dataclass
class LogStats:
    """Plain numbers of one log since it was opened, and of now."""

    waiting: int = 0
    open_requests: int = 0
    free_bytes: int | None = None
    errors_total: int = 0
    dropped_rows_total: int = 0
    torn_bytes_total: int = 0
    commits_total: int = 0
    commit_seconds_sum: float = 0.0
    commit_seconds_counts: list[int] = field(default_factory=lambda: [0] * (len(COMMIT_SECONDS) + 1))
    """How many waited at most COMMIT_SECONDS[i] and longer than the bound before; the last: longer than all."""


@dataclass
class _Batch:
    loose: list[Entry] = field(default_factory=list)
    held: list[Entry] = field(default_factory=list)
    waiters: list[Done] = field(default_factory=list)
    since: float = 0.0  # when the first waiter came
    began: float = 0.0  # when it was given to the thread


class RequestLog:
    """The durable request log as the event loop sees it."""

    def __init__(
        self, writer: SegmentWriter, *, max_waiting: int = MAX_WAITING, stalled_seconds: float = STALLED_SECONDS
    ) -> None:
        self._writer = writer
        self._stalled_seconds = stalled_seconds
        self._max_waiting = max_waiting
        self._stats = LogStats()
        self._next = _Batch()
        self._running: _Batch | None = None
        self._is_planned = False
        self._is_closed = False
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop

    @property
    def is_writable(self) -> bool:
        """False from an error until a row became durable again."""
        return not self._writer.is_broken

    @property
    def waiting(self) -> int:
        """How many rows are not known to be on disk."""
        waiting = len(self._next.loose) + len(self._next.held)
        return waiting + (len(self._running.loose) + len(self._running.held) if self._running else 0)

    @property
    def is_admitting(self) -> bool:
        """Whether new requests should be taken: they will be able to end."""
        return self.why_not_admitting is None

    @property
    def why_not_admitting(self) -> str | None:
        """One line for whoever is refused a request, or None."""
        writer = self._writer
        if writer.reserve.shortage is not None:
            return writer.reserve.shortage
        if self._running is not None and time.monotonic() - self._running.began > self._stalled_seconds:
            return f"request log: a write takes longer than {self._stalled_seconds:.0f} s; the disk hangs"
        if writer.is_broken:
            return "request log: the last write failed; repair the disk"
        if len(self._next.loose) + len(self._next.held) > self._max_waiting:
            return f"request log: {self.waiting} rows wait, expected at most {self._max_waiting}; the disk is too slow"
        return None

    @property
    def stats(self) -> LogStats:
        """The numbers of now."""
        stats, writer = self._stats, self._writer
        stats.waiting, stats.open_requests = self.waiting, writer.open_requests
        stats.errors_total, stats.dropped_rows_total = writer.errors_total, writer.dropped_total
        stats.torn_bytes_total, stats.free_bytes = writer.torn_bytes_total, writer.reserve.free_bytes
        return stats

    async def start(self) -> None:
        """Recover and open. Raises: LogError."""
        await self._run(self._writer.start)

    def append(self, row: Row) -> None:
        """Queue a row; it is written with the next batch, nobody waits for it. Raises: RecordError."""
        self._next.loose.append(render_entry(row))
        if not self._is_planned:
            self._plan()

    def commit_then(self, rows: Sequence[Row], done: Done) -> None:
        """Call `done` in the event loop when `rows` and all queued before are on disk, or with what went wrong.

        Raises: RecordError; then nothing was queued.
        """
        entries = [render_entry(row) for row in rows]
        batch = self._next
        if not batch.waiters:
            batch.since = time.monotonic()
        batch.held += entries
        batch.waiters.append(done)
        if not self._is_planned:
            self._plan()

    async def commit(self, *rows: Row) -> None:
        """Return when `rows` and all queued before them are on disk. Raises: LogError, RecordError."""
        if rows:
            await self._wait(rows)

    async def seal(self) -> None:
        """Seal the current segment if it holds a row; everything queued before is in it."""
        await self._drain()
        await self._run(self._writer.seal)

    async def tick(self) -> None:
        """Once a second: sync and seal by age, look at the disk's room and whether a broken disk works again."""
        await self._run(self._writer.tick)

    async def close(self) -> None:
        """Write what is queued, seal, end the thread. Twice is once."""
        if self._is_closed:
            return
        await self._drain()
        self._is_closed = True  # what is committed from here on is refused
        await self._submit(self._writer.close)
        self._jobs.put(None)
        if self._thread is not None:
            self._thread.join()

    async def _wait(self, rows: Sequence[Row]) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self.commit_then(rows, lambda error: _resolve(waiter, error))
        await waiter

    async def _drain(self) -> None:
        if self._is_planned:
            with contextlib.suppress(LogError):
                await self._wait(())

    def _plan(self) -> None:
        self._is_planned = True
        self._loop = asyncio.get_running_loop()
        self._loop.call_soon(self._begin)

    def _begin(self) -> None:
        batch, self._next = self._next, _Batch()
        if self._is_closed:
            self._finish(batch, LogError(_CLOSED))
            return
        self._running = batch
        batch.began = time.monotonic()
        self._start_thread()
        self._jobs.put(lambda: self._write(batch))

    def _write(self, batch: _Batch) -> None:
        """Runs in the thread."""
        error: LogError | None = None
        try:
            self._writer.write(batch.loose, batch.held, is_synced=bool(batch.waiters))
        except LogError as found:
            error = found
        except Exception as found:  # a bug: whoever waits must not wait for ever
            self._report("request log: write failed", found)
            error = LogError(f"request log: {found!r}; report this")
        self._tell(lambda: self._finish(batch, error))
        self._writer.roll()

    def _finish(self, batch: _Batch, error: LogError | None) -> None:
        self._running = None
        if batch.waiters:
            self._count(len(batch.waiters), time.monotonic() - batch.since)
        for done in batch.waiters:
            try:
                done(error)
            except Exception as found:  # one that fails must not keep the others waiting
                self._report("request log: a waiter failed", found)
        self._is_planned = bool(self._next.loose or self._next.waiters)
        if self._is_planned:
            self._loop.call_soon(self._begin)

    def _count(self, waiters: int, seconds: float) -> None:
        self._stats.commits_total += waiters
        self._stats.commit_seconds_sum += waiters * seconds
        self._stats.commit_seconds_counts[bisect_left(COMMIT_SECONDS, seconds)] += waiters

    async def _run(self, call: Callable[[], None]) -> None:
        if self._is_closed:
            raise LogError(_CLOSED)
        await self._submit(call)

    async def _submit(self, call: Callable[[], None]) -> None:
        """Have the thread do something else, after the batches before it."""
        self._loop = asyncio.get_running_loop()
        self._start_thread()
        waiter = self._loop.create_future()

        def job() -> None:
            error: Exception | None = None
            try:
                call()
            except Exception as found:  # told to whoever asked
                error = found
            self._tell(lambda: _resolve(waiter, error))

        self._jobs.put(job)
        await waiter

    def _tell(self, call: Callable[[], object]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile: nobody is left to tell
            self._loop.call_soon_threadsafe(call)

    def _report(self, message: str, error: Exception) -> None:
        self._tell(lambda: self._loop.call_exception_handler({"message": message, "exception": error}))

    def _start_thread(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="request-log", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            except Exception as found:  # without its thread the log would hang
                self._report("request log: the thread failed", found)


def _resolve(waiter: asyncio.Future[None], error: Exception | None) -> None:
    if waiter.done():  # its task was cancelled
        return
    if error is None:
        waiter.set_result(None)
    else:
        waiter.set_exception(error)
