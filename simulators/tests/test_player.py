"""The player sends what the scenario says; the engine counts what the scenario says."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from aiohttp import web
from spotinference_sim.instants import SECOND_US
from spotinference_sim.player import play
from spotinference_sim.request import Request
from spotinference_sim.scenario import Scenario


async def test_played_requests_are_served_with_the_tokens_they_were_meant_to_have(
    make_stage: Any, make_tiny: Callable[..., Scenario], make_request: Callable[..., Request]
) -> None:
    meant = make_request()
    second = SECOND_US
    kinds = (
        replace(meant, started_us=meant.started_us - 500 * second),
        meant,
        replace(meant, started_us=meant.started_us + second, endpoint="/v1/completions", stream=False, choices=2),
        replace(meant, started_us=meant.started_us + 2 * second, status=400),
        replace(meant, started_us=meant.started_us + 3 * second, end_reason="client_gone", completion_tokens=900),
        replace(meant, started_us=meant.started_us + 4 * second, prompt_tokens=None, requested_model="other"),
    )
    scenario = make_tiny(*kinds)
    stage = await make_stage(1_999)
    playing = asyncio.ensure_future(play(scenario, stage.clock, stage.engine))
    await stage.at(2_100)
    await playing
    counts = [(s.end_reason, s.prompt_tokens, s.completion_tokens, s.choices) for s in stage.simulators.served]
    assert sorted(counts[:2]) == [("complete", 100, 50, 1), ("complete", 100, 50, 2)]
    assert counts[2][:2] == ("client_gone", 100)
    assert 100 < counts[2][2] < 900
    assert len(counts) == 3


async def test_the_key_goes_along_and_a_dead_proxy_is_survived(
    stage: Any, make_tiny: Callable[..., Scenario], make_request: Callable[..., Request]
) -> None:
    keys: list[str | None] = []

    async def note(request: web.Request) -> web.Response:
        keys.append(request.headers.get("Authorization"))
        return web.Response()

    app = web.Application()
    app.router.add_post("/v1/chat/completions", note)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    await play(make_tiny(make_request()), stage.clock, url, key="secret")
    await runner.cleanup()
    await play(make_tiny(make_request()), stage.clock, url)
    assert keys == ["Bearer secret"]
