"""The simulated vLLM of a scenario: one engine per machine under `/vm/<id>`, by the scenario's clock.

Owns which machine has which engine, and what of a request is kept as the truth. Does not own a server's
routes (`vllm_server`). A machine that the scenario does not have ready answers 503 everywhere; one that goes
away cuts its connections. A server with one engine of its own: `vllm_alone`.
"""

from aiohttp import web

from spotinference_sim.clock import Clock
from spotinference_sim.instants import SECOND_US
from spotinference_sim.request import Request
from spotinference_sim.resources import Vm
from spotinference_sim.scenario import Scenario
from spotinference_sim.traffic import DETAILS_SHOWN, REASONING_SHOWN, TOKENS_PER_SECOND
from spotinference_sim.vllm_engine import Engine
from spotinference_sim.vllm_http import build_app, json_answer
from spotinference_sim.vllm_options import Options, Pace
from spotinference_sim.vllm_sequence import Generation
from spotinference_sim.vllm_server import EngineServer
from spotinference_sim.vllm_totals import tally

STREAM_INTERVAL = 8
"""Tokens per event, as with --stream-interval."""
DEFAULT_TOKENS_PER_SECOND = 30


def build_vllm(
    scenario: Scenario,
    clock: Clock,
    served: list[Request],
    scale_out: bool = True,
    stream_interval: int = STREAM_INTERVAL,
) -> web.Application:
    """Make the server of a scenario; what it serves is appended to `served` when it ends."""
    servers = {
        vm.id: EngineServer(_scenario_engine(vm, served, scale_out, stream_interval), clock)
        for vm in scenario.vms
        if vm.model
    }

    async def respond(request: web.Request) -> web.StreamResponse:
        server = servers.get(int(request.match_info["vm_id"]))
        if server is None:
            return json_answer({"detail": "Not Found"}, 404)
        return await server.respond(request, f"/{request.match_info['path']}")

    return build_app("/vm/{vm_id:[0-9]+}/{path:.*}", respond)


def _scenario_engine(vm: Vm, served: list[Request], scale_out: bool, stream_interval: int) -> Engine:
    model = vm.model or ""
    options = Options(
        model,
        pace=Pace(TOKENS_PER_SECOND.get(model, DEFAULT_TOKENS_PER_SECOND)),
        scale_out=scale_out,
        stream_interval=stream_interval,
        prompt_tokens_details=model in DETAILS_SHOWN,
        reasoning_parser=model in REASONING_SHOWN,
    )

    def life(now_us: int) -> int | None:
        wake = vm.wake_at(now_us // SECOND_US)
        return None if wake is None else wake.process_started_s * SECOND_US

    return Engine(options, life, lambda ended: served.append(served_request(vm.id, options, ended)))


def served_request(vm_id: int | None, options: Options, ended: Generation) -> Request:
    """Tell what a request that has ended was, as the truth has it."""
    at_us = ended.ended_us or ended.started_us
    counted = tally(ended, options, at_us)
    begun = [sequence for sequence in ended.sequences if sequence.counts(at_us)]
    return Request(
        ended.name,
        vm_id,
        options.model,
        ended.started_us,
        at_us,
        counted.prompt,
        counted.completion,
        counted.cached,
        counted.reasoning,
        min((sequence.first_us for sequence in begun), default=None),
        ended.ask.endpoint,
        ended.ask.requested_model,
        ended.ask.stream,
        end_reason=ended.lost or "complete",
        choices=len(ended.sequences),
        engine_prompt_tokens=sum(sequence.choice.prompt for sequence in begun),
        engine_completion_tokens=counted.completion,
    )
