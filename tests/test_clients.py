"""The official OpenAI and Anthropic clients, once straight at vLLM and once through the proxy: nothing differs.

Each call runs twice and must see the same: the same parsed results and exceptions, and from the simulated vLLM
the same bytes, once ids and instants that are random are masked. What clients saw of usage is what the log says.
With VLLM_URL the same calls go to a real vLLM (docs/testing-with-vllm.md); there, streams are compared by what
they add up to, and calls that the server does not know are skipped.
"""

import asyncio
import json
import os
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

import anthropic
import httptools
import httpx2
import openai
import pytest
from spotinference_sim.vllm_options import GENERATE, POOLING, SPEECH, Pace

IS_REAL = "VLLM_URL" in os.environ
CHAT, COMPLETIONS, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"
FLAGS = {
    "tasks": frozenset({GENERATE, POOLING, SPEECH}),
    "pace": Pace(tokens_per_second=3_000, prefill_us=2_000, prefill_us_per_token=10, register_us=0),
    "prompt_tokens_details": True,
}
SAY = [{"role": "user", "content": "How many tokens did this request use, größe und 日本 included?"}]
SAME: dict[str, Any] = {"messages": SAY, "max_tokens": 24, "temperature": 0, "seed": 1}
USAGE = {"include_usage": True}
CITY = {"type": "object", "properties": {"city": {"type": "string", "enum": ["Oslo"]}}, "required": ["city"]}
MASKS = (
    (re.compile(r"\bchatcmpl-tool-[0-9a-f]+"), "TOOL"),
    (re.compile(r"\b(chatcmpl|cmpl|embd|trsc)-[0-9a-f-]{16,}"), r"\1-ID"),
    (re.compile(r"\b(resp|msg|rs)_[0-9a-f]{16,}"), r"\1-ID"),
    (re.compile(r"\bmodelperm-[0-9a-f]+"), "PERMISSION"),
    (re.compile(r'"(created|created_at)":\s*\d+(\.0)?'), r'"\1": 0'),
)
MASKS_OF_A_CACHE = (  # of a real server: the second time, more comes from the cache, and numerics move a little
    (re.compile(r'"(cached_tokens|created_cache_tokens|cache_\w+_input_tokens|input_tokens)":\s*\d+'), r'"\1": 0'),
    (re.compile(r'"(logprob|relevance_score|score)":\s*-?[\d.e-]+'), r'"\1": 0'),
    (re.compile(r'"(token_logprobs|top_logprobs)":\s*\[[^\]]*\]'), r'"\1": []'),
)


def mask(text: str) -> str:
    for pattern, instead in (*MASKS, *(MASKS_OF_A_CACHE if IS_REAL else ())):
        text = pattern.sub(instead, text)
    return text


@dataclass
class Side:
    """The clients of one of both sides, and what they saw."""

    url: str
    key: str
    model: str
    openai: openai.AsyncOpenAI
    anthropic: anthropic.AsyncAnthropic
    saw: list[Any] = field(default_factory=list)
    tokens: list[tuple[str, int, int]] = field(default_factory=list)

    def note(self, endpoint: str, usage: Any) -> None:
        """Keep a usage for the comparison with the log."""
        if isinstance(usage, anthropic.types.Usage | anthropic.types.MessageDeltaUsage):
            cache = (usage.cache_read_input_tokens or 0) + (usage.cache_creation_input_tokens or 0)
            self.tokens.append((endpoint, (usage.input_tokens or 0) + cache, usage.output_tokens))
        elif hasattr(usage, "input_tokens"):
            self.tokens.append((endpoint, usage.input_tokens, usage.output_tokens))
        else:
            self.tokens.append((endpoint, usage.prompt_tokens, getattr(usage, "completion_tokens", 0)))

    def see(self, *parsed: Any) -> None:
        """Keep what a client made of an answer."""
        for one in parsed:
            self.saw.append(mask(one.model_dump_json() if hasattr(one, "model_dump_json") else json.dumps(one)))

    def see_bytes(self, raw: bytes) -> None:
        """Keep an answer's bytes; a real server cuts streams and numbers differently each time."""
        if not IS_REAL:
            self.saw.append(mask(raw.decode()))

    async def see_raw(self, endpoint: str, calling: Awaitable[Any]) -> Any:
        """Take a plain answer raw: its status, type, bytes and parsed form."""
        raw = await calling
        self.saw.append((raw.http_response.status_code, raw.headers["content-type"]))
        self.see_bytes(raw.content if hasattr(raw, "content") else await raw.read())
        parsed = raw.parse()
        self.see(parsed)
        if getattr(parsed, "usage", None) is not None:
            self.note(endpoint, parsed.usage)
        return parsed

    async def see_stream(self, calling: Any) -> bytes:
        """Take a stream's bytes."""
        async with calling as answer:
            self.saw.append((answer.status_code, answer.headers["content-type"], "content-length" in answer.headers))
            raw = b"".join([part async for part in answer.iter_bytes()])
        self.see_bytes(raw)
        return raw

    async def see_error(self, calling: Awaitable[Any]) -> None:
        """Expect an exception of the client's own."""
        with pytest.raises((openai.APIError, anthropic.APIError)) as caught:
            await calling
        self.saw.append((type(caught.value).__name__, getattr(caught.value, "status_code", None)))
        self.saw.append(mask(json.dumps(caught.value.body)))


CALLS: dict[str, Callable[[Side], Awaitable[None]]] = {}


def call(function: Callable[[Side], Awaitable[None]]) -> Callable[[Side], Awaitable[None]]:
    CALLS[function.__name__] = function
    return function


@call
async def models_list(side: Side) -> None:
    raw = await side.openai.models.with_raw_response.list()
    side.see_bytes(raw.content)
    side.see(*[model async for model in side.openai.models.list()])


@call
async def chat_plain(side: Side) -> None:
    await side.see_raw(CHAT, side.openai.chat.completions.with_raw_response.create(model=side.model, **SAME))


@call
async def chat_stream_without_usage(side: Side) -> None:
    create = side.openai.chat.completions.with_streaming_response.create
    raw = await side.see_stream(create(model=side.model, stream=True, **SAME))
    assert b'"usage"' not in raw
    stream = await side.openai.chat.completions.create(model=side.model, stream=True, **SAME)
    chunks = [chunk async for chunk in stream]
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)
    side.see("".join(chunk.choices[0].delta.content or "" for chunk in chunks), chunks[-1].choices[0].finish_reason)


@call
async def chat_stream_with_usage(side: Side) -> None:
    stream = await side.openai.chat.completions.create(model=side.model, stream=True, stream_options=USAGE, **SAME)
    chunks = [chunk async for chunk in stream]
    assert [bool(chunk.choices) for chunk in chunks] == [True] * (len(chunks) - 1) + [False]
    side.note(CHAT, chunks[-1].usage)
    side.see("".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]), chunks[-1].usage.model_dump())


@call
async def chat_stream_with_running_usage(side: Side) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    create = side.openai.chat.completions.with_streaming_response.create
    raw = await side.see_stream(create(model=side.model, stream=True, extra_body={"stream_options": options}, **SAME))
    events = [json.loads(event[6:]) for event in raw.split(b"\n\n") if event.startswith(b"data: {")]
    assert all("usage" in event for event in events)
    side.see(events[-1]["usage"])


@call
async def chat_two_choices(side: Side) -> None:
    chat = side.openai.chat.completions.with_raw_response
    found = await side.see_raw(CHAT, chat.create(model=side.model, n=2, **SAME | {"temperature": 1}))
    assert [choice.index for choice in found.choices] == [0, 1]


@call
async def chat_two_choices_stream(side: Side) -> None:
    create = side.openai.chat.completions.with_streaming_response.create
    asked = SAME | {"n": 2, "temperature": 1}
    await side.see_stream(create(model=side.model, stream=True, **asked))
    stream = await side.openai.chat.completions.create(model=side.model, stream=True, stream_options=USAGE, **asked)
    told = {0: "", 1: ""}
    async for chunk in stream:
        for choice in chunk.choices:
            told[choice.index] += choice.delta.content or ""
        if not chunk.choices:
            side.note(CHAT, chunk.usage)
    side.see(told)


@call
async def chat_logprobs(side: Side) -> None:
    asked = SAME | {"logprobs": True, "top_logprobs": 2, "max_tokens": 6}
    found = await side.see_raw(CHAT, side.openai.chat.completions.with_raw_response.create(model=side.model, **asked))
    assert len(found.choices[0].logprobs.content) == found.usage.completion_tokens
    stream = await side.openai.chat.completions.create(model=side.model, stream=True, **asked)
    parts = [c.choices[0].logprobs.content async for c in stream if c.choices and c.choices[0].logprobs]
    side.see([one.token for part in parts for one in part])


def tools(**more: Any) -> dict[str, Any]:
    function = {"name": "get_weather", "description": "Weather of a city", "parameters": CITY}
    named = {"type": "function", "function": {"name": "get_weather"}}
    return SAME | {"tools": [{"type": "function", "function": function}], "tool_choice": named, "max_tokens": 90} | more


def check_arguments(text: str) -> None:
    """Expect what the simulated engine calls the tool with; what a real model writes is its own."""
    assert IS_REAL or json.loads(text) == {"city": "Oslo"}


@call
async def chat_tools(side: Side) -> None:
    found = await side.see_raw(CHAT, side.openai.chat.completions.with_raw_response.create(model=side.model, **tools()))
    (called,) = found.choices[0].message.tool_calls
    check_arguments(called.function.arguments)


@call
async def chat_tools_stream(side: Side) -> None:
    await side.see_stream(
        side.openai.chat.completions.with_streaming_response.create(model=side.model, stream=True, **tools())
    )
    async with side.openai.chat.completions.stream(model=side.model, stream_options=USAGE, **tools()) as stream:
        final = await stream.get_final_completion()
    check_arguments(final.choices[0].message.tool_calls[0].function.arguments)
    side.note(CHAT, final.usage)
    side.see(final)


@call
async def chat_stop_string(side: Side) -> None:
    asked = SAME | {"stop": ["five", "e"], "max_tokens": 60}
    found = await side.see_raw(CHAT, side.openai.chat.completions.with_raw_response.create(model=side.model, **asked))
    create = side.openai.chat.completions.with_streaming_response.create
    raw = await side.see_stream(create(model=side.model, stream=True, **asked))
    assert IS_REAL or (found.choices[0].stop_reason == "five" and b'"stop_reason":"five"' in raw)


@call
async def completions_of_a_list(side: Side) -> None:
    asked = {"prompt": ["The baker", "A customer paid for the school"], "max_tokens": 5, "n": 2, "seed": 1}
    found = await side.see_raw(COMPLETIONS, side.openai.completions.with_raw_response.create(model=side.model, **asked))
    assert [choice.index for choice in found.choices] == [0, 1, 2, 3]


@call
async def completions_stream(side: Side) -> None:
    asked = {"prompt": ["The manager", "The bridge"], "max_tokens": 8, "temperature": 0, "stream": True}
    await side.see_stream(side.openai.completions.with_streaming_response.create(model=side.model, **asked))
    told = {0: "", 1: ""}
    async for chunk in await side.openai.completions.create(model=side.model, stream_options=USAGE, **asked):
        for choice in chunk.choices:
            told[choice.index] += choice.text
        if not chunk.choices:
            side.note(COMPLETIONS, chunk.usage)
    side.see(told)


@call
async def completions_echo(side: Side) -> None:
    asked = {"prompt": "The manager measured the bridge", "max_tokens": 0, "echo": True}
    found = await side.see_raw(COMPLETIONS, side.openai.completions.with_raw_response.create(model=side.model, **asked))
    assert (found.choices[0].text, found.usage.completion_tokens) == (asked["prompt"], 1)
    asked |= {"max_tokens": 3, "logprobs": 1, "temperature": 0}
    await side.see_raw(COMPLETIONS, side.openai.completions.with_raw_response.create(model=side.model, **asked))


@call
async def embeddings(side: Side) -> None:
    create = side.openai.embeddings.with_raw_response.create
    asked = {"model": side.model, "input": ["The manager", "A student cleaned the market"]}
    found = await side.see_raw("/v1/embeddings", create(**asked))
    assert len(found.data) == 2
    await side.see_raw("/v1/embeddings", create(**asked, encoding_format="float"))
    raw = await create(**asked, encoding_format="bytes")
    usage = json.loads(raw.headers["metadata"])["usage"]
    side.tokens.append(("/v1/embeddings", usage["prompt_tokens"], 0))
    side.saw.append(raw.content)


@call
async def responses_plain(side: Side) -> None:
    asked = {"input": "How much did it cost?", "max_output_tokens": 16, "temperature": 0}
    await side.see_raw(RESPONSES, side.openai.responses.with_raw_response.create(model=side.model, **asked))


@call
async def responses_stream(side: Side) -> None:
    asked = {"input": "How much did it cost?", "max_output_tokens": 16, "temperature": 0}
    create = side.openai.responses.with_streaming_response.create
    raw = await side.see_stream(create(model=side.model, stream=True, **asked))
    assert b"[DONE]" not in raw
    async for event in await side.openai.responses.create(model=side.model, stream=True, **asked):
        if event.type in ("response.completed", "response.incomplete"):
            side.note(RESPONSES, event.response.usage)
            side.see(event.response.output_text, event.response.status)


@call
async def messages_plain(side: Side) -> None:
    asked: dict[str, Any] = {"messages": [{"role": "user", "content": "word " * 99}], "model": side.model}
    counted = await side.anthropic.messages.count_tokens(**asked)
    create = side.anthropic.messages.with_raw_response.create
    found = await side.see_raw(MESSAGES, create(max_tokens=9, temperature=0, **asked))
    usage = found.usage
    cache = (usage.cache_read_input_tokens or 0) + (usage.cache_creation_input_tokens or 0)
    assert counted.input_tokens == usage.input_tokens + cache
    side.see(counted.input_tokens)


@call
async def messages_stream(side: Side) -> None:
    asked: dict[str, Any] = {"messages": SAY, "model": side.model, "max_tokens": 9, "temperature": 0}
    create = side.anthropic.messages.with_streaming_response.create
    raw = await side.see_stream(create(stream=True, **asked))
    assert raw.count(b"event: message_stop") == 1
    async with side.anthropic.messages.stream(**asked) as stream:
        text = "".join([part async for part in stream.text_stream])
        final = await stream.get_final_message()
    side.note(MESSAGES, final.usage)
    side.see(text, final.stop_reason)


@call
async def transcription(side: Side) -> None:
    create = side.openai.audio.transcriptions.with_raw_response.create
    sound = ("a.wav", b"RIFF" + bytes(70_000), "audio/wav")
    raw = await create(model=side.model, file=sound)
    side.see_bytes(raw.content)
    side.see(raw.parse().text)


@call
async def errors_before_any_token(side: Side) -> None:
    chat = side.openai.chat.completions
    await side.see_error(chat.create(**SAME | {"model": "nope"}))
    await side.see_error(chat.create(model="nope", stream=True, **SAME))
    await side.see_error(chat.create(model=side.model, **SAME | {"max_tokens": -1}))
    await side.see_error(chat.create(model=side.model, **SAME | {"messages": "no list"}))
    await side.see_error(chat.create(model=side.model, **SAME, extra_body={"stream_options": USAGE}))
    await side.see_error(side.anthropic.messages.create(model="nope", messages=SAY, max_tokens=3))
    if side.key != "none":
        await side.see_error(side.openai.with_options(api_key="wrong").models.list())
        await side.see_error(
            side.openai.with_options(api_key="wrong").chat.completions.create(model=side.model, **SAME)
        )


@call
async def error_inside_a_stream(side: Side) -> None:
    broken = {"structured_outputs": {"regex": "(["}}
    chat = side.openai.chat.completions
    await side.see_stream(chat.with_streaming_response.create(model=side.model, stream=True, extra_body=broken, **SAME))

    async def read() -> None:
        async for _ in await chat.create(model=side.model, stream=True, extra_body=broken, **SAME):
            pass

    await side.see_error(read())
    await side.see_error(chat.create(model=side.model, extra_body=broken, **SAME))


@call
async def abandoned_stream(side: Side) -> None:
    asked = SAME | {"max_tokens": 3_000} | ({"extra_body": {"ignore_eos": True}} if IS_REAL else {})
    stream = await side.openai.chat.completions.create(model=side.model, stream=True, **asked)
    first = [await anext(stream) for _ in range(3)]
    await stream.close()
    assert first[0].choices[0].delta.role == "assistant"
    side.see(first[0].choices[0].delta.content)
    await side.see_raw(CHAT, side.openai.chat.completions.with_raw_response.create(model=side.model, **SAME))


@call
async def one_connection_for_many_calls(side: Side) -> None:
    narrow = openai.DefaultAsyncHttpx2Client(limits=httpx2.Limits(max_connections=1))
    async with openai.AsyncOpenAI(api_key=side.key, base_url=f"{side.url}/v1", http_client=narrow) as client:
        one = replace(side, openai=client)
        for place in range(3):
            await chat_plain(one)
            await chat_stream_with_usage(one)
            await one.see_error(client.chat.completions.create(model=f"nope{place}", messages=SAY))
    await pipelined(side)


async def pipelined(side: Side) -> None:
    """Send three requests in one write; their answers come in their order."""
    found = urlsplit(side.url)
    if found.scheme != "http":
        return
    reader, writer = await asyncio.open_connection(found.hostname, found.port or 80)
    sent = b""
    for tokens, ending in ((3, "keep-alive"), (1, "keep-alive"), (2, "close")):
        body = json.dumps(SAME | {"model": side.model, "max_tokens": tokens, "ignore_eos": True}).encode()
        head = f"POST {CHAT} HTTP/1.1\r\nHost: {found.netloc}\r\nAuthorization: Bearer {side.key}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: {ending}\r\n\r\n"
        sent += head.encode() + body
    writer.write(sent)
    raw = await asyncio.wait_for(reader.read(), 60)
    writer.close()
    await writer.wait_closed()
    bodies = Bodies(raw).found
    side.see(*bodies)
    assert [body["usage"]["completion_tokens"] for body in bodies] == [3, 1, 2]
    side.tokens += [(CHAT, body["usage"]["prompt_tokens"], body["usage"]["completion_tokens"]) for body in bodies]


class Bodies:
    """The JSON bodies of several answers on one connection."""

    def __init__(self, raw: bytes) -> None:
        self.found: list[Any] = []
        self._body = b""
        while raw:
            self._parser = httptools.HttpResponseParser(self)
            self._rest = b""
            raw = self._feed(raw)

    def _feed(self, raw: bytes) -> bytes:
        head, _, rest = raw.partition(b"\r\n\r\n")
        self._parser.feed_data(head + b"\r\n\r\n")
        assert self._parser.get_status_code() == 200
        length = int(re.search(rb"(?i)content-length: (\d+)", head)[1])  # type: ignore[index]
        self._parser.feed_data(rest[:length])
        return rest[length:]

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        self.found.append(json.loads(self._body))
        self._body = b""


@call
async def eight_at_a_time(side: Side) -> None:
    async def ask(number: int) -> tuple[str | None, Any]:
        asked = SAME | {"messages": [{"role": "user", "content": "word " * number}]}
        if number % 2:
            plain = await side.openai.chat.completions.create(model=side.model, **asked)
            return plain.choices[0].message.content, plain.usage
        text, usage = "", None
        async for chunk in await side.openai.chat.completions.create(
            model=side.model, stream=True, stream_options=USAGE, **asked
        ):
            text, usage = text + "".join(one.delta.content or "" for one in chunk.choices), chunk.usage
        return text, usage

    gate = asyncio.Semaphore(8)

    async def wait_and_ask(number: int) -> tuple[str | None, Any]:
        async with gate:
            return await ask(number)

    found = await asyncio.gather(*(wait_and_ask(number) for number in range(1, 33)))
    for text, usage in found:
        side.note(CHAT, usage)
        side.see(text, usage.prompt_tokens, usage.completion_tokens)


@asynccontextmanager
async def clients_at(url: str, key: str, model: str) -> AsyncIterator[Side]:
    """Make both official clients for an address."""
    async with (
        openai.AsyncOpenAI(api_key=key, base_url=f"{url}/v1", max_retries=0, timeout=120) as one,
        anthropic.AsyncAnthropic(auth_token=key, base_url=url, max_retries=0, timeout=120) as other,
    ):
        yield Side(url, key, model, one, other)


@pytest.mark.parametrize("name", CALLS)
async def test_a_client_sees_through_the_proxy_what_it_sees_without(
    name: str, open_front: Callable[..., Awaitable[Any]]
) -> None:
    keys = {"api_keys": ("simulated",)} if name == "errors_before_any_token" else {}
    front = await open_front(**FLAGS, **keys)
    async with clients_at(front.vllm_url, front.key, front.model) as direct:
        await call_or_skip(name, direct)
    served_directly = len(front.vllm.ledger) if front.vllm else 0
    async with clients_at(front.url, front.key, front.model) as proxied:
        await learn(proxied)
        await CALLS[name](proxied)
    assert proxied.saw == direct.saw
    assert proxied.tokens == direct.tokens
    ends = await front.ends()
    logged = Counter((row["endpoint"], row["prompt_tokens"], row["completion_tokens"]) for row in ends)
    assert not Counter(proxied.tokens) - logged
    if name == "abandoned_stream":
        assert "client_gone" in {row["end_reason"] for row in ends}, ends
    if front.vllm:
        assert_truth(ends, {one.request_id: one for one in front.vllm.served()[served_directly:]})


async def learn(proxied: Side) -> None:
    """Let the proxy see the server's system_fingerprint once: forced usage moves it away, the proxy puts it back."""
    with suppress(*((openai.NotFoundError,) if IS_REAL else ())):  # a pooling server has no chats
        async for _ in await proxied.openai.chat.completions.create(model=proxied.model, stream=True, **SAME):
            pass


def assert_truth(ends: list[dict[str, Any]], served: dict[str, Any]) -> None:
    """Hold each row against what the simulated engine knows of the request."""
    assert {row["request_id"] for row in ends if row["request_id"] in served} == set(served)
    for row in ends:
        if row["endpoint"].startswith("/v1/audio"):
            assert row["usage_source"] == "none"
        elif row["request_id"] in served:
            true = served[row["request_id"]]
            assert row["usage_source"] == "engine_final", row
            assert (row["prompt_tokens"], row["completion_tokens"]) == (true.prompt_tokens, true.completion_tokens)
        else:
            assert row["completion_tokens"] in (None, 0)
            assert row["end_reason"] == "upstream_error"


async def call_or_skip(name: str, direct: Side) -> None:
    """Make a call straight at vLLM; a real one may lack the route or a flag for it."""
    try:
        await CALLS[name](direct)
    except (openai.APIStatusError, anthropic.APIStatusError) as refused:
        if not IS_REAL:
            raise
        pytest.skip(f"{name}: this vLLM answers {refused.status_code}: {str(refused)[:200]}")


def test_the_suite_has_twenty_five_calls() -> None:
    assert len(CALLS) == 25


async def test_a_comparison_that_must_fail_fails(open_front: Callable[..., Awaitable[Any]]) -> None:
    """Negative control: one token more, seen or logged, is noticed."""
    front = await open_front(**FLAGS)
    async with clients_at(front.url, front.key, front.model) as side:
        await call_or_skip("chat_plain", side)
        once, again = list(side.saw), side.tokens[0]
        side.saw.clear()
        await side.see_raw(
            CHAT, side.openai.chat.completions.with_raw_response.create(model=side.model, **SAME | {"max_tokens": 25})
        )
    assert side.saw != once
    logged = Counter((row["endpoint"], row["prompt_tokens"], row["completion_tokens"]) for row in await front.ends())
    assert Counter([(again[0], again[1], again[2] + 2)]) - logged
