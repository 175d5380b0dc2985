"""The simulated Hyperstack behind a transport, and a clock that only waiting and answers move on."""

import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
from spotinference_sim.hyperstack_answers import HyperstackAnswers
from spotinference_sim.scenario import Scenario

from spotinference_pipeline.hyperstack import Hyperstack
from spotinference_pipeline.settings import Settings

ANSWER = timedelta(seconds=0.3)
"""How long an answer takes on the virtual clock."""


class VirtualSettings(Settings):
    """Settings whose clock is the service's."""

    tell: Callable[[], datetime]

    def clock(self) -> datetime:
        return self.tell()


class Service:
    """The simulator; it counts what it is asked, and the wall and processor time that it takes itself."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self._answers = HyperstackAnswers(scenario)
        self.now = datetime.combine(scenario.start_day, datetime.min.time(), UTC)
        self.requests = 0
        self.own_seconds = 0.0
        self.own_wall = 0.0

    def go_to(self, day: date, hour: int) -> None:
        self.now = datetime(day.year, day.month, day.day, hour, tzinfo=UTC)

    def settings(self, data_dir: Path) -> VirtualSettings:
        return VirtualSettings.model_validate(
            {"data_dir": data_dir, "hyperstack_api_key": "key", "tell": lambda: self.now}
        )

    def sleep(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def elapsed(self) -> float:
        return self.now.timestamp()

    def answer(self, request: httpx.Request) -> httpx.Response:
        wall, cpu = time.monotonic(), time.process_time()
        path = request.url.path.removeprefix("/v1")
        answer = self._answers.answer(path, dict(request.url.params), int(self.now.timestamp() * 1e6))
        response = httpx.Response(answer.status, stream=httpx.ByteStream(answer.body))
        self.requests += 1
        self.now += ANSWER
        self.own_seconds += time.process_time() - cpu
        self.own_wall += time.monotonic() - wall
        return response

    def connect(self, *arguments: Any, **options: Any) -> Hyperstack:
        """Make a client of the pipeline that asks this service and waits in virtual time."""
        return Hyperstack(
            *arguments,
            **options,
            sleep=self.sleep,
            elapsed=self.elapsed,
            transport=httpx.MockTransport(self.answer),
        )
