"""One connection to a vLLM: where answers end, whether it can be used again."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spotinference_proxy.http1 import ResponseHead
from spotinference_proxy.upstream_connection import UpstreamConnection

PLAIN = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n"
INTERIM = b"HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n"
EMPTY = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"


class Wire:
    """A transport that remembers."""

    def __init__(self) -> None:
        self.sent = b""
        self.is_aborted = False

    def write(self, content: bytes) -> None:
        self.sent += content

    def is_closing(self) -> bool:
        return self.is_aborted

    def abort(self) -> None:
        self.is_aborted = True


class Taker:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[object] = []
        self.content = b""
        self.lasts: list[bool] = []

    def answer_begun(self, head: ResponseHead) -> None:
        self.told.append(head.status)

    def answer_part(self, content: bytes, is_last: bool, /) -> None:
        assert content
        self.content += content
        self.lasts.append(is_last)

    def answer_ended(self) -> None:
        self.told.append("ended")

    def answer_lost(self, *, is_untouched: bool) -> None:
        self.told.append("untouched" if is_untouched else "lost")


def asked() -> tuple[UpstreamConnection, Wire, Taker]:
    connection, wire, taker = UpstreamConnection(), Wire(), Taker()
    connection.connection_made(wire)
    connection.ask(b"GET", b"", taker)
    assert wire.sent == b"GET"
    return connection, wire, taker


@given(st.sampled_from([PLAIN, CHUNKED, INTERIM + PLAIN, INTERIM * 2 + CHUNKED]), st.sets(st.integers(1, 150)))
def test_any_cut_of_an_answer_gives_the_same(text: bytes, cuts: set[int]) -> None:
    connection, wire, taker = asked()
    for start, end in pairwise(sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})):
        connection.data_received(text[start:end])
    assert taker.told == [200, "ended"]
    assert taker.content == b"hello"
    assert not any(taker.lasts[:-1])
    assert (connection.is_reusable, connection.was_used, wire.is_aborted) == (True, True, False)
    connection.ask(b"", b"", again := Taker())
    connection.data_received(EMPTY)
    assert (again.told, again.content) == ([200, "ended"], b"")


@pytest.mark.parametrize(
    "text",
    [
        PLAIN + b"HTTP/1.1 200 OK\r\n",
        CHUNKED + b"x",
        PLAIN.replace(b"OK\r\n", b"OK\r\nconnection: close\r\n"),
        b"HTTP/1.0" + PLAIN[8:],
    ],
)
def test_a_connection_with_more_or_with_an_end_is_not_used_again(text: bytes) -> None:
    connection, wire, taker = asked()
    connection.data_received(text)
    assert taker.told == [200, "ended"]
    assert (connection.is_reusable, wire.is_aborted) == (False, True)


def test_an_answer_without_a_length_ends_with_its_connection() -> None:
    connection, _, taker = asked()
    connection.data_received(b"HTTP/1.1 200 OK\r\n\r\nhel")
    connection.data_received(b"lo")
    connection.connection_lost(None)
    assert (taker.told, taker.content) == ([200, "ended"], b"hello")
    connection, _, taker = asked()
    connection.data_received(b"HTTP/1.1 200 OK\r\n\r\nhel")
    connection.connection_lost(ConnectionResetError())
    assert taker.told == [200, "lost"]


@pytest.mark.parametrize("text", [PLAIN, CHUNKED])
def test_F025_an_answer_cut_anywhere_is_lost(text: bytes) -> None:
    for end in range(len(text)):
        connection, _, taker = asked()
        connection.data_received(text[:end]) if end else None
        connection.connection_lost(None)
        assert taker.told[-1] == ("lost" if end else "untouched")
        assert not connection.is_reusable


@pytest.mark.parametrize(
    "text",
    [
        b"garbage\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 9000,
    ],
)
def test_F033_what_is_no_answer_loses_the_connection(text: bytes) -> None:
    connection, wire, taker = asked()
    connection.data_received(text)
    assert taker.told[-1] == "lost" or taker.told == ["untouched"]
    assert wire.is_aborted


def test_bytes_nobody_asked_for_close_the_connection() -> None:
    connection, wire, _ = asked()
    connection.data_received(PLAIN)
    connection.data_received(b"HTTP")
    assert wire.is_aborted
    assert connection.is_closed


def test_who_let_go_hears_nothing() -> None:
    connection, wire, taker = asked()
    connection.let_go()
    connection.data_received(PLAIN)
    connection.connection_lost(None)
    assert taker.told == []
    assert wire.is_aborted
