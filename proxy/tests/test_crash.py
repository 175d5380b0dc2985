"""The whole proxy, killed with clients on it: who saw the end of an answer has a record."""

import asyncio
import json
import os
import sys
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from spotinference_proxy.record import parse_line
from spotinference_proxy.recovery import recover

CHAT = "/v1/chat/completions"


async def start_proxy(upstream: str, folder: Path) -> tuple[asyncio.subprocess.Process, str]:
    environ = os.environ | {
        "SPOTINFERENCE_PROXY_UPSTREAMS": json.dumps([{"url": upstream, "vm_id": 1}]),
        "SPOTINFERENCE_PROXY_LOG_DIR": str(folder),
        "SPOTINFERENCE_PROXY_LISTEN": "127.0.0.1:0",
        "SPOTINFERENCE_PROXY_ADMIN_LISTEN": "127.0.0.1:0",
    }
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "spotinference_proxy", env=environ, stderr=asyncio.subprocess.PIPE
    )
    assert child.stderr is not None
    line = (await child.stderr.readline()).decode()
    return child, line.split()[2].rstrip(",")


async def streaming(request: web.Request) -> web.StreamResponse:
    answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await answer.prepare(request)
    usage = {"prompt_tokens": 7, "completion_tokens": 2}
    for choices in ([{"index": 0, "delta": {}}], []):
        found = {"id": request.headers["X-Request-Id"], "choices": choices, "usage": usage}
        await answer.write(f"data: {json.dumps(found)}\n\n".encode())
    await answer.write(b"data: [DONE]\n\n")
    return answer


@pytest.mark.parametrize("count", [1, 25, 150])
async def test_F003_who_saw_the_end_of_an_answer_has_a_record_after_kill_9(rig, tmp_path, count: int) -> None:
    rig.vllm.script = streaming
    child, address = await start_proxy(rig.vllm.url, tmp_path / "crash")
    seen: list[str] = []

    async def ask_on() -> None:
        while True:
            try:
                async with rig.session.post(f"http://{address}{CHAT}", json={"stream": True}) as answer:
                    body = b""
                    async for line in answer.content:
                        body += line
                        if line == b"data: [DONE]\n":
                            seen.append(json.loads(body.splitlines()[0][6:])["id"])
                            if len(seen) == count:
                                child.kill()
            except aiohttp.ClientError:
                return

    await asyncio.gather(*(ask_on() for _ in range(8)))
    await child.wait()
    await child.stderr.read()
    recover(tmp_path / "crash")
    rows = [
        parse_line(line)
        for path in (tmp_path / "crash").glob("*.jsonl")
        for line in path.read_bytes().splitlines(keepends=True)
    ]
    ended = [row["request_id"] for row in rows if row["k"] == "end"]
    assert len(seen) >= count
    assert len(ended) == len(set(ended))
    assert set(seen) <= set(ended)
    begun = {row["request_id"] for row in rows if row["k"] == "begin"}
    assert rows[-1]["by"] == "recovery"
    assert begun - set(ended) == set(rows[-1]["open"])
