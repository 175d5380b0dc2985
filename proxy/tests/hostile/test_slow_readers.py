"""Row 30: who does not take an answer holds up neither vLLM nor memory, and is dropped; who takes it gets all of it.

Every scenario has a front of its own and all run at once, because each of them waits for seconds.
"""

import json
import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

WRITE = 1.5
SLACK = 4.0
EVENT = b"data: " + json.dumps({"model": "otter", "choices": [{"index": 0, "text": "x" * 4000}]}).encode() + b"\n\n"
STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
UNREAD_BYTES = 24 * 1024 * 1024  # more than the kernel holds between upstream, proxy and client
STREAMED = b'{"model": "otter", "stream": true}'


def shrink_send_buffer(address: tuple[str, int]) -> None:
    """Make the kernel hold little of what the proxy sends: connections take after the socket they come from."""
    for path in Path("/proc/self/fd").iterdir():
        if not path.is_socket():
            continue
        found = socket.socket(fileno=os.dup(int(path.name)))
        with found:
            is_ours = found.family == socket.AF_INET and found.getsockname() == address
            if is_ours and found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                found.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32 * 1024)
                return
    raise AssertionError(f"no socket listens on {address}")


def say(front, content: bytes) -> None:
    front.upstream.say(f"HTTP/1.1 200 OK\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content)


def stream_without_end(front):
    front.written = 0

    async def script(seen, writer) -> None:
        if seen.target == "/v1/models":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n" + b"x" * 300_000)
            return
        writer.write(STREAM_HEAD)
        while front.written < 4 * UNREAD_BYTES:
            writer.write(b"%x\r\n%b\r\n" % (len(EVENT), EVENT))
            front.written += len(EVENT)
            await writer.drain()

    return script


def await_end(front) -> list[str]:
    until = time.monotonic() + WRITE + SLACK
    while not (ends := front.rows("end")) and time.monotonic() < until:
        time.sleep(0.1)
    return [row["end_reason"] for row in ends]


class Scenarios:
    """Each runs one client and returns what came of it."""

    def __init__(self, corpus, make_wire) -> None:
        self._corpus, self._make_wire = corpus, make_wire

    def too_little(self, front, drip: int):
        front.upstream.script = stream_without_end(front)
        with self._make_wire(front.address, receive_bytes=4096) as wire:
            wire.send(self._corpus.plain(STREAMED))
            until = time.monotonic() + WRITE + SLACK
            while not front.rows("end") and time.monotonic() < until:
                time.sleep(0.1)
                if drip:
                    wire.take(wire.socket.recv(drip))
            answers = wire.read_all()
        return await_end(front), [one.is_whole for one in answers], wire.ending, front.written

    def pipelined(self, front) -> int:
        front.upstream.script = stream_without_end(front)
        with self._make_wire(front.address, receive_bytes=4096) as wire:
            wire.send(self._corpus.get() + self._corpus.plain(STREAMED))
            time.sleep(WRITE + SLACK / 2)
        return front.written

    def piled_up(self, front) -> int:
        say(front, b"x" * 100_000)
        with self._make_wire(front.address, receive_bytes=4096) as wire:
            wire.send(self._corpus.get() * 1000)
            time.sleep(WRITE + SLACK / 2)
        return len(front.upstream.requests)

    def pausing(self, front, closes: bool):
        content = json.dumps({"model": "otter", "choices": [{"text": "x" * 180_000}]}).encode()
        say(front, content)
        with self._make_wire(front.address, receive_bytes=4096) as wire:
            wire.send(self._ordinary(closes))
            time.sleep(4.0)
            answer = wire.read()
        return answer.is_whole and answer.body == content, await_end(front)

    def slow(self, front, closes: bool):
        content = b"x" * 800_000
        say(front, content)
        with self._make_wire(front.address, receive_bytes=16384) as wire:
            wire.send(self._ordinary(closes))
            found = b""
            while len(found) < len(content) and (part := wire.socket.recv(15_000)):
                found += part
                time.sleep(0.1)
            wire.take(found)
            answer = wire.read()
        return answer.is_whole and answer.body == content, await_end(front)

    def control(self, front) -> int:
        front.upstream.script = stream_without_end(front)
        with self._make_wire(front.address, receive_bytes=4096) as wire:
            wire.send(self._corpus.plain(STREAMED))
            time.sleep(WRITE + SLACK / 2)
            return sum(len(wire.socket.recv(65536)) for _ in range(1000))

    def _ordinary(self, closes: bool) -> bytes:
        fields = f"Content-Length: {len(self._corpus.BODY)}\r\n" + "Connection: close\r\n" * closes
        return self._corpus.post(fields, self._corpus.BODY)


@pytest.fixture(scope="module")
def outcome(open_front, make_limits, make_wire, corpus):
    """Run all scenarios; return a function from name and arguments to what came of one."""
    scenarios = Scenarios(corpus, make_wire)
    plan = [("too_little", 0), ("too_little", 1), ("pipelined",), ("piled_up",)]
    plan += [(name, closes) for name in ("pausing", "slow") for closes in (False, True)]
    running = {}
    with ThreadPoolExecutor(len(plan) + 1) as pool:
        for name, *arguments in plan:
            seconds = 6.0 if name == "pausing" else WRITE
            front = open_front(limits=make_limits(write_seconds=seconds))
            shrink_send_buffer(front.address)
            running[name, *arguments] = pool.submit(getattr(scenarios, name), front, *arguments)
        running["control",] = pool.submit(scenarios.control, open_front(is_naive=True))
    return lambda *key: running[key].result()


@pytest.mark.parametrize("drip", [0, 1], ids=["nothing", "a_byte_now_and_then"])
def test_F030_who_reads_too_little_is_dropped_and_recorded(outcome, drip) -> None:
    reasons, are_whole, ending, written = outcome("too_little", drip)
    assert reasons == ["client_gone"]
    assert are_whole == [False]
    assert ending != "open"
    assert written < UNREAD_BYTES, "the proxy went on reading for a client that does not"


def test_F030_control_a_relay_without_limits_drops_nobody(outcome) -> None:
    assert outcome("control") > 1000 * 1000, "more than was on its way"


def test_F030_a_pipelined_answer_is_held_back_like_the_first(outcome) -> None:
    assert outcome("pipelined") < UNREAD_BYTES


def test_F030_answers_nobody_reads_are_not_piled_up(outcome) -> None:
    assert outcome("piled_up") < 100


@pytest.mark.parametrize("closes", [False, True], ids=["kept", "closing"])
@pytest.mark.parametrize("name", ["pausing", "slow"])
def test_F030_who_takes_time_within_the_limit_gets_the_whole_answer(outcome, name, closes) -> None:
    assert outcome(name, closes) == (True, ["complete"])


def test_F030_who_does_not_read_leaves_nothing_paused_for_the_next(open_front, make_limits, make_wire, corpus) -> None:
    """The answer may end just as its client stops reading; the upstream's connection is used again all the same."""
    front = open_front(limits=make_limits(write_seconds=WRITE))
    shrink_send_buffer(front.address)
    for size in range(60_000, 240_000, 4_000):
        say(front, b"x" * size)
        with make_wire(front.address, receive_bytes=4096) as idle:
            idle.send(corpus.plain(target="/tokenize"))
            time.sleep(0.02)
            if size % 8_000:
                idle.socket.close()
            front.upstream.script = front.upstream.say_ok
            with make_wire(front.address, patience=3.0) as wire:
                wire.send(corpus.get())
                assert wire.read() is not None, f"behind an unread answer of {size} bytes nobody is answered"
