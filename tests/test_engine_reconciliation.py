"""What the log says against what vLLM's own counters say, to the token, with every difference named.

200 mixed requests, eight at a time, a third of whose clients leave, go through the proxy to a simulated vLLM whose
engine is the truth: once with vLLM's abort call, once without. The identities are those of vLLM's counters: a prompt
counts once for every sequence that made a token, finished sums hold sequences that ended by themselves. Without a
client that leaves both sides agree with nothing but the log and /metrics to go by. With VLLM_URL the requests go to a
real vLLM (docs/testing-with-vllm.md), where the causes that only the engine knows are bounded instead.
"""

import asyncio
import json
import os
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
from spotinference_sim.vllm_options import GENERATE, POOLING, SPEECH, Pace

IS_REAL = "VLLM_URL" in os.environ
SEED, REQUESTS, AT_A_TIME = int(os.environ.get("RECONCILIATION_SEED", "20261124")), 200, 8
CHAT, COMPLETIONS, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"
PACE = Pace(tokens_per_second=500, prefill_us=15_000, prefill_us_per_token=20, register_us=3_000)
FLAGS = {"tasks": frozenset({GENERATE, POOLING, SPEECH}), "pace": PACE, "prompt_tokens_details": True}
TOOL = {
    "name": "get_weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string", "enum": ["Oslo"]}}},
}
WORDS = ("the", "bridge", "counted", "größe", "before", "lunch", "and", "日本", "paid")
COUNTERS = (
    "vllm:prompt_tokens_total",
    "vllm:generation_tokens_total",
    "vllm:request_prompt_tokens_sum",
    "vllm:request_generation_tokens_sum",
    "vllm:request_success_total",
    "vllm:prompt_tokens_cached_total",
    "vllm:iteration_tokens_total_sum",
)


@dataclass(frozen=True)
class Sent:
    """One request of the mix; its client leaves after so many seconds and, if it is a stream, so many bytes."""

    path: str
    body: Any
    leaves_after: float | None = None
    leaves_after_bytes: int = 0

    @property
    def sequences(self) -> int:
        """How many sequences the engine makes of it."""
        several = {CHAT: "", COMPLETIONS: "prompt", "/v1/embeddings": "input", "/rerank": "documents"}
        several |= {f"{CHAT}/batch": "messages", "/v1/score": "text_2"}
        listed = self.body.get(several.get(self.path, ""))
        return (len(listed) if isinstance(listed, list) else 1) * int(self.body.get("n", 1))


class Mix:
    """Draws requests; the same seed draws the same ones."""

    def __init__(self, seed: int, model: str) -> None:
        self._rng = random.Random(seed)
        self._model = model

    def draw(self, count: int, leaving: float) -> list[Sent]:
        return [self._leave(self._any(), leaving) for _ in range(count)]

    def _leave(self, sent: Sent, leaving: float) -> Sent:
        if self._rng.random() >= leaving:
            return sent
        after = self._rng.choice((0.0, self._rng.uniform(0, 0.03), self._rng.uniform(0, 0.2)))
        return Sent(sent.path, sent.body, after, self._rng.choice((0, 0, self._rng.randint(1, 4_000))))

    def _text(self, most: int = 40) -> str:
        return " ".join(self._rng.choices(WORDS, k=self._rng.randint(1, most)))

    def _say(self) -> list[dict[str, str]]:
        return [{"role": "user", "content": self._text()} for _ in range(self._rng.randint(1, 2))]

    def _any(self) -> Sent:
        draws = (self._chat, self._chat, self._chat, self._chat, self._completion, self._completion, self._tool)
        draws += (self._response, self._response, self._message, self._message, self._pooled, self._refused)
        sent = self._rng.choice(draws)()
        if isinstance(sent.body, dict):
            sent.body.setdefault("model", self._model)
        return sent

    def _streamed(self, body: dict[str, Any], *, has_options: bool = True) -> dict[str, Any]:
        options = self._rng.choice((None, None, {"include_usage": True}, {"include_usage": False}))
        if self._rng.random() < 0.6:
            body["stream"] = self._rng.choice((True, True, 1, "true"))
            body |= {"stream_options": options} if options and has_options else {}
        return body

    def _chat(self) -> Sent:
        body: dict[str, Any] = {"messages": self._say(), "max_tokens": self._rng.randint(1, 80)}
        if self._rng.random() < 0.4:
            body |= {"n": self._rng.randint(2, 3), "stop": ["six"]}
        if self._rng.random() < 0.1:
            return Sent(f"{CHAT}/batch", body | {"messages": [self._say(), self._say()]})
        return Sent(CHAT, self._streamed(body))

    def _completion(self) -> Sent:
        prompt: Any = self._rng.choice((self._text(), [self._text() for _ in range(self._rng.randint(1, 3))]))
        body: dict[str, Any] = {"prompt": prompt, "max_tokens": self._rng.randint(1, 60)}
        if self._rng.random() < 0.3:
            body |= {"echo": True, "max_tokens": self._rng.choice((0, 5))}
        elif self._rng.random() < 0.5:
            body |= {"n": self._rng.randint(1, 3), "stop": ["five"]}
        return Sent(COMPLETIONS, self._streamed(body))

    def _tool(self) -> Sent:
        chosen = {"type": "function", "function": {"name": TOOL["name"]}}
        body = {"messages": self._say(), "tools": [{"type": "function", "function": TOOL}], "tool_choice": chosen}
        return Sent(CHAT, self._streamed(body | {"max_tokens": 90}))

    def _response(self) -> Sent:
        body = {"input": self._text(), "max_output_tokens": self._rng.randint(1, 60)}
        return Sent(RESPONSES, self._streamed(body, has_options=False))

    def _message(self) -> Sent:
        body = {"messages": self._say(), "max_tokens": self._rng.randint(1, 60)}
        return Sent(MESSAGES, self._streamed(body, has_options=False))

    def _pooled(self) -> Sent:
        texts = [self._text() for _ in range(self._rng.randint(1, 4))]
        return self._rng.choice(
            (
                Sent("/v1/embeddings", {"input": texts}),
                Sent("/v1/embeddings", {"input": texts[0], "encoding_format": "bytes"}),
                Sent("/v1/score", {"text_1": self._text(), "text_2": texts}),
                Sent("/rerank", {"query": self._text(), "documents": texts}),
            )
        )

    def _refused(self) -> Sent:
        return self._rng.choice(
            (
                Sent(CHAT, {"messages": self._say(), "model": "nope"}),
                Sent(MESSAGES, {"messages": self._say(), "max_tokens": 3, "model": "nope"}),
                Sent(CHAT, {"messages": self._say(), "max_tokens": -1}),
                Sent(CHAT, {"messages": self._say(), "stream_options": {"include_usage": True}}),
                Sent(CHAT, {"messages": self._say(), "structured_outputs": {"regex": "(["}, "stream": True}),
                Sent(COMPLETIONS, "no object"),
            )
        )


async def send(url: str, key: str, sent: Sent) -> int | None:
    """Send a request; return its status once all of its answer is read, or None when the client left."""
    found = urlsplit(url)
    reader, writer = await asyncio.open_connection(found.hostname, found.port)
    body = json.dumps(sent.body).encode()
    head = f"POST {sent.path} HTTP/1.1\r\nHost: {found.netloc}\r\nAuthorization: Bearer {key}\r\nConnection: close\r\n"
    writer.write(
        head.encode() + f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    )
    await writer.drain()
    raw = b""
    try:
        if sent.leaves_after is None:
            raw = await reader.read()
            assert raw, f"no answer to {sent}"
            return int(raw.split(b" ", 2)[1])
        await asyncio.sleep(sent.leaves_after)
        if sent.leaves_after_bytes and "stream" in sent.body:
            await asyncio.wait_for(reader.read(sent.leaves_after_bytes), 10)
        return None
    finally:
        writer.close()


async def send_all(url: str, key: str, mix: list[Sent]) -> list[int | None]:
    gate = asyncio.Semaphore(AT_A_TIME)

    async def one(sent: Sent) -> int | None:
        async with gate:
            return await send(url, key, sent)

    return await asyncio.gather(*(one(sent) for sent in mix))


async def scrape(front: Any) -> Counter[str]:
    """Read the engine's counters, each summed over its labels, once nothing runs and two scrapes agree."""
    seen: list[Counter[str]] = []
    async with aiohttp.ClientSession() as session, asyncio.timeout(60):
        while len(seen) < 2 or seen[-1] != seen[-2] or seen[-1]["running"]:
            async with session.get(f"{front.vllm_url}/metrics") as answer:
                page = await answer.text()
            assert all(name in page for name in COUNTERS), "not reconcilable: vLLM runs with --disable-log-stats"
            counters: Counter[str] = Counter()
            for name, _, value in (line.rpartition(" ") for line in page.splitlines() if line.startswith("vllm:")):
                series = name.partition("{")[0]
                if series in COUNTERS:
                    counters[series] += int(float(value))
                if series in ("vllm:num_requests_running", "vllm:num_requests_waiting"):
                    counters["running"] += int(float(value))
            seen.append(counters)
            await asyncio.sleep(0.02)
    return seen[-1]


@dataclass(frozen=True)
class Left:
    """What the engine did for requests whose clients left: only the engine knows."""

    completion: int = 0
    prompt: int = 0
    """Of sequences that made a token; the others' prompts are no cost: aborted prefill."""
    finished_completion: int = 0
    finished_prompt: int = 0
    finished_sequences: int = 0
    """Children that had ended by themselves before the client left."""


class Books:
    """The log's rows of a run beside the differences of the engine's counters."""

    def __init__(self, rows: list[dict[str, Any]], before: Counter[str], after: Counter[str]) -> None:
        self.rows = rows
        self.moved = {name.removeprefix("vllm:"): after[name] - before[name] for name in COUNTERS}
        self.finished = [row for row in rows if row["end_reason"] == "complete"]
        self.left = [row for row in rows if row["end_reason"] == "client_gone"]
        self.failed = [row for row in rows if row["end_reason"] == "upstream_error"]

    @property
    def completion(self) -> int:
        return sum(row["completion_tokens"] for row in self.finished)

    @property
    def prompt(self) -> int:
        """Once for each of n choices, as the engine counts."""
        return sum(row["prompt_tokens"] * row["choices"] for row in self.finished)

    @property
    def left_completion(self) -> int:
        """What is known of left requests: exact where final, else a lower bound."""
        return sum(row["completion_tokens"] or 0 for row in self.left)

    @property
    def left_is_exact(self) -> bool:
        return all(row["usage_source"] == "engine_final" for row in self.left)

    def check_rows(self) -> None:
        """Exactly one end for each request, nothing unknown, and no tokens where the engine has none."""
        ids = [row["request_id"] for row in self.rows]
        assert len(ids) == len(set(ids))
        assert len(self.finished) + len(self.left) + len(self.failed) == len(self.rows)
        assert {row["usage_source"] for row in self.finished} == {"engine_final"}
        assert all(not row["completion_tokens"] and not row["prompt_tokens"] for row in self.failed)
        for row in self.left:
            assert (row["usage_source"] == "none") == (row["completion_tokens"] is None)

    def differences(self, left: Left, finished_sequences: int | None = None) -> dict[str, int]:
        """Work out what the identities leave unexplained, by counter; a whole log leaves nothing."""
        moved = self.moved
        unexplained = {
            "request_generation_tokens_sum": moved["request_generation_tokens_sum"]
            - (self.completion + left.finished_completion),
            "request_prompt_tokens_sum": moved["request_prompt_tokens_sum"] - (self.prompt + left.finished_prompt),
            "generation_tokens_total": moved["generation_tokens_total"] - (self.completion + left.completion),
            "prompt_tokens_total": moved["prompt_tokens_total"] - (self.prompt + left.prompt),
            "aborted": moved["generation_tokens_total"]
            - moved["request_generation_tokens_sum"]
            - (left.completion - left.finished_completion),
            "iteration_tokens_total_sum": moved["iteration_tokens_total_sum"]
            - (moved["prompt_tokens_total"] - moved["prompt_tokens_cached_total"] + moved["generation_tokens_total"]),
        }
        if finished_sequences is not None:
            unexplained["request_success_total"] = moved["request_success_total"] - (
                finished_sequences + left.finished_sequences
            )
        return {name: amount for name, amount in unexplained.items() if amount}


def finished_sequences(mix: list[Sent], statuses: list[int | None]) -> int:
    """Count the sequences of requests that were answered: what request_success_total counts."""
    return sum(
        sent.sequences
        for sent, status in zip(mix, statuses, strict=True)
        if status == 200 and "structured_outputs" not in sent.body
    )


def causes(front: Any, rows: list[dict[str, Any]]) -> Left:
    """Ask the simulated engine what it did for these requests."""
    ids = {row["request_id"] for row in rows}
    parts = []
    for ended in (ended for ended in front.vllm.ledger if ended.name in ids):
        for one in ended.sequences:
            is_finished = one.ended_as(ended.ended_us) not in (None, "abort")
            made, prompt = one.made(ended.ended_us), one.choice.prompt
            has_begun = one.counts(ended.ended_us)
            parts.append((made, prompt * has_begun, made * is_finished, prompt * is_finished, int(is_finished)))
    return Left(*(sum(column) for column in zip(*parts, strict=True))) if parts else Left()


def check_each_row(front: Any, books: Books) -> None:
    """Hold every row against the engine's own account of that request."""
    served = {one.request_id: one for one in front.vllm.served()}
    assert len(served) == len(front.vllm.ledger)
    assert set(served) <= {row["request_id"] for row in books.rows}, "the engine served what the log does not have"
    for row in (*books.finished, *books.left):
        true = served.get(row["request_id"])
        if true is None:
            assert row in books.left, "left before vLLM took it in"
            assert not row["completion_tokens"]
        elif row["usage_source"] == "engine_final":
            assert (row["prompt_tokens"], row["completion_tokens"]) == (true.prompt_tokens, true.completion_tokens)
        elif row["usage_source"] == "engine_partial":
            assert row["prompt_tokens"] <= true.prompt_tokens, "of a list, the prompts that have begun"
            assert row["completion_tokens"] <= true.completion_tokens


@pytest.mark.parametrize("has_abort_call", [True, False], ids=["abort_call", "no_abort_call"])
async def test_the_log_is_the_engines_counters_but_for_named_causes(
    open_front: Callable[..., Awaitable[Any]], has_abort_call: bool
) -> None:
    if IS_REAL and not has_abort_call:
        pytest.skip("whether a real vLLM has the abort call is up to its --enable-scale-out")
    front = await open_front(**FLAGS, scale_out=has_abort_call)
    before = await scrape(front)
    mix = Mix(SEED, front.model).draw(REQUESTS, leaving=0.34)
    statuses = await send_all(front.url, front.key, mix)
    rows = await front.ends()
    books = Books(rows, before, await scrape(front))

    assert len(rows) == REQUESTS
    assert REQUESTS // 8 < statuses.count(None) < REQUESTS // 2
    books.check_rows()
    rest = books.moved["generation_tokens_total"] - books.completion - books.left_completion
    sources = Counter(row["usage_source"] for row in books.left)
    print(f"engine {books.moved['generation_tokens_total']}, finished {books.completion}, left {books.left_completion}")
    print(f"rest {rest}, left rows {dict(sources)}")
    assert rest >= 0, "a log that has more tokens than the engine made"
    assert rest == 0 or not books.left_is_exact
    assert books.moved["request_generation_tokens_sum"] >= books.completion
    assert books.moved["request_prompt_tokens_sum"] >= books.prompt
    if not front.vllm:
        return
    left = causes(front, books.left)
    check_each_row(front, books)
    whole = sum(len(ended.sequences) for ended in ledger_of(front, books.finished))
    assert books.differences(left, whole) == {}
    assert rest == left.completion - books.left_completion
    assert_the_mix_is_worth_its_name(books, left, has_abort_call)


def ledger_of(front: Any, rows: list[dict[str, Any]]) -> Iterator[Any]:
    ids = {row["request_id"] for row in rows}
    return (ended for ended in front.vllm.ledger if ended.name in ids)


def assert_the_mix_is_worth_its_name(books: Books, left: Left, has_abort_call: bool) -> None:
    """The mix has everything in it, whatever the machine made of its timing."""
    assert len(books.left) > REQUESTS // 10
    assert len(books.failed) > 5
    assert left.completion > 0
    assert any(row["choices"] > 1 for row in books.left)
    assert {row["endpoint"] for row in books.finished} >= {CHAT, COMPLETIONS, RESPONSES, MESSAGES}
    sources = Counter(row["usage_source"] for row in books.left)
    assert sources["engine_final" if has_abort_call else "engine_partial"] > 0


async def test_without_leaving_clients_log_and_counters_agree_with_nothing_else_to_go_by(
    open_front: Callable[..., Awaitable[Any]],
) -> None:
    front = await open_front(**FLAGS)
    before = await scrape(front)
    mix = Mix(SEED + 1, front.model).draw(80, leaving=0)
    statuses = await send_all(front.url, front.key, mix)
    rows, after = await front.ends(), await scrape(front)
    books = Books(rows, before, after)
    whole = finished_sequences(mix, statuses)

    assert len(rows) == len(mix)
    books.check_rows()
    assert books.differences(Left(), whole) == {}

    # Negative controls: a lost row, a row too many, and a request past the proxy each break the identities.
    for row in books.finished:
        kept = [other for other in rows if other is not row]
        assert Books(kept, before, after).differences(Left(), whole)
    assert Books([*rows, books.finished[0]], before, after).differences(Left(), whole)
    past = Sent(CHAT, {"messages": [{"role": "user", "content": "past the proxy"}], "max_tokens": 3})
    assert await send(front.vllm_url, front.key, past) == 200
    assert Books(rows, before, await scrape(front)).differences(Left(), whole)


async def leave_at(front: Any, sent: Sent, mark: bytes) -> tuple[dict[str, Any], Books]:
    """Send a request, leave once a mark was read, and give its row and the books of it alone."""
    before = await scrape(front)
    found = urlsplit(front.url)
    reader, writer = await asyncio.open_connection(found.hostname, found.port)
    body = json.dumps(sent.body).encode()
    head = (
        f"POST {sent.path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    writer.write(head.encode() + body)
    await asyncio.wait_for(reader.readuntil(mark), 30)
    writer.close()
    (row,) = await front.ends()
    return row, Books([row], before, await scrape(front))


@pytest.mark.skipif(IS_REAL, reason="needs an engine as slow as told")
async def test_a_prompt_that_was_aborted_before_its_first_token_is_in_the_log_and_not_in_the_counters(
    open_front: Callable[..., Awaitable[Any]],
) -> None:
    front = await open_front(pace=Pace(prefill_us=60_000_000, register_us=0))
    sent = Sent(CHAT, {"messages": [{"role": "user", "content": "a b c"}], "n": 2, "stream": True})
    row, books = await leave_at(front, sent, b"\r\n\r\n")
    assert (row["end_reason"], row["usage_source"]) == ("client_gone", "engine_final")
    assert (row["prompt_tokens"], row["completion_tokens"]) == (10, 0)
    assert set(books.moved.values()) == {0}


@pytest.mark.skipif(IS_REAL, reason="needs to know which choice ends first")
@pytest.mark.parametrize("has_abort_call", [True, False], ids=["abort_call", "no_abort_call"])
async def test_a_finished_choice_of_a_left_request_is_in_the_finished_sums(
    open_front: Callable[..., Awaitable[Any]], has_abort_call: bool
) -> None:
    pace = Pace(tokens_per_second=40, prefill_us=1_000, register_us=0)
    front = await open_front(pace=pace, scale_out=has_abort_call)
    sent = Sent(COMPLETIONS, {"prompt": "x y", "n": 2, "stop": ["six"], "max_tokens": 4_000, "stream": True})
    row, books = await leave_at(front, sent, b'"finish_reason":"stop"')
    left = causes(front, [row])
    assert books.differences(left) == {}
    assert (left.finished_sequences, left.finished_prompt, left.prompt) == (1, 3, 6)
    assert 0 < left.finished_completion < left.completion
    assert row["end_reason"] == "client_gone"
    # With one left request the aborted tokens are its exact count; without the abort call the log has a lower bound.
    exact = books.moved["generation_tokens_total"]
    assert row["completion_tokens"] == exact if has_abort_call else row["completion_tokens"] <= exact
    assert row["usage_source"] == ("engine_final" if has_abort_call else "engine_partial")
