"""Event-stream framing: bytes in, whole events out, every byte accounted for; no I/O.

Owns where an event ends and what its data is. Does not know what an event means: usage.py and strip.py do.
Rests on https://html.spec.whatwg.org/multipage/server-sent-events.html (LF, CRLF and CR line ends, several
data lines in one event) and on vLLM sending `data: {json}\n\n` with reads that end anywhere.
"""

import re
from dataclasses import dataclass

MAX_EVENT_BYTES = 8 * 1024 * 1024  # the first event can repeat a whole prompt as token ids

_LINE_END = re.compile(rb"\r\n|\n|\r")
_BLANK_LINE = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")
_OVERLAP = 3  # bytes of a possible blank line that the next read may complete


@dataclass(frozen=True)
class Piece:
    """Consecutive bytes of a stream; `is_event` is false for parts of an event over the size limit."""

    content: bytes
    is_event: bool


class EventSplitter:
    """Cut a stream into events, blank line included, whatever the reads were."""

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._buffer = bytearray()
        self._scanned = 0
        self._is_oversize = False
        self._max_event_bytes = max_event_bytes

    def feed(self, chunk: bytes) -> list[Piece]:
        """Return the pieces this read completes; joined with `rest()` they are the bytes fed."""
        self._buffer += chunk
        pieces: list[Piece] = []
        while match := _BLANK_LINE.search(self._buffer, self._scanned):
            if match[0] == b"\r\n\r" and match.end() == len(self._buffer):
                break  # the LF of the second CRLF is still to come
            pieces.append(self._take(match.end(), is_event=not self._is_oversize))
            self._is_oversize = False
        self._scanned = max(0, len(self._buffer) - _OVERLAP)
        if len(self._buffer) > self._max_event_bytes:
            pieces.append(self._take(len(self._buffer) - _OVERLAP, is_event=False))
            self._is_oversize = True
        return pieces

    def rest(self) -> bytes:
        """Return and forget the bytes of an event that never ended."""
        return self._take(len(self._buffer), is_event=False).content

    def _take(self, end: int, *, is_event: bool) -> Piece:
        content = bytes(self._buffer[:end])
        del self._buffer[:end]
        self._scanned = 0
        return Piece(content, is_event)


def parse_data(event: bytes) -> bytes | None:
    """Return an event's data lines joined by LF, or None when it has none (a comment, a blank line)."""
    lines = [line[5:].removeprefix(b" ") for line in _LINE_END.split(event) if line.startswith(b"data:")]
    return b"\n".join(lines) if lines else None
