from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spotinference_proxy.sse import EventSplitter, parse_data

pieces_of_streams = st.lists(st.sampled_from([b"\n", b"\r", b"\r\n", b"a", b"data: x", b": y", b"data:"]), max_size=30)


def split(body: bytes, cuts: list[int], size: int = 2**20) -> list[tuple[bytes, bool]]:
    splitter = EventSplitter(size)
    edges = [0, *sorted(cut for cut in cuts if cut <= len(body)), len(body)]
    found = [piece for start, end in pairwise(edges) for piece in splitter.feed(body[start:end])]
    found += splitter.finish()
    assert b"".join(content for content, _ in found) == body
    assert splitter.is_between_events
    return found


@given(pieces_of_streams, st.lists(st.integers(0, 120), max_size=12))
def test_F022_no_cut_moves_the_end_of_an_event(parts: list[bytes], cuts: list[int]) -> None:
    body = b"".join(parts)
    assert split(body, cuts) == split(body, []) == split(body, list(range(len(body))))


@given(pieces_of_streams)
def test_F022_data_is_what_the_standard_says_it_is(parts: list[bytes]) -> None:
    text = b"".join(parts).decode()
    expected: list[list[str]] = [[]]
    for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n")[:-1]:
        if not line:
            expected.append([])
        elif line.startswith("data:"):
            expected[-1].append(line[5:].removeprefix(" "))
    found = [parse_data(content) for content, is_event in split(text.encode(), []) if is_event]
    wanted = ["\n".join(lines).encode() for lines in expected[:-1] if lines]
    assert [data for data in found if data is not None] == wanted


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
def test_an_event_ends_with_a_blank_line(line_end: bytes) -> None:
    event = b"data: 1" + line_end * 2
    assert split(event * 3 + b"data: 2" + line_end, []) == [(event, True)] * 3 + [(b"data: 2" + line_end, False)]


def test_an_event_over_the_limit_passes_by_and_the_next_is_read() -> None:
    body = b"data: " + b"x" * 200 + b"\n\ndata: [DONE]\n\n"
    for size in (1, 7, 100, len(body)):
        found = split(body, list(range(0, len(body), size)), 50)
        assert [content for content, is_event in found if is_event] == [b"data: [DONE]\n\n"]


def test_what_arrives_is_held_no_longer_than_needed() -> None:
    splitter = EventSplitter()
    assert splitter.feed(b"data: 1\n") == []
    assert not splitter.is_between_events
    assert splitter.feed(b"\ndata: 2\n\nda") == [(b"data: 1\n\n", True), (b"data: 2\n\n", True)]
    assert splitter.feed(b"ta: 3\r\n\r") == []  # the LF of the last CRLF is still to come
    assert splitter.feed(b"\n") == [(b"data: 3\r\n\r\n", True)]


@pytest.mark.parametrize(
    ("event", "data"),
    [
        (b"data: a\n\n", b"a"),
        (b"data:a\n\n", b"a"),
        (b"data:  a\n\n", b" a"),
        (b"data: a\r\n\r\n", b"a"),
        (b"event: x\ndata: a\n\n", b"a"),
        (b"data: a\ndata: b\n\n", b"a\nb"),
        (b"data: a\rdata: b\n\n", b"a\nb"),
        (b"data:\n\n", b""),
        (b"database: a\n\n", None),
        (b": data: a\n\n", None),
        (b"data\n\n", None),
        (b"\n", None),
    ],
)
def test_data_is_joined_from_its_lines(event: bytes, data: bytes | None) -> None:
    assert parse_data(event) == data
