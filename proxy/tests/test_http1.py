"""Heads and chunked bodies: what is in the grammar, what is not, and any cut of the bytes."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spotinference_proxy.errors import ProtocolError
from spotinference_proxy.http1 import (
    MAX_FIELDS,
    MAX_HEAD_BYTES,
    ChunkedDecoder,
    check_partial_head,
    parse_request_head,
    parse_response_head,
    render_request_head,
    render_response_head,
)

NAMES = st.text("abcdefghijklmnopqrstuvwxyz0123456789-_.!#$%&'*+^`|~", min_size=1, max_size=12).filter(
    lambda name: name not in ("host", "content-length", "transfer-encoding", "connection", "expect")
)
VALUES = st.text([chr(i) for i in (*range(0x20, 0x7F), 9, 0xE9)], max_size=30).map(lambda text: text.strip(" \t"))


def head(*lines: str, start: str = "GET /v1/models HTTP/1.1", host: str = "Host: x") -> bytes:
    return "".join(f"{line}\r\n" for line in (start, *([host] if host else []), *lines, "")).encode("latin-1")


def test_a_request_head_is_read() -> None:
    found = parse_request_head(
        head("Content-Length: 12", "X-A:\t a b \t", "x-a:2", start="POST /v1/x?y=%20 HTTP/1.1", host="HOST: a.b:80")
    )
    assert (found.method, found.target, found.content_length) == ("POST", "/v1/x?y=%20", 12)
    assert found.headers == [("host", "a.b:80"), ("content-length", "12"), ("x-a", "a b"), ("x-a", "2")]
    assert found.fields["x-a"] == "2"
    assert found.keeps_alive
    assert (found.is_chunked, found.expects_continue, found.is_http_1_0) == (False, False, False)


def test_what_a_head_says_of_its_connection_is_read() -> None:
    assert parse_request_head(head("Expect: 100-Continue")).expects_continue
    assert parse_request_head(head("Transfer-Encoding: Chunked")).is_chunked
    assert not parse_request_head(head("Connection: a, Close")).keeps_alive
    old = parse_request_head(head(start="GET / HTTP/1.0", host=""))
    assert old.is_http_1_0
    assert not old.keeps_alive


@given(st.lists(st.tuples(NAMES, VALUES), max_size=20))
def test_a_rendered_head_is_read_back(fields: list[tuple[str, str]]) -> None:
    single = {"content-type", "content-encoding", "authorization"}
    fields = [(name, value) for name, value in fields if name not in single]
    found = parse_request_head(render_request_head("POST", "/a", [("host", "h"), *fields]))
    assert found.headers == [("host", "h"), *fields]
    answer = parse_response_head(render_response_head(503, "No", fields))
    assert (answer.status, answer.reason, answer.headers) == (503, "No", fields)


@given(st.binary(max_size=60), st.integers(0, 80))
def test_F031_no_bytes_make_anything_but_a_head_or_a_refusal(junk: bytes, at: int) -> None:
    good = head("A: b")
    for parse in (parse_request_head, parse_response_head):
        for text in (junk, good[:at] + junk + good[at:]):
            try:
                found = parse(text)
            except ProtocolError:
                continue
            assert not any(set("\r\n\0") & set(name + value) for name, value in found.headers)


@pytest.mark.parametrize(
    "lines",
    [
        ("Content-Length: 1", "Content-Length: 1"),
        ("Content-Length: 1", "Transfer-Encoding: chunked"),
        ("Content-Length: +1",),
        ("Content-Length: 1,1",),
        ("Content-Length: " + "1" * 19,),
        ("Content-Length:",),
        ("Transfer-Encoding: gzip, chunked",),
        ("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"),
        ("Transfer-Encoding : chunked",),
        ("A: b\r\n c: d",),
        ("A: b\nC: d",),
        ("A: b\0",),
        ("A\xe9: b",),
        (": b",),
        ("A b",),
        ("Host: y",),
    ],
)
def test_F031_a_head_outside_the_grammar_is_refused(lines: tuple[str, ...]) -> None:
    with pytest.raises(ProtocolError) as found:
        parse_request_head(head(*lines, start="POST / HTTP/1.1"))
    assert found.value.status == 400


@pytest.mark.parametrize(
    "start",
    ["GET  / HTTP/1.1", "GET / HTTP/1.2", "GET / http/1.1", "get / HTTP/1.1", "GET x HTTP/1.1", "GET /a b HTTP/1.1",
     "GET /\t HTTP/1.1", "GET /#a HTTP/1.1", "GET /\xe9 HTTP/1.1", "GET /", "GET http://x/ HTTP/1.1", "GET * HTTP/1.1"],
)  # fmt: skip
def test_F031_a_request_line_outside_the_grammar_is_refused(start: str) -> None:
    with pytest.raises(ProtocolError):
        parse_request_head(head(start=start))


@pytest.mark.parametrize("host", ["", "Host:", "Host: a b", "Host: a/b", "Host: a@b", "Host: a, b"])
def test_F031_one_good_host_is_needed(host: str) -> None:
    with pytest.raises(ProtocolError):
        parse_request_head(head(host=host))


def test_a_head_has_limits() -> None:
    with pytest.raises(ProtocolError) as found:
        parse_request_head(head(*(f"A{i}: b" for i in range(MAX_FIELDS))))
    assert found.value.status == 431
    with pytest.raises(ProtocolError) as found:
        check_partial_head(b"G" * (MAX_HEAD_BYTES + 1))
    assert found.value.status == 431
    with pytest.raises(ProtocolError) as found:
        parse_request_head(head("Expect: money"))
    assert found.value.status == 417


def test_what_can_still_become_a_head_is_waited_for_and_nothing_else() -> None:
    good = head("A: b")
    for end in range(len(good)):
        check_partial_head(good[:end])
    for bad in (b"\x16\x03\x01", b" GET", b"GET / HTTP/1.1\nA", b"GET /\rA", b"GET /\0", b"\r\n"):
        with pytest.raises(ProtocolError):
            check_partial_head(bad)


def test_F029_a_head_that_drips_in_is_looked_at_once() -> None:
    """What was known to be good is not read again, whatever it is: a byte costs a byte. Cut anywhere, it is refused."""
    check_partial_head(b"GET / HTTP/1.1\nA" + b"a" * 100, known=50)
    bad = b"GET / HTTP/1.1\r\nA: b\nC: d"
    for cut in range(1, len(bad)):
        with pytest.raises(ProtocolError):
            [check_partial_head(bad[:end], known) for known, end in ((0, cut), (cut, len(bad)))]


def test_an_answer_says_where_it_ends() -> None:
    plain = parse_response_head(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n")
    assert (plain.content_length, plain.is_chunked, plain.keeps_alive) == (3, False, True)
    chunked = parse_response_head(b"HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert (chunked.content_length, chunked.is_chunked, chunked.keeps_alive) == (None, True, True)
    endless = parse_response_head(b"HTTP/1.0 200 OK\r\n\r\n")
    assert (endless.content_length, endless.is_chunked, endless.keeps_alive) == (None, False, False)
    empty = parse_response_head(b"HTTP/1.1 204 No Content\r\n\r\n")
    assert (empty.content_length, empty.keeps_alive) == (0, True)
    with pytest.raises(ProtocolError):
        parse_response_head(b"HTTP/1.1 999 What\r\n\r\n")


PIECES = st.lists(st.binary(min_size=1, max_size=5000), max_size=5)


@given(PIECES, st.lists(st.integers(0, 12_000), max_size=8), st.sampled_from(["%x", "%X", "00%x", "%x;a=b"]))
def test_any_cut_of_a_chunked_body_gives_the_same_content(pieces: list[bytes], cuts: list[int], size: str) -> None:
    text = b"".join((size % len(piece)).encode() + b"\r\n" + piece + b"\r\n" for piece in pieces)
    text += b"0\r\nX-Trailer: a\r\n\r\nGET"
    places = sorted({0, *(min(cut, len(text)) for cut in cuts), len(text)})
    decoder = ChunkedDecoder()
    content, rest = b"", b""
    for start, end in pairwise(places):
        if decoder.is_done:
            rest += text[start:end]
        else:
            content += decoder.feed(text[start:end])
            rest += decoder.rest
    assert (content, rest, decoder.is_done) == (b"".join(pieces), b"GET", True)


@pytest.mark.parametrize("text", [b"3\r\nabc\r\n0\r\n\r\n", b"0\r\n\r\n", b"a;x\r\n0123456789\r\n0\r\nA: b\r\n\r\n"])
def test_a_chunked_body_may_come_byte_by_byte(text: bytes) -> None:
    decoder = ChunkedDecoder()
    content = b"".join(decoder.feed(text[i : i + 1]) for i in range(len(text)))
    whole = ChunkedDecoder()
    assert whole.feed(text) == content
    assert (decoder.is_done, whole.is_done, decoder.rest, whole.rest) == (True, True, b"", b"")


@pytest.mark.parametrize(
    "text",
    [b"0x3\r\nabc\r\n", b"+3\r\nabc\r\n", b" 3\r\nabc\r\n", b"3 \r\nabc\r\n", b"-1\r\n", b"\r\n", b"g\r\n", b"3_0\r\n",
     b"100000000\r\n", b"3\r\nabcd\r\n", b"3\r\nabcX", b"3\nabc\n", b"3;a=\0b\r\n", b"0\r\nA b\r\n\r\n", b"0\r\n A: b\r\n",
     b"3;" + b"a" * 300 + b"\r\n", b"1" * 300, b"0\r\n" + b"A: b\r\n" * 2000, b"0\r\n2\r\nab\r\n\r\n"],
)  # fmt: skip
def test_F031_a_chunk_outside_the_grammar_is_refused(text: bytes) -> None:
    with pytest.raises(ProtocolError):
        ChunkedDecoder().feed(text)
    decoder = ChunkedDecoder()
    with pytest.raises(ProtocolError):
        _ = [decoder.feed(text[i : i + 1]) for i in range(len(text))]
    for cut in range(1, min(len(text), 400)):
        halves = ChunkedDecoder()
        with pytest.raises(ProtocolError):
            _ = [halves.feed(part) for part in (text[:cut], text[cut:])]
    lines = ChunkedDecoder()
    with pytest.raises(ProtocolError):
        _ = [lines.feed(line) for line in text.splitlines(keepends=True)]
