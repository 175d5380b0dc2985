"""Rows 29 and 30: clients that send too slowly, or read too slowly, are let go; who is merely slow is served."""

import selectors
import time
from typing import NamedTuple

import pytest

HEADER, BODY, IDLE, WRITE = 1.0, 1.5, 2.5, 1.5  # seconds, instead of 9, 28, 75 and 28
SLACK = 3.0  # the proxy looks twice a second; the machine is noisy
DRIP_SECONDS = 0.1
ENDLESS = b"x" * 1000

HALF_HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: canary.test\r\nX-A: b"
SHORT_BODY = b"POST /v1/completions HTTP/1.1\r\nHost: canary.test\r\nContent-Length: 1000\r\n\r\n{"
CHUNKED = b"POST /v1/completions HTTP/1.1\r\nHost: canary.test\r\nTransfer-Encoding: chunked\r\n\r\n"
BURST = b"POST /v1/completions HTTP/1.1\r\nHost: canary.test\r\nContent-Length: 4000000\r\n\r\n" + b"x" * 1_000_000
EXPECTING = b"POST /v1/completions HTTP/1.1\r\nHost: canary.test\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n"


class Stall(NamedTuple):
    """What a client sends at first (behind a good request if `kept`), and then byte by byte.

    `listens`: the proxy ends its side at once, and has to end the client's too.
    """

    name: str
    first: bytes
    limit: float
    drip: bytes = b""
    kept: bool = False
    listens: bool = False


STALLS = (
    Stall("F029_nothing", b"", HEADER),
    Stall("F029_half_head", HALF_HEAD, HEADER),
    Stall("F029_head_without_last_byte", HALF_HEAD + b"\r\n\r", HEADER),
    Stall("F029_dripped_head", b"G", HEADER, b"ET /" + ENDLESS),
    Stall("F029_dripped_fields", HALF_HEAD, HEADER, b"\r\nX-A: b" * 100),
    Stall("F029_kept_then_half_head", HALF_HEAD, HEADER, kept=True),
    Stall("F029_kept_then_dripped_head", HALF_HEAD, HEADER, ENDLESS, kept=True),
    Stall("F029_kept_then_nothing", b"", IDLE, kept=True),
    Stall("F030_no_body", SHORT_BODY[:-1], BODY),
    Stall("F030_short_body", SHORT_BODY, BODY),
    Stall("F030_body_after_continue", EXPECTING, BODY),
    Stall("F030_dripped_body", SHORT_BODY, BODY, ENDLESS),
    Stall("F030_much_of_a_body_then_nothing", BURST, BODY),
    Stall("F030_much_of_a_body_then_drips", BURST, BODY, ENDLESS),
    Stall("F030_half_a_chunk", CHUNKED + b"5\r\n{", BODY),
    Stall("F030_dripped_chunks", CHUNKED, BODY, b"1\r\nx\r\n" * 100),
    Stall("F030_dripped_chunk_extension", CHUNKED + b"5;", BODY, ENDLESS),
    Stall("F030_chunks_without_last", CHUNKED + b"1\r\nx\r\n", BODY),
    Stall("F030_dripped_trailers", CHUNKED + b"1\r\nx\r\n0\r\n", BODY, b"X-A: b\r\n" * 100),
    Stall("F030_kept_then_short_body", SHORT_BODY, BODY, kept=True),
    Stall("F031_refused_then_drips", b"GET / HTTP/9.9\r\n\r\n", 3.0, ENDLESS, listens=True),
)


def watch(front, make_wire, good: bytes, stalls, seconds: float) -> dict[str, float | None]:
    """Run all stalls at once; return after how many seconds each was closed, None for those that were not."""
    wires = {stall.name: make_wire(front.address) for stall in stalls}
    started, closed = {}, dict.fromkeys(wires)
    with selectors.DefaultSelector() as selector:
        for stall in stalls:
            wire = wires[stall.name]
            if stall.kept:
                wire.send(good)
                assert wire.read().status == 200
            started[stall.name] = time.monotonic()
            wire.send(stall.first)
            wire.socket.setblocking(False)
            selector.register(wire.socket, selectors.EVENT_READ, stall)
        until, step = time.monotonic() + seconds, 0
        while selector.get_map() and time.monotonic() < until:
            for key, _ in selector.select(DRIP_SECONDS):
                if _has_ended(key.fileobj) and not key.data.listens:
                    closed[key.data.name] = time.monotonic() - started[key.data.name]
                    selector.unregister(key.fileobj)
            step += 1
            for key in list(selector.get_map().values()):
                if not _drip(key.fileobj, key.data.drip[step - 1 : step]):
                    closed[key.data.name] = time.monotonic() - started[key.data.name]
                    selector.unregister(key.fileobj)
            time.sleep(DRIP_SECONDS / 2)
    for wire in wires.values():
        wire.socket.close()
    return closed


def _has_ended(connection) -> bool:
    try:
        return not connection.recv(65536)
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


def _drip(connection, part: bytes) -> bool:
    """Send a byte; False when the peer takes nothing any more."""
    try:
        connection.send(part)
    except BlockingIOError:
        return True
    except ConnectionError:
        return False
    return True


@pytest.fixture(scope="module")
def front(open_front, make_limits):
    limits = make_limits(header_seconds=HEADER, body_seconds=BODY, idle_seconds=IDLE, write_seconds=WRITE)
    return open_front(limits=limits)


@pytest.fixture(scope="module")
def closings(front, make_wire, corpus):
    mark = front.upstream.mark()
    found = watch(front, make_wire, corpus.GOOD, STALLS, IDLE + SLACK + 2)
    seen = front.upstream.since(mark)
    assert [one.target for one in seen] == ["/v1/completions"] * sum(stall.kept for stall in STALLS)
    return found


@pytest.mark.parametrize("stall", STALLS, ids=[stall.name for stall in STALLS])
def test_F029_F030_a_client_that_stalls_is_closed(closings, stall) -> None:
    assert closings[stall.name] is not None, "never closed"
    assert closings[stall.name] <= stall.limit + SLACK


def test_F029_F030_control_a_relay_without_limits_never_closes(open_front, make_wire, corpus) -> None:
    stalls = [stall for stall in STALLS if stall.name in ("F029_half_head", "F030_short_body")]
    closed = watch(open_front(is_naive=True), make_wire, corpus.GOOD, stalls, HEADER + SLACK / 2)
    assert set(closed.values()) == {None}


def test_F029_F030_a_slow_client_that_keeps_within_the_limits_is_served(front, make_wire, corpus) -> None:
    head, body = corpus.plain()[: -len(corpus.BODY)], corpus.BODY
    with make_wire(front.address) as wire:
        for part in (head[:40], head[40:], body[:9], body[9:20], body[20:]):
            wire.send(part)
            time.sleep(HEADER / 4)
        assert wire.read().status == 200


def test_F029_408_says_why_and_closes(front, make_wire) -> None:
    with make_wire(front.address) as wire:
        wire.send(HALF_HEAD)
        answers = wire.read_all()
    assert wire.ending == "closed"
    assert [one.status for one in answers] in ([408], [])
    assert all(one.closes and b"canary" not in one.raw for one in answers)
