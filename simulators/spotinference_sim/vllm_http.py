"""What every answer of the simulated vLLM has in common as HTTP: heads, keys, redirects.

Owns how uvicorn and its router behave. Does not own routes (`vllm_server`).

Source: vLLM 0.32.0 as measured.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from spotinference_sim.vllm_wire import dump

MAX_BODY_BYTES = 2**28
KEYED = ("/v1", "/v2", "/inference")
"""How paths begin that need a key, where there are keys."""
HEAD_ORDER = {"date": 0, "server": 1, "content-length": 2, "content-type": 3, "transfer-encoding": 5}
ECHOED = web.RequestKey("echoed_id", str)
"""Under which a request carries the id that --enable-request-id-headers sends back."""


def build_app(pattern: str, respond: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> web.Application:
    """Make an application that gives every request under a pattern to one function."""
    app = web.Application(client_max_size=MAX_BODY_BYTES)
    app.router.add_route("*", pattern, respond)
    app.on_response_prepare.append(_spell_headers)
    return app


async def _spell_headers(request: web.Request, answer: web.StreamResponse) -> None:
    """Write an answer's head as uvicorn does: lower case, its own name, its order."""
    fields = {name.lower(): said for name, said in answer.headers.items()}
    fields |= {"server": "uvicorn", "vary": "Origin"}
    if ECHOED in request:
        fields["x-request-id"] = request[ECHOED]
    answer.headers.clear()
    answer.headers.extend(sorted(fields.items(), key=lambda field: (HEAD_ORDER.get(field[0], 4), field[0])))


def json_answer(body: dict[str, Any], status: int = 200) -> web.Response:
    """Answer with JSON."""
    return web.Response(status=status, body=dump(body), content_type="application/json")


def needs_key(path: str, authorization: str | None, keys: tuple[str, ...]) -> bool:
    """Tell whether a path asks for a key that was not given; the scheme's case does not matter."""
    scheme, _, key = (authorization or "").partition(" ")
    return bool(keys) and path.startswith(KEYED) and not (scheme.lower() == "bearer" and key in keys)


def redirect(request: web.Request) -> web.Response:
    """Send the client to the path without its last slash, at the host that it named."""
    path, mark, query = request.raw_path.partition("?")
    place = f"{request.scheme}://{request.headers.get('Host', '')}{path[:-1]}{mark}{query}"
    return web.Response(status=307, headers={"Location": place})
