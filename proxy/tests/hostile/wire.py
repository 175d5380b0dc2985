"""A client on a raw blocking socket, and a strict reader of answers.

Owns how bytes go out (whole, in pieces, half-closed) and what counts as an answer: one status line, framing
stated once, nothing behind it. Does not own what is sent: corpus.py.
"""

import re
import socket
import time
from typing import NamedTuple

_STATUS = re.compile(r"HTTP/1\.1 ([1-5][0-9][0-9]) [\t\x20-\x7e\x80-\xff]*")
_FIELD = re.compile(r"([!#$%&'*+\-.^_`|~0-9A-Za-z]+): ?([\t\x20-\x7e\x80-\xff]*)")


class Answer(NamedTuple):
    """An answer as a client sees it; not `is_whole` when the connection broke before its end."""

    status: int
    fields: dict[str, str]
    body: bytes
    raw: bytes
    is_whole: bool = True

    @property
    def closes(self) -> bool:
        return self.fields.get("connection", "").lower() == "close"


def read_answer(data: bytes, *, is_over: bool) -> Answer | None:
    """Return the first answer in `data`, None while it is not whole; `is_over`: no more bytes will come."""
    end = data.find(b"\r\n\r\n") + 4
    if end < 4:
        return Answer(0, {}, b"", data, is_whole=False) if is_over and data else None
    status, fields = _read_head(data[: end - 4].decode("latin-1"))
    if status < 200 or status in (204, 304):
        return Answer(status, fields, b"", data[:end])
    assert ("content-length" in fields) + ("transfer-encoding" in fields) <= 1, f"framed twice: {data[:end]!r}"
    if "content-length" in fields:
        assert re.fullmatch(r"[0-9]+", fields["content-length"])
        size, body = end + int(fields["content-length"]), data[end : end + int(fields["content-length"])]
        is_whole = len(data) >= size
    elif "transfer-encoding" in fields:
        assert fields["transfer-encoding"] == "chunked"
        size, body, is_whole = _read_chunks(data, end)
    else:
        assert fields.get("connection") == "close", f"neither length nor chunks nor close: {data[:end]!r}"
        size, body, is_whole = len(data), data[end:], is_over
    if not is_whole and not is_over:
        return None
    return Answer(status, fields, body, data[:size] if is_whole else data, is_whole)


def _read_head(head: str) -> tuple[int, dict[str, str]]:
    first, *lines = head.split("\r\n")
    line = _STATUS.fullmatch(first)
    assert line is not None, f"status line {first!r}"
    found = [_FIELD.fullmatch(one) for one in lines]
    assert None not in found, f"fields {lines}"
    fields = [(one[1].lower(), one[2]) for one in found if one]
    assert len(dict(fields)) == len(fields), f"a field comes twice: {lines}"
    return int(line[1]), dict(fields)


def _read_chunks(data: bytes, at: int) -> tuple[int, bytes, bool]:
    body = b""
    while (end := data.find(b"\r\n", at)) >= 0:
        size = int(data[at:end], 16)
        if len(data) < end + 2 + size + 2:
            return len(data), body + data[end + 2 : end + 2 + size], False
        body += data[end + 2 : end + 2 + size]
        at = end + 2 + size + 2
        assert data[at - 2 : at] == b"\r\n", "chunk without its end"
        if not size:
            return at, body, True
    return len(data), body, False


class Wire:
    """One connection; `ending` is how it went: open, closed or reset."""

    def __init__(self, address: tuple[str, int], *, receive_bytes: int | None = None, patience: float = 6.0) -> None:
        self.socket = socket.socket()
        if receive_bytes:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self.socket.settimeout(5)
        self.socket.connect(address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.ending = "open"
        self._patience = patience
        self._buffer = b""

    def __enter__(self) -> "Wire":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, raw: bytes, *, piece: int | None = None) -> int:
        """Send it, whole or in pieces that arrive apart; return how many bytes the peer let us send."""
        sent = 0
        try:
            for at in range(0, len(raw), piece or len(raw) or 1):
                part = raw[at : at + (piece or len(raw))]
                self.socket.sendall(part)
                sent += len(part)
                if piece:
                    time.sleep(0.0005)
        except (ConnectionError, TimeoutError):
            pass  # who closed and what was answered is asserted by the caller
        return sent

    def end(self) -> None:
        """End our side only."""
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            self.ending = "reset"

    def take(self, data: bytes) -> None:
        """Count in what the caller read from the socket himself."""
        self._buffer += data

    def forget(self, count: int) -> None:
        """Leave out what the caller has read with `read_head`."""
        self._buffer = self._buffer[count:]

    def read(self) -> Answer | None:
        """Return the next answer, or None when none came before the end or in time."""
        deadline = time.monotonic() + self._patience
        while (found := read_answer(self._buffer, is_over=self.ending != "open")) is None:
            if self.ending != "open" or not self._receive(deadline):
                return None
        self._buffer = self._buffer[len(found.raw) :]
        return found

    def read_head(self) -> bytes:
        """Return the next head, for answers that have no body whatever they say."""
        deadline = time.monotonic() + self._patience
        while b"\r\n\r\n" not in self._buffer and self.ending == "open" and self._receive(deadline):
            pass
        return self._buffer.partition(b"\r\n\r\n")[0]

    def read_all(self) -> list[Answer]:
        """Return every answer until the connection ends."""
        deadline = time.monotonic() + self._patience
        while self.ending == "open" and self._receive(deadline):
            pass
        answers = []
        while (found := read_answer(self._buffer, is_over=True)) is not None:
            answers.append(found)
            self._buffer = self._buffer[len(found.raw) :]
        return answers

    def _receive(self, deadline: float) -> bool:
        self.socket.settimeout(max(deadline - time.monotonic(), 0.001))
        try:
            data = self.socket.recv(65536)
        except TimeoutError:
            return False
        except ConnectionError:
            self.ending = "reset"
            return True
        if not data:
            self.ending = "closed"
        self._buffer += data
        return True
