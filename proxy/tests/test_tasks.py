"""What happens without a request: who is probed when, whatever else is slow."""

import asyncio
import contextlib
import json
import os
import threading
import time

from aiohttp import web
from spotinference_proxy.segments import Calls
from spotinference_proxy.settings import UpstreamSettings


async def silent(request: web.Request) -> web.StreamResponse:
    """Begin a stream and never go on."""
    answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await answer.prepare(request)
    await answer.write(b'data: {"choices": [{"index": 0}]}\n\n')
    await asyncio.Event().wait()
    return answer


async def test_F025_an_upstream_is_never_probed_twice_at_once(rig, capfd) -> None:
    asked, answered = [], asyncio.Event()

    async def health(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if b"/health" in await reader.readuntil(b"\r\n\r\n"):
            asked.append(1)
            await answered.wait()
        writer.write(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()

    proxy = await rig.start()
    async with await asyncio.start_server(health, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        proxy.pool.configure([UpstreamSettings(f"http://127.0.0.1:{port}", 8)])
        proxy.pool.upstreams[0].is_ready = True
        probing = asyncio.create_task(proxy.probe())
        async with asyncio.timeout(10):
            while not asked:
                await asyncio.sleep(0.005)
            await proxy.minute()
            await proxy.probe()
            answered.set()
            await probing
        assert len(asked) == 1
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert [one["vm_id"] for one in lines if one["event"] == "upstream_not_ready"] == [8]


async def test_F025_one_that_does_not_answer_delays_nobody_elses_probe(rig) -> None:
    asked: list[float] = []

    async def health(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while await reader.readuntil(b"\r\n\r\n"):
                asked.append(time.monotonic())
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async def asleep(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with (
        await asyncio.start_server(health, "127.0.0.1", 0) as good,
        await asyncio.start_server(asleep, "127.0.0.1", 0) as bad,
    ):
        ports = [server.sockets[0].getsockname()[1] for server in (good, bad)]
        upstreams = tuple(UpstreamSettings(f"http://127.0.0.1:{port}") for port in ports)
        await rig.start(periodic=True, upstreams=upstreams)
        async with asyncio.timeout(20):
            while len(asked) < 3:
                await asyncio.sleep(0.01)
        assert asked[2] - asked[1] < 3.0
        await rig.proxy.stop()


async def test_F025_a_disk_that_hangs_does_not_stop_the_probes(rig) -> None:
    works = threading.Event()
    works.set()

    def sync(fd: int) -> None:
        works.wait(60)
        os.fdatasync(fd)

    rig.vllm.script = silent
    proxy = await rig.start(calls=Calls(fdatasync=sync))
    try:
        async with rig.session.post(rig.url("/v1/chat/completions"), json={"stream": True}) as answer:
            await answer.content.readany()
            (relay,) = proxy.relays
            await proxy.probe()
            relay.silent_since -= 31
            works.clear()
            rig.vllm.is_healthy = False
            async with asyncio.timeout(10):
                await proxy.probe()
                await rig.vllm.left.wait()  # the silent stream is given up
    finally:
        works.set()
    (end,) = await rig.ends()
    assert end["end_reason"] == "upstream_timeout"
    assert [row["ready"] for row in rig.rows("health")] == [True, False]
