"""Every endpoint of the simulated vLLM on a port of its own: shapes, counts, refusals, as measured of vLLM 0.32."""

import json
import struct
from base64 import b64decode
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import pytest
from multidict import CIMultiDictProxy
from spotinference_sim.vllm_alone import SimulatedVllm
from spotinference_sim.vllm_options import GENERATE, POOLING, SPEECH, Options, Pace

ALL = frozenset({GENERATE, POOLING, SPEECH})
QUICK = Pace(tokens_per_second=20_000, prefill_us=500, prefill_us_per_token=1, register_us=0)
CHAT, PLAIN, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"
USAGE = {"include_usage": True}
RUNNING = {"include_usage": True, "continuous_usage_stats": True}
CITY = {"type": "object", "properties": {"city": {"enum": ["Paris", "Oslo"]}, "days": {"type": "integer"}}}


class Server:
    """A simulated vLLM and a client of it."""

    def __init__(self, vllm: SimulatedVllm, client: aiohttp.ClientSession) -> None:
        self.vllm = vllm
        self.client = client

    async def send(
        self, path: str, body: Any = None, method: str = "POST", **options: Any
    ) -> tuple[int, bytes, CIMultiDictProxy[str]]:
        content = {"json": body} if isinstance(body, dict | list) else {"data": body}
        async with self.client.request(method, self.vllm.url + path, **content, **options) as answer:
            return answer.status, await answer.read(), answer.headers

    async def ask(self, path: str, **body: Any) -> Any:
        status, raw, _ = await self.send(path, body)
        assert status == 200, raw
        return json.loads(raw)

    async def stream(self, path: str, **body: Any) -> list[Any]:
        """Read a stream's events; names come before the data they belong to."""
        status, raw, headers = await self.send(path, {**body, "stream": True})
        assert (status, headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
        assert raw.endswith(b"\n\n")
        return [read_event(event) for event in raw.decode().removesuffix("\n\n").split("\n\n")]


def read_event(event: str) -> Any:
    data = event.rpartition("data: ")[2]
    found = data if data == "[DONE]" else json.loads(data)
    if event.startswith("event: "):
        assert event.split("\n", maxsplit=1)[0] == f"event: {found['type']}"
    return found


@pytest.fixture
async def start() -> AsyncIterator[Callable[..., Any]]:
    """Start a server with some flags."""
    closing: list[Any] = []

    async def started(**flags: Any) -> Server:
        vllm = SimulatedVllm(Options(**({"model": "tiny", "tasks": ALL, "pace": QUICK} | flags)))
        await vllm.start()
        client = aiohttp.ClientSession(auto_decompress=False)
        closing.extend([client.close, vllm.stop])
        return Server(vllm, client)

    yield started
    for close in closing:
        await close()


@pytest.fixture
async def server(start: Callable[..., Any]) -> Server:
    made: Server = await start()
    return made


def chat(words: int = 10, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "word " * words}], "max_tokens": 12, **more}


def tool(**more: Any) -> dict[str, Any]:
    function = {"name": "get_weather", "parameters": CITY}
    return chat(tools=[{"type": "function", "function": function}], max_tokens=200, **more)


def spoken(events: list[Any], index: int = 0) -> str:
    """Put a streamed chat choice together."""
    deltas = [row["delta"] for event in events[:-1] for row in event["choices"] if row["index"] == index]
    return "".join(delta.get("content") or "" for delta in deltas)


async def test_a_stream_says_what_the_plain_answer_says(server: Server) -> None:
    for more in ({}, {"n": 2}, {"stop": ["six"], "max_tokens": 60}, {"temperature": 0, "seed": 1}):
        plain = await server.ask(CHAT, **chat(**more))
        events = await server.stream(CHAT, **chat(**more))
        assert events[-1] == "[DONE]"
        for choice in plain["choices"]:
            assert spoken(events, choice["index"]) == choice["message"]["content"]
            (last,) = [
                e
                for e in events[:-1]
                if [(r["index"], r["finish_reason"] is None) for r in e["choices"]] == [(choice["index"], False)]
            ]
            assert last["choices"][0]["finish_reason"] == choice["finish_reason"]
            assert last["choices"][0]["stop_reason"] == choice["stop_reason"]


async def test_a_stream_with_running_usage_less_that_usage_is_the_bare_stream(server: Server) -> None:
    headers = {"X-Request-Id": "same"}
    for path, body in ((CHAT, chat(n=2)), (CHAT, tool()), (PLAIN, {"prompt": ["a b", "c"], "max_tokens": 9})):
        bare = (await server.send(path, {**body, "stream": True}, headers=headers))[1]
        full = (await server.send(path, {**body, "stream": True, "stream_options": RUNNING}, headers=headers))[1]
        kept = []
        for event in full.split(b"\n\n")[:-2]:
            found = json.loads(event.removeprefix(b"data: "))
            usage = found.pop("usage")
            if found["choices"]:
                assert (usage["prompt_tokens"], usage["total_tokens"]) != (0, 0)
                found.pop("created")
                kept.append(found)
        shown = [json.loads(event.removeprefix(b"data: ")) for event in bare.split(b"\n\n")[:-2]]
        for found in shown:
            found.pop("created")
            found.pop("system_fingerprint", None)
        assert kept == shown


async def test_more_choices_count_the_prompt_once_in_usage_and_each_time_in_the_engine(server: Server) -> None:
    body = await server.ask(CHAT, **chat(n=3))
    assert (body["usage"]["prompt_tokens"], body["usage"]["completion_tokens"]) == (17, 36)
    assert len({choice["message"]["content"] for choice in body["choices"]}) == 3
    totals = server.vllm.totals()
    assert (totals.prompt, totals.generation, totals.finished, totals.n_count, totals.n_sum) == (
        51, 36, {"length": 3}, 1, 3,
    )  # fmt: skip


async def test_a_tool_call_is_swallowed_up_to_its_name_and_its_usage_jumps(server: Server) -> None:
    (choice,) = (await server.ask(CHAT, **tool()))["choices"]
    (call,) = choice["message"]["tool_calls"]
    assert (choice["finish_reason"], choice["message"]["content"]) == ("tool_calls", None)
    assert json.loads(call["function"]["arguments"]) == {"city": "Paris", "days": 7}
    events = await server.stream(CHAT, **tool(stream_options=RUNNING))
    calls = [event for event in events[:-2] if event["choices"][0]["delta"].get("tool_calls")]
    assert calls[0]["choices"][0]["delta"]["tool_calls"][0]["function"] == {"name": "get_weather"}
    parts = [event["choices"][0]["delta"]["tool_calls"][0]["function"].get("arguments", "") for event in calls]
    assert "".join(parts) == call["function"]["arguments"]
    assert [event["usage"]["completion_tokens"] for event in events[:3]] == [0, 17, 28]
    assert events[-3]["choices"][0]["delta"] == {}
    assert events[-2]["usage"]["completion_tokens"] == events[-3]["usage"]["completion_tokens"]
    assert server.vllm.totals().finished == {"stop": 2}
    named = {"type": "function", "function": {"name": "get_weather"}}
    assert (await server.ask(CHAT, **tool(tool_choice=named)))["choices"][0]["finish_reason"] == "tool_calls"
    assert (await server.ask(CHAT, **tool(tool_choice="none")))["choices"][0]["message"]["content"]
    assert (await server.ask(CHAT, **tool() | {"max_tokens": 5}))["choices"][0]["finish_reason"] == "length"
    assert (await server.send(CHAT, tool(tool_choice={"function": {"name": "other"}})))[0] == 400


async def test_logprobs_and_token_ids_have_an_entry_for_every_token(server: Server) -> None:
    asked = chat(logprobs=True, top_logprobs=2, return_token_ids=True)
    plain = (await server.ask(CHAT, **asked))["choices"][0]
    assert len(plain["logprobs"]["content"]) == len(plain["token_ids"]) == 12
    assert [len(one["top_logprobs"]) for one in plain["logprobs"]["content"]] == [2] * 12
    events = (await server.stream(CHAT, **asked))[:-1]
    assert len(events[0]["prompt_token_ids"]) == 17
    told = [one for e in events[1:] for one in e["choices"][0]["logprobs"]["content"]]
    assert told == plain["logprobs"]["content"]
    assert [one for e in events[1:] for one in e["choices"][0]["token_ids"]] == plain["token_ids"]
    asked = {"prompt": "a b", "max_tokens": 5, "logprobs": 1, "return_token_ids": True}
    plain = (await server.ask(PLAIN, **asked))["choices"][0]
    assert len(plain["logprobs"]["tokens"]) == len(plain["logprobs"]["token_logprobs"]) == 5
    assert plain["logprobs"]["text_offset"][1] == len(plain["logprobs"]["tokens"][0])
    assert len((await server.stream(PLAIN, **asked))[0]["choices"][0]["prompt_token_ids"]) == 3


async def test_reasoning_comes_first_and_may_be_hidden(start: Callable[..., Any]) -> None:
    server = await start(reasoning_parser=True, prompt_tokens_details=True)
    body = await server.ask(CHAT, **chat(80))
    message = body["choices"][0]["message"]
    assert (len(message["reasoning"].split()), len(message["content"].split())) == (6, 6)
    assert body["usage"]["completion_tokens_details"] == {"reasoning_tokens": 6}
    assert body["usage"]["prompt_tokens_details"] == {
        "cached_tokens": 32, "created_cache_tokens": 16, "multimodal_tokens": None,
    }  # fmt: skip
    events = await server.stream(CHAT, **chat(80, stream_options=RUNNING))
    assert "".join(e["choices"][0]["delta"].get("reasoning", "") for e in events[:-2]) == message["reasoning"]
    assert events[-2]["usage"]["completion_tokens_details"] == {"reasoning_tokens": 6}
    events = await server.stream(CHAT, **chat(80, include_reasoning=False, stream_options=RUNNING))
    assert not any(event["choices"][0]["delta"].get("reasoning") for event in events[:-2])
    assert events[1]["usage"]["completion_tokens"] > 5, "the hidden part shows in no event"
    plain = await server.ask(PLAIN, prompt="a b", max_tokens=4)
    assert plain["usage"]["completion_tokens_details"] is None


async def test_an_end_of_turn_alone_is_a_token_without_text(server: Server) -> None:
    events = await server.stream(CHAT, **chat(logit_bias={"2": 100}, stream_options=USAGE))
    assert events[1]["choices"][0]["delta"] == {}
    assert events[1]["choices"][0]["finish_reason"] == "stop"
    assert events[2]["usage"]["completion_tokens"] == 1


async def test_echo_shows_the_prompt_and_counts_one_hidden_token(server: Server) -> None:
    asked = {"prompt": "The manager measured", "max_tokens": 0, "echo": True}
    body = await server.ask(PLAIN, **asked)
    assert body["choices"][0]["text"] == "The manager measured"
    assert (body["usage"]["prompt_tokens"], body["usage"]["completion_tokens"]) == (4, 1)
    assert (await server.stream(PLAIN, **asked))[0]["choices"][0]["text"] == "The manager measured"
    longer = (await server.ask(PLAIN, **asked | {"max_tokens": 3}))["choices"][0]["text"]
    assert longer.startswith("The manager measured ")
    ids = await server.ask(PLAIN, prompt=[[1, 2, 3], [4, 5]], max_tokens=2, n=2, echo=True)
    assert (ids["usage"]["prompt_tokens"], ids["usage"]["completion_tokens"], len(ids["choices"])) == (5, 8, 4)
    assert (await server.send(PLAIN, {"prompt": "a", "max_tokens": 0}))[0] == 400


async def test_a_batch_is_plain_json_whatever_is_asked(server: Server) -> None:
    talks = [chat(2)["messages"], chat(5)["messages"]]
    body = await server.ask(f"{CHAT}/batch", messages=talks, max_tokens=4, n=2, stream=True)
    assert (body["usage"]["prompt_tokens"], body["usage"]["completion_tokens"]) == (9 + 12, 16)
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2, 3]
    assert (await server.send(f"{CHAT}/batch", {"messages": 3}))[0] == 400


async def test_responses_tell_usage_at_their_end_alone(server: Server) -> None:
    asked = {"input": "How much did it cost?", "max_output_tokens": 8}
    body = await server.ask(RESPONSES, **asked)
    assert (body["status"], body["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert (body["usage"]["input_tokens"], body["usage"]["output_tokens"]) == (12, 8)
    events = await server.stream(RESPONSES, **asked)
    kinds = [event["type"] for event in events]
    assert kinds[:4] == [
        "response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",
    ]  # fmt: skip
    assert kinds[-1] == "response.completed"
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[0]["response"]["usage"] is None
    assert events[-1]["response"]["usage"] == body["usage"]
    told = "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")
    assert told == body["output"][0]["content"][0]["text"] == events[-1]["response"]["output"][0]["content"][0]["text"]
    named = await server.ask(RESPONSES, input=[{"role": "user", "content": "a"}], instructions="b c", request_id="mine")
    assert (named["id"], named["status"], named["usage"]["input_tokens"]) == ("mine", "completed", 14)
    _, raw, _ = await server.send(RESPONSES, asked, headers={"X-Request-Id": "ignored"})
    assert b"ignored" not in raw
    assert (await server.send(RESPONSES, {"input": 7}))[0] == 400


async def test_messages_leave_the_cache_out_of_input_tokens(start: Callable[..., Any]) -> None:
    server = await start(prompt_tokens_details=True)
    asked = {"max_tokens": 6, "system": "be brief", "messages": [{"role": "user", "content": "word " * 100}]}
    body = await server.ask(MESSAGES, **asked)
    usage = body["usage"]
    assert sum(usage[name] for name in usage if "input" in name) == 113
    assert (usage["cache_read_input_tokens"], usage["cache_creation_input_tokens"]) == (48, 16)
    assert (body["stop_reason"], body["content"][0]["type"], usage["output_tokens"]) == ("max_tokens", "text", 6)
    events = await server.stream(MESSAGES, **asked)
    assert events[0]["message"]["usage"] == {"input_tokens": 113, "output_tokens": 0}
    assert events[-2]["usage"] == usage
    assert events[-1] == {"type": "message_stop"}
    assert (
        "".join(e["delta"]["text"] for e in events if e["type"] == "content_block_delta") == body["content"][0]["text"]
    )
    stopped = await server.ask(MESSAGES, **asked | {"max_tokens": 60}, stop_sequences=["one"])
    assert (stopped["stop_reason"], stopped["stop_sequence"]) == ("stop_sequence", "one")
    counted = await server.ask(f"{MESSAGES}/count_tokens", **asked)
    assert counted["input_tokens"] == 113
    bare = await (await start()).ask(MESSAGES, **asked)
    assert bare["usage"] == {"input_tokens": 113, "output_tokens": 6}


async def test_messages_call_tools(server: Server) -> None:
    tools = [{"name": "get_weather", "input_schema": CITY}]
    asked = {"max_tokens": 200, "tools": tools, "messages": [{"role": "user", "content": "Oslo?"}]}
    body = await server.ask(MESSAGES, **asked)
    assert (body["stop_reason"], body["content"][0]["input"]) == ("tool_use", {"city": "Paris", "days": 7})
    events = await server.stream(MESSAGES, **asked)
    told = "".join(e["delta"]["partial_json"] for e in events if e["type"] == "content_block_delta")
    assert json.loads(told) == body["content"][0]["input"]
    assert events[-2]["delta"]["stop_reason"] == "tool_use"
    for choice in ({"type": "none"}, {"type": "tool", "name": "other"}):
        assert (await server.ask(MESSAGES, **asked, tool_choice=choice))["content"][0]["type"] == "text"


async def test_embeddings_as_numbers_text_and_bytes_are_the_same(server: Server) -> None:
    asked = {"input": ["The manager", "A student cleaned the market"]}
    floats = await server.ask("/v1/embeddings", **asked)
    assert floats["usage"] == {
        "prompt_tokens": 9, "total_tokens": 9, "completion_tokens": 0,
        "prompt_tokens_details": None, "completion_tokens_details": None,
    }  # fmt: skip
    texts = await server.ask("/v1/embeddings", **asked, encoding_format="base64")
    vectors = [list(struct.unpack("<16f", b64decode(row["embedding"]))) for row in texts["data"]]
    assert vectors == [row["embedding"] for row in floats["data"]]
    status, raw, headers = await server.send("/v1/embeddings", {**asked, "encoding_format": "bytes"})
    assert (status, headers["content-type"]) == (200, "application/octet-stream")
    assert list(struct.unpack("<32f", raw)) == vectors[0] + vectors[1]
    assert json.loads(headers["metadata"])["usage"]["prompt_tokens"] == 9
    _, raw, headers = await server.send("/v1/embeddings", {**asked, "encoding_format": "bytes_only"})
    assert len(raw) == 128
    assert "metadata" not in headers
    assert (await server.ask("/v1/embeddings", input=[1, 2, 3]))["usage"]["prompt_tokens"] == 3
    totals = server.vllm.totals()
    assert (totals.prompt, totals.generation, totals.finished) == (4 * 9 + 3, 0, {"stop": 9})
    for wrong in ({"input": None}, {"input": "a", "dimensions": 3}, {"input": "a", "encoding_format": "odd"}):
        assert (await server.send("/v1/embeddings", wrong))[0] == 400


async def test_scores_and_rankings_count_pairs(server: Server) -> None:
    for path in ("/v1/score", "/score"):
        body = await server.ask(path, text_1="a b", text_2=["c", "d e"])
        assert (len(body["data"]), body["usage"]["prompt_tokens"], body["usage"]["completion_tokens"]) == (2, 11, 0)
    assert (await server.send("/score", {"text_1": ["a", "b"], "text_2": ["c", "d", "e"]}))[0] == 400
    for path in ("/v1/rerank", "/v2/rerank", "/rerank"):
        body = await server.ask(path, query="a b", documents=["c", "d e", "f"], top_n=2)
        assert body["usage"] == {"prompt_tokens": 16, "total_tokens": 16}
        scores = [row["relevance_score"] for row in body["results"]]
        assert (len(scores), scores) == (2, sorted(scores, reverse=True))
    assert server.vllm.totals().finished == {"stop": 2 * 2 + 3 * 3}


def form(seconds: int = 2, **fields: str) -> aiohttp.FormData:
    data = aiohttp.FormData()
    data.add_field("file", b"\0" * (32_000 * seconds), filename="a.wav", content_type="audio/wav")
    for name, said in fields.items():
        data.add_field(name, said)
    return data


async def test_audio_tells_seconds_and_in_streams_tokens_that_no_counter_has(server: Server) -> None:
    path = "/v1/audio/transcriptions"
    body = json.loads((await server.send(path, form(model="tiny")))[1])
    assert body["usage"] == {"type": "duration", "seconds": 2}
    assert "usage" not in json.loads((await server.send(path, form(response_format="verbose_json")))[1])
    assert set(json.loads((await server.send("/v1/audio/translations", form()))[1])) == {"text"}
    _, raw, _ = await server.send(path, form(stream="true", stream_include_usage="true"))
    events = raw.decode().split("\n\n")
    assert events[-2] == "data: [DONE]"
    usage = read_event(events[-3])["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (204, 10)
    assert server.vllm.totals().prompt == 4 * 4
    assert b"usage" not in (await server.send(path, form(stream="true")))[1]
    for wrong in (form(0), {"model": "tiny"}):
        assert (await server.send(path, wrong))[0] == 400
    empty = aiohttp.FormData({"model": "tiny"}, default_to_multipart=True)
    assert (await server.send(path, empty))[0] == 400


async def test_tokens_are_counted_as_they_will_be(server: Server) -> None:
    counted = await server.ask("/tokenize", **tool())
    assert counted["count"] == len(counted["tokens"]) == (await server.ask(CHAT, **tool()))["usage"]["prompt_tokens"]
    assert (await server.ask("/tokenize", prompt="a b"))["count"] == 3
    assert len((await server.ask("/detokenize", tokens=[1, 2, 3]))["prompt"].split()) == 3
    assert (await server.send("/detokenize", {"tokens": "x"}))[0] == 400


async def test_errors_have_the_shapes_of_vllm(server: Server) -> None:
    json_type = {"Content-Type": "application/json"}
    status, raw, _ = await server.send(CHAT, b'{"model":"tiny", "messages": [', headers=json_type)
    error = json.loads(raw)["error"]
    assert (status, error["type"], error["param"], error["code"]) == (400, "Bad Request", "body.30", 400)
    for media_type, expected in (
        ("application/json; charset=latin-1", 200),
        ("application/json ;x", 400),
        ("text/plain", 400),
    ):
        status, raw, _ = await server.send(CHAT, json.dumps(chat()).encode(), headers={"Content-Type": media_type})
        assert (status, b"Unsupported Media Type" in raw) == (expected, expected == 400)
    status, raw, _ = await server.send(CHAT, chat(model="nope"))
    assert json.loads(raw)["error"]["message"] == "The model `nope` does not exist. Valid aliases: tiny."
    for path in (MESSAGES, f"{MESSAGES}/count_tokens"):
        status, raw, _ = await server.send(path, chat(model="nope"))
        assert (status, json.loads(raw)["type"], json.loads(raw)["error"]["type"]) == (404, "error", "NotFoundError")
    status, raw, _ = await server.send(MESSAGES, {"messages": chat()["messages"]})
    assert (status, json.loads(raw)["error"]["param"]) == (400, "body.max_tokens")
    assert (await server.send(MESSAGES, {"max_tokens": 3}))[0] == 400
    assert (await server.send(PLAIN, {"prompt": "a", "suffix": "b"}))[0] == 400
    assert (await server.send(CHAT, chat(n="2")))[0] == 200, "numbers in strings pass"
    for body in (chat(n="two"), chat(n=1.5), chat(n=True), chat(stream_options={"include_usage": True})):
        assert (await server.send(CHAT, body))[0] == 400
    totals = server.vllm.totals()
    assert (totals.prompt, totals.generation) == (17 + 2 * 17, 12 + 24), "refusals move no counter"


async def test_an_error_found_late_is_an_event_in_a_good_stream(server: Server) -> None:
    broken = chat(structured_outputs={"regex": "(["}, stream_options=USAGE)
    error, done = await server.stream(CHAT, **broken)
    assert (error["error"]["code"], error["error"]["type"], done) == (400, "BadRequestError", "[DONE]")
    broken.pop("stream_options")
    assert (await server.send(CHAT, broken))[0] == 400
    assert server.vllm.totals().prompt == 0


async def test_routes_of_other_tasks_are_unknown(start: Callable[..., Any]) -> None:
    server = await start(tasks=frozenset({GENERATE}))
    for path in ("/v1/embeddings", "/rerank", "/v1/audio/transcriptions", "//v1/models", "/v1/embeddings/"):
        assert (await server.send(path, {}))[:2] == (404, b'{"detail":"Not Found"}')


async def test_paths_methods_and_redirects(server: Server) -> None:
    status, raw, headers = await server.send("/v1/models/?a=b", method="GET", allow_redirects=False)
    assert (status, raw, headers["location"]) == (307, b"", f"{server.vllm.url}/v1/models?a=b")
    status, _, headers = await server.send("/v1/models", method="HEAD")
    assert (status, headers["allow"]) == (405, "GET")
    assert (await server.send("/v1/models", method="GET"))[2]["vary"] == "Origin"
    for path in ("/health", "/ping"):
        assert (await server.send(path, method="GET"))[:2] == (200, b"")
    assert (await server.send("/load", method="GET"))[1] == b'{"server_load":0}'
    status, raw, headers = await server.send("/version", method="GET")
    assert (raw, headers["server"]) == (b'{"version":"0.32.0"}', "uvicorn")


async def test_keys_open_v1_alone(start: Callable[..., Any]) -> None:
    server = await start(api_keys=("k1", "k2"))
    for headers in ({}, {"Authorization": "Bearer no"}, {"x-api-key": "k1"}):
        status, raw, _ = await server.send("/v1/models", method="GET", headers=headers)
        assert (status, json.loads(raw)) == (401, {"error": "Unauthorized"})
    assert (await server.send("/v1/models", method="GET", headers={"Authorization": "bearer k2"}))[0] == 200
    assert (await server.send("/inference/v1/abort_requests", {}))[0] == 401
    for path in ("/tokenize", "/rerank"):
        assert (await server.send(path, {"prompt": "a", "query": "b", "documents": ["c"]}))[0] == 200
    assert (await server.send("/metrics", method="GET"))[0] == 200


async def test_aliases_flags_and_ids(start: Callable[..., Any]) -> None:
    server = await start(aliases=("other",), request_id_headers=True, force_include_usage=True)
    body = await server.ask(CHAT, **chat(model="other"))
    assert body["model"] == "tiny"
    models = json.loads((await server.send("/v1/models", method="GET"))[1])["data"]
    assert [row["id"] for row in models] == ["tiny", "other"]
    for more in ({}, {"stream": True}):
        _, raw, headers = await server.send(CHAT, chat(**more), headers={"X-Request-Id": "mine"})
        assert headers["x-request-id"] == "mine"
        assert b'"id":"chatcmpl-mine"' in raw
    assert raw.count(b'"usage":') == raw.count(b"data: ") - 1
    made_up = (await server.send(CHAT, chat()))[2]["x-request-id"]
    assert len(made_up) == 16
