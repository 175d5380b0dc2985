"""Event-stream framing: bytes in, whole events out, every byte accounted for; no I/O.

Owns where an event ends and what its data is. Does not own what an event says (strip.py) or means (usage.py).
Rests on https://html.spec.whatwg.org/multipage/server-sent-events.html (LF, CRLF and CR line ends, several
data lines in one event) and on vLLM sending `data: {json}\n\n` with reads that end anywhere.
"""

import re

MAX_EVENT_BYTES = 8 * 1024 * 1024  # the first event can repeat a whole prompt as token ids

_CR = 13
_BLANK_LINE = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")
_OVERLAP = 3  # bytes of a possible blank line that the next read may complete

Piece = tuple[bytes, bool]  # consecutive bytes of a stream, and whether they are one whole event


class EventSplitter:
    """Cut a stream into events, blank line included, whatever the reads were.

    An event over the size limit comes out in parts that are no events.
    """

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._buffer = bytearray()
        self._scanned = 0
        self._has_cr = False
        self._is_oversize = False
        self._max_event_bytes = max_event_bytes

    def feed(self, chunk: bytes) -> list[Piece]:
        """Return the pieces this read completes; joined with those of `finish` they are the bytes fed."""
        buffer = self._buffer
        buffer += chunk
        self._has_cr = self._has_cr or _CR in chunk
        pieces: list[Piece] = []
        start = 0
        while (end := self._find_end(max(start, self._scanned))) >= 0:
            is_event = not self._is_oversize and end - start <= self._max_event_bytes
            pieces.append((bytes(buffer[start:end]), is_event))
            self._is_oversize = False
            start = end
        if len(buffer) - start > self._max_event_bytes:
            end = len(buffer) - _OVERLAP
            pieces.append((bytes(buffer[start:end]), False))
            self._is_oversize = True
            start = end
        del buffer[:start]
        self._scanned = max(0, len(buffer) - _OVERLAP)
        return pieces

    def finish(self) -> list[Piece]:
        """Return and forget what is left: an event whose last CR could have been half a CRLF, and no event."""
        match = _BLANK_LINE.search(self._buffer) if self._has_cr else None
        end = match.end() if match else 0
        pieces = [(bytes(self._buffer[:end]), not self._is_oversize), (bytes(self._buffer[end:]), False)]
        self._buffer.clear()
        return [piece for piece in pieces if piece[0]]

    @property
    def is_between_events(self) -> bool:
        """Tell whether the next byte fed begins an event."""
        return not self._buffer

    def _find_end(self, start: int) -> int:
        if not self._has_cr:
            at = self._buffer.find(b"\n\n", start)
            return at + 2 if at >= 0 else -1
        match = _BLANK_LINE.search(self._buffer, start)
        if match is None or (match.end() == len(self._buffer) and match[0].endswith(b"\r")):
            return -1  # nothing yet, or the LF of a last CRLF may be still to come
        return match.end()


def parse_data(event: bytes) -> bytes | None:
    """Return an event's data lines joined by LF, or None when it has none (a comment, a blank line)."""
    if event.startswith(b"data: ") and event.find(b"\n") == len(event) - 2 and _CR not in event:
        return event[6:-2]
    lines = [line[5:].removeprefix(b" ") for line in event.splitlines() if line.startswith(b"data:")]
    return b"\n".join(lines) if lines else None
