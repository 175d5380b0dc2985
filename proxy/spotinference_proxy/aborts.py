"""vLLM's abort call: a running request is ended by its id, and still states its usage.

Owns the ids by which vLLM knows a request, and that the call is repeated: one that comes before vLLM knows the
request does nothing. POST /inference/v1/abort_requests is there with `--enable-scale-out` (vLLM >= 0.32) and
answers 200 for unknown ids too; the answer of the request itself then ends within some 20 ms.
"""

import asyncio
import json
from collections.abc import Callable, Sequence
from contextlib import suppress

from spotinference_proxy.connections import Connections
from spotinference_proxy.usage import dialect_of

EVERY_SECONDS = 0.1
WITHIN_SECONDS = 2.0  # then it is given up
_MAX_PROMPTS = 1000
_ABORTED_TURNS = 8  # of one Responses call with tools; unknown ids are harmless


def abort_ids(endpoint: str, request_id: str, prompts: int, response_id: str | None) -> list[str]:
    """Return the ids by which vLLM knows a request; none when they cannot be known, or are too many for one call."""
    dialect = dialect_of(endpoint)
    if prompts > _MAX_PROMPTS:
        return []
    if endpoint.endswith("/v1/completions"):
        return [f"cmpl-{request_id}-{k}" for k in range(prompts)]
    if dialect in ("openai", "messages"):
        return [f"chatcmpl-{request_id}"]
    if dialect == "responses" and response_id:
        return [f"{response_id}_{turn}" for turn in range(_ABORTED_TURNS)]
    return []


class AbortCall:
    """Calls until `cancel`, with the request's own credentials.

    `given_up` is called where vLLM has no such call, or time is over.
    """

    def __init__(
        self, connections: Connections, ids: Sequence[str], credentials: str | None, given_up: Callable[[], None]
    ) -> None:
        self._connections = connections
        self._credentials = credentials
        self._body = json.dumps({"request_ids": list(ids)}).encode()
        self._given_up = given_up
        self._task: asyncio.Task[None] | None = asyncio.get_running_loop().create_task(self._repeat())

    def cancel(self) -> None:
        """Stop calling: the answer has ended."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()

    async def _repeat(self) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + WITHIN_SECONDS
        while await self._call() and loop.time() < until:
            await asyncio.sleep(EVERY_SECONDS)
        self._task = None
        self._given_up()

    async def _call(self) -> bool:
        with suppress(OSError):
            path = "/inference/v1/abort_requests"
            status, _ = await self._connections.fetch("POST", path, self._body, self._credentials)
            return status == 200
        return False
