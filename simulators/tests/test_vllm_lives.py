"""The simulated vLLM's engine as its counters show it: clients that leave, aborts, queues, deaths, connections."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import pytest
from spotinference_sim.clock import VirtualClock
from spotinference_sim.vllm_alone import SimulatedVllm
from spotinference_sim.vllm_ask import Wish, plan_choices, seed_of
from spotinference_sim.vllm_options import GENERATE, POOLING, SPEECH, Options, Pace

CHAT, PLAIN, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"
ABORT = "/inference/v1/abort_requests"
NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
TEN_A_SECOND = Pace(tokens_per_second=10, prefill_us=100_000, prefill_us_per_token=1_000, register_us=50_000)


class Server:
    """A simulated vLLM in virtual time and a client of it."""

    def __init__(self, vllm: SimulatedVllm, clock: VirtualClock, client: aiohttp.ClientSession) -> None:
        self.vllm = vllm
        self.clock = clock
        self.client = client

    def send(self, path: str, name: str = "me", **body: Any) -> asyncio.Task[tuple[int, bytes]]:
        async def post() -> tuple[int, bytes]:
            async with self.client.post(self.vllm.url + path, json=body, headers={"X-Request-Id": name}) as answer:
                return answer.status, await answer.read()

        return asyncio.create_task(post())

    async def at(self, seconds: float) -> None:
        await self.clock.advance(NOON + timedelta(seconds=seconds))

    async def leave(self, asked: asyncio.Task[Any]) -> None:
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        async with asyncio.timeout(5):
            while not self.vllm.ledger:
                await asyncio.sleep(0.001)

    async def abort(self, *names: str) -> None:
        async with self.client.post(self.vllm.url + ABORT, json={"request_ids": names}) as answer:
            assert (answer.status, await answer.read()) == (200, b"")

    async def counters(self) -> dict[str, float]:
        """Read the metrics, summed over labels."""
        async with self.client.get(self.vllm.url + "/metrics") as answer:
            assert answer.content_type == "text/plain"
            lines = [line for line in (await answer.text()).splitlines() if not line.startswith("#")]
        found: dict[str, float] = {}
        for line in lines:
            name = line.partition("{")[0].split(" ")[0]
            found[name] = found.get(name, 0) + float(line.rpartition(" ")[2])
        return found


@pytest.fixture
async def start() -> AsyncIterator[Callable[..., Any]]:
    """Start a server with some flags, at noon."""
    closing: list[Any] = []

    async def started(**flags: Any) -> Server:
        clock = VirtualClock(NOON)
        tasks = frozenset({GENERATE, POOLING, SPEECH})
        vllm = SimulatedVllm(Options(**({"model": "tiny", "tasks": tasks, "pace": TEN_A_SECOND} | flags)), clock)
        await vllm.start()
        client = aiohttp.ClientSession()
        closing.extend([client.close, vllm.stop])
        return Server(vllm, clock, client)

    yield started
    for close in closing:
        await close()


@pytest.fixture
async def server(start: Callable[..., Any]) -> Server:
    made: Server = await start()
    return made


def chat(**more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "a b c"}], "max_tokens": 100, **more}


async def test_a_left_request_keeps_its_tokens_and_is_never_a_success(server: Server) -> None:
    asked = server.send(CHAT, **chat(stream=True, n=2))
    await server.at(1.51)
    await server.leave(asked)
    found = await server.counters()
    assert found["vllm:prompt_tokens_total"] == 20
    assert found["vllm:generation_tokens_total"] == 2 * 15
    assert found["vllm:request_success_total"] == found["vllm:request_generation_tokens_sum"] == 0
    assert found["vllm:num_requests_running"] == 0
    assert found["http_requests_total"] == 1
    assert found["vllm:iteration_tokens_total_sum"] == 50


async def test_a_request_left_before_its_first_token_costs_nothing(server: Server) -> None:
    asked = server.send(CHAT, **chat())
    await server.at(0.1)
    await server.leave(asked)
    found = await server.counters()
    assert (found["vllm:prompt_tokens_total"], found["vllm:generation_tokens_total"]) == (0, 0)


async def test_finished_children_of_a_left_request_are_finished(server: Server) -> None:
    """The second choice says the stop string earlier than the first."""
    lengths = [one.tokens for one in plan_choices([(3, seed_of("x y"))], Wish(n=2, limit=100, stops=["six"]))]
    assert lengths[0] > lengths[1]
    asked = server.send(PLAIN, prompt=["x y", "x y"], n=2, max_tokens=100, stop=["six"], stream=True)
    await server.at(0.1 + 0.006 + 0.1 * (lengths[1] - 1) + 0.15)
    await server.leave(asked)
    found = await server.counters()
    assert found["vllm:request_success_total"] == 2
    assert found["vllm:request_generation_tokens_sum"] == 2 * lengths[1]
    assert found["vllm:request_prompt_tokens_sum"] == 2 * 3
    assert found["vllm:prompt_tokens_total"] == 4 * 3
    assert found["vllm:generation_tokens_total"] == 4 * lengths[1] + 2
    assert found["vllm:request_params_n_count"] == 0


async def test_prompts_are_read_one_after_the_other(server: Server) -> None:
    asked = server.send(PLAIN, prompt=["a " * 99, "b " * 199], max_tokens=5)
    await server.at(0.25)
    assert (await server.counters())["vllm:prompt_tokens_total"] == 100
    await server.at(0.45)
    assert (await server.counters())["vllm:prompt_tokens_total"] == 300
    await server.at(3)
    assert json.loads((await asked)[1])["usage"]["prompt_tokens"] == 300


async def test_an_abort_that_comes_too_early_does_nothing(server: Server) -> None:
    asked = server.send(CHAT, **chat())
    await server.at(0.04)
    await server.abort("chatcmpl-me")
    await server.at(1.01)
    assert not asked.done()
    await server.abort("chatcmpl-me", "unknown")
    body = json.loads((await asked)[1])
    assert (body["choices"][0]["finish_reason"], body["usage"]["completion_tokens"]) == ("abort", 10)
    found = await server.counters()
    assert (found["vllm:generation_tokens_total"], found["vllm:request_success_total"]) == (10, 0)


async def test_two_requests_of_one_id_are_both_ended(server: Server) -> None:
    asked = [server.send(CHAT, **chat()), server.send(CHAT, **chat(n=2))]
    await server.at(1.01)
    await server.abort("chatcmpl-me")
    found = [json.loads((await one)[1])["usage"]["completion_tokens"] for one in asked]
    assert found == [10, 20]


async def test_each_prompt_of_a_list_is_ended_by_itself(server: Server) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    asked = server.send(PLAIN, prompt=["a", "b"], max_tokens=20, stream=True, stream_options=options)
    await server.at(1.01)
    await server.abort("cmpl-me-1")
    await server.at(5)
    events = [json.loads(event[6:]) for event in (await asked)[1].decode().split("\n\n")[:-2]]
    ends = {row["index"]: row["finish_reason"] for e in events for row in e["choices"] if row["finish_reason"]}
    assert ends == {0: "length", 1: "abort"}
    last = {row["index"]: e["usage"]["completion_tokens"] for e in events for row in e["choices"]}
    assert last == {0: 20, 1: 10}
    assert events[-1]["usage"]["completion_tokens"] == 30
    found = await server.counters()
    assert (found["vllm:request_success_total"], found["vllm:request_generation_tokens_sum"]) == (1, 20)


async def test_responses_and_messages_hide_that_they_were_aborted(server: Server) -> None:
    asked = {
        RESPONSES: {"input": "a b", "request_id": "mine"},
        MESSAGES: {"messages": chat()["messages"], "max_tokens": 100},
    }
    tasks = [server.send(path, **body, stream=stream) for path, body in asked.items() for stream in (False, True)]
    await server.at(1.01)
    await server.abort("mine_0", "chatcmpl-me")
    plain, stream, message, messages = [(await task)[1] for task in tasks]
    assert (json.loads(plain)["status"], json.loads(plain)["usage"]["output_tokens"]) == ("completed", 10)
    assert b'"type":"response.completed"' in stream
    assert "stop_reason" not in json.loads(message)
    assert json.loads(message)["usage"]["output_tokens"] == 10
    assert b'"delta":{"stop_reason":null' in messages


async def test_an_abort_before_the_first_token_leaves_hardly_a_trace(server: Server) -> None:
    tasks = [
        server.send(CHAT, **chat(stream=True, stream_options={"include_usage": True})),
        server.send(MESSAGES, messages=chat()["messages"], max_tokens=9, stream=True),
    ]
    await server.at(0.06)
    await server.abort("chatcmpl-me")
    talk, messages = [(await task)[1].decode() for task in tasks]
    assert [json.loads(e[6:])["choices"] for e in talk.split("\n\n")[:-2]] == [[]]
    kinds = [event.split("\n")[0][7:] for event in messages.split("\n\n")[:-1]]
    assert kinds == ["message_start", "message_delta", "message_stop"]
    assert (await server.counters())["vllm:prompt_tokens_total"] == 0


async def test_a_queue_has_its_headers_at_once_and_waits_its_turn(start: Callable[..., Any]) -> None:
    server = await start(max_num_seqs=1, max_num_queued_reqs=1, sse_keep_alive_us=400_000)
    first = server.send(CHAT, "first", **chat(max_tokens=10))
    await server.at(0)
    async with server.client.post(server.vllm.url + CHAT, json=chat(stream=True, max_tokens=2)) as answer:
        assert answer.status == 200
        refused = server.send(CHAT, "third", **chat())
        await server.at(0.01)
        assert (await refused)[0] == 503
        found = await server.counters()
        assert (found["vllm:num_requests_running"], found["vllm:num_requests_waiting"]) == (1, 1)
        assert found["vllm:admission_rejections_total"] == 1
        await server.at(5)
        raw = await answer.read()
    assert (await first)[0] == 200
    assert raw.startswith(b": keep-alive\n\n: keep-alive\n\ndata: ")
    assert raw.endswith(b"data: [DONE]\n\n")


async def test_a_dying_engine_ends_each_stream_in_its_own_way(server: Server) -> None:
    tasks = [
        server.send(CHAT, **chat(stream=True, stream_options={"include_usage": True})),
        server.send(CHAT, **chat()),
        server.send(MESSAGES, messages=chat()["messages"], max_tokens=90, stream=True),
        server.send(RESPONSES, input="a", stream=True),
    ]
    await server.at(1.01)
    before = await server.counters()
    server.vllm.restart()
    talk, plain, message, response = await asyncio.gather(*tasks, return_exceptions=True)
    assert json.loads(talk[1].decode().split("\n\n")[-3][6:])["error"]["code"] == 500
    assert talk[1].endswith(b"data: [DONE]\n\n")
    assert (plain[0], json.loads(plain[1])["error"]["type"]) == (500, "InternalServerError")
    assert b"event: error\n" in message[1]
    assert b"message_stop" not in message[1]
    assert isinstance(response, aiohttp.ClientError), "cut inside the chunked body"
    found = await server.counters()
    assert found["process_start_time_seconds"] > before["process_start_time_seconds"]
    assert (found["vllm:generation_tokens_total"], found["vllm:num_requests_running"]) == (0, 0)
    assert {request.end_reason for request in server.vllm.served()} == {"upstream_gone"}


async def test_counters_are_spelled_as_prometheus_does(start: Callable[..., Any]) -> None:
    server = await start(pace=Pace(10, 0, 0, 0))
    asked = server.send(PLAIN, prompt=[1] * 150_000, n=10, max_tokens=1)
    await server.at(1)
    assert (await asked)[0] == 200
    async with server.client.get(server.vllm.url + "/metrics") as answer:
        page = await answer.text()
    assert 'vllm:prompt_tokens_total{engine="0",model_name="tiny"} 1.5e+06\n' in page
    assert 'source="local_cache_hit"} 749920.0\n' in page
    assert 'vllm:request_success_total{engine="0",finished_reason="length",model_name="tiny"} 10.0\n' in page
    assert 'http_requests_total{handler="/v1/completions",method="POST",status="2xx"} 1.0\n' in page


async def test_idle_connections_are_closed_and_pipelined_requests_answered_in_order() -> None:
    vllm = SimulatedVllm(Options("tiny"), keep_alive_seconds=0.1)
    await vllm.start()
    host, port = vllm.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET /version HTTP/1.1\r\nHost: a\r\n\r\nGET /ping HTTP/1.1\r\nHost: a\r\n\r\n")
    raw = await asyncio.wait_for(reader.read(), 10)
    assert raw.count(b"HTTP/1.1 200 OK\r\n") == 2
    assert raw.index(b"0.32.0") < raw.index(b"content-length: 0")
    writer.close()
    await writer.wait_closed()
    await vllm.stop()
    await vllm.stop()


async def test_a_client_that_closes_its_half_is_gone(server: Server) -> None:
    host, port = server.vllm.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    body = json.dumps(chat()).encode()
    head = f"POST {CHAT} HTTP/1.0\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    await server.at(1)
    writer.write_eof()
    assert await asyncio.wait_for(reader.read(), 10) == b""
    writer.close()
    await writer.wait_closed()
    assert [request.end_reason for request in server.vllm.served()] == ["client_gone"]


async def test_an_old_client_gets_a_stream_too(server: Server) -> None:
    host, port = server.vllm.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    body = json.dumps(chat(max_tokens=2, stream=True)).encode()
    head = f"POST {CHAT} HTTP/1.0\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    await server.at(0.01)
    await server.at(1)
    assert (await asyncio.wait_for(reader.read(), 10)).endswith(b"data: [DONE]\n\n")
    writer.close()
    await writer.wait_closed()
