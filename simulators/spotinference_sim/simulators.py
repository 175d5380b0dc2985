"""Both simulated services in one process, on loopback, by one clock.

Owns starting and stopping them and their addresses. What they answer is in `hyperstack_app` and `vllm`.
"""

from typing import Any

from aiohttp import web

from spotinference_sim.clock import Clock
from spotinference_sim.faults import Faults
from spotinference_sim.hyperstack_app import build_hyperstack
from spotinference_sim.request import Request
from spotinference_sim.scenario import Scenario
from spotinference_sim.vllm import STREAM_INTERVAL, build_vllm

HOST = "127.0.0.1"
API_KEY = "simulated-key"


class Simulators:
    """A live Hyperstack and a live vLLM per machine; port 0 takes any free one.

    Hyperstack is honest unless `lag` or `faults` are given; faults take the place of lag.
    """

    def __init__(
        self,
        scenario: Scenario,
        clock: Clock,
        *,
        lag: bool = False,
        api_key: str = API_KEY,
        ports: tuple[int, int] = (0, 0),
        scale_out: bool = True,
        stream_interval: int = STREAM_INTERVAL,
        faults: Faults | None = None,
    ) -> None:
        self.scenario = scenario
        self.clock = clock
        self.served: list[Request] = []
        self.hyperstack_url = ""
        self.vllm_url = ""
        self._ports = ports
        self._apps = (
            build_hyperstack(scenario, clock, api_key, lag, faults),
            build_vllm(scenario, clock, self.served, scale_out, stream_interval),
        )
        self._runners: list[web.AppRunner] = []

    async def start(self) -> None:
        """Listen; the addresses are known afterwards."""
        bases = [await self._listen(app, port) for app, port in zip(self._apps, self._ports, strict=True)]
        self.hyperstack_url, self.vllm_url = f"{bases[0]}/v1", bases[1]

    async def stop(self) -> None:
        """Close both servers and every connection."""
        for runner in self._runners:
            await runner.cleanup()
        self._runners.clear()

    def upstreams(self) -> list[dict[str, Any]]:
        """List the engines as SPOTINFERENCE_PROXY_UPSTREAMS wants them."""
        return upstreams(self.scenario, self.vllm_url)

    async def _listen(self, app: web.Application, port: int) -> str:
        runner = web.AppRunner(
            app,
            handler_cancellation=True,
            access_log=None,
            shutdown_timeout=0.1,
            auto_decompress=False,
            keepalive_timeout=5.0,  # as vLLM
        )
        await runner.setup()
        self._runners.append(runner)
        await web.TCPSite(runner, HOST, port).start()
        return f"http://{HOST}:{runner.addresses[0][1]}"


def upstreams(scenario: Scenario, vllm_url: str) -> list[dict[str, Any]]:
    """List the engines of a scenario under an address."""
    return [{"url": f"{vllm_url}/vm/{vm.id}", "vm_id": vm.id, "models": [vm.model]} for vm in scenario.vms if vm.model]
