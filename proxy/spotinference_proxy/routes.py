"""Which of vLLM's paths clients may use, by which methods, and which of them make tokens.

Owns the list: a path that is not on it is not found, whatever vLLM has there (`/metrics`, LoRA loading and
`/invocations`, which no key of vLLM's guards, are not for clients). A path is compared as it was sent: one with
escapes, dots or a second spelling is not on the list. Rests on vLLM's routes
(https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html).
"""

import re

_MAKES_TOKENS = frozenset(
    {"/v1/chat/completions", "/v1/chat/completions/batch", "/v1/completions", "/v1/responses", "/v1/messages"}
    | {"/v1/embeddings", "/v1/score", "/v1/rerank", "/v1/audio/transcriptions", "/v1/audio/translations"}
    | {"/score", "/rerank", "/v2/rerank", "/v2/embed", "/pooling", "/classify"}
)
_TOKEN_FREE = frozenset(
    {"/tokenize", "/detokenize", "/v1/messages/count_tokens"}
    | {"/v1/chat/completions/render", "/v1/completions/render"}
)
_READ = frozenset({"/v1/models"})
_READ_PATTERN = re.compile(
    r"/v1/(?:responses/[A-Za-z0-9_\-]{1,128}|models(?:/[A-Za-z0-9][A-Za-z0-9_.:@\-]{0,127}){1,4})"
)
_CANCEL_PATTERN = re.compile(r"/v1/responses/[A-Za-z0-9_\-]{1,128}/cancel")


def method_of(path: str) -> str | None:
    """Return the method a path is used by, or None for a path clients may not use."""
    if path in _MAKES_TOKENS or path in _TOKEN_FREE or _CANCEL_PATTERN.fullmatch(path):
        return "POST"
    if path in _READ or _READ_PATTERN.fullmatch(path):
        return "GET"
    return None


def makes_tokens(path: str) -> bool:
    """Tell whether requests to a path belong in the log."""
    return path in _MAKES_TOKENS
