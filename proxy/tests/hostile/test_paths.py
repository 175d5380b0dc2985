"""Rows 37 to 39: paths that are not clients' do not exist, the two listeners stay apart, no page may call us."""

import pytest

NOT_FOUND = [
    "/", "//", "/v1", "/v1/", "//v1/models", "/v1//models", "/v1/models/", "/v1/models//", "/V1/models", "/v1/Models",
    "/./v1/models", "/v1/./models", "/v1/models/.", "/v1/models/..", "/v1/../metrics", "/v1/models/../../metrics",
    "/v1/models/./otter", "/v1/models/x/../../../metrics", "/v1/models;a=b", "/v1;a/models", "/v1/models/%2e%2e/%2e%2e/metrics",
    "/v1/%2e%2e/metrics", "/v1/%2E%2E/metrics", "/v1/%252e%252e/metrics", "/%76%31/../metrics", "/v1%2Fmodels", "/v1%2fmodels",
    "/v1%5cmodels", "/v1/models%00", "/v1/models%00/otter", "/v1/models%0d%0aX-A:%20b", "/v1/models%20", "/v1/models%3Fa",
    "/v1/models%23", "/v1/mod%65ls", "/v1/..%2fmetrics", "/v1/..%c0%afmetrics", "/v1/%", "/v1/models%zz",
    "/metrics", "/health", "/healthz", "/readyz", "/ping", "/version", "/load", "/docs", "/redoc", "/openapi.json",
    "/server_info", "/reset_prefix_cache", "/sleep", "/wake_up", "/is_sleeping", "/collective_rpc", "/scale_elastic_ep",
    "/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/invocations", "/abort_requests", "/inference/v1/generate",
    "/inference/v1/abort_requests", "/start_profile", "/stop_profile", "/update_weights", "/pause", "/resume",
    "/v1/realtime", "/v1/nonsense", "/v1/chat/completions/", "/v1/chat/completions/extra", "/v1/chat",
    "/v1/completions;jsessionid=1", "/v1/chat%2fcompletions", "/v1/chat/completions%2f..%2f..%2f..%2fmetrics",
    "/v2/models", "/tokenizer_info", "/rerank/", "/score/..", "/v1/files", "/v1/" + "a" * 6000, "/v1" * 3000,
    "/v1/responses/../../metrics", "/v1/responses/a/b/cancel", "/v1/responses/%2e%2e/cancel", "/@canary.test/v1/models",
    "/http://canary.test/v1/models", "/v1/models@canary.test",
]  # fmt: skip


@pytest.fixture(scope="module")
def front(open_front):
    return open_front()


def short(path: str) -> str:
    return path[:40]


@pytest.mark.parametrize("path", NOT_FOUND, ids=short)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_F037_a_path_that_is_not_clients_does_not_exist(front, corpus, make_wire, path, method) -> None:
    mark = front.upstream.mark()
    with make_wire(front.address) as wire:
        wire.send(corpus.get(line=f"{method} {path} HTTP/1.1".encode()))
        answer = wire.read()
        wire.send(corpus.get(line=f"{method} {path}?a=/v1/models HTTP/1.1".encode()))
    assert answer.status in (400, 404, 405 if path == "/v1/completions" else 404)
    assert b"canary" not in answer.raw
    assert front.upstream.since(mark) == []


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("GET /v1/models?limit=1&x=%2F..%2F", 200),
        ("GET /v1/models/otter", 200),
        ("GET /v1/models/org/otter-7b.1", 200),
        ("GET /v1/models?", 200),
        ("POST /v1/completions?a=b/../c", 200),
        ("POST /v1/chat/completions?beta=true", 200),
        ("GET /v1/completions", 405),
        ("POST /v1/models", 405),
    ],
)
def test_F037_a_query_is_nothing_to_choose_by(front, corpus, make_wire, line, status) -> None:
    mark = front.upstream.mark()
    with make_wire(front.address) as wire:
        fields = "Content-Length: 0\r\n" if line.startswith("POST") else ""
        wire.send(corpus.get(fields, line=f"{line} HTTP/1.1".encode()))
        assert wire.read().status == status
    assert [f"{one.method} {one.target}" for one in front.upstream.since(mark)] == [line] * (status == 200)


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
def test_F038_the_operators_pages_are_on_their_own_address(front, corpus, make_wire, path) -> None:
    mark = front.upstream.mark()
    for address, status in ((front.address, 404), (front.admin_address, 200)):
        with make_wire(address) as wire:
            wire.send(corpus.get(line=f"GET {path} HTTP/1.1".encode()))
            assert wire.read().status == status
    assert front.upstream.since(mark) == []


@pytest.mark.parametrize("line", ["GET /v1/models", "POST /v1/completions", "POST /healthz", "GET /", "GET /metrics/"])
def test_F038_the_operators_address_serves_no_client(front, corpus, make_wire, line) -> None:
    mark = front.upstream.mark()
    with make_wire(front.admin_address) as wire:
        wire.send(corpus.get(line=f"{line} HTTP/1.1".encode()))
        assert wire.read().status in (404, 405)
    assert front.upstream.since(mark) == []


def test_F038_the_operators_address_refuses_the_corpus_too(front, corpus, make_wire) -> None:
    mark = front.upstream.mark()
    for case in corpus.REFUSED:
        with make_wire(front.admin_address) as wire:
            wire.send(case.raw)
            if case.ends:
                wire.end()
            answer = wire.read()
        assert answer is None or answer.status in (*case.statuses, 404, 405, 415), case.name
    assert front.upstream.since(mark) == []


@pytest.mark.parametrize("method", ["OPTIONS", "HEAD"])
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/v1/models", "/metrics"])
def test_F039_a_preflight_is_refused(front, corpus, make_wire, method, path) -> None:
    mark = front.upstream.mark()
    fields = "Origin: http://canary.test\r\nAccess-Control-Request-Method: POST\r\n"
    with make_wire(front.address) as wire:
        wire.send(corpus.get(fields, line=f"{method} {path} HTTP/1.1".encode()))
        head = wire.read_head()
    assert b"HTTP/1.1 404" in head or b"HTTP/1.1 405" in head
    assert b"access-control" not in head.lower()
    assert front.upstream.since(mark) == []


def test_F039_no_answer_invites_other_pages(front, corpus, make_wire) -> None:
    """Neither one of vLLM's (started with CORS on), nor one of the proxy's own."""
    allowed = "Access-Control-Allow-Origin: *\r\nAccess-Control-Allow-Credentials: true\r\nAccess-Control-Expose-Headers: *\r\n"
    body = b"{}"
    front.upstream.say(f"HTTP/1.1 200 OK\r\n{allowed}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    for line in ("GET /v1/models", "POST /v1/completions", "GET /nowhere", "GET /v1/completions", "GET  /v1/models"):
        with make_wire(front.address) as wire:
            wire.send(
                corpus.get("Origin: http://canary.test\r\nContent-Length: 0\r\n", line=f"{line} HTTP/1.1".encode())
            )
            answer = wire.read()
        assert not [name for name in answer.fields if name.startswith("access-control")]
        assert b"canary" not in answer.raw
