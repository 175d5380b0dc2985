"""A simulated vLLM with one engine on a port of its own, by the system's clock: what tests put a proxy in front of.

Owns its start, stop and restart, and the ledger of all that its engine ever did. Does not own what it answers
(`vllm_server`). Idle connections are closed after KEEP_ALIVE_SECONDS, as vLLM does.
"""

from aiohttp import web

from spotinference_sim.clock import Clock, SystemClock
from spotinference_sim.instants import to_us
from spotinference_sim.request import Request
from spotinference_sim.vllm import served_request
from spotinference_sim.vllm_engine import Engine
from spotinference_sim.vllm_http import build_app
from spotinference_sim.vllm_options import Options
from spotinference_sim.vllm_sequence import Generation
from spotinference_sim.vllm_server import EngineServer
from spotinference_sim.vllm_totals import Totals

HOST = "127.0.0.1"
KEEP_ALIVE_SECONDS = 5.0


class SimulatedVllm:
    """One vLLM: `start`, then `url`; `ledger` has every request that has ended, oldest first."""

    def __init__(
        self, options: Options, clock: Clock | None = None, *, keep_alive_seconds: float = KEEP_ALIVE_SECONDS
    ) -> None:
        self.options = options
        self.url = ""
        self.ledger: list[Generation] = []
        self._clock = clock or SystemClock()
        self._keep_alive_seconds = keep_alive_seconds
        self._started_us = to_us(self._clock.now())
        self._engine = Engine(options, lambda _: self._started_us, self.ledger.append)
        self._server = EngineServer(self._engine, self._clock)
        self._runner: web.AppRunner | None = None

    async def start(self, port: int = 0) -> None:
        """Listen; port 0 takes any free one."""

        async def respond(request: web.Request) -> web.StreamResponse:
            return await self._server.respond(request, request.path)

        app = build_app("/{path:.*}", respond)
        self._runner = web.AppRunner(
            app,
            handler_cancellation=True,
            access_log=None,
            shutdown_timeout=0.1,
            auto_decompress=False,
            keepalive_timeout=self._keep_alive_seconds,
        )
        await self._runner.setup()
        await web.TCPSite(self._runner, HOST, port).start()
        self.url = f"http://{HOST}:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        """Close the server and every connection."""
        if self._runner:
            await self._runner.cleanup()
            self._runner = None

    def restart(self) -> None:
        """Let the engine's process die under its requests; the next one is there at once and counts from 0."""
        now_us = to_us(self._clock.now())
        process = self._engine.process(now_us)
        assert process is not None
        self._engine.kill(process)
        self._started_us = max(now_us, self._started_us + 1)

    def totals(self) -> Totals:
        """Read the counters of the present process."""
        now_us = to_us(self._clock.now())
        process = self._engine.process(now_us)
        assert process is not None
        return self._engine.totals(process, now_us)

    def served(self) -> list[Request]:
        """Tell every request that has ended, as the truth has it."""
        return [served_request(None, self.options, ended) for ended in self.ledger]
