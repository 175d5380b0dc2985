"""Read and spell embeddings, scores and rankings: requests that have prompts and generate nothing.

Owns their members, made-up vectors and the places of their usage: in the body, in a header `metadata`
(`encoding_format` bytes), or nowhere (bytes_only). One sequence for each text or pair.

Source: vLLM 0.32.0; embeddings as recorded, bytes and the others' usage as measured.
"""

import json
import struct
from base64 import b64encode
from typing import Any

from spotinference_sim.vllm_ask import PROMPT_TOKENS, Ask, Choice, check_length, count_words, seed_of
from spotinference_sim.vllm_errors import AskError, invalid
from spotinference_sim.vllm_fields import read_texts, read_whole
from spotinference_sim.vllm_openai_ask import check_model
from spotinference_sim.vllm_options import Options
from spotinference_sim.vllm_totals import Tally
from spotinference_sim.vllm_wire import Outcome, Wire, dump, plain_usage

DIMENSIONS = 16
FLOAT_BYTES = 4
FORMATS = ("float", "base64", "bytes", "bytes_only")

Json = dict[str, Any]


def parse_embeddings(body: Json, options: Options) -> Ask:
    """Read texts or lists of token ids. Raises: AskError."""
    given = body.get("input")
    inputs = given if isinstance(given, list) and given and not isinstance(given[0], int) else [given]
    for one in inputs:
        if not isinstance(one, str | list):
            raise invalid("input", "Field required")
    if body.get("encoding_format", "float") not in FORMATS:
        raise invalid("encoding_format", f"Input should be one of {FORMATS}")
    check_model(body, options)
    if body.get("dimensions") is not None:
        raise AskError(400, f"Model {options.model} does not support dimensions.")
    counts = [(len(one) if isinstance(one, list) else count_words(one) + PROMPT_TOKENS, seed_of(one)) for one in inputs]
    return _ask("/v1/embeddings", body, counts, options)


def parse_score(body: Json, options: Options) -> Ask:
    """Read pairs of texts: one with each of several, or each with its like. Raises: AskError."""
    first = read_texts(body.get("text_1", body.get("queries")), "text_1")
    second = read_texts(body.get("text_2", body.get("documents")), "text_2")
    if len(first) not in (1, len(second)):
        raise AskError(400, f"Input lengths must be either 1:1, 1:N or N:N, got {len(first)}:{len(second)}.")
    return _pairs("/v1/score", body, first * (len(second) // len(first)), second, options)


def parse_rerank(body: Json, options: Options) -> Ask:
    """Read a query and documents. Raises: AskError."""
    query, documents = read_texts(body.get("query"), "query"), read_texts(body.get("documents"), "documents")
    read_whole(body.get("top_n"), "top_n", least=0)
    return _pairs("/v1/rerank", body, query * len(documents), documents, options)


def _pairs(endpoint: str, body: Json, first: list[str], second: list[str], options: Options) -> Ask:
    check_model(body, options)
    pairs = list(zip(first, second, strict=True))
    counts = [
        (count_words(one) + count_words(other) + 2 * PROMPT_TOKENS, seed_of([one, other])) for one, other in pairs
    ]
    return _ask(endpoint, body, counts, options)


def _ask(endpoint: str, body: Json, counts: list[tuple[int, int]], options: Options) -> Ask:
    for tokens, _ in counts:
        check_length(tokens, None, options.max_model_len)
    return Ask(endpoint, body, tuple(Choice(tokens, seed, 0, "stop") for tokens, seed in counts))


class PoolingWire(Wire):
    """What they have in common: nothing can be named by an abort call."""

    def engine_ids(self) -> tuple[str, ...]:
        """Name nothing."""
        return ()

    def _opening(self) -> Json:
        return {"id": self.id, "object": "list", "created": self.created, "model": self.options.model}

    def _usage(self, outcome: Outcome) -> Json:
        return plain_usage(Tally(outcome.tally.prompt, 0), chat=False)

    def _score(self, index: int) -> float:
        return (self.ask.choices[index].start % 1023 + 1) / 1024


class EmbeddingsWire(PoolingWire):
    """Vectors, as numbers, as text or as bytes."""

    prefix = "embd-"

    def __init__(self, ask: Ask, name: str, options: Options, created: int) -> None:
        super().__init__(ask, name, options, created)
        self._format = ask.body.get("encoding_format") or "float"
        if self._format.startswith("bytes"):
            self.media_type = "application/octet-stream"

    def _vector(self, index: int) -> list[float]:
        seed = self.ask.choices[index].start
        return [(seed * (place + 1) % 2_001 - 1_000) / 1024 for place in range(DIMENSIONS)]

    def _packed(self, index: int) -> bytes:
        return struct.pack(f"<{DIMENSIONS}f", *self._vector(index))

    def _metadata(self, outcome: Outcome) -> str:
        """Tell the usage beside bytes: as vLLM writes it, with blanks, and without completion tokens."""
        size = DIMENSIONS * FLOAT_BYTES
        rows = [
            {"index": index, "embed_dtype": "float32", "endianness": "native"}
            | {"start": index * size, "end": (index + 1) * size, "shape": [DIMENSIONS]}
            for index in range(len(self.ask.choices))
        ]
        opening = {name: said for name, said in self._opening().items() if name != "object"}
        prompt = outcome.tally.prompt
        return json.dumps(opening | {"data": rows, "usage": {"prompt_tokens": prompt, "total_tokens": prompt}})

    def body(self, outcome: Outcome) -> bytes:
        """Spell the vectors."""
        places = range(len(self.ask.choices))
        if self._format == "bytes":
            self.headers["metadata"] = self._metadata(outcome)
        if self.media_type != "application/json":
            return b"".join(self._packed(index) for index in places)
        rows = []
        for index in places:
            is_text = self._format == "base64"
            vector = b64encode(self._packed(index)).decode() if is_text else self._vector(index)
            rows.append({"index": index, "object": "embedding", "embedding": vector})
        return dump(self._opening() | {"data": rows, "usage": self._usage(outcome)})


class ScoreWire(PoolingWire):
    """One number for each pair."""

    prefix = "score-"

    def body(self, outcome: Outcome) -> bytes:
        """Spell the numbers."""
        places = range(len(self.ask.choices))
        rows = [{"index": index, "object": "score", "score": self._score(index)} for index in places]
        return dump(self._opening() | {"data": rows, "usage": self._usage(outcome)})


class RerankWire(PoolingWire):
    """The documents, the best first."""

    prefix = "rerank-"

    def body(self, outcome: Outcome) -> bytes:
        """Spell the ranking; its usage has no completion_tokens."""
        texts = read_texts(self.ask.body.get("documents"), "documents")
        places = sorted(range(len(texts)), key=lambda index: -self._score(index))
        top = read_whole(self.ask.body.get("top_n"), "top_n", least=0) or len(texts)
        rows = [
            {"index": index, "document": {"text": texts[index], "multi_modal": None}}
            | {"relevance_score": self._score(index)}
            for index in places[:top]
        ]
        usage = {"prompt_tokens": outcome.tally.prompt, "total_tokens": outcome.tally.prompt}
        return dump({"id": self.id, "model": self.options.model, "usage": usage, "results": rows})
