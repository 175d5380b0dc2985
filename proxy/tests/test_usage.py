import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spotinference_proxy import usage as usage_module
from spotinference_proxy.usage import AnswerReader, Usage, dialect_of

CHAT = "/v1/chat/completions"
SSE = "text/event-stream"
USAGE = '"usage":{"prompt_tokens":1,"completion_tokens":1}'


def read(body: bytes, cuts: list[int] = [], *, endpoint: str = CHAT, hides: bool = False) -> tuple:  # noqa: B006
    reader = AnswerReader(endpoint, 200, SSE, hides_final=hides, hides_running=hides)
    edges = [0, *sorted(cut for cut in cuts if cut <= len(body)), len(body)]
    shown = [reader.feed(body[start:end]) for start, end in pairwise(edges)] + [reader.finish()]
    return reader.usage, reader.is_final, reader.outcome, reader.model, reader.is_implausible, b"".join(shown)


events = st.lists(
    st.one_of(
        st.builds(
            lambda index, text, n, reason: {
                "model": "otter",
                "choices": [{"index": index, "delta": {"content": text}, "finish_reason": reason}],
                "usage": {"prompt_tokens": 7, "completion_tokens": n},
            },
            st.one_of(st.integers(-1, 2), st.just(1.0), st.just(10**30)),
            st.text(max_size=12),
            st.one_of(st.integers(-1, 50), st.just(2.5), st.just(10**30)),
            st.sampled_from([None, None, "stop", 3]),
        ),
        st.just({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 9}}),
        st.just({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 9}, "system_fingerprint": "v"}),
        st.just({"type": "message_delta", "usage": {"input_tokens": 7, "output_tokens": 9}}),
        st.just({"type": "response.completed", "response": {"id": "r", "usage": {"input_tokens": 1}}}),
        st.just({"error": {"message": "x"}}),
        st.just({"choices": []}),
        st.just([1, 2]),
    ),
    max_size=8,
)


@given(
    events,
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.lists(st.integers(0, 2000), max_size=12),
    st.booleans(),
    st.booleans(),
)
def test_F022_any_cut_of_any_stream_gives_the_same(found, line_end, cuts, has_end, hides) -> None:
    text = "".join(f"data: {json.dumps(e, ensure_ascii=False)}\n\n: note\n\n" for e in found)
    body = (text + "data: [DONE]\n\n" * has_end).replace("\n", line_end).encode()
    assert read(body, cuts, hides=hides) == read(body, hides=hides)
    assert read(body, cuts)[-1] == body


vllm_events = st.lists(
    st.builds(
        lambda text, tokens, reason, extra, indexes: {
            "id": "chatcmpl-1",
            "model": "otter",
            "choices": [
                {"index": i, "delta": {"content": text, **extra}, "logprobs": None, "finish_reason": reason}
                for i in indexes
            ],
            "usage": {"prompt_tokens": 7, "total_tokens": 7 + tokens, "completion_tokens": tokens},
        },
        st.one_of(st.text(max_size=12), st.sampled_from([',"usage":{}', '"choices":[{"index":0,', "}}\n\n", "\r"])),
        st.integers(0, 50),
        st.sampled_from([None, None, None, "stop"]),
        st.sampled_from([{}, {}, {"tool_calls": [{"index": 0, "finish_reason": None}]}, {"usage": {"a": 1}}]),
        st.sampled_from([[0], [0], [1], [0, 1], []]),
    ),
    max_size=8,
)


@given(vllm_events, st.booleans())
def test_an_event_that_comes_whole_is_read_as_one_that_comes_in_parts(found: list[dict], has_end: bool) -> None:
    texts = [f"data: {json.dumps(e, ensure_ascii=False, separators=(',', ':'))}\n\n".encode() for e in found]
    texts += [b"data: [DONE]\n\n"] * has_end
    edges = [sum(map(len, texts[:i])) for i in range(1, len(texts) + 1)]
    whole = read(b"".join(texts), edges[:-1], hides=True)
    assert whole == read(b"".join(texts), sorted(edges[:-1] + [edge - 2 for edge in edges]), hides=True)
    hidden = [e for e in found if e["choices"]]
    shown = [json.loads(line[6:]) for line in whole[-1].split(b"\n\n") if line.startswith(b"data: {")]
    assert shown == [{key: value for key, value in e.items() if key != "usage"} for e in hidden]


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=6), st.sampled_from(["", "messages", "x"]))
def test_garbage_is_no_usage_and_no_error(body: bytes, cuts: list[int], endpoint: str) -> None:
    usage, is_final, *_, shown = read(body, cuts, endpoint=f"/v1/{endpoint}", hides=True)
    assert usage is None
    assert not is_final
    assert shown == body
    reader = AnswerReader(CHAT, 200, "application/json")
    assert (reader.feed(body), reader.finish(), reader.usage) == (body, b"", None)


def test_what_only_passes_passes_at_once() -> None:
    reader = AnswerReader(CHAT, 200, SSE)
    for chunk in (b"da", b'ta: {"choices":[', b"]}\n", b"\n: x"):
        assert reader.feed(chunk) is chunk
    assert reader.finish() == b""


def test_a_stream_that_hides_passes_event_by_event() -> None:
    reader = AnswerReader(CHAT, 200, SSE, hides_running=True)
    assert [reader.feed(chunk) for chunk in (b"data: 1", b"\n", b"\ndata: 2\n\nda", b"ta: 3")] == [
        b"",
        b"",
        b"data: 1\n\ndata: 2\n\n",
        b"",
    ]
    assert reader.finish() == b"data: 3"


def test_nothing_is_hidden_in_what_is_no_stream() -> None:
    body = f'{{"choices":[],{USAGE}}}'.encode()
    reader = AnswerReader(CHAT, 200, "application/json", hides_final=True, hides_running=True)
    assert (reader.feed(body), reader.finish(), reader.usage) == (body, b"", Usage(1, 1))


def test_a_plain_answer_over_the_limit_has_unknown_usage() -> None:
    reader = AnswerReader(CHAT, 200, "application/json")
    reader.feed(b'{"usage":{"prompt_tokens":1,"completion_tokens":1},"x":"')
    for _ in range(usage_module.MAX_JSON_BYTES // 2**22 + 1):
        reader.feed(bytes(2**22))
    reader.feed(b'"}')
    reader.finish()
    assert (reader.usage, reader.outcome) == (None, "done")


@pytest.mark.parametrize("content_type", ["", "application/json; charset=utf-8", "Application/JSON"])
def test_a_plain_answer_may_begin_with_a_byte_order_mark(content_type: str) -> None:
    reader = AnswerReader(CHAT, 200, content_type)
    for chunk in (b"\xef\xbb\xbf{", USAGE.encode(), b',"model":"m\xc3\xb6"}'):
        reader.feed(chunk)
    reader.finish()
    assert (reader.usage, reader.model, reader.is_stream) == (Usage(1, 1), "mö", False)


def test_the_content_type_tells_a_stream() -> None:
    assert AnswerReader(CHAT, 200, "Text/Event-Stream; charset=utf-8").is_stream


def test_nothing_counts_after_the_end_of_a_stream() -> None:
    late = f'data: {{"choices":[],{USAGE}}}\n\n'.encode()
    assert read(b"data: [DONE]\n\n" + late)[0] is None
    assert read(b"data: [DONE]\n\n" + late, hides=True)[-1].endswith(late)


@pytest.mark.parametrize(
    "text",
    [
        f'{{"choices":[3,{{"index":-1}}],{USAGE}}}',
        f'{{"choices":null,{USAGE}}}',
        f'{{"choices":{{}},{USAGE}}}',
        f"{{{USAGE}}}",
        '{"type":"ping"}',
        '{"type":7,"choices":[]}',
        '{"type":"message_start","message":"x"}',
        '{"type":"message_start"}',
        '{"type":"response.completed","response":[1]}',
    ],
)
def test_odd_choices_and_odd_typed_events_are_passed_over(text: str) -> None:
    usage, is_final, *_, is_implausible, _ = read(f"data: {text}\n\n".encode())
    assert (usage, is_final, is_implausible) == (None, False, False)


def test_a_chunk_that_names_a_type_is_still_a_chunk() -> None:
    event = f'data: {{"type":"chunk","error":null,"choices":[],{USAGE}}}\n\n'.encode()
    assert read(event, hides=True)[0] == Usage(1, 1)
    assert read(event, hides=True)[-1] == b""


def test_a_responses_stream_may_end_without_usage() -> None:
    reader = AnswerReader("/v1/responses", 200, SSE)
    reader.feed(b'data: {"type":"response.completed","response":null}\n\n')
    assert (reader.usage, reader.outcome) == (None, "done")


@pytest.mark.parametrize("endpoint", ["/v1/audio/transcriptions", CHAT])
def test_an_error_ends_a_stream_as_one(endpoint: str) -> None:
    assert read(b'data: {"error":{"message":"x"}}\n\n', endpoint=endpoint)[2] == "error"
    assert read(b'data: {"error":"x"}\n\ndata: [DONE]\n\n', endpoint=endpoint)[2] == "error"


def test_names_that_are_no_unicode_do_no_harm() -> None:
    for name, expected in (('"\\ud800"', "?"), ("3", None), ('""', None)):
        assert read(f'data: {{"model":{name},"choices":[{{}}]}}\n\n'.encode())[3] == expected


@pytest.mark.parametrize(
    ("endpoint", "dialect"),
    [
        (CHAT, "openai"),
        ("/v1/completions", "openai"),
        ("/v1/chat/completions/batch", "other"),
        ("/v1/responses", "responses"),
        ("/v1/messages", "messages"),
        ("/v1/messages/count_tokens", "other"),
        ("/v1/embeddings", "other"),
    ],
)
def test_the_endpoint_tells_the_dialect(endpoint: str, dialect: str) -> None:
    assert dialect_of(endpoint) == dialect
