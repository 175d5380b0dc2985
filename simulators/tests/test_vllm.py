"""The simulated vLLM in virtual time: shapes, counts, streams, clients that leave, aborts, sleep."""

import asyncio
import gzip
import json
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest
from spotinference_sim.instants import SECOND_US
from spotinference_sim.request import Request
from spotinference_sim.scenario import Scenario
from spotinference_sim.truth import truth

CHAT = "v1/chat/completions"
PLAIN = "v1/completions"
ABORT = "inference/v1/abort_requests"


def chat(words: int = 10, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "word " * words}], "max_tokens": 30, **more}


def events(raw: bytes) -> list[Any]:
    """Split a stream into its events; the last one is [DONE]."""
    parts = raw.decode().split("\n\n")
    assert parts[-2:] == ["data: [DONE]", ""]
    return [json.loads(part.removeprefix("data: ")) for part in parts[:-2]]


def counter(text: str, name: str) -> float:
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name))


async def test_a_plain_chat_counts_words(stage: Any) -> None:
    status, raw = await stage.ask(CHAT, chat(model="tiny-model"), 2_060, headers={"X-Request-Id": "abc"})
    body = json.loads(raw)
    assert status == 200
    assert (body["id"], body["object"], body["model"]) == ("chatcmpl-abc", "chat.completion", "tiny-model")
    usage = body["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (17, 30, 47)
    assert (usage["prompt_tokens_details"], usage["completion_tokens_details"]) == (None, None)
    assert body["choices"][0]["finish_reason"] == "length"
    assert len(body["choices"][0]["message"]["content"].split()) == 30
    (served,) = stage.simulators.served
    assert (served.request_id, served.prompt_tokens, served.completion_tokens) == ("abc", 17, 30)
    assert served.finished_us - served.started_us == 150_000 + 17 * 60 + 29 * SECOND_US // 30


async def test_generation_takes_its_time_by_the_clock(stage: Any) -> None:
    asked = asyncio.ensure_future(stage.post(CHAT, chat(max_tokens=300)))
    await stage.at(2_005)
    _, text = await stage.read("metrics")
    assert counter(text, "vllm:num_requests_running") == 1
    assert 130 < counter(text, "vllm:generation_tokens_total") < 150
    assert not asked.done()
    await stage.at(2_011)
    await asked
    _, text = await stage.read("metrics")
    assert counter(text, "vllm:generation_tokens_total") == 300
    assert counter(text, "vllm:prompt_tokens_total") == 17
    assert counter(text, "vllm:request_success_total") == 1
    assert 'finished_reason="length",model_name="tiny-model"} 1.0' in text


async def test_completions_take_lists_ids_and_several_choices(stage: Any) -> None:
    prompts = {"prompt": ["one two", "three"], "max_tokens": 4, "n": 2}
    body = json.loads((await stage.ask(PLAIN, prompts, 2_010))[1])
    assert body["object"] == "text_completion"
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2, 3]
    assert (body["usage"]["prompt_tokens"], body["usage"]["completion_tokens"]) == (5, 16)
    _, text = await stage.read("metrics")
    assert counter(text, "vllm:prompt_tokens_total") == 10
    body = json.loads((await stage.ask(PLAIN, {"prompt": [5, 6, 7], "max_tokens": 1}, 2_020))[1])
    assert body["usage"]["prompt_tokens"] == 3
    body = json.loads((await stage.ask(PLAIN, {"prompt": "a b"}, 2_100))[1])
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["usage"]["completion_tokens"] >= 24


async def test_a_stream_without_usage_differs_only_by_the_usage_event(stage: Any) -> None:
    _, bare = await stage.ask(CHAT, chat(stream=True), 2_050, headers={"X-Request-Id": "x"})
    rows = events(bare)
    assert rows[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert rows[-1]["choices"][0]["finish_reason"] == "length"
    assert all(("system_fingerprint" in row) == (row is rows[-1]) for row in rows)
    asked = chat(stream="TRUE", stream_options={"include_usage": True, "continuous_usage_stats": 1})
    _, full = await stage.ask(CHAT, asked, 2_100, headers={"X-Request-Id": "x"})
    more = events(full)
    assert more[-1]["choices"] == []
    assert more[-1]["usage"] == {"prompt_tokens": 17, "total_tokens": 47, "completion_tokens": 30}
    shown = [row.pop("usage")["completion_tokens"] for row in more]
    assert shown == [0, 9, 17, 25, 30, 30], "the first token ends inside a character: its event waits for the next"
    fingerprint = rows[-1].pop("system_fingerprint")
    assert more.pop()["system_fingerprint"] == fingerprint
    for row in (*rows, *more):
        row.pop("created")
    assert rows == more


async def test_continuous_usage_is_that_of_the_choice(stage: Any) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    body = {"prompt": ["a", "a b c"], "n": 2, "max_tokens": 9, "stream": 1, "stream_options": options}
    rows = events((await stage.ask(PLAIN, body, 2_050))[1])
    last = {row["choices"][0]["index"]: row["usage"] for row in rows if row["choices"]}
    assert {index: usage["prompt_tokens"] for index, usage in last.items()} == {0: 2, 1: 2, 2: 4, 3: 4}
    assert {usage["completion_tokens"] for usage in last.values()} == {9}
    assert (rows[-1]["usage"]["prompt_tokens"], rows[-1]["usage"]["completion_tokens"]) == (6, 36)


async def test_a_stop_string_ends_it_and_its_tokens_count(stage: Any) -> None:
    body = json.loads((await stage.ask(PLAIN, {"prompt": "q", "max_tokens": 60, "stop": ["stop five"]}, 2_050))[1])
    choice = body["choices"][0]
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", "stop five")
    assert "stop" not in choice["text"]
    assert body["usage"]["completion_tokens"] == len(choice["text"].split()) + 2
    body = json.loads((await stage.ask(PLAIN, {"prompt": "q", "max_tokens": 4, "stop": "never"}, 2_090))[1])
    assert body["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize(
    ("path", "body", "status", "kind"),
    [
        (CHAT, {"model": "tiny-model"}, 400, "Bad Request"),
        (CHAT, {"messages": []}, 400, "Bad Request"),
        (PLAIN, {"prompt": {"no": 1}}, 400, "Bad Request"),
        (PLAIN, ["no object"], 400, "Bad Request"),
        (CHAT, chat(model="other"), 404, "NotFoundError"),
        (CHAT, chat(max_tokens=-1), 400, "BadRequestError"),
        (CHAT, chat(max_tokens="five"), 400, "Bad Request"),
        (CHAT, chat(max_tokens=10**6), 400, "BadRequestError"),
        (CHAT, chat(stream="maybe"), 400, "Bad Request"),
        (CHAT, chat(stream=2), 400, "Bad Request"),
        (CHAT, chat(stream=False, stream_options={"include_usage": True}), 400, "BadRequestError"),
        (CHAT, chat(stream=True, stream_options=[]), 400, "Bad Request"),
    ],
)
async def test_bad_requests_are_refused_in_the_shape_of_vllm(
    stage: Any, path: str, body: Any, status: int, kind: str
) -> None:
    answered, raw = await stage.post(path, body)
    error = json.loads(raw)["error"]
    assert (answered, error["code"], error["type"]) == (status, status, kind)
    assert stage.simulators.served == []


async def test_bodies_that_cannot_be_read(stage: Any) -> None:
    for headers, data in (
        ({"Content-Type": "application/json", "Content-Encoding": "gzip"}, gzip.compress(b"{}")),
        ({"Content-Type": "application/json"}, b'{"a": "\xff"}'),
        ({"Content-Type": "application/json"}, b"[" * 100_000),
    ):
        async with stage.client.post(f"{stage.engine}/{CHAT}", data=data, headers=headers) as answer:
            assert (answer.status, await answer.json()) == (
                400,
                {"detail": "There was an error parsing the body"},
            )
    for headers, data in (
        ({"Content-Type": "text/plain"}, b"{}"),
        ({"Content-Type": "application/json"}, b"{"),
    ):
        async with stage.client.post(f"{stage.engine}/{CHAT}", data=data, headers=headers) as answer:
            assert answer.status == 400


async def test_falsy_streams_empty_models_and_parts_of_messages(stage: Any) -> None:
    parts = [
        {"role": "user", "content": [{"type": "text", "text": "one two"}, "odd"]},
        {"role": "user"},
        "odd",
    ]
    body = {"messages": parts, "max_completion_tokens": 2, "stream": "No", "model": ""}
    answered = json.loads((await stage.ask(CHAT, body, 2_050))[1])
    assert answered["usage"]["prompt_tokens"] == 2 + 4 + 4 + 3
    assert json.loads((await stage.ask(CHAT, chat(stream=0, stop=7), 2_100))[1])["object"] == "chat.completion"


async def test_small_routes(stage: Any) -> None:
    assert await stage.read("health") == (200, "")
    assert await stage.read("version") == (200, '{"version":"0.32.0"}')
    models = json.loads((await stage.read("v1/models"))[1])["data"]
    assert [(row["id"], row["max_model_len"]) for row in models] == [("tiny-model", 262_144)]
    assert json.loads((await stage.post("tokenize", chat()))[1])["count"] == 17
    assert json.loads((await stage.post("tokenize", {"prompt": "a b"}))[1])["count"] == 3
    assert await stage.read("nothing") == (404, '{"detail":"Not Found"}')
    assert await stage.read(CHAT) == (405, '{"detail":"Method Not Allowed"}')
    async with stage.client.get(f"{stage.simulators.vllm_url}/vm/1/health") as answer:
        assert answer.status == 404


async def test_a_client_that_leaves_stops_the_work(stage: Any) -> None:
    for body in (chat(max_tokens=3_000), chat(max_tokens=3_000, stream=True)):
        start = stage.clock.now()
        asked = asyncio.ensure_future(stage.post(CHAT, body))
        await stage.at(2_010 if not stage.simulators.served else 2_030)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        await stage.clock.advance(stage.clock.now())
        served = stage.simulators.served[-1]
        assert (served.end_reason, served.prompt_tokens) == ("client_gone", 17)
        made = served.completion_tokens
        assert 0 < made < (stage.clock.now() - start).total_seconds() * 30 + 2
    _, text = await stage.read("metrics")
    assert counter(text, "vllm:num_requests_running") == 0
    assert counter(text, "vllm:request_success_total") == 0
    assert counter(text, "vllm:generation_tokens_total") == sum(s.completion_tokens for s in stage.simulators.served)


async def test_the_abort_call_ends_it_with_exact_usage(stage: Any) -> None:
    options = {"stream": True, "stream_options": {"include_usage": True}}
    asked = asyncio.ensure_future(stage.post(CHAT, chat(max_tokens=3_000, **options), headers={"X-Request-Id": "me"}))
    await stage.at(2_010)
    assert (await stage.post(ABORT, {"request_ids": ["chatcmpl-other"]}))[0] == 200
    assert (await stage.post(ABORT, {"request_ids": "chatcmpl-me"}))[0] == 200
    assert not asked.done()
    assert (await stage.post(ABORT, {"request_ids": ["chatcmpl-me"]}))[0] == 200
    rows = events((await asked)[1])
    assert rows[-2]["choices"][0]["finish_reason"] == "abort"
    (served,) = stage.simulators.served
    assert rows[-1]["usage"]["completion_tokens"] == served.completion_tokens == 296
    assert served.end_reason == "complete"


async def test_an_abort_before_the_first_token_has_a_prompt_and_no_tokens(stage: Any) -> None:
    options = {"stream": True, "stream_options": {"include_usage": True}}
    asked = asyncio.ensure_future(stage.post(CHAT, chat(**options), headers={"X-Request-Id": "me"}))
    await stage.at(2_000.01)
    await stage.post(ABORT, {"request_ids": ["chatcmpl-me"]})
    (row,) = events((await asked)[1])
    assert row["usage"] == {"prompt_tokens": 17, "total_tokens": 17, "completion_tokens": 0}
    _, text = await stage.read("metrics")
    assert counter(text, "vllm:prompt_tokens_total") == 0


async def test_a_completion_is_aborted_by_all_its_ids(stage: Any) -> None:
    body = {"prompt": ["a", "b"], "max_tokens": 3_000}
    asked = asyncio.ensure_future(stage.post(PLAIN, body, headers={"X-Request-Id": "me"}))
    await stage.at(2_010)
    await stage.post(ABORT, {"request_ids": ["cmpl-me-0", "cmpl-me-1"]})
    answered = json.loads((await asked)[1])
    assert answered["choices"][0]["finish_reason"] == "abort"
    assert answered["usage"]["completion_tokens"] == 2 * 296


async def test_without_scale_out_the_abort_call_is_refused(make_stage: Any) -> None:
    stage = await make_stage(scale_out=False)
    assert (await stage.post(ABORT, {"request_ids": []}))[0] == 403


async def test_an_engine_that_is_not_ready_refuses_everything(make_stage: Any) -> None:
    stage = await make_stage(1_050)
    for path in ("health", "metrics", "v1/models"):
        assert (await stage.read(path))[0] == 503
    status, raw = await stage.post(CHAT, chat())
    assert (status, json.loads(raw)["error"]["type"]) == (503, "Service Unavailable")
    await stage.at(1_100)
    assert (await stage.read("health"))[0] == 200


@pytest.mark.parametrize("stream", [True, False])
async def test_an_engine_that_goes_away_cuts_the_connection(make_stage: Any, stream: bool) -> None:
    stage = await make_stage(7_190)
    asked = asyncio.ensure_future(stage.post(CHAT, chat(max_tokens=3_000, stream=stream)))
    await stage.at(7_400)
    with pytest.raises(aiohttp.ClientError):
        await asked
    assert stage.simulators.served[-1].end_reason == "upstream_gone"


async def test_details_are_told_where_the_engine_shows_them(make_stage: Any, short: Scenario) -> None:
    stage = await make_stage(12 * 3_600, scenario=short)
    found: dict[str, Any] = {}
    for upstream in stage.simulators.upstreams():
        stage.engine = upstream["url"]
        for body in (chat(40, stream=True, stream_options={"include_usage": True}), chat(40)):
            seconds = (stage.clock.now().hour - 12) * 3_600 + 12 * 3_600 + stage.clock.now().minute * 60 + 60
            _, raw = await stage.ask(CHAT, body, seconds)
            usage = events(raw)[-1]["usage"] if body.get("stream") else json.loads(raw)["usage"]
            found[f"{upstream['models'][0]}/{bool(body.get('stream'))}"] = usage
    assert found["llama-3.3-70b-instruct/False"]["prompt_tokens_details"] == {
        "cached_tokens": 16,
        "created_cache_tokens": 0,
        "multimodal_tokens": None,
    }
    streamed = found["qwen3-30b-a3b/True"]
    assert streamed["prompt_tokens_details"] == {"cached_tokens": 16, "created_cache_tokens": 0}
    assert streamed["completion_tokens_details"] == {"reasoning_tokens": 15}
    assert found["qwen3-8b/False"]["prompt_tokens_details"] is None


async def test_what_was_served_can_stand_in_for_the_last_day(
    stage: Any, make_tiny: Callable[..., Scenario], make_request: Callable[..., Request]
) -> None:
    await stage.ask(CHAT, chat(), 2_050)
    scenario = make_tiny(make_request())
    figures = truth(scenario, scenario.start_day, stage.simulators.served)
    assert figures["served_tokens"] == 47
    assert figures["busy_seconds"] == "1.117686"
