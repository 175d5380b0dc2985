"""The simulated Hyperstack as an HTTP server: `hyperstack_gate` behind a key, by a clock.

Owns HTTP only. The key comes in the header `api_key`, without prefix; the error envelope is the real one's. The `Date` header is
the clock's.
"""

import asyncio
from datetime import timedelta

from aiohttp import web

from spotinference_sim.clock import Clock
from spotinference_sim.faults import Faults
from spotinference_sim.hyperstack_answers import Answer, HyperstackAnswers
from spotinference_sim.hyperstack_gate import Fate, HyperstackGate, error_answer
from spotinference_sim.instants import SECOND_US, http_date, to_us
from spotinference_sim.scenario import Scenario


def build_hyperstack(
    scenario: Scenario, clock: Clock, api_key: str, lag: bool = False, faults: Faults | None = None
) -> web.Application:
    """Make the server; every path begins with `/v1`. Answers take their time by the clock only when faults are given."""
    gate = HyperstackGate(HyperstackAnswers(scenario, lag, faults))

    async def respond(request: web.Request) -> web.Response:
        if request.headers.get("api_key") != api_key:
            return _response(error_answer(401, "Unauthorized", "unauthorized"))
        if request.method != "GET":
            return _response(error_answer(405, "The method is not allowed for the requested URL.", "not_allowed"))
        passage = gate.passage("/" + request.match_info["path"], request.query, to_us(clock.now()))
        if faults and passage.delay_us:
            await clock.wait_until(clock.now() + timedelta(microseconds=passage.delay_us))
        if passage.fate is Fate.HANGS:
            await asyncio.Event().wait()
        if passage.fate is Fate.RESET and request.transport:
            request.transport.abort()
        return _response(passage.answer)

    async def date(_: web.Request, response: web.StreamResponse) -> None:
        response.headers["Date"] = http_date(to_us(clock.now()) // SECOND_US)

    app = web.Application()
    app.on_response_prepare.append(date)
    app.router.add_route("*", "/v1/{path:.*}", respond)
    return app


def _response(answer: Answer) -> web.Response:
    headers = {"Retry-After": str(answer.retry_after_s)} if answer.retry_after_s is not None else {}
    return web.Response(status=answer.status, body=answer.body, content_type=answer.content_type, headers=headers)
