"""A known difference: vLLM with --enable-force-include-usage behind the proxy (proxy/README.md, Details)."""

import json
import os
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest

pytestmark = pytest.mark.skipif(bool(os.environ.get("VLLM_URL")), reason="needs a server with a flag of its own")


async def read_usages(url: str, key: str, model: str, **asked: Any) -> list[dict[str, Any]]:
    """The usages that a client of a stream sees."""
    body = {"model": model, "prompt": "two words", "max_tokens": 3, "stream": True, **asked}
    headers = {"Authorization": f"Bearer {key}"}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/v1/completions", json=body, headers=headers) as got,
    ):
        assert got.status == 200
        lines = (await got.text()).splitlines()
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
    return [event["usage"] for event in events if event.get("usage")]


async def test_a_client_that_asks_for_no_usage_sees_none_though_vllm_was_told_to_force_it(
    open_front: Callable[..., Awaitable[Any]],
) -> None:
    front = await open_front(force_include_usage=True)
    assert await read_usages(front.vllm_url, front.key, front.model)
    assert await read_usages(front.url, front.key, front.model) == []
    (end,) = await front.ends()
    assert (end["usage_source"], end["completion_tokens"]) == ("engine_final", 3)


async def test_a_client_that_asks_for_usage_sees_it_where_vllm_forces_it(
    open_front: Callable[..., Awaitable[Any]],
) -> None:
    front = await open_front(force_include_usage=True)
    (usage,) = await read_usages(front.url, front.key, front.model, stream_options={"include_usage": True})
    assert usage["completion_tokens"] == 3
