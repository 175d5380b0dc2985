"""HTTP/1.1 heads and chunked bodies as bytes; no I/O.

Owns the grammar: what is not in it is refused, nothing is repaired (RFC 9112; its section 11 says what a
lenient parser costs). Every head is one regular expression, every length is stated once and in digits. Does
not own limits in time (client_connection.py) nor which fields pass on (headers.py). Fields come as pairs of
lower-case name and value; a value holds no control character but a tab, so it can be written on as it is.
"""

import re

from msgspec import Struct

from spotinference_proxy.errors import ProtocolError

MAX_HEAD_BYTES = 32 * 1024
MAX_FIELDS = 100
_MAX_CHUNK_LINE_BYTES = 256
_MAX_TRAILER_BYTES = 8 * 1024

_FIELD = r"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):([\t\x20-\x7e\x80-\xff]*)\r\n"
_FIELDS = re.compile(f"(?:{_FIELD})*\r\n")
_ONE_FIELD = re.compile(_FIELD)
_REQUEST_LINE = re.compile(r"([A-Z]+) (/[A-Za-z0-9\-._~!$&'()*+,;=:@/?%\[\]]*) HTTP/1\.([01])\r\n")
_STATUS_LINE = re.compile(r"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: ([\t\x20-\x7e\x80-\xff]*))?\r\n")
_HOST = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=%\-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")
_LENGTH = re.compile(r"[0-9]{1,18}")
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,8})(?:;[\t\x20-\x7e]*)?")
_MAX_CACHED_DIGITS = 3
_SIZES = {b"%x" % size: size for size in range(1, 16**_MAX_CACHED_DIGITS)}  # of chunks as vLLM's server writes them
_BROKEN_LINE = re.compile(rb"(?<!\r)\n|\r(?!\n|\Z)|\0")
_SINGLE = frozenset(
    {"host", "content-length", "transfer-encoding", "content-type", "content-encoding", "authorization"}
)

Fields = list[tuple[str, str]]


class RequestHead(Struct, frozen=True, gc=False):
    """The head of a request; `fields` by name holds the last of equal names."""

    method: str
    target: str
    headers: Fields
    fields: dict[str, str]
    is_http_1_0: bool
    content_length: int | None
    is_chunked: bool
    keeps_alive: bool
    expects_continue: bool


class ResponseHead(Struct, frozen=True, gc=False):
    """The head of an answer; neither length nor chunks means: until the connection ends."""

    status: int
    reason: str
    headers: Fields
    fields: dict[str, str]
    content_length: int | None
    is_chunked: bool
    keeps_alive: bool


def parse_request_head(head: bytes) -> RequestHead:
    """Return the head of a request, given with its final empty line. Raises: ProtocolError."""
    text = head.decode("latin-1")
    line = _REQUEST_LINE.match(text)
    if line is None:
        raise ProtocolError("request line: expected METHOD /path HTTP/1.1")
    headers, fields = _parse_fields(text, line.end())
    method, target, minor = line.groups()
    is_old = minor == "0"
    length, is_chunked = _framing(fields, is_old=is_old)
    host = fields.get("host")
    if (host is None and not is_old) or (host is not None and not _HOST.fullmatch(host)):
        raise ProtocolError("host: expected one host name")
    expects = fields.get("expect")
    if expects is not None and expects.lower() != "100-continue":
        raise ProtocolError("expect: only 100-continue is known", 417)
    keeps_alive = not is_old and "close" not in fields.get("connection", "").lower()
    return RequestHead(
        method, target, headers, fields, is_old, length, is_chunked, keeps_alive, expects is not None and not is_old
    )


def parse_response_head(head: bytes) -> ResponseHead:
    """Return the head of an answer, given with its final empty line. Raises: ProtocolError."""
    text = head.decode("latin-1")
    line = _STATUS_LINE.match(text)
    if line is None:
        raise ProtocolError("status line: expected HTTP/1.1 and a status")
    headers, fields = _parse_fields(text, line.end())
    minor, status, reason = line.groups()
    length, is_chunked = _framing(fields, is_old=False)
    if status in ("204", "304"):
        length, is_chunked = 0, False
    keeps_alive = minor == "1" and "close" not in fields.get("connection", "").lower()
    is_framed = length is not None or is_chunked
    return ResponseHead(int(status), reason or "", headers, fields, length, is_chunked, keeps_alive and is_framed)


def check_partial_head(head: bytes | bytearray, known: int = 0) -> None:
    """Refuse what cannot become a head any more, before its end has come. Raises: ProtocolError.

    The first `known` bytes were checked before: a head that drips in is looked at once, not once a byte.
    """
    if len(head) > MAX_HEAD_BYTES:
        raise ProtocolError(f"head longer than {MAX_HEAD_BYTES} bytes", 431)
    if head and not 0x41 <= head[0] <= 0x5A:  # a method is upper-case letters
        raise ProtocolError("request line: expected METHOD /path HTTP/1.1")
    if _BROKEN_LINE.search(head, max(known - 1, 0)):
        raise ProtocolError("head: expected lines that end in CR LF")


def _parse_fields(text: str, start: int) -> tuple[Fields, dict[str, str]]:
    if not _FIELDS.fullmatch(text, start):
        raise ProtocolError("head: expected lines of NAME: VALUE that end in CR LF")
    headers = [(name.lower(), value.strip(" \t")) for name, value in _ONE_FIELD.findall(text, start)]
    if len(headers) > MAX_FIELDS:
        raise ProtocolError(f"head: more than {MAX_FIELDS} fields", 431)
    fields = dict(headers)
    if len(fields) < len(headers):
        names = [name for name, _ in headers if name in _SINGLE]
        if len(names) > len(set(names)):
            raise ProtocolError("head: a field that may come once comes twice")
    return headers, fields


def _framing(fields: dict[str, str], *, is_old: bool) -> tuple[int | None, bool]:
    length, coding = fields.get("content-length"), fields.get("transfer-encoding")
    if coding is not None:
        if length is not None or is_old or coding.lower() != "chunked":
            raise ProtocolError("transfer-encoding: only chunked is known, without content-length, in HTTP/1.1")
        return None, True
    if length is None:
        return None, False
    if not _LENGTH.fullmatch(length):
        raise ProtocolError("content-length: expected a number in digits")
    return int(length), False


class ChunkedDecoder:
    """Take the chunks of one body apart; `rest` is what came after it, trailers are checked and dropped."""

    def __init__(self) -> None:
        self.is_done = False
        self.rest = b""
        self._buffer = b""
        self._left = 0  # bytes of the chunk still to come
        self._is_inside = False  # a chunk, or the CR LF behind it
        self._is_trailer = False
        self._trailer_bytes = 0

    def feed(self, data: bytes) -> bytes:
        """Return the content in the next bytes. Raises: ProtocolError."""
        if not (self._buffer or self._is_inside or self._is_trailer):  # most often: one chunk, whole
            line_end = data.find(b"\r\n", 0, _MAX_CACHED_DIGITS + 2)
            size = _SIZES.get(data[:line_end])
            if size is not None and len(data) == line_end + size + 4 and data.endswith(b"\r\n"):
                return data[line_end + 2 : -2]
        known = len(self._buffer)  # bytes of a line that were checked before
        if known:
            data, self._buffer = self._buffer + data, b""
        content: list[bytes] = []
        at = 0
        while not self.is_done:
            if self._is_inside:
                end = at + self._left
                if len(data) < end + 2:
                    break
                if data[end : end + 2] != b"\r\n":
                    raise ProtocolError("chunk: longer than its size")
                content.append(data[at:end])
                at, self._left, self._is_inside = end + 2, 0, False
            line_end = data.find(b"\r\n", at)
            if line_end < 0:
                break
            line = data[at:line_end]
            at = line_end + 2
            if self._is_trailer:
                self._read_trailer(line)
            else:
                self._read_size(line)
        return self._keep(data, at, content, 0 if at else known)

    def _keep(self, data: bytes, at: int, content: list[bytes], known: int) -> bytes:
        if self.is_done:
            self.rest = data[at:]
        else:
            if self._is_inside:  # pass on what is here of a chunk
                part = data[at : at + self._left]
                content.append(part)
                at, self._left = at + len(part), self._left - len(part)
            self._buffer = data[at:]
            self._check_partial_line(known)
        return content[0] if len(content) == 1 else b"".join(content)

    def _read_size(self, line: bytes) -> None:
        found = _CHUNK_LINE.fullmatch(line)
        if found is None or len(line) > _MAX_CHUNK_LINE_BYTES:
            raise ProtocolError("chunk: expected its size in hex")
        self._left = int(found[1], 16)
        self._is_inside = self._left > 0
        self._is_trailer = not self._is_inside

    def _read_trailer(self, line: bytes) -> None:
        self._trailer_bytes += len(line) + 2
        if self._trailer_bytes > _MAX_TRAILER_BYTES:
            raise ProtocolError(f"trailers longer than {_MAX_TRAILER_BYTES} bytes")
        if not line:
            self.is_done = True
        elif not _ONE_FIELD.fullmatch(line.decode("latin-1") + "\r\n"):
            raise ProtocolError("trailer: expected lines of NAME: VALUE")

    def _check_partial_line(self, known: int) -> None:
        if self._is_inside and self._buffer not in (b"", b"\r"):
            raise ProtocolError("chunk: longer than its size")
        limit = _MAX_TRAILER_BYTES if self._is_trailer else _MAX_CHUNK_LINE_BYTES
        if len(self._buffer) > limit or _BROKEN_LINE.search(self._buffer, max(known - 1, 0)):
            raise ProtocolError("chunk: expected a line that ends in CR LF")


def render_request_head(method: str, target: str, fields: Fields) -> bytes:
    """Return the bytes of a request's head."""
    lines = "".join([f"{name}: {value}\r\n" for name, value in fields])
    return f"{method} {target} HTTP/1.1\r\n{lines}\r\n".encode("latin-1")


def render_response_head(status: int, reason: str, fields: Fields) -> bytes:
    """Return the bytes of an answer's head."""
    lines = "".join([f"{name}: {value}\r\n" for name, value in fields])
    return f"HTTP/1.1 {status} {reason}\r\n{lines}\r\n".encode("latin-1")
