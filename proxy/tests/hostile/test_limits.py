"""Rows 28, 34 and 35: bodies and heads that are too large, too deep, compressed, or not as long as they say."""

import contextlib
import gzip
import json
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import pytest

MIB = 1024 * 1024
CAP = 8 * MIB
KERNEL = 12 * MIB  # what the two sockets hold of what was sent and never read
PIECE = b"x" * 65536


@pytest.fixture(scope="module")
def front(open_front):
    return open_front()


def pour(wire, piece: bytes, most: int) -> int:
    """Send `piece` again and again until the peer takes no more; return how many bytes it took."""
    sent = 0
    while sent < most and wire.send(piece) == len(piece):
        sent += len(piece)
    return sent


def sized(count: int) -> bytes:
    """Return a JSON body of so many bytes."""
    frame = b'{"model": "otter", "prompt": ""}'
    return frame[:-2] + b"a" * (count - len(frame)) + frame[-2:]


@pytest.mark.parametrize("length", [CAP + 1, 10 * 1024**3, 10**17])
@pytest.mark.parametrize("fields", ["", "Expect: 100-continue\r\n"], ids=["plain", "expecting"])
def test_F028_a_body_said_to_be_too_large_is_refused_before_it_comes(front, corpus, make_wire, length, fields) -> None:
    mark = front.upstream.mark()
    with make_wire(front.address) as wire:
        wire.send(corpus.post(f"Content-Length: {length}\r\n{fields}"))
        answers = wire.read_all()
    assert [(one.status, one.closes) for one in answers] == [(413, True)]
    assert wire.ending == "closed"
    assert front.upstream.since(mark) == []


def test_F028_who_sends_a_refused_body_anyway_is_cut_off(front, corpus, make_wire) -> None:
    mark = front.upstream.mark()
    with make_wire(front.address) as wire:
        wire.send(corpus.post(f"Content-Length: {1024 * MIB}\r\n"))
        sent = pour(wire, PIECE, 1024 * MIB)
        answers = wire.read_all()
    assert sent < KERNEL
    assert [one.status for one in answers] in ([413], [])
    assert front.upstream.since(mark) == []


@pytest.mark.parametrize("piece", [65536, 1000, 20], ids=str)
def test_F028_a_gigabyte_in_chunks_is_cut_off_at_the_cap(front, corpus, make_wire, piece) -> None:
    mark = front.upstream.mark()
    chunk = b"%x\r\n%b\r\n" % (piece, b"x" * piece)
    with make_wire(front.address) as wire:
        wire.send(corpus.chunks(b"", end=b""))
        sent = pour(wire, chunk * (65536 // len(chunk) + 1), 1024 * MIB)
        answers = wire.read_all()
    assert sent * piece / len(chunk) < CAP + KERNEL
    assert [one.status for one in answers] in ([413], [])
    assert front.upstream.since(mark) == []


@pytest.mark.parametrize("is_chunked", [False, True], ids=["length", "chunked"])
def test_F028_a_body_of_just_the_cap_passes_and_one_byte_more_does_not(front, corpus, make_wire, is_chunked) -> None:
    for count, status in ((CAP, 200), (CAP + 1, 413)):
        mark, body = front.upstream.mark(), sized(count)
        framed = b"%x\r\n%b\r\n0\r\n\r\n" % (count, body)
        with make_wire(front.address) as wire:
            wire.send(corpus.chunks(framed, end=b"") if is_chunked else corpus.plain(body))
            assert wire.read().status == status
        assert [one.body for one in front.upstream.since(mark)] == [body] * (status == 200)


def test_F028_a_body_longer_than_it_says_is_two_requests_and_the_second_is_refused(front, corpus, make_wire) -> None:
    mark = front.upstream.mark()
    with make_wire(front.address) as wire:
        wire.send(corpus.post("Content-Length: 10\r\n", corpus.BODY))
        answers = wire.read_all()
    assert [one.status for one in answers] == [200, 400]
    assert [one.body for one in front.upstream.since(mark)] == [corpus.BODY[:10]]


ENDLESS = {
    "request_line": (b"GET /v1/models?", b"a" * 65536),
    "method": (b"G", b"E" * 65536),
    "field": (b"GET /v1/models HTTP/1.1\r\nHost: canary.test\r\nX-A: ", b"a" * 65536),
    "fields": (b"GET /v1/models HTTP/1.1\r\nHost: canary.test\r\n", b"X-A: b\r\n" * 8192),
    "empty_lines": (b"", b"\r\n" * 32768),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_F028_a_head_without_end_is_cut_off(front, make_wire, name) -> None:
    mark = front.upstream.mark()
    first, piece = ENDLESS[name]
    with make_wire(front.address) as wire:
        wire.send(first)
        sent = pour(wire, piece, 256 * MIB)
        answers = wire.read_all()
    assert sent < KERNEL
    assert all(one.status in (400, 414, 431) and one.closes for one in answers)
    assert front.upstream.since(mark) == []


@pytest.mark.parametrize("start", [b"1;", b"0\r\nX-A: ", b"0"], ids=["extension", "trailer", "size"])
def test_F028_a_chunk_line_without_end_is_cut_off(front, corpus, make_wire, start) -> None:
    mark = front.upstream.mark()
    with make_wire(front.address) as wire:
        wire.send(corpus.chunks(start, end=b""))
        sent = pour(wire, b"0" * 65536, 256 * MIB)
        answers = wire.read_all()
    assert sent < KERNEL
    assert all(one.status in (400, 413, 431) and one.closes for one in answers)
    assert front.upstream.since(mark) == []


def test_F028_who_hoards_unfinished_bodies_shuts_out_nobody(open_front, make_limits, corpus, make_wire) -> None:
    """All bodies together are bounded; who fills that bound and never ends is not served in others' place."""
    front = open_front(limits=make_limits(buffered_bytes=MIB))
    with make_wire(front.address) as hoarder:
        hoarder.send(corpus.post(f"Content-Length: {CAP}\r\n", b"x" * (MIB - 10)))
        time.sleep(0.1)
        with make_wire(front.address) as wire:
            wire.send(corpus.plain())
            assert wire.read().status == 200


@pytest.mark.parametrize("is_reading", [False, True], ids=["unread", "read"])
@pytest.mark.parametrize("line", [b"GET /nowhere HTTP/1.1", b"GET /v1/models HTTP/1.1"], ids=["refused", "passed"])
def test_F028_a_flood_of_pipelined_requests_holds_up_nobody(open_front, corpus, make_wire, line, is_reading) -> None:
    """Thousands of small requests in one packet cost neither memory nor others' time."""
    front, flood = open_front(), corpus.get(line=line) * 2000
    is_over = threading.Event()

    def pour_on(wire) -> int:
        sent = 0
        while not is_over.is_set() and wire.send(flood) == len(flood):
            sent += len(flood)
        return sent

    def read_on(wire) -> None:
        with contextlib.suppress(OSError):
            while is_reading and not is_over.is_set():
                wire.socket.recv(MIB)

    with make_wire(front.address) as flooding, ThreadPoolExecutor(2) as pool:
        flooding.socket.settimeout(1)
        sending, _ = pool.submit(pour_on, flooding), pool.submit(read_on, flooding)
        slowest = 0.0
        for _ in range(8):
            time.sleep(0.1)
            started = time.monotonic()
            with make_wire(front.address, patience=3.0) as wire:
                wire.send(corpus.get(line=b"GET /elsewhere HTTP/1.1"))
                answer = wire.read()
            slowest = max(slowest, time.monotonic() - started)
            if answer is None:
                break
        is_over.set()
    assert slowest < 1.5, "others wait for the flood"
    assert is_reading or sending.result() < KERNEL, "requests whose answers nobody reads are taken in without end"


COMPRESSED = {
    "gzip": gzip.compress(sized(4096)),
    "x-gzip": gzip.compress(sized(4096)),
    "deflate": zlib.compress(sized(4096)),
    "br": b"\x0b\x02\x80hello\x03",
    "zstd": b"\x28\xb5\x2f\xfd\x04\x00\x29\x00\x00hello\xc9\x3b\x7c\x5b",
    "gzip, identity": gzip.compress(sized(4096)),
    "identity, gzip": gzip.compress(sized(4096)),
    "GZIP": gzip.compress(b"\0" * 64 * MIB),
    "unknown": b"hello",
    "": b"hello",
}


@pytest.mark.parametrize("coding", COMPRESSED)
@pytest.mark.parametrize("is_chunked", [False, True], ids=["length", "chunked"])
def test_F035_a_compressed_body_is_refused(front, corpus, make_wire, coding, is_chunked) -> None:
    mark, body = front.upstream.mark(), COMPRESSED[coding]
    framing = "Transfer-Encoding: chunked" if is_chunked else f"Content-Length: {len(body)}"
    sent = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if is_chunked else body
    with make_wire(front.address) as wire:
        wire.send(corpus.post(f"Content-Encoding: {coding}\r\n{framing}\r\n", sent))
        answers = wire.read_all()
    assert [(one.status, one.closes) for one in answers] == [(415, True)]
    assert front.upstream.since(mark) == []


def test_F035_two_codings_in_two_fields_are_refused(front, corpus, make_wire) -> None:
    mark = front.upstream.mark()
    with make_wire(front.address) as wire:
        fields = "Content-Encoding: gzip\r\nContent-Encoding: identity\r\nContent-Length: 5\r\n"
        wire.send(corpus.post(fields, corpus.HELLO))
        assert wire.read().status in (400, 415)
    assert front.upstream.since(mark) == []


BOMBS = {
    "depth": b"[" * 4_000_000,
    "depth_in_object": b'{"model": "otter", "a": ' + b'{"a":' * 1_000_000,
    "balanced_depth": b'{"model": "otter", "a": ' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    "keys": ("{" + ",".join(f'"k{i}": 0' for i in range(500_000)) + "}").encode(),
    "same_key": b'{"model": "a", ' + b'"model": "b", ' * 100_000 + b'"model": "otter"}',
    "huge_number": b'{"model": "otter", "n": 1e999, "max_tokens": ' + b"9" * 100_000 + b"}",
    "not_a_number": b'{"model": "otter", "temperature": NaN}',
    "lone_surrogate": b'{"model": "\\ud800", "prompt": "a"}',
    "not_utf8": b'{"model": "\xff\xfe"}',
    "nul_in_model": b'{"model": "a\\u0000b"}',
    "model_of_a_megabyte": json.dumps({"model": "m" * MIB}).encode(),
}


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.parametrize("is_stream", [False, True], ids=["plain", "stream"])
def test_F034_a_json_bomb_is_refused_or_passed_as_it_is_and_soon(front, corpus, make_wire, name, is_stream) -> None:
    mark, body = front.upstream.mark(), BOMBS[name]
    if is_stream:
        body = body.replace(b"{", b'{"stream": true, ', 1)
    started = time.monotonic()
    with make_wire(front.address) as wire:
        wire.send(corpus.plain(body))
        answer = wire.read()
    assert answer is not None
    assert time.monotonic() - started < 3.0
    seen = front.upstream.since(mark)
    assert answer.status in (200, 400)
    assert len(seen) == (answer.status == 200)
    if not is_stream:
        assert [one.body for one in seen] == [body] * len(seen)


def test_F028_F035_control_a_relay_takes_whatever_is_sent(open_front, corpus, make_wire) -> None:
    front = open_front(is_naive=True)
    for fields, body in (("", sized(2 * CAP)), ("Content-Encoding: gzip\r\n", COMPRESSED["gzip"])):
        with make_wire(front.address) as wire:
            wire.send(corpus.post(f"{fields}Content-Length: {len(body)}\r\n", body))
            assert wire.read().status == 200
