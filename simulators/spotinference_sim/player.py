"""Play a scenario's own requests, when they are due, against a proxy: the traffic of a live demo.

Owns the client's side: prompts of the right length, clients that leave, requests that are wrong. What was
really served is what the vLLM simulator recorded, not what was meant to be.
"""

import asyncio
from typing import Any

import aiohttp

from spotinference_sim.clock import Clock
from spotinference_sim.instants import to_datetime, to_us
from spotinference_sim.request import Request
from spotinference_sim.scenario import Scenario
from spotinference_sim.vllm_ask import MESSAGE_TOKENS, PROMPT_TOKENS, REPLY_TOKENS

WRONG_MAX_TOKENS = -1
CANARY_HEADER = "X-Spotinference-Canary"
"""By which the proxy knows a canary; it does not pass it on."""


def request_body(request: Request) -> dict[str, Any]:
    """Write the body that makes the simulated engine count what the scenario says."""
    body: dict[str, Any] = {"model": request.requested_model or request.model, "stream": request.stream}
    prompt = request.prompt_tokens or 16
    if request.endpoint == "/v1/completions":
        body["prompt"] = "word " * (prompt - PROMPT_TOKENS)
    else:
        body["messages"] = [{"role": "user", "content": "word " * (prompt - MESSAGE_TOKENS - REPLY_TOKENS)}]
    tokens = max(1, (request.completion_tokens or 1) // request.choices)
    body["max_tokens"] = 2 * tokens if request.end_reason == "client_gone" else tokens
    if request.status == 400:
        body["max_tokens"] = WRONG_MAX_TOKENS
    if request.choices > 1:
        body["n"] = request.choices
    return body


async def play(scenario: Scenario, clock: Clock, url: str, key: str | None = None) -> None:
    """Send every request that is still to come; returns when the last has ended.

    A request that fails is the proxy's to record: failures here are the client's daily life and not raised.
    """
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=None)
    since_us = to_us(clock.now())
    async with (
        aiohttp.ClientSession(headers=headers, connector=connector, timeout=timeout) as session,
        asyncio.TaskGroup() as group,
    ):
        for request in scenario.requests:
            if request.started_us >= since_us:
                await clock.wait_until(to_datetime(request.started_us))
                group.create_task(_send(session, clock, url, request))


async def _send(session: aiohttp.ClientSession, clock: Clock, url: str, request: Request) -> None:
    reading = asyncio.ensure_future(_read(session, url, request))
    if request.end_reason == "client_gone":
        leaving = asyncio.ensure_future(clock.wait_until(to_datetime(request.finished_us)))
        await asyncio.wait({reading, leaving}, return_when=asyncio.FIRST_COMPLETED)
        leaving.cancel()
        reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)


async def _read(session: aiohttp.ClientSession, url: str, request: Request) -> None:
    headers = {CANARY_HEADER: "1"} if request.canary else {}
    async with session.post(url + request.endpoint, json=request_body(request), headers=headers) as answer:
        async for _ in answer.content.iter_any():
            pass
