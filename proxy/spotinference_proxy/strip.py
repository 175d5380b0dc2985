"""One JSON document of an answer: which of its members matter, and the exact cut of its `usage`.

Owns reading a document (msgspec for what is strict JSON, Python's lenient parser for the rest, with the same
result) and the edits of an event that hide what inject.py asked for. Does not own what a document means for
its request (usage.py). Rests on vLLM's order of members: where usage was not asked for, `system_fingerprint`
is the last member of an event with a finish reason; where it was, it stands in the last usage event instead.
"""

import json
import re
from contextlib import suppress
from typing import Any

from msgspec import MsgspecError, Raw, Struct
from msgspec.json import Decoder, encode

UNREADABLE = (MsgspecError, ValueError, RecursionError, OverflowError)  # all that msgspec raises
MAX_LENIENT_BYTES = 1024 * 1024  # Python's parser takes 10 ms for this; whatever is not strict JSON is rare

_ABSENT = Raw(b"")
_KEY, _END, _BRACE = b',"usage":', b"}\n\n", ord("{")
_SKIP = re.compile(r"[ \t\n\r]*")
_KEY_BEFORE = re.compile(r',[ \t]*"usage"[ \t]*:[ \t]*\Z')


class Choice(Struct, gc=False):
    """One element of `choices`; -1 is no index at all."""

    index: int = 0
    finish_reason: str | None = None


class Named(Struct, gc=False):
    """What names an answer, and its usage as written (empty if absent)."""

    id: str | None = None
    model: str | None = None
    usage: Raw = _ABSENT


class Document(Named, gc=False):
    """The members of an event or of a plain answer that matter."""

    choices: list[Choice] | None = None
    error: Raw = _ABSENT
    type: str | None = None
    response: Named | None = None
    message: Named | None = None
    system_fingerprint: str | None = None


decode_document = Decoder(Document).decode  # raises one of UNREADABLE where read_document has more to try
_decode_any = Decoder().decode
_decode_oddly = json.JSONDecoder(strict=False, parse_int=lambda text: int(text) if len(text) < 20 else float(text))


def read_document(data: bytes | bytearray) -> Document | None:
    """Return what matters of a JSON object, or None where `data` is none."""
    try:
        return decode_document(data)
    except UNREADABLE:
        return _read_leniently(data) if len(data) <= MAX_LENIENT_BYTES else None


def read_json(text: Raw) -> Any:
    """Return the value of a part of a document, NaN and odd bytes included; None where there is none."""
    with suppress(*UNREADABLE):
        return _decode_any(text)
    with suppress(*UNREADABLE):
        return _decode_oddly.decode(bytes(text).decode("utf-8", "surrogateescape"))
    return None


def is_object(text: Raw) -> bool:
    """Tell whether a part of a document is an object."""
    return bytes(text).startswith(b"{")


def cut_usage(event: bytes, usage: Raw) -> bytes:
    """Return a whole event without its top-level member `usage`, an object; unchanged where that is not certain."""
    member = b"".join((_KEY, usage, _END))
    if member[len(_KEY)] != _BRACE:
        return event
    if event.endswith(member) and event.find(b"\n") == len(event) - 2:  # the brace after it ends the document
        return event[: -len(member)] + _END
    lines = event.splitlines(keepends=True)
    places = [place for place, line in enumerate(lines) if line.startswith(b"data:")]
    if len(places) == 1:
        lines[places[0]] = _cut_line(lines[places[0]], member[: -len(_END)])
    return b"".join(lines)


class FingerprintStamp:
    """Put `system_fingerprint` on the events that end a choice, where vLLM writes it if usage is not asked for.

    It is the same for a server's whole life. Where it is not known yet, such an event waits for the next one,
    which is the usage event unless other choices still run.
    """

    def __init__(self, fingerprint: str | None) -> None:
        self.fingerprint = fingerprint
        self.held: list[bytes] = []

    def learn(self, fingerprint: str | None) -> None:
        """Take what an answer says of it."""
        self.fingerprint = fingerprint or self.fingerprint

    def complete(self, event: bytes, found: str | None) -> bytes:
        """Return an event that ends a choice and has `found`, as far as it can pass by now."""
        if found is None and self.fingerprint is None:
            self.held.append(event)
            return b""
        return event if found is not None else self._stamp(event)

    def take(self) -> list[bytes]:
        """Return and forget the waiting events, so that the next event can be read."""
        held, self.held = self.held, []
        return held

    def put_before(self, shown: bytes, held: list[bytes]) -> bytes:
        """Return the events that waited and what is shown of the next, unless that waits too."""
        if self.held:
            self.held = held + self.held
            return b""
        return b"".join([*map(self._stamp, held), shown])

    def release(self) -> bytes:
        """Return and forget the waiting events; nothing follows that could tell."""
        return b"".join(map(self._stamp, self.take()))

    def _stamp(self, event: bytes) -> bytes:
        if self.fingerprint is None or not event.endswith(b"}\n\n") or event.find(b"\n") != len(event) - 2:
            return event
        return b"".join((event[:-3], b',"system_fingerprint":', encode(self.fingerprint), b"}\n\n"))


def _read_leniently(data: bytes | bytearray) -> Document | None:
    text = data.decode("utf-8", "surrogateescape").removeprefix("\ufeff")
    members = _scan_members(text)
    if members is None:
        return None
    values = {key: value for key, (_, _, value) in members.items()}
    found = values.get("choices")
    return Document(
        **_read_names(text, members),
        choices=[_read_choice(one) for one in found] if isinstance(found, list) else None,
        error=_slice(text, members, "error"),
        type=_text(values.get("type")),
        response=_read_inner(text, members, "response"),
        message=_read_inner(text, members, "message"),
        system_fingerprint=_text(values.get("system_fingerprint")),
    )


_Members = dict[str, tuple[int, int, Any]]  # name -> where its value begins and ends, and the value; the last counts


def _scan_members(text: str) -> _Members | None:
    members: _Members = {}
    try:
        at = _skip(text, 0)
        if text[at] != "{":
            return None
        at = _skip(text, at + 1)
        while text[at] != "}" or members:
            if text[at] != '"':
                return None
            key, at = _decode_oddly.raw_decode(text, at)
            at = _skip(text, at)
            if text[at] != ":":
                return None
            start = _skip(text, at + 1)
            found, end = _decode_oddly.raw_decode(text, start)
            members[key] = (start, end, found)
            at = _skip(text, end)
            if text[at] == "}":
                break
            if text[at] != ",":
                return None
            at = _skip(text, at + 1)
        return members if _skip(text, at + 1) == len(text) else None
    except (ValueError, IndexError, RecursionError):
        return None


def _skip(text: str, at: int) -> int:
    match = _SKIP.match(text, at)
    return match.end() if match else at


def _slice(text: str, members: _Members, key: str) -> Raw:
    start, end, _ = members.get(key, (0, 0, None))
    return Raw(text[start:end].encode("utf-8", "surrogateescape"))


def _read_names(text: str, members: _Members) -> dict[str, Any]:
    names = {key: _text(members[key][2]) if key in members else None for key in ("id", "model")}
    return {**names, "usage": _slice(text, members, "usage")}


def _read_inner(text: str, members: _Members, key: str) -> Named | None:
    if key not in members or not isinstance(members[key][2], dict):
        return None
    inner = text[members[key][0] : members[key][1]]
    found = _scan_members(inner)
    return Named(**_read_names(inner, found)) if found is not None else None


def _read_choice(found: Any) -> Choice:
    if not isinstance(found, dict):
        return Choice(-1)
    index = found.get("index", 0)
    return Choice(index if type(index) is int else -1, _text(found.get("finish_reason")))


def _text(found: Any) -> str | None:
    return found.encode("utf-8", "replace").decode() if isinstance(found, str) else None


def _cut_line(line: bytes, member: bytes) -> bytes:
    head, found, tail = line.rpartition(member)
    cut = head + tail
    with suppress(*UNREADABLE):
        if found and not decode_document(cut[5:]).usage:  # had it been another object's, this one's were left
            return cut
    if len(line) > MAX_LENIENT_BYTES:
        return line
    text = line.decode("utf-8", "surrogateescape")
    members = _scan_members(text[5:])
    start, end, _ = (members or {}).get("usage", (0, 0, None))
    key = _KEY_BEFORE.search(text[: 5 + start])
    return (text[: key.start()] + text[5 + end :]).encode("utf-8", "surrogateescape") if key else line
