"""The simulated Hyperstack as an HTTP server: `hyperstack_answers` behind a key, by a clock.

Owns HTTP only. The key comes in the header `api_key`, without prefix; the error envelope is the real one's.
"""

import msgspec
from aiohttp import web

from spotinference_sim.clock import Clock
from spotinference_sim.hyperstack_answers import HyperstackAnswers
from spotinference_sim.instants import to_us
from spotinference_sim.scenario import Scenario


def build_hyperstack(scenario: Scenario, clock: Clock, api_key: str, lag: bool = False) -> web.Application:
    """Make the server; every path begins with `/v1`."""
    answers = HyperstackAnswers(scenario, lag)

    async def respond(request: web.Request) -> web.Response:
        if request.headers.get("api_key") != api_key:
            return _refuse(401, "Unauthorized", "unauthorized")
        if request.method != "GET":
            return _refuse(405, "The method is not allowed for the requested URL.", "not_allowed")
        answer = answers.answer("/" + request.match_info["path"], request.query, to_us(clock.now()))
        return web.Response(status=answer.status, body=answer.body, content_type="application/json")

    app = web.Application()
    app.router.add_route("*", "/v1/{path:.*}", respond)
    return app


def _refuse(status: int, message: str, reason: str) -> web.Response:
    body = msgspec.json.encode({"status": False, "message": message, "error_reason": reason})
    return web.Response(status=status, body=body, content_type="application/json")
