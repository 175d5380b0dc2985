"""The simulated vLLM as an HTTP server: one engine per machine under `/vm/<id>`, by a clock.

Owns HTTP: routes, streams, disconnects and the abort call. Does not own counting (`vllm_engine`) or spelling
(`vllm_wire`). A machine that the scenario does not have ready answers 503 everywhere.

Source: vLLM 0.32.0 as measured, started with --enable-scale-out unless told otherwise.
"""

import asyncio
import itertools
from collections.abc import Awaitable, Callable

from aiohttp import web

from spotinference_sim.clock import Clock
from spotinference_sim.instants import SECOND_US, to_datetime, to_us
from spotinference_sim.request import Request
from spotinference_sim.scenario import Scenario
from spotinference_sim.vllm_ask import (
    MAX_MODEL_LEN,
    AskError,
    UnreadableError,
    count_tokens,
    parse_ask,
    parse_body,
)
from spotinference_sim.vllm_engine import Engine, EngineProcess, Generation
from spotinference_sim.vllm_metrics import render_metrics
from spotinference_sim.vllm_wire import DONE, VERSION, Wire, dump

STREAM_INTERVAL = 8
"""Tokens per event, as with --stream-interval."""
MAX_BODY_BYTES = 2**28
ENDPOINTS = {"v1/chat/completions": True, "v1/completions": False}

Handler = Callable[[web.Request, Engine], Awaitable[web.StreamResponse]]


def build_vllm(
    scenario: Scenario,
    clock: Clock,
    served: list[Request],
    scale_out: bool = True,
    stream_interval: int = STREAM_INTERVAL,
) -> web.Application:
    """Make the server; what it serves is appended to `served` when it ends."""
    app = web.Application(client_max_size=MAX_BODY_BYTES)
    service = VllmService(scenario, clock, served, scale_out, stream_interval)
    app.router.add_route("*", "/vm/{vm_id:[0-9]+}/{path:.*}", service.respond)
    return app


class EngineGoneError(Exception):
    """The machine stopped being ready while a request ran."""


def _json(body: dict[str, object], status: int = 200) -> web.Response:
    return web.Response(status=status, body=dump(body), content_type="application/json")


class VllmService:
    """All engines of a scenario."""

    def __init__(
        self, scenario: Scenario, clock: Clock, served: list[Request], scale_out: bool, stream_interval: int
    ) -> None:
        self._engines = {vm.id: Engine(vm, served) for vm in scenario.vms if vm.model}
        self._clock = clock
        self._scale_out = scale_out
        self._interval = stream_interval
        self._numbers = itertools.count()
        self._aborts: dict[Generation, asyncio.Event] = {}
        self._routes: dict[str, tuple[str, Handler]] = {
            "v1/chat/completions": ("POST", self._generate),
            "v1/completions": ("POST", self._generate),
            "inference/v1/abort_requests": ("POST", self._abort),
            "tokenize": ("POST", self._tokenize),
            "v1/models": ("GET", self._models),
            "health": ("GET", self._health),
            "version": ("GET", self._version),
            "metrics": ("GET", self._metrics),
        }

    async def respond(self, request: web.Request) -> web.StreamResponse:
        """Route a request to its machine's engine."""
        engine = self._engines.get(int(request.match_info["vm_id"]))
        route = self._routes.get(request.match_info["path"])
        if engine is None or route is None:
            return _json({"detail": "Not Found"}, 404)
        if request.method != route[0]:
            return _json({"detail": "Method Not Allowed"}, 405)
        if engine.process(self._now_us()) is None:
            return _json(AskError(503, "The engine is not ready.", "Service Unavailable").body, 503)
        try:
            return await route[1](request, engine)
        except AskError as refused:
            return _json(refused.body, refused.status)

    def _now_us(self) -> int:
        return to_us(self._clock.now())

    async def _generate(self, request: web.Request, engine: Engine) -> web.StreamResponse:
        endpoint = request.match_info["path"]
        raw = await _read(request)
        ask = parse_ask(raw, ENDPOINTS[endpoint], engine.model)
        process = engine.process(self._now_us())
        if process is None:
            raise AskError(503, "The engine is not ready.", "Service Unavailable")
        name = request.headers.get("X-Request-Id") or f"sim-{next(self._numbers)}"
        running = engine.begin(process, ask, name, f"/{endpoint}", self._now_us())
        self._aborts[running] = asyncio.Event()
        wire = Wire(ask, ("chatcmpl-" if ask.chat else "cmpl-") + name, engine.model, running.started_us // SECOND_US)
        reason = "client_gone"
        try:
            answer = await (self._stream if ask.stream else self._plain)(request, engine, running, wire)
            reason = running.ended_as(self._now_us()) or reason
        except EngineGoneError:
            reason = "upstream_gone"
            return web.Response(status=500)
        except ConnectionError:
            return web.Response(status=499)
        finally:
            del self._aborts[running]
            engine.end(process, running, self._now_us(), reason)
        return answer

    async def _plain(self, request: web.Request, engine: Engine, running: Generation, wire: Wire) -> web.StreamResponse:
        ask = running.ask
        await self._wait(request, engine, running, running.token_us(ask.tokens))
        made = running.made(self._now_us())
        reason = running.ended_as(self._now_us()) or "abort"
        usage = engine.tally(running, self._now_us()).usage(ask.chat, stream=False)
        body = wire.body([ask.text(0, made)] * ask.choices, reason, usage)
        return web.Response(body=body, content_type="application/json")

    async def _stream(
        self, request: web.Request, engine: Engine, running: Generation, wire: Wire
    ) -> web.StreamResponse:
        ask = running.ask
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        answer.enable_chunked_encoding()
        await answer.prepare(request)
        shown = 0
        while shown < ask.tokens and running.cut_us is None:
            due_us = running.token_us(min(shown + self._interval if shown else 1, ask.tokens))
            await self._wait(request, engine, running, due_us)
            if shown == 0 and ask.chat and running.made(self._now_us()):
                for choice in range(ask.choices):
                    await answer.write(wire.role_event(choice, self._continuous(running, choice, 0)))
            shown = await self._send_tokens(answer, running, wire, shown)
        if ask.include_usage:
            usage = engine.tally(running, self._now_us()).usage(ask.chat, stream=True)
            await answer.write(wire.usage_event(usage))
        await answer.write(DONE)
        await answer.write_eof()
        return answer

    async def _send_tokens(self, answer: web.StreamResponse, running: Generation, wire: Wire, shown: int) -> int:
        """Send what was made since, one event per choice; return how many tokens of each are shown now."""
        ask = running.ask
        made = running.made(self._now_us())
        ended = running.ended_as(self._now_us())
        if made == 0:
            return 0
        for choice in range(ask.choices):
            usage = self._continuous(running, choice, made)
            await answer.write(wire.token_event(choice, ask.text(shown, made), ended, usage))
        return made

    def _continuous(self, running: Generation, choice: int, made: int) -> dict[str, object] | None:
        """Make the running usage of one choice, when the client asked for it: its own tokens only."""
        if not (running.ask.include_usage and running.ask.continuous_usage):
            return None
        prompt = running.ask.prompts[choice // running.ask.n]
        return {"prompt_tokens": prompt, "total_tokens": prompt + made, "completion_tokens": made}

    async def _wait(self, request: web.Request, engine: Engine, running: Generation, until_us: int) -> None:
        """Wait for an instant or an abort.

        Raises: EngineGoneError when the machine went away meanwhile; the connection is cut then.
        """
        aborted = asyncio.ensure_future(self._aborts[running].wait())
        due = asyncio.ensure_future(self._clock.wait_until(to_datetime(until_us)))
        try:
            await asyncio.wait({aborted, due}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            aborted.cancel()
            due.cancel()
        process = engine.process(self._now_us())
        if process is None or running not in process.running:
            if request.transport:
                request.transport.abort()
            raise EngineGoneError

    async def _abort(self, request: web.Request, engine: Engine) -> web.StreamResponse:
        if not self._scale_out:
            raise AskError(403, "Scale-out endpoints are disabled. Start with --enable-scale-out.", "Forbidden")
        ids = parse_body(await _read(request)).get("request_ids")
        process = engine.process(self._now_us())
        for running in process.running if process else []:
            if isinstance(ids, list) and running.engine_ids() <= {str(name) for name in ids}:
                running.cut_us = self._now_us()
                self._aborts[running].set()
        return web.Response()

    async def _tokenize(self, request: web.Request, _engine: Engine) -> web.StreamResponse:
        body = parse_body(await _read(request))
        count = sum(count_tokens(body, "messages" in body))
        return _json({"count": count, "max_model_len": MAX_MODEL_LEN, "tokens": list(range(count)), "token_strs": None})

    async def _models(self, _request: web.Request, engine: Engine) -> web.StreamResponse:
        about = {
            "id": engine.model,
            "object": "model",
            "created": self._now_us() // SECOND_US,
            "owned_by": "vllm",
        }
        row = {**about, "root": engine.model, "parent": None, "max_model_len": MAX_MODEL_LEN}
        return _json({"object": "list", "data": [row]})

    async def _health(self, _request: web.Request, _engine: Engine) -> web.StreamResponse:
        return web.Response()

    async def _version(self, _request: web.Request, _engine: Engine) -> web.StreamResponse:
        return _json({"version": VERSION})

    async def _metrics(self, _request: web.Request, engine: Engine) -> web.StreamResponse:
        process = engine.process(self._now_us())
        assert isinstance(process, EngineProcess)
        text = render_metrics(engine, process, self._now_us())
        return web.Response(text=text, content_type="text/plain")


async def _read(request: web.Request) -> bytes:
    if request.headers.get("Content-Encoding"):
        raise UnreadableError
    if request.content_type != "application/json":
        raise AskError(400, "Unsupported Media Type: Only 'application/json' is allowed", "Bad Request")
    return await request.read()
