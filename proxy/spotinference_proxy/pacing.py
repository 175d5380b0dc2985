"""Turns of the event loop while many streams run: what came within a millisecond is passed on together.

Owns the one place where the loop sleeps. Otherwise it would be woken for each event of each stream, and a wake-up
costs as much processor time as the event (docs/decisions/0012). A loop that is busy anyway never sleeps: the turns
are at least a millisecond long, they do not get longer.
"""

import asyncio
import time

TURN_SECONDS = 0.001
MANY_STREAMS = 32  # below, an event is passed on as soon as it comes


class Pacer:
    """Told of each stream that begins and ends."""

    def __init__(self) -> None:
        self._streams = 0
        self._is_pacing = False
        self._turned_at = 0.0

    def begin(self) -> None:
        """Count a stream that runs from now on."""
        self._streams += 1
        if self._streams >= MANY_STREAMS and not self._is_pacing:
            self._is_pacing = True
            asyncio.get_running_loop().call_soon(self._turn)

    def end(self) -> None:
        """Count it no more."""
        self._streams -= 1

    def _turn(self) -> None:
        if self._streams < MANY_STREAMS:
            self._is_pacing = False
            return
        left = self._turned_at + TURN_SECONDS - time.monotonic()
        if left > 0:
            time.sleep(left)
        self._turned_at = time.monotonic()
        asyncio.get_running_loop().call_soon(self._turn)
