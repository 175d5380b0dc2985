"""One simulated vLLM behind its HTTP: its routes, and all that makes no tokens.

Owns routing and the small answers. Does not own endpoints that make tokens (`vllm_endpoints`,
`vllm_serve`), nor how many engines there are (`vllm`, `vllm_alone`).

Source: vLLM 0.32.0 as measured.
"""

import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from hashlib import sha256

from aiohttp import web

from spotinference_sim.clock import Clock
from spotinference_sim.instants import SECOND_US, to_us
from spotinference_sim.vllm_ask import WORDS, count_chat, prompt_ids, seed_of
from spotinference_sim.vllm_endpoints import ENDPOINTS, Json, read_json
from spotinference_sim.vllm_engine import Engine, EngineProcess
from spotinference_sim.vllm_errors import AskError, invalid, not_ready
from spotinference_sim.vllm_http import ECHOED, json_answer, needs_key, redirect
from spotinference_sim.vllm_messages import MessagesWire, count_messages
from spotinference_sim.vllm_metrics import MEDIA_TYPE, render_metrics
from spotinference_sim.vllm_openai_ask import check_model, count_prompt, read_prompts
from spotinference_sim.vllm_options import GENERATE
from spotinference_sim.vllm_serve import open_exchange, tell_fault
from spotinference_sim.vllm_wire import VERSION

UNCOUNTED = ("/metrics", "/health", "/ping", "/load", "/version")
"""Paths that `http_requests_total` leaves out."""

PATH = web.RequestKey("path", str)
NAME = web.RequestKey("name", str)
"""The X-Request-Id, or what stands in for it."""

Handler = Callable[[web.Request, EngineProcess], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Route:
    """A path, its methods and the task that a server must have for it."""

    methods: tuple[str, ...]
    handler: Handler
    task: str | None = None


class EngineServer:
    """One vLLM: its engine behind its HTTP."""

    def __init__(self, engine: Engine, clock: Clock) -> None:
        self._engine = engine
        self._options = engine.options
        self._clock = clock
        self._numbers = itertools.count()
        self._routes = {
            "/inference/v1/abort_requests": Route(("POST",), self._abort),
            "/v1/messages/count_tokens": Route(("POST",), self._count_tokens, GENERATE),
            "/tokenize": Route(("POST",), self._tokenize),
            "/detokenize": Route(("POST",), self._detokenize),
            "/v1/models": Route(("GET",), self._models),
            "/health": Route(("GET",), self._health),
            "/ping": Route(("GET", "POST"), self._health),
            "/load": Route(("GET",), self._load),
            "/version": Route(("GET",), self._version),
            "/metrics": Route(("GET",), self._metrics),
        }
        self._routes |= {path: Route(("POST",), self._generate, one.task) for path, one in ENDPOINTS.items()}

    async def respond(self, request: web.Request, path: str) -> web.StreamResponse:
        """Answer a request for a path of this server."""
        process = self._engine.process(self._now_us())
        if process is None:
            return json_answer(not_ready().body, 503)
        route = self._route(path)
        status = 200
        try:
            answer = await self._dispatch(request, path, route, process)
            status = answer.status
        finally:
            if path not in UNCOUNTED:
                process.http[path if route else "none", request.method, f"{status // 100}xx"] += 1
        return answer

    def _route(self, path: str) -> Route | None:
        route = self._routes.get(path)
        return route if route and route.task in (None, *self._options.tasks) else None

    async def _dispatch(
        self, request: web.Request, path: str, route: Route | None, process: EngineProcess
    ) -> web.StreamResponse:
        if needs_key(path, request.headers.get("Authorization"), self._options.api_keys):
            return json_answer({"error": "Unauthorized"}, 401)
        if route is None:
            if path.endswith("/") and self._route(path[:-1]):
                return redirect(request)
            return json_answer({"detail": "Not Found"}, 404)
        if request.method not in route.methods:
            refused = json_answer({"detail": "Method Not Allowed"}, 405)
            refused.headers["Allow"] = ", ".join(route.methods)
            return refused
        request[PATH] = path
        request[NAME] = request.headers.get("X-Request-Id") or self._new_name(process)
        if self._options.request_id_headers:
            request[ECHOED] = request[NAME]
        try:
            return await route.handler(request, process)
        except AskError as refused:
            return json_answer(refused.body, refused.status)

    def _now_us(self) -> int:
        return to_us(self._clock.now())

    def _new_name(self, process: EngineProcess) -> str:
        """Make up the id of a request whose client gave none."""
        return sha256(f"{process.started_us}/{next(self._numbers)}".encode()).hexdigest()[:16]

    async def _generate(self, request: web.Request, process: EngineProcess) -> web.StreamResponse:
        endpoint = ENDPOINTS[request[PATH]]
        body = await endpoint.read(request)
        try:
            ask = endpoint.parse(body, self._options)
            wire = endpoint.wire(ask, request[NAME], self._options, self._now_us() // SECOND_US)
            if ask.fault:
                if ask.stream:
                    return await tell_fault(request, wire, ask.fault)
                raise ask.fault
            return await open_exchange(self._engine, process, self._clock, wire).run(request)
        except AskError as refused:
            return json_answer(endpoint.wire.refuse(refused), refused.status)

    async def _abort(self, request: web.Request, process: EngineProcess) -> web.StreamResponse:
        if not self._options.scale_out:
            raise AskError(403, "Scale-out endpoints are disabled. Start with --enable-scale-out.", "Forbidden")
        ids = (await read_json(request)).get("request_ids")
        if isinstance(ids, list):
            self._engine.abort(process, {str(name) for name in ids}, self._now_us())
        return web.Response()

    async def _tokenize(self, request: web.Request, _process: EngineProcess) -> web.StreamResponse:
        body = await read_json(request)
        check_model(body, self._options)
        if "messages" in body:
            count, seed = count_chat(body["messages"], body.get("tools")), seed_of(body["messages"])
        else:
            (prompt,) = read_prompts(body)
            count, seed = count_prompt(prompt), seed_of(prompt)
        found = {"count": count, "max_model_len": self._options.max_model_len, "tokens": prompt_ids(count, seed)}
        return json_answer({**found, "token_strs": None})

    async def _detokenize(self, request: web.Request, _process: EngineProcess) -> web.StreamResponse:
        body = await read_json(request)
        check_model(body, self._options)
        tokens = body.get("tokens")
        if not isinstance(tokens, list):
            raise invalid("tokens", "Field required")
        return json_answer({"prompt": "".join(" " + WORDS[token % len(WORDS)] for token in tokens)})

    async def _count_tokens(self, request: web.Request, _process: EngineProcess) -> web.StreamResponse:
        body = await read_json(request)
        count = count_messages(body)
        try:
            check_model(body, self._options)
        except AskError as refused:
            return json_answer(MessagesWire.refuse(refused), refused.status)
        return json_answer({"input_tokens": count, "context_management": {"original_input_tokens": count}})

    async def _models(self, _request: web.Request, process: EngineProcess) -> web.StreamResponse:
        rows = []
        for name in (self._options.model, *self._options.aliases):
            about: Json = {
                "id": name,
                "object": "model",
                "created": process.started_us // SECOND_US,
                "owned_by": "vllm",
            }
            longest = self._options.max_model_len
            about |= {"root": self._options.model, "parent": None, "max_model_len": longest}
            rows.append(about | {"permission": [_permission(name, process.started_us)]})
        return json_answer({"object": "list", "data": rows})

    async def _health(self, _request: web.Request, _process: EngineProcess) -> web.StreamResponse:
        return web.Response()

    async def _load(self, _request: web.Request, process: EngineProcess) -> web.StreamResponse:
        return json_answer({"server_load": len(process.running)})

    async def _version(self, _request: web.Request, _process: EngineProcess) -> web.StreamResponse:
        return json_answer({"version": VERSION})

    async def _metrics(self, _request: web.Request, process: EngineProcess) -> web.StreamResponse:
        page = render_metrics(self._engine, process, self._now_us())
        return web.Response(body=page.encode(), headers={"Content-Type": MEDIA_TYPE})


def _permission(name: str, at_us: int) -> Json:
    about: Json = {"id": f"modelperm-{seed_of(name):016x}", "object": "model_permission", "created": at_us // SECOND_US}
    allowed = dict.fromkeys(("allow_sampling", "allow_logprobs", "allow_view"), True)
    denied = dict.fromkeys(("allow_create_engine", "allow_search_indices", "allow_fine_tuning"), False)
    return about | allowed | denied | {"organization": "*", "group": None, "is_blocking": False}
