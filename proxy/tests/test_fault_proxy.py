"""A line between the proxy and vLLM that delays, drops, resets, half-closes, throttles, cuts and spoils answers.

Whatever it does: one end record for each request, one request to vLLM for each of a client (but for the documented
second try over a stale kept connection), and no answer that looks whole to its client and is not.
"""

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass

import aiohttp
import pytest
from aiohttp import web
from spotinference_proxy import connections, relay, tasks
from spotinference_proxy.client_connection import ClientConnection
from spotinference_proxy.settings import UpstreamSettings
from spotinference_proxy.upstream_connection import UpstreamConnection

CHAT = "/v1/chat/completions"
PLAIN = {"model": "otter"}
EDITED = PLAIN | {"stream": True}  # asks for no usage, so the proxy does
STREAM = PLAIN | {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}
GARBAGE = b"\x00\xffno chunk, no head\r\n\r\n"
ENDINGS = ("closes", "resets", "half-closes")


def reset(transport: asyncio.Transport) -> None:
    """End a connection by RST instead of FIN."""
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


@dataclass
class Fault:
    """What is done to an answer, or to a request, as soon as more than `after` bytes of it have come."""

    kind: str = ""
    after: int = 0
    of_request: bool = False
    seconds: float = 0.0
    step: int = 65536  # bytes passed at once


class Line:
    """Passes bytes between the proxy and a vLLM, with one fault at a time; stands in for both."""

    def __init__(self, upstream: str) -> None:
        self.connections = 0
        self.passed = 0  # bytes of an answer since the fault was set
        self.was_harmful = False
        self.tail = b""  # written behind the next answer
        self._sent = 0
        self._fault = Fault()
        self._upstream = upstream.removeprefix("http://").split(":")
        self._tasks: set[asyncio.Task] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = "http://{}:{}".format(*self._server.sockets[0].getsockname())

    async def stop(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def set(self, fault: Fault) -> None:
        """Count from now on, and do this when it is time."""
        self._fault, self.passed, self._sent, self.connections, self.was_harmful = fault, 0, 0, 0, False

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._tasks.add(asyncio.current_task())
        to_reader, to_writer = await asyncio.open_connection(*self._upstream)
        pumps = [asyncio.create_task(self._requests(reader, to_writer, writer))]
        pumps.append(asyncio.create_task(self._answers(to_reader, writer)))
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._tasks.discard(asyncio.current_task())
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            for one in (writer, to_writer):
                one.close()
                with contextlib.suppress(OSError):
                    await one.wait_closed()

    async def _requests(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, back: asyncio.StreamWriter
    ) -> None:
        while data := await source.read(65536):
            fault = self._fault
            part = data[: max(fault.after - self._sent, 0)] if fault.of_request else data
            self._sent += len(part)
            sink.write(part)
            await sink.drain()
            if len(part) < len(data):
                await self._harm(fault, back, b"")

    async def _answers(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(self._fault.step):
            fault = self._fault
            part = data[: max(fault.after - self.passed, 0)] if fault.kind and not fault.of_request else data
            self.passed += len(part)
            sink.write(part + self.tail if part.endswith((b"0\r\n\r\n", b"}")) else part)
            self.tail = b""
            await sink.drain()
            if fault.seconds and not fault.kind:
                await asyncio.sleep(fault.seconds)
            if len(part) < len(data):
                await self._harm(fault, sink, data[len(part) :])

    async def _harm(self, fault: Fault, towards_proxy: asyncio.StreamWriter, rest: bytes) -> None:
        """Do it; what is left of an answer passes only after a delay."""
        self.was_harmful = True
        if fault.kind != "stalls":
            self._fault = Fault()  # once: a second try would get its answer
        await asyncio.sleep(fault.seconds)
        if fault.kind == "delays":
            towards_proxy.write(rest)
            return
        if fault.kind in ("garbles", "promises"):
            towards_proxy.write(GARBAGE if fault.kind == "garbles" else b"HTTP/1.1 102 Processing\r\n\r\n")
            await towards_proxy.drain()
        elif fault.kind == "half-closes":
            towards_proxy.write_eof()
        elif fault.kind == "resets":
            reset(towards_proxy.transport)
        if fault.kind in ("half-closes", "stalls"):
            await asyncio.Event().wait()
        raise ConnectionAbortedError


@pytest.fixture
async def line(rig) -> AsyncIterator[Line]:
    line = Line(rig.vllm.url)
    await line.start()
    yield line
    for proxy in rig.proxies:
        await proxy.stop()
    await line.stop()


async def answer_of(request: web.Request) -> web.StreamResponse:
    """Answer as vLLM does: a stream in chunks, else a document with a length; the request's own name in it."""
    name = request.headers["X-Request-Id"]
    usage = {"prompt_tokens": 7, "completion_tokens": 9}
    if not json.loads(await request.read()).get("stream"):
        return web.json_response({"id": name, "model": "otter", "usage": usage})
    answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await answer.prepare(request)
    for choices in ([{"index": 0, "delta": {"content": "a"}}], []):
        found = {"id": name, "model": "otter", "choices": choices, "usage": usage}
        await answer.write(f"data: {json.dumps(found)}\n\n".encode())
    await answer.write(b"data: [DONE]\n\n")
    await answer.write_eof()
    return answer


@pytest.fixture
async def faulty(rig, line: Line):
    """Start the proxy behind the line; return a call that asks with a fault and gives what the client saw."""
    rig.vllm.script = answer_of
    await rig.start(upstreams=(UpstreamSettings(line.url, vm_id=1),), periodic=False)
    return Faulty(rig, line)


class Seen:
    """What the client of one request saw, and what it cost."""

    def __init__(self, status: int | None, body: bytes, requests: int) -> None:
        self.status = status  # None: it saw its answer break
        self.body = body
        self.requests = requests


class Faulty:
    """Asks through the proxy and the line, one request after the other."""

    def __init__(self, rig, line: Line) -> None:
        self.rig, self.line = rig, line
        self.seen: list[Seen] = []

    async def ask(self, body: dict, fault: Fault, *, is_kept: bool = False) -> Seen:
        """Ask once, over a new connection to vLLM or a kept one."""
        if not is_kept:
            self.rig.proxy.pool.close()
        before = len(self.rig.vllm.requests)
        self.line.set(fault)
        status, content = None, b""
        with contextlib.suppress(aiohttp.ClientError):
            status, content, _ = await self.rig.post(CHAT, body, timeout=aiohttp.ClientTimeout(total=60))
        seen = Seen(status, content, len(self.rig.vllm.requests) - before)
        self.seen.append(seen)
        return seen

    async def check(self) -> list[dict]:
        """One end for each request, no second try, and no answer that only looks whole; return the ends."""
        ends = await self.rig.ends(len(self.seen))
        assert len(ends) == len(self.seen) == len({end["request_id"] for end in ends})
        assert len(self.rig.rows("begin")) == len(ends)
        for seen, end in zip(self.seen, ends, strict=True):
            assert seen.requests <= 1
            name = end["request_id"].encode()
            is_whole = name in seen.body and (b"data: [DONE]\n\n" in seen.body or seen.body.endswith(b"}}"))
            if seen.status == 200:
                assert is_whole
                assert end["end_reason"] == "complete"
            else:
                assert seen.status in (None, 502)
                assert end["end_reason"] == "upstream_gone" or (end["end_reason"], seen.status) == ("complete", None)
            if end["end_reason"] != "complete":
                assert end["status"] == (seen.status or 200)
                assert end["usage_source"] in ("none", "engine_partial", "engine_final")
            if end["usage_source"] == "none":
                assert (end["prompt_tokens"], end["completion_tokens"]) == (None, None)
            else:
                assert (end["prompt_tokens"], end["completion_tokens"]) == (7, 9)
        return ends

    async def cut_everywhere(self, body: dict, ending: str) -> int:
        """Cut an answer after every number of bytes; return its length."""
        assert (await self.ask(body, Fault())).status == 200
        size = self.line.passed
        for after in range(size):
            await self.ask(body, Fault(ending, after))
            assert self.line.was_harmful
        return size


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("body", [PLAIN, STREAM, EDITED], ids=["plain", "stream", "edited_stream"])
async def test_F025_an_answer_cut_anywhere_never_looks_whole(faulty: Faulty, body: dict, ending: str) -> None:
    size = await faulty.cut_everywhere(body, ending)
    ends = await faulty.check()
    assert size > 200
    assert [seen.status for seen in faulty.seen].count(200) == 1
    reasons = [end["end_reason"] for end in ends]
    last = reasons.index("complete", 1) if reasons.count("complete") > 1 else size + 1
    assert set(reasons[last:]) <= {"complete"}  # those that lack nothing but the end of the chunks
    assert last > size - 10
    sources = [end["usage_source"] for end in ends]
    assert sources[0] == "engine_final"
    assert sources[1:] == sorted(sources[1:], key=("none", "engine_partial", "engine_final").index)


async def test_F025_control_a_proxy_that_ends_broken_answers_well_is_found_out(faulty: Faulty, monkeypatch) -> None:
    monkeypatch.setattr(ClientConnection, "break_off", ClientConnection.finish)
    await faulty.cut_everywhere(STREAM, "closes")
    with pytest.raises(AssertionError):
        await faulty.check()


async def test_F025_a_plain_answer_of_which_its_client_saw_nothing_yet_is_a_502(faulty: Faulty) -> None:
    size = await faulty.cut_everywhere(PLAIN, "closes")
    head = size - len(faulty.seen[0].body)
    assert [seen.status for seen in faulty.seen[1:]] == [502] * (head + 1) + [None] * (size - head - 1)
    ends = await faulty.check()
    assert [end["status"] for end in ends[1:]] == [502] * (head + 1) + [200] * (size - head - 1)
    assert {end["upstream_status"] for end in ends[1 : head + 1]} == {None}
    assert {end["upstream_status"] for end in ends[head + 1 :]} == {200}


@pytest.mark.parametrize("body", [PLAIN, STREAM], ids=["plain", "stream"])
async def test_F025_an_answer_that_goes_over_into_garbage_never_looks_whole(faulty: Faulty, body: dict) -> None:
    await faulty.ask(body, Fault())
    size = faulty.line.passed
    for after in range(size - len(GARBAGE)):
        await faulty.ask(body, Fault("garbles", after))
        assert faulty.line.was_harmful
    await faulty.check()
    assert [seen.status for seen in faulty.seen].count(200) == 1


async def test_F025_bytes_behind_an_answer_are_nobodys(faulty: Faulty) -> None:
    for body in (PLAIN, STREAM) * 3:
        faulty.line.tail = GARBAGE
        first = await faulty.ask(body, Fault())
        second = await faulty.ask(body, Fault(), is_kept=True)
        assert [first.status, second.status] == [200, 200]
        assert GARBAGE not in first.body + second.body
        assert faulty.line.connections == 1  # the one that said too much is not used again
    await faulty.check()


@pytest.mark.parametrize("body", [PLAIN, STREAM, EDITED], ids=["plain", "stream", "edited_stream"])
async def test_F025_slow_answers_come_whole(faulty: Faulty, body: dict) -> None:
    await faulty.ask(body, Fault())
    for after in (0, 1, faulty.line.passed // 2, faulty.line.passed - 1):
        await faulty.ask(body, Fault("delays", after, seconds=0.1))
        assert faulty.line.was_harmful
    for step in (1, 2, 7):
        await faulty.ask(body, Fault(step=step, seconds=0.0001))
    assert [seen.status for seen in faulty.seen] == [200] * 8
    ends = await faulty.check()
    assert {end["usage_source"] for end in ends} == {"engine_final"}


@pytest.mark.parametrize("body", [PLAIN, STREAM], ids=["plain", "stream"])
@pytest.mark.parametrize("share", [0.0, 0.2, 0.8])
async def test_F025_an_upstream_that_hangs_is_given_up(faulty: Faulty, monkeypatch, share: float, body: dict) -> None:
    monkeypatch.setattr(connections, "FETCH_SECONDS", 0.1)
    monkeypatch.setattr(tasks, "IDLE_SECONDS", 0.2)
    await faulty.ask(body, Fault())
    asked = asyncio.create_task(faulty.ask(body, Fault("stalls", int(share * faulty.line.passed))))
    async with asyncio.timeout(30):
        while not faulty.line.was_harmful:
            await asyncio.sleep(0.01)
        while not asked.done():
            await faulty.rig.proxy.probe()
            await asyncio.sleep(0.05)
    seen = await asked
    end = (await faulty.rig.ends(2))[1]
    assert end["end_reason"] == "upstream_timeout"
    assert (seen.status or 200) == end["status"]
    assert seen.status in ((504,) if share == 0.0 else (None, 504))
    assert seen.requests == 1


@pytest.mark.parametrize(("kind", "ending"), [("json", "resets"), ("stream", "resets"), ("stream", "closes")])
async def test_F025_an_answer_without_length_or_chunks_that_breaks_never_looks_whole(
    rig, kind: str, ending: str
) -> None:
    async def script(request: web.Request) -> web.StreamResponse:
        content_type = "application/json" if kind == "json" else "text/event-stream"
        part = b'{"usage":' if kind == "json" else b'data: {"choices":[]}\n\n'
        request.transport.write(f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\n\r\n".encode() + part)
        await asyncio.sleep(0.05)
        if ending == "resets":
            reset(request.transport)
        else:
            request.transport.close()
        return web.Response()

    rig.vllm.script = script
    await rig.start()
    with pytest.raises(aiohttp.ClientPayloadError):
        await rig.post(CHAT, PLAIN if kind == "json" else STREAM)
    (end,) = await rig.ends()
    assert (end["end_reason"], end["usage_source"]) == ("upstream_gone", "none")


@pytest.mark.parametrize("ending", ["closes", "resets"])
async def test_F025_a_request_cut_on_its_way_is_a_502_and_not_sent_again(faulty: Faulty, ending: str) -> None:
    for after in range(0, 300, 7):
        seen = await faulty.ask(PLAIN, Fault(ending, after, of_request=True))
        if not faulty.line.was_harmful:
            break
        assert (seen.status, seen.requests, faulty.line.connections) == (502, 0, 1)
    assert after > 100
    await faulty.check()


# ---------------------------------------------------------------------- kept connections


async def test_F025_a_kept_connection_that_was_closed_before_is_replaced_without_a_second_request(
    faulty: Faulty, monkeypatch
) -> None:
    monkeypatch.setattr(relay, "STALE_SECONDS", 30.0)
    for ending in ("closes", "resets"):
        await faulty.ask(PLAIN, Fault())
        seen = await faulty.ask(PLAIN, Fault(ending, of_request=True), is_kept=True)
        assert (seen.status, seen.requests, faulty.line.connections) == (200, 1, 1)
    await faulty.check()


@pytest.mark.parametrize(
    "ending",
    [
        *ENDINGS,
        "garbles",
        "promises",
    ],
)
async def test_F025_a_request_that_got_a_byte_of_an_answer_is_never_made_twice(faulty: Faulty, ending: str) -> None:
    for after in (1, 20) if ending in ENDINGS else (0,):
        assert (await faulty.ask(PLAIN, Fault())).status == 200
        seen = await faulty.ask(PLAIN, Fault(ending, after), is_kept=True)
        assert (seen.status, seen.requests) == (502, 1)
    await faulty.check()


async def test_F025_a_request_that_vllm_had_for_long_is_never_made_twice(faulty: Faulty, monkeypatch) -> None:
    monkeypatch.setattr(relay, "STALE_SECONDS", 0.1)
    assert (await faulty.ask(PLAIN, Fault())).status == 200
    seen = await faulty.ask(PLAIN, Fault("closes", seconds=0.2), is_kept=True)
    assert (seen.status, seen.requests) == (502, 1)
    await faulty.check()


async def test_F025_control_a_second_try_over_a_new_connection_is_found_out(faulty: Faulty, monkeypatch) -> None:
    monkeypatch.setattr(UpstreamConnection, "was_used", True)
    await faulty.ask(PLAIN, Fault("closes"))
    with pytest.raises(AssertionError):
        await faulty.check()
