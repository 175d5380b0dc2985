"""Which of the simulated vLLM's paths make tokens, who reads their bodies and who spells their answers.

Owns the table. Does not own the other routes (`vllm`).

Source: vLLM 0.32.0, endpoints by the model's task.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from spotinference_sim.vllm_ask import Ask
from spotinference_sim.vllm_audio import (
    TRANSCRIPTIONS,
    TRANSLATIONS,
    AudioWire,
    parse_transcription,
    parse_translation,
    read_form,
)
from spotinference_sim.vllm_fields import check_media_type, parse_body
from spotinference_sim.vllm_messages import MESSAGES, MessagesWire, parse_messages
from spotinference_sim.vllm_openai_ask import BATCH, CHAT, TEXT, parse_batch, parse_chat, parse_text
from spotinference_sim.vllm_openai_wire import ChatWire, TextWire
from spotinference_sim.vllm_options import GENERATE, POOLING, SPEECH, Options
from spotinference_sim.vllm_pooling import (
    EmbeddingsWire,
    RerankWire,
    ScoreWire,
    parse_embeddings,
    parse_rerank,
    parse_score,
)
from spotinference_sim.vllm_responses import RESPONSES, ResponsesWire, parse_responses
from spotinference_sim.vllm_wire import Wire

Json = dict[str, Any]


async def read_json(request: web.Request) -> Json:
    """Read a body of JSON; `content-encoding` is not looked at. Raises: AskError."""
    check_media_type(request.headers.get("Content-Type"))
    return parse_body(await request.read())


@dataclass(frozen=True)
class Endpoint:
    """One path that makes tokens."""

    task: str
    parse: Callable[[Json, Options], Ask]
    wire: type[Wire]
    read: Callable[[web.Request], Awaitable[Json]] = read_json


_SCORE = Endpoint(POOLING, parse_score, ScoreWire)
_RERANK = Endpoint(POOLING, parse_rerank, RerankWire)
ENDPOINTS = {
    CHAT: Endpoint(GENERATE, parse_chat, ChatWire),
    BATCH: Endpoint(GENERATE, parse_batch, ChatWire),
    TEXT: Endpoint(GENERATE, parse_text, TextWire),
    RESPONSES: Endpoint(GENERATE, parse_responses, ResponsesWire),
    MESSAGES: Endpoint(GENERATE, parse_messages, MessagesWire),
    "/v1/embeddings": Endpoint(POOLING, parse_embeddings, EmbeddingsWire),
    "/v1/score": _SCORE,
    "/score": _SCORE,
    "/v1/rerank": _RERANK,
    "/v2/rerank": _RERANK,
    "/rerank": _RERANK,
    TRANSCRIPTIONS: Endpoint(SPEECH, parse_transcription, AudioWire, read_form),
    TRANSLATIONS: Endpoint(SPEECH, parse_translation, AudioWire, read_form),
}
