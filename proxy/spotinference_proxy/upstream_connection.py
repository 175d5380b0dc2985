"""One connection to a vLLM: a request out, its answer in, then the next.

Owns where an answer begins and ends (RFC 9112, 6.3) and whether the connection can be used again. Does not
own which connection is used, nor what an answer means: it tells its exchange. Bytes that belong to no answer
close the connection.
"""

import asyncio
from typing import Protocol

from spotinference_proxy.errors import ProtocolError
from spotinference_proxy.http1 import MAX_HEAD_BYTES, ChunkedDecoder, ResponseHead, parse_response_head

_MAX_COPIED_BYTES = 16 * 1024
_MAX_INTERIM = 16  # 1xx answers in one read


class AnswerTaker(Protocol):
    """Whoever asked, and is told what comes back: a head, parts, then the end; or that it is lost."""

    def answer_begun(self, head: ResponseHead) -> None: ...
    def answer_part(self, content: bytes, is_last: bool, /) -> None: ...
    def answer_ended(self) -> None: ...
    def answer_lost(self, *, is_untouched: bool) -> None: ...


class UpstreamConnection(asyncio.Protocol):
    """Busy from `ask` to `answer_ended` or `answer_lost`; idle otherwise."""

    is_closed = False
    is_reusable = True
    was_used = False  # an answer came over it before the present request
    idle_since = 0.0
    _taker: AnswerTaker | None = None
    _transport: asyncio.Transport
    _buffer = b""
    _head: ResponseHead | None = None
    _decoder: ChunkedDecoder | None = None
    _left = 0
    _is_paused = False
    _is_answered = False  # by a byte at least, since the request

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = transport  # type: ignore[assignment]

    @property
    def unsent_bytes(self) -> int:
        """What the system has not taken of the request."""
        return self._transport.get_write_buffer_size()

    def ask(self, head: bytes, body: bytes, taker: AnswerTaker) -> None:
        """Send a whole request; `taker` hears of the answer."""
        self._taker = taker
        self._is_answered = False
        if self._transport.is_closing():  # the loop has yet to tell us
            asyncio.get_running_loop().call_soon(self._lose)
        else:
            self._transport.write(head + body if len(body) <= _MAX_COPIED_BYTES else head)
            if len(body) > _MAX_COPIED_BYTES:  # a copy of a large one would live as long as vLLM takes to read it
                self._transport.write(body)

    def let_go(self) -> None:
        """Close now; nobody hears of it."""
        self._taker = None
        self.close()

    def close(self) -> None:
        """Close now."""
        self.is_closed = True
        self._transport.abort()

    def pause(self, *, is_paused: bool) -> None:
        """Stop reading, so that vLLM's side fills up instead of ours; or go on."""
        if is_paused != self._is_paused and not self._transport.is_closing():
            self._is_paused = is_paused
            self._transport.pause_reading() if is_paused else self._transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        """Take what vLLM sent."""
        taker, decoder = self._taker, self._decoder
        if taker is None:
            self.close()
            return
        self._is_answered = True
        try:
            if decoder is not None:  # once a token: the hot path
                content = decoder.feed(data)
                if content:
                    taker.answer_part(content, decoder.is_done)
                if decoder.is_done:
                    self._end_chunks(decoder)
            elif self._head is not None:
                self._read_plain(data)
            else:
                self._read_head(self._buffer + data)
        except ProtocolError:
            self.close()
            self._lose()

    def connection_lost(self, exc: Exception | None) -> None:
        """An answer without a length ends here; any other is lost."""
        self.is_closed = True
        head = self._head
        if head is not None and head.content_length is None and not head.is_chunked and exc is None:
            self._end()
        else:
            self._lose()

    def _read_head(self, data: bytes) -> None:
        for _ in range(_MAX_INTERIM):
            end = data.find(b"\r\n\r\n") + 4
            if end < 4:
                if len(data) > MAX_HEAD_BYTES:
                    raise ProtocolError("answer: head too long")
                self._buffer = data
                return
            head = parse_response_head(data[:end])
            data, self._buffer = data[end:], b""
            if head.status >= 200:
                self._begin(head, data)
                return
            if head.status == 101:
                raise ProtocolError("answer: nobody asked for another protocol")
        raise ProtocolError("answer: interim answers without end")

    def _begin(self, head: ResponseHead, rest: bytes) -> None:
        self._head = head
        self._decoder = ChunkedDecoder() if head.is_chunked else None
        self._left = -1 if head.content_length is None else head.content_length
        assert self._taker is not None
        self._taker.answer_begun(head)
        if (not rest and self._left) or self._taker is None:
            return
        self.data_received(rest)

    def _end_chunks(self, decoder: ChunkedDecoder) -> None:
        self.is_reusable = self.is_reusable and not decoder.rest
        self._end()

    def _read_plain(self, data: bytes) -> None:
        taker = self._taker
        assert taker is not None
        if self._left < 0:
            taker.answer_part(data, False)
            return
        self.is_reusable = self.is_reusable and len(data) <= self._left
        data = data[: self._left]
        self._left -= len(data)
        if data:
            taker.answer_part(data, not self._left)
        if not self._left:
            self._end()

    def _end(self) -> None:
        taker, head = self._taker, self._head
        self._forget()
        self.was_used = True
        if head is None or not head.keeps_alive or not self.is_reusable:
            self.is_reusable = False
            self._transport.abort()
        if taker is not None:
            taker.answer_ended()

    def _lose(self) -> None:
        taker, is_untouched = self._taker, not self._is_answered
        self._forget()
        self.is_reusable = False
        if taker is not None:
            taker.answer_lost(is_untouched=is_untouched)

    def _forget(self) -> None:
        self._taker = None
        self._head = None
        self._decoder = None
        self._buffer = b""
