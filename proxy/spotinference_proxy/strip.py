"""Take out of a stream exactly the usage that inject.py asked for; every other byte stays as it was.

Owns the two cuts: the event with `choices: []`, and the `,"usage":{...}` member of other events. An event
is looked at whole, so an edited stream passes event by event; one over sse.py's limit passes as it is.
"""

import json
import re
from typing import Any

from spotinference_proxy.sse import EventSplitter, parse_data
from spotinference_proxy.usage import parse_object

_MEMBER = re.compile(r',\s*"usage"\s*:\s*')
_DECODER = json.JSONDecoder()


class UsageStripper:
    """Filter one event stream; feed it reads, send on what it returns."""

    def __init__(self, *, hides_final: bool, hides_running: bool) -> None:
        self._hides_final = hides_final
        self._hides_running = hides_running
        self._events = EventSplitter()

    def feed(self, chunk: bytes) -> bytes:
        """Return what of the events completed by this read the client may see."""
        return b"".join(
            self._filter(piece.content) if piece.is_event else piece.content for piece in self._events.feed(chunk)
        )

    def finish(self) -> bytes:
        """Return the bytes after the last whole event, unchanged."""
        return self._events.rest()

    def _filter(self, event: bytes) -> bytes:
        if b'"usage"' not in event:
            return event
        found = parse_object(parse_data(event) or b"")
        if found is None or not isinstance(found.get("usage"), dict):
            return event
        if found.get("choices") == []:
            return b"" if self._hides_final else event
        return _cut_member(event, found) if self._hides_running else event


def _cut_member(event: bytes, found: dict[str, Any]) -> bytes:
    text = event.decode()
    wanted = {key: value for key, value in found.items() if key != "usage"}
    for match in reversed(list(_MEMBER.finditer(text))):
        try:
            _, end = _DECODER.raw_decode(text, match.end())
        except ValueError:
            continue
        cut = (text[: match.start()] + text[end:]).encode()
        if parse_object(parse_data(cut) or b"") == wanted:
            return cut
    return event
