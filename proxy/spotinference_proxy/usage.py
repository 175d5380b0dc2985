"""Token usage of an answer: bytes in, vLLM's own counts and what the client may see out; no I/O.

Owns where in an answer the request's usage stands, how the answer ended, and which events hold only what
inject.py asked for. Does not own framing (sse.py), the reading and cutting of one event (strip.py), the counts
themselves (counts.py), nor what is written to the log (record.py). Never counts events or text.
Rests on vLLM's streams (https://docs.vllm.ai): the event with `choices: []` holds the request's sums, other
events the running usage of their choice; Responses and Messages state theirs at the end, each in its own way.
"""

from typing import Literal

from spotinference_proxy.counts import Tally, Usage
from spotinference_proxy.sse import EventSplitter, Piece, parse_data
from spotinference_proxy.strip import (
    UNREADABLE,
    Choice,
    Document,
    FingerprintStamp,
    Named,
    cut_usage,
    decode_document,
    is_object,
    read_document,
)

__all__ = ["AnswerReader", "Dialect", "Outcome", "Usage", "dialect_of"]

MAX_JSON_BYTES = 64 * 1024 * 1024  # of a plain answer kept to be parsed; a longer one has unknown usage
_CR, _LF = 13, 10

Outcome = Literal["open", "done", "error"]
Dialect = Literal["openai", "responses", "messages", "other"]


def dialect_of(endpoint: str) -> Dialect:
    """Tell how the answers of an endpoint speak of usage and of their end."""
    if endpoint.endswith(("/chat/completions", "/v1/completions")):
        return "openai"
    if endpoint.endswith("/v1/responses"):
        return "responses"
    return "messages" if endpoint.endswith("/v1/messages") else "other"


class AnswerReader:
    """Read one answer as it passes and hide what was not asked for; any cut of its bytes gives the same result."""

    def __init__(
        self,
        endpoint: str,
        status: int,
        content_type: str,
        choices: int = 1,
        *,
        hides_final: bool = False,
        hides_running: bool = False,
        metadata: str | None = None,
        fingerprint: str | None = None,
        max_completion_tokens: int | None = None,
    ) -> None:
        content_type = content_type.lower()
        self.is_stream = "text/event-stream" in content_type
        self.outcome: Outcome = "open"
        self.model: str | None = None
        self.response_id: str | None = None
        self._dialect = dialect_of(endpoint)
        self._status = status
        self._hides_final = hides_final and self.is_stream
        self._hides_running = hides_running and self.is_stream
        self._hides = self._hides_final or self._hides_running
        self._metadata = metadata
        self._tally = Tally(choices, max_completion_tokens)
        self._has_error = False
        self._json: bytearray | None = bytearray() if "json" in content_type or not content_type else None
        self._events = EventSplitter()
        self._is_between_events = True
        self._stamp = FingerprintStamp(fingerprint)

    @property
    def system_fingerprint(self) -> str | None:
        """What vLLM calls itself: as last read, or as given."""
        return self._stamp.fingerprint

    @property
    def usage(self) -> Usage | None:
        """The counts of the request so far: final, or a lower bound, or unknown."""
        return self._tally.usage

    @property
    def is_final(self) -> bool:
        """Tell whether `usage` is vLLM's last and exact word."""
        return self._tally.is_final

    @property
    def is_implausible(self) -> bool:
        """Tell whether what vLLM said of tokens cannot all be true; it is kept as said all the same."""
        return self._tally.is_implausible

    def feed(self, chunk: bytes) -> bytes:
        """Take the next bytes of the answer's body; return what the client may see by now."""
        if not self.is_stream:
            if self._json is not None:
                self._json += chunk
                self._json = self._json if len(self._json) <= MAX_JSON_BYTES else None
            return chunk
        if (
            self._is_between_events
            and chunk.find(b"\n") == len(chunk) - 2
            and chunk[:7] == b"data: {"
            and chunk[-1] == _LF
            and _CR not in chunk
        ):
            shown = self._read_event(chunk, chunk[6:])
        else:
            shown = self._pass(self._events.feed(chunk))
            self._is_between_events = self._events.is_between_events
        return shown if self._hides else chunk

    def finish(self) -> bytes:
        """Say that the body ended cleanly; return what was held back. A stream without its last event stays `open`."""
        if not self.is_stream:
            self.outcome = "done" if self._status < 400 else "error"
            self._read_plain()
            return b""
        rest = self.rest()
        if self.outcome == "open" and (self._has_error or self._dialect == "other"):
            self.outcome = "error" if self._has_error else "done"
        return rest

    def rest(self) -> bytes:
        """Return what is held back of a stream that goes on no more, for its client to see what vLLM sent."""
        rest = self._pass(self._events.finish()) + self._stamp.release()
        return rest if self._hides else b""

    def _read_plain(self) -> None:
        data = self._json or (self._metadata or "").encode()
        self._json = None
        found = read_document(data) if self._status < 400 else None
        if found is not None:
            self._read_names(found)
            self._tally.note_whole(found.usage)
            self._stamp.learn(found.system_fingerprint)

    def _pass(self, pieces: list[Piece]) -> bytes:
        shown: list[bytes] = []
        for content, is_event in pieces:
            if is_event:
                shown.append(self._read_event(content, parse_data(content)))
            else:
                shown += [self._stamp.release(), content]
        return b"".join(shown)

    def _read_event(self, event: bytes, data: bytes | None) -> bytes:
        """Read a whole event (once a token: the hot path); return what the client may see by now."""
        if self._stamp.held:
            held = self._stamp.take()
            return self._stamp.put_before(self._read_event(event, data), held)
        if data is None or self.outcome != "open":
            return event
        found: Document | None
        try:
            found = decode_document(data)
        except UNREADABLE:
            found = read_document(data)
            if found is None:
                if data.strip() == b"[DONE]":
                    self.outcome = "error" if self._has_error else "done"
                return event
        if (found.error or found.type is not None) and self._read_kind(found):
            return event
        if self.model is None:
            self._read_names(found)
        return self._read_choices(event, found, found.choices) if found.choices else self._read_last(event, found)

    def _read_choices(self, event: bytes, found: Document, choices: list[Choice]) -> bytes:
        usage, shown = found.usage, event
        if usage:
            self._tally.note_running(usage, choices)
            if self._hides_running:
                shown = cut_usage(event, usage)
        if self._hides_final:
            for choice in choices:
                if choice.finish_reason is not None:
                    return self._stamp.complete(shown, found.system_fingerprint)
        return shown

    def _read_last(self, event: bytes, found: Document) -> bytes:
        self._stamp.learn(found.system_fingerprint)
        if found.choices is None or not is_object(found.usage):
            return event
        self._tally.note_whole(found.usage)
        return b"" if self._hides_final else event

    def _read_kind(self, found: Document) -> bool:
        """Read an error or an event that says what it is; tell whether it was one."""
        if found.type == "error" or bytes(found.error) not in (b"", b"null"):
            self._has_error = True
            if self._dialect == "messages" or found.type == "error":
                self.outcome = "error"
            return True
        kind = found.type
        if kind is None or found.choices is not None:
            return False
        inner = found.response if kind.startswith("response.") else found.message
        if inner is not None:
            self._read_names(inner)
        if kind == "message_start" and inner is not None:
            self._tally.note_whole(inner.usage, is_final=False)
        elif kind == "message_delta":
            self._tally.note_whole(found.usage)
        elif kind in ("response.completed", "response.incomplete", "response.failed"):
            if inner is not None:
                self._tally.note_whole(inner.usage)
            self.outcome = "error" if kind == "response.failed" else "done"
        elif kind == "message_stop":
            self.outcome = "done"
        return True

    def _read_names(self, found: Named) -> None:
        self.model = self.model or found.model or None
        self.response_id = self.response_id or found.id or None
