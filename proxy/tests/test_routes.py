"""Which paths clients may use."""

import pytest
from spotinference_proxy.routes import makes_tokens, method_of


@pytest.mark.parametrize(
    "path",
    [
        "/v1/chat/completions",
        "/v1/chat/completions/batch",
        "/v1/completions",
        "/v1/responses",
        "/v1/messages",
        "/v1/embeddings",
        "/v1/audio/transcriptions",
        "/rerank",
        "/v2/rerank",
        "/score",
    ],
)
def test_what_makes_tokens_is_posted_and_logged(path: str) -> None:
    assert method_of(path) == "POST"
    assert makes_tokens(path)


@pytest.mark.parametrize(
    ("path", "method"),
    [
        ("/v1/models", "GET"),
        ("/v1/models/org/x-7b:latest", "GET"),
        ("/v1/responses/resp_1", "GET"),
        ("/v1/responses/resp_1/cancel", "POST"),
        ("/tokenize", "POST"),
        ("/detokenize", "POST"),
        ("/v1/messages/count_tokens", "POST"),
    ],
)
def test_what_makes_none_passes_and_is_not_logged(path: str, method: str) -> None:
    assert method_of(path) == method
    assert not makes_tokens(path)


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v1",
        "/v1/",
        "/v1/chat/completions/",
        "/v1/load_lora_adapter",
        "/metrics",
        "/health",
        "/v1/../metrics",
        "/v1/%2e%2e/metrics",
        "//v1/models",
        "/v1//models",
        "/v1/./models",
        "/v1/models/../x",
        "/v1/models/a%2fb",
        "/invocations",
        "/inference/v1/abort_requests",
        "http://x/v1/models",
        "/v1/a%5cb",
        "/v1/a%00",
        "/v1/..%2fmetrics",
        "/v1/responses/" + "a" * 129,
    ],
)
def test_F037_other_paths_and_path_tricks_are_not_on_the_list(path: str) -> None:
    assert method_of(path) is None
