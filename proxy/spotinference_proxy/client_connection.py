"""One client's connection: requests in, answers out, and the limits that keep a client from holding us up.

Owns reading a request whole (head, then body), how an answer is framed, keep-alive, pipelined requests one
after the other, and every time-out towards clients. Does not own what a request is answered with: `Service`
does. A refused request closes its connection, because nobody can know where the next one would begin.
A client that ends its side of the connection counts as gone, as it does for vLLM's own server.
"""

import asyncio
import fcntl
import math
import socket
import struct
import sys
import termios
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Protocol

from spotinference_proxy.answers import Answer, error_answer
from spotinference_proxy.errors import ProtocolError
from spotinference_proxy.http1 import (
    MAX_HEAD_BYTES,
    ChunkedDecoder,
    Fields,
    RequestHead,
    check_partial_head,
    parse_request_head,
    render_response_head,
)

MIB = 1024 * 1024
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_LINGER_SECONDS = 2.0  # for a refused client to read its answer before the connection goes
_MAX_DISCARDED_BYTES = 64 * 1024  # read from a refused client meanwhile
_MAX_PIPELINED_BYTES = 64 * 1024
_LOOSE_PARTS = 1024  # of a body, joined then: each small part takes ten times its bytes
_TCP_CLOSE, _TCP_CLOSE_WAIT = 7, 8  # states of a connection in Linux' TCP_INFO


@dataclass(frozen=True)
class Limits:
    """What one client may take; seconds, bytes and connections."""

    header_seconds: float = 9.0  # from the first moment a head is due to its last byte
    idle_seconds: float = 75.0  # of a kept connection between requests
    body_seconds: float = 28.0  # without a byte of a body; a long one has more, at `bytes_per_second`
    write_seconds: float = 28.0  # for a client to take its answer, and more at this rate of taking it:
    bytes_per_second: float = 4096.0
    body_bytes: int = 8 * MIB
    buffered_bytes: int = 48 * MIB  # of bodies that are not whole yet, in all connections
    held_bytes: int = 128 * MIB  # of large bodies that vLLM has not taken
    connections: int = 8192


class Exchange(Protocol):
    """Whoever answers a request and is told about its client."""

    def client_gone(self) -> None: ...
    def client_paused(self, *, is_paused: bool) -> None: ...


class Service(Protocol):
    """What stands behind connections."""

    limits: Limits
    connections: "set[ClientConnection]"
    buffered_bytes: int
    is_stopping: bool

    def refuse(self, connection: "ClientConnection", head: RequestHead) -> Answer | None: ...
    def serve(self, connection: "ClientConnection", head: RequestHead, body: bytes) -> None: ...
    def broke_off(self, connection: "ClientConnection", head: RequestHead | None, answer: Answer) -> None: ...
    def make_room(self) -> None: ...


class ClientConnection(asyncio.Protocol):
    """One connection; `begin`, `send`, `finish`, `respond` and `break_off` are for the current exchange."""

    peer = ""
    key_id: str | None = None
    exchange: Exchange | None = None
    is_paused = False  # the client does not take what was sent
    body_bytes = 0  # held of a body that is not whole yet
    _transport: asyncio.Transport
    _buffer = b""
    _known = 0  # bytes of it that were looked at for the end of a head
    _loose = 0  # parts of the body since some were joined
    _head: RequestHead | None = None
    _decoder: ChunkedDecoder | None = None
    _deadline = math.inf
    _write_deadline = math.inf
    _is_answering = False
    _is_refused = False
    _is_ending = False  # the last answer is on its way; what comes in is not read any more
    _is_next_due = False  # a request that came early waits for its turn in the loop
    _is_held_back = False
    _unsent = 0  # bytes, when a paused client was last looked at
    _discarded = 0
    _pending = b""  # an answer's head that waits for its first bytes
    _is_chunked = False
    _keeps_alive = True

    def __init__(self, service: Service, clock: Callable[[], float]) -> None:
        self._service = service
        self._now = clock
        self._body: list[bytes] = []

    # ------------------------------------------------------------------ towards the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait for a head."""
        self._transport = transport  # type: ignore[assignment]
        peer = transport.get_extra_info("peername")
        self.peer = str(peer[0]) if peer else ""
        service = self._service
        service.connections.add(self)
        self._deadline = self._now() + service.limits.header_seconds
        if len(service.connections) > service.limits.connections:
            self._refuse(error_answer(503, "too many connections; try again", 1))

    def data_received(self, data: bytes) -> None:
        """Take what a client sent."""
        if self._is_ending:
            self._discarded += len(data)
            if self._discarded > _MAX_DISCARDED_BYTES:
                self._transport.abort()
            return
        self._buffer = self._buffer + data if self._buffer else data
        if not self._is_answering and not self._is_next_due:
            self._advance()
        self._hold_back()

    def eof_received(self) -> bool:
        """Take the end of the client's side for its leaving."""
        self._leave()
        return False

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Tell whoever still answers."""
        self._service.connections.discard(self)
        self._forget_body()
        self._leave()

    def pause_writing(self) -> None:
        """Stop reading vLLM while the client does not take its answer."""
        self.is_paused = True
        self._watch_taking()
        if self.exchange is not None:
            self.exchange.client_paused(is_paused=True)

    def resume_writing(self) -> None:
        """Go on."""
        self.is_paused = False
        if not self._is_ending:
            self._write_deadline = math.inf
        if self.exchange is not None:
            self.exchange.client_paused(is_paused=False)
        elif self._buffer and not self._is_answering:
            self._deadline = self._now() + self._service.limits.header_seconds
            self._plan_next()

    def check(self, now: float) -> None:
        """Close what has taken too long; called about twice a second."""
        if self.is_paused or self._is_ending:
            self._note_taken(now)
        if (self._is_held_back and self._has_left()) or now >= self._write_deadline:
            self._transport.abort()
        elif now < self._deadline:
            return
        elif self._is_ending:
            if not self._unsent:  # else the client may take its time, see `_note_taken`
                self._transport.abort()
        elif not (self._buffer or self._head):
            self._close()
        else:
            self._refuse(error_answer(408, "the request did not come in time"))

    def _note_taken(self, now: float) -> None:
        """Give a client time for what it has taken: at a rate, and never more than for taking nothing."""
        limits, unsent = self._service.limits, self._count_unsent()
        if unsent < self._unsent:
            gained = self._write_deadline + (self._unsent - unsent) / limits.bytes_per_second
            self._write_deadline = min(gained, now + limits.write_seconds) if unsent or self.is_paused else math.inf
        self._unsent = unsent

    def _watch_taking(self) -> None:
        self._unsent = self._count_unsent()
        self._write_deadline = self._now() + self._service.limits.write_seconds if self._unsent else math.inf

    def _count_unsent(self) -> int:
        """Count what the client's side has not confirmed: ours, and the system's (tcp(7), SIOCOUTQ)."""
        size, connection = self._transport.get_write_buffer_size(), self._transport.get_extra_info("socket")
        with suppress(OSError, ValueError):  # it is closed
            waiting = fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, b"\0" * 4)
            size += int.from_bytes(waiting, sys.byteorder)
        return size

    def _has_left(self) -> bool:
        """Ask the system whether the client has closed its side: nothing is read from it now."""
        with suppress(OSError):
            connection = self._transport.get_extra_info("socket")
            state = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
            return state in (_TCP_CLOSE, _TCP_CLOSE_WAIT)
        return True

    @property
    def is_flushed(self) -> bool:
        """Whether everything sent has left for the system."""
        return not self._transport.get_write_buffer_size()

    def close_if_idle(self) -> None:
        """Close a kept connection that waits for nothing."""
        if not self._is_answering and not self._buffer and self._head is None:
            self._close()

    # ------------------------------------------------------------------ reading a request

    def _advance(self) -> None:
        try:
            if self._head is None:
                self._read_head()
            if self._head is not None and not self._is_answering:
                self._read_body(self._head)
        except ProtocolError as error:
            self._refuse(error_answer(error.status, str(error)))

    def _read_head(self) -> None:
        end = self._buffer.find(b"\r\n\r\n", max(self._known - 3, 0)) + 4
        if end < 4:
            if self._deadline - self._now() > self._service.limits.header_seconds:  # a kept connection wakes up
                self._deadline = self._now() + self._service.limits.header_seconds
            check_partial_head(self._buffer, self._known)
            self._known = len(self._buffer)
            return
        self._known = 0
        if end > MAX_HEAD_BYTES:
            check_partial_head(self._buffer)
        head_bytes, self._buffer = self._buffer[:end], self._buffer[end:]
        head = parse_request_head(head_bytes)
        limits = self._service.limits
        answer = self._service.refuse(self, head)
        has_body = head.is_chunked or bool(head.content_length)
        self._head = head
        self._keeps_alive = head.keeps_alive
        if answer is not None:
            if has_body:
                self._refuse(answer)
                return
            self._is_answering = True
            self._deadline = math.inf
            self._service.broke_off(self, head, answer)
            return
        if (head.content_length or 0) > limits.body_bytes:
            raise ProtocolError(f"body larger than {limits.body_bytes} bytes", 413)
        if has_body:
            self._deadline = self._now() + limits.body_seconds
            if head.expects_continue and not self._buffer:
                self._transport.write(_CONTINUE)
            self._decoder = ChunkedDecoder() if head.is_chunked else None

    def _read_body(self, head: RequestHead) -> None:
        if self._decoder is not None:
            self._keep_part(self._decoder.feed(self._buffer))
            self._buffer = self._decoder.rest
            if self._is_ending or not self._decoder.is_done:
                return
        elif head.content_length:
            missing = head.content_length - self.body_bytes
            self._keep_part(self._buffer[:missing])
            self._buffer = self._buffer[missing:]
            if self._is_ending or self.body_bytes < head.content_length:
                return
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._forget_body()
        self._decoder = None
        self._deadline = math.inf
        self._is_answering = True
        self._service.serve(self, head, body)

    def make_room(self) -> None:
        """Give up a body that is not whole yet: too many are on their way at once."""
        self._refuse(error_answer(503, "too many bodies at once; try again", 1))

    def _keep_part(self, part: bytes) -> None:
        if not part:
            return
        service, limits = self._service, self._service.limits
        self._body.append(part)
        self._loose += 1
        if self._loose == _LOOSE_PARTS:
            self._body[-_LOOSE_PARTS:] = [b"".join(self._body[-_LOOSE_PARTS:])]
            self._loose = 0
        self.body_bytes += len(part)
        service.buffered_bytes += len(part)
        gained = self._deadline + len(part) / limits.bytes_per_second
        self._deadline = min(gained, self._now() + limits.body_seconds)
        if self.body_bytes > limits.body_bytes:
            raise ProtocolError(f"body larger than {limits.body_bytes} bytes", 413)
        if service.buffered_bytes > limits.buffered_bytes:
            service.make_room()

    def _forget_body(self) -> None:
        self._service.buffered_bytes -= self.body_bytes
        self.body_bytes = self._loose = 0
        self._body = []

    def _refuse(self, answer: Answer) -> None:
        """Have a request answered that is not read to its end, and the connection let go."""
        self._forget_body()
        self._is_answering = self._is_refused = True
        self._keeps_alive = False
        self._buffer = b""
        self._deadline = math.inf
        self._service.broke_off(self, self._head, answer)

    # ------------------------------------------------------------------ answering

    def begin(self, status: int, reason: str, headers: Fields, length: int | None, *, at_once: bool) -> None:
        """Begin an answer; without a length it is chunked. Its head goes with the first bytes, or at once."""
        head = self._head
        is_old = head is None or head.is_http_1_0
        self._is_chunked = length is None and not is_old
        self._keeps_alive = self._keeps_alive and not is_old and not self._service.is_stopping
        framing = ("transfer-encoding", "chunked") if self._is_chunked else ("content-length", str(length))
        fields = [*headers, framing] if length is not None or self._is_chunked else [*headers]
        if not self._keeps_alive:
            fields.append(("connection", "close"))
        self._pending = render_response_head(status, reason, fields)
        if at_once:
            self._write(b"")

    @property
    def has_sent(self) -> bool:
        """Whether the client was sent anything of the answer that was begun."""
        return not self._pending

    def send(self, content: bytes) -> None:
        """Send a part of the answer."""
        if not content:
            return
        if self._is_chunked:
            content = b"%x\r\n%b\r\n" % (len(content), content)
        if self._pending:
            content, self._pending = self._pending + content, b""
        if not self._transport.is_closing():
            self._transport.write(content)

    def finish(self, content: bytes = b"") -> None:
        """Send the last part and end the answer; the next request may come."""
        if self._is_chunked:
            content = b"%x\r\n%b\r\n0\r\n\r\n" % (len(content), content) if content else b"0\r\n\r\n"
        self._write(content)
        self.exchange = None
        self._is_answering = False
        self._head = None
        if not self._keeps_alive:
            self._linger()
            return
        self._deadline = self._now() + self._service.limits.idle_seconds
        if self._buffer:
            self._deadline = math.inf if self.is_paused else self._now() + self._service.limits.header_seconds
            self._plan_next()

    def respond(self, answer: Answer) -> None:
        """Give a whole answer of the proxy's own."""
        reason = HTTPStatus(answer.status).phrase
        self.begin(answer.status, reason, answer.headers, len(answer.content), at_once=False)
        is_asked = self._head is None or self._head.method != "HEAD"
        self.finish(answer.content if is_asked else b"")

    def break_off(self) -> None:
        """End a begun answer so that its client cannot take it for whole. What was sent still arrives."""
        self.exchange = None
        if self._transport.is_closing():
            return
        if self._head is not None and self._head.is_http_1_0:  # knows no other sign than a reset
            connection = self._transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._transport.abort()
        else:
            self._close()  # the missing last chunk or the length tells

    def _write(self, content: bytes) -> None:
        if self._pending:
            content, self._pending = self._pending + content, b""
        if content and not self._transport.is_closing():
            self._transport.write(content)

    def _linger(self) -> None:
        """End our side only: closing at once, with unread bytes, would make the client lose the answer."""
        self._is_ending = True
        seconds = _LINGER_SECONDS if self._is_refused else self._service.limits.write_seconds
        self._deadline = self._now() + seconds
        self._watch_taking()
        self._buffer = b""
        self._hold_back()
        with suppress(OSError, RuntimeError):  # the client may have reset the connection just now
            self._transport.write_eof()

    def _close(self) -> None:
        self._is_ending = True
        self._deadline = self._now() + self._service.limits.write_seconds
        self._watch_taking()
        self._transport.close()

    def _plan_next(self) -> None:
        """Have the next request read in the loop's next turn: others are served in between."""
        if not self._is_next_due:
            self._is_next_due = True
            asyncio.get_running_loop().call_soon(self._go_on)

    def _go_on(self) -> None:
        self._is_next_due = False
        if self._is_answering or self._is_ending or self.is_paused or self._transport.is_closing():
            return
        self._advance()
        self._hold_back()

    def _hold_back(self) -> None:
        """Read no more from a client that is far ahead of its answers."""
        is_far = len(self._buffer) > _MAX_PIPELINED_BYTES
        if is_far != self._is_held_back and not self._transport.is_closing():
            self._is_held_back = is_far
            self._transport.pause_reading() if is_far else self._transport.resume_reading()

    def _leave(self) -> None:
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            exchange.client_gone()
