"""Which paths clients may use."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from spotinference_proxy import routes
from spotinference_proxy.routes import makes_tokens, method_of

EDGE = Path(__file__).parents[2] / "deploy" / "haproxy-edge.cfg"
ALLOWED = (
    *("/v1/models/org/x-7b:latest", "/v1/models/a/b/c/d", "/v1/responses/resp_1", "/v1/responses/resp_1/cancel"),
    *("/v1/responses/" + "a" * 128, "/v1/models/" + "a" * 128),
)
REFUSED = (
    *("/", "/v1", "/v1/", "/v1/chat/completions/", "/v1/load_lora_adapter", "/metrics", "/health", "/v1/../metrics"),
    *("/v1/%2e%2e/metrics", "//v1/models", "/v1//models", "/v1/./models", "/v1/models/../x", "/v1/models/a%2fb"),
    *("/invocations", "/inference/v1/abort_requests", "http://x/v1/models", "/v1/a%5cb", "/v1/a%00"),
    *("/v1/..%2fmetrics", "/v1/responses/" + "a" * 129, "/v1/models/a/b/c/d/e", "/v1/models/" + "a" * 129),
    *("/v1/responses/a/b", "/v1/responses/a/cancel/", "/v1/models/"),
)


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


@pytest.mark.parametrize("path", REFUSED)
def test_F037_other_paths_and_path_tricks_are_not_on_the_list(path: str) -> None:
    assert method_of(path) is None


@pytest.fixture(scope="module")
def passes_the_edge() -> Callable[[str], bool]:
    """Tell whether HAProxy would pass a path: one of a list, or a form, as its configuration has them."""
    names: set[str] = set()
    forms: list[re.Pattern[str]] = []
    for kind, rest in re.findall(r"^    acl is_route (path|path_reg) (.+)$", EDGE.read_text(), flags=re.MULTILINE):
        if kind == "path":
            names |= set(rest.split())
        else:
            forms.append(re.compile(rest))
    assert "http-request deny deny_status 404 unless is_route\n" in EDGE.read_text()
    return lambda path: path in names or any(form.search(path) for form in forms)


def test_the_edge_passes_the_paths_of_the_proxy(passes_the_edge: Callable[[str], bool]) -> None:
    listed = routes._MAKES_TOKENS | routes._TOKEN_FREE | routes._READ
    assert [path for path in sorted(listed) if not passes_the_edge(path)] == []
    assert [path for path in ALLOWED if not (passes_the_edge(path) and method_of(path))] == []


def test_F037_the_edge_passes_no_other_path(passes_the_edge: Callable[[str], bool]) -> None:
    assert [path for path in REFUSED if passes_the_edge(path)] == []
