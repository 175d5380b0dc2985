"""A program to be killed: many clients at once write the request log and say which requests are safe.

`start(folder, kind)` forks it; the ids it acknowledges come on the descriptor it returns, one a line. `kind` is
`durable`; `before-7` or `after-7`, which kills itself around its seventh system call on a file (`before` after half
of a write); or a control that must fail the same check: `eager` acknowledges before the row is on disk, `unsynced`
never syncs. Run as a script it stays in the foreground, writes as many requests as told and prints their ids.
"""

import asyncio
import dataclasses
import os
import signal
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from spotinference_proxy.errors import LogError
from spotinference_proxy.log import RequestLog
from spotinference_proxy.record import RequestRecord, new_request_id
from spotinference_proxy.segments import Calls
from spotinference_proxy.writer import SegmentWriter

CLIENTS = 16
MAX_BYTES = 30_000  # a segment of some 40 requests, so that many are sealed


def start(folder: Path, kind: str = "durable") -> tuple[int, int]:
    """Fork the program; return its process id and where its acknowledgements come."""
    receiver, sender = os.pipe()
    child = os.fork()
    if child:
        os.close(sender)
        return child, receiver
    os.close(receiver)
    try:
        live(folder, kind, sender)
    finally:
        os._exit(3)  # whatever happens, never back into the parent's code


def live(folder: Path, kind: str, sender: int, requests: float = float("inf")) -> None:
    """Write `requests` requests, or until killed."""
    asyncio.run(_live(folder, kind, sender, requests))


async def _live(folder: Path, kind: str, sender: int, requests: float) -> None:
    def clock() -> datetime:
        return datetime.now(UTC)

    log = RequestLog(SegmentWriter(folder, "kill", clock, calls=_calls(kind), max_bytes=MAX_BYTES, reserve_bytes=0))
    await log.start()
    left = requests

    async def ask_on() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            record = RequestRecord(new_request_id(clock()), clock(), "/v1/completions", status=200)
            log.append(record.begin())
            await asyncio.sleep(0)
            row = record.end(clock(), "complete")
            if kind == "eager":
                log.append(row)
            else:
                while not await _is_safe(log, row):
                    pass
            os.write(sender, record.request_id.encode() + b"\n")

    await asyncio.gather(*(ask_on() for _ in range(CLIENTS)))
    await log.close()


async def _is_safe(log: RequestLog, row) -> bool:
    try:
        await log.commit(row)
    except LogError:
        return False
    return True


def _calls(kind: str) -> Calls:
    if kind == "unsynced":
        return Calls(fdatasync=lambda fd: None, fsync=lambda fd: None)
    when, _, number = kind.partition("-")
    if not number:
        return Calls()
    left = int(number)

    def deadly(call: Callable) -> Callable:
        def wrapped(*arguments):
            nonlocal left
            left -= 1
            if left == 0 and when == "before":
                if call is os.write:
                    os.write(arguments[0], arguments[1][: len(arguments[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            result = call(*arguments)
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return wrapped

    return Calls(**{field.name: deadly(field.default) for field in dataclasses.fields(Calls)})


if __name__ == "__main__":
    live(Path(sys.argv[1]), "durable", 1, int(sys.argv[2]))
