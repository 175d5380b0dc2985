import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spotinference_proxy import usage as usage_module
from spotinference_proxy.sse import EventSplitter
from spotinference_proxy.usage import Usage, UsageReader, parse_object, parse_usage

CHAT = "/v1/chat/completions"
SSE = "text/event-stream"


def read(body: bytes, cuts: list[int], choices: int = 1) -> tuple:
    reader = UsageReader(CHAT, 200, SSE, choices)
    edges = [0, *sorted(cut for cut in cuts if cut <= len(body)), len(body)]
    for start, end in pairwise(edges):
        reader.feed(body[start:end])
    reader.finish()
    return reader.usage, reader.is_final, reader.outcome, reader.model


events = st.lists(
    st.one_of(
        st.builds(
            lambda index, text, n: {
                "model": "otter",
                "choices": [{"index": index, "delta": {"content": text}}],
                "usage": {"prompt_tokens": 7, "completion_tokens": n},
            },
            st.integers(0, 2),
            st.text(max_size=12),
            st.integers(0, 50),
        ),
        st.just({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 9}}),
        st.just({"error": {"message": "x"}}),
        st.just({"choices": []}),
        st.just([1, 2]),
    ),
    max_size=8,
)


@given(events, st.sampled_from(["\n", "\r\n", "\r"]), st.lists(st.integers(0, 2000), max_size=12), st.booleans())
def test_F022_any_cut_of_any_stream_gives_the_same(found, line_end, cuts, has_end) -> None:
    text = "".join(f"data: {json.dumps(e, ensure_ascii=False)}\n\n: note\n\n" for e in found)
    body = (text + "data: [DONE]\n\n" * has_end).replace("\n", line_end).encode()
    assert read(body, cuts) == read(body, [])


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=6))
def test_garbage_is_no_usage_and_no_error(body: bytes, cuts: list[int]) -> None:
    usage, is_final, *_ = read(body, cuts)
    assert usage is None
    assert not is_final


@pytest.mark.parametrize(
    "found",
    [
        None,
        3,
        [],
        {},
        {"prompt_tokens": 5},
        {"prompt_tokens": None, "completion_tokens": 1},
        {"prompt_tokens": True, "completion_tokens": 1},
        {"prompt_tokens": 5.0, "completion_tokens": 1},
        {"prompt_tokens": "5", "completion_tokens": 1},
        {"prompt_tokens": -1, "completion_tokens": 1},
        {"prompt_tokens": 2**63, "completion_tokens": 1},
        {"prompt_tokens": 9, "total_tokens": 4},
        {"prompt_tokens": 9, "total_tokens": 12, "completion_tokens": None},
        {"input_tokens": 9},
        {"input_tokens": 9, "output_tokens": 1, "cache_read_input_tokens": -4},
        {"type": "duration", "seconds": 3},
    ],
)
def test_F023_what_is_absurd_or_missing_is_unknown_not_zero(found: object) -> None:
    assert parse_usage(found) is None


def test_details_may_be_absent_null_or_odd() -> None:
    base = {"prompt_tokens": 5, "completion_tokens": 1}
    for details in (None, 7, {}, {"cached_tokens": None}, {"cached_tokens": -1}):
        assert parse_usage(base | {"prompt_tokens_details": details}) == Usage(5, 1)
    assert parse_usage(base | {"prompt_tokens_details": {"cached_tokens": 0}}) == Usage(5, 1, 0)


@pytest.mark.parametrize("text", [b"NaN", b'{"a":NaN}', b'{"a":Infinity}', b"[" * 100_000, b"\xff", b"[1]", b""])
def test_only_strict_json_objects_are_read(text: bytes) -> None:
    assert parse_object(text) is None


def test_an_event_over_the_limit_passes_by_and_the_next_is_read() -> None:
    splitter = EventSplitter(max_event_bytes=50)
    body = b"data: " + b"x" * 200 + b"\n\ndata: [DONE]\n\n"
    pieces = [piece for i in range(0, len(body), 7) for piece in splitter.feed(body[i : i + 7])]
    assert b"".join(piece.content for piece in pieces) == body
    assert [piece.content for piece in pieces if piece.is_event] == [b"data: [DONE]\n\n"]


def test_a_plain_answer_over_the_limit_has_unknown_usage() -> None:
    reader = UsageReader(CHAT, 200, "application/json")
    reader.feed(b'{"usage":{"prompt_tokens":1,"completion_tokens":1},"x":"')
    for _ in range(usage_module.MAX_JSON_BYTES // 2**22 + 1):
        reader.feed(bytes(2**22))
    reader.feed(b'"}')
    reader.finish()
    assert (reader.usage, reader.outcome) == (None, "done")


def test_nothing_counts_after_the_end_of_a_stream() -> None:
    late = b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}\n\n'
    assert read(b"data: [DONE]\n\n" + late, [])[0] is None


def test_odd_choices_and_odd_typed_events_are_passed_over() -> None:
    usage = '"usage":{"prompt_tokens":1,"completion_tokens":1}'
    for text in (
        f'{{"choices":[3,{{"index":-1}}],{usage}}}',
        f'{{"choices":null,{usage}}}',
        '{"type":"ping"}',
    ):
        assert read(f"data: {text}\n\n".encode(), [])[0] is None
    reader = UsageReader("/v1/responses", 200, SSE)
    reader.feed(b'data: {"type":"response.completed","response":null}\n\n')
    assert (reader.usage, reader.outcome) == (None, "done")


def test_an_error_in_a_stream_of_unknown_kind_ends_it_as_one() -> None:
    reader = UsageReader("/v1/audio/transcriptions", 200, SSE)
    reader.feed(b'data: {"error":{"message":"x"}}\n\n')
    reader.finish()
    assert reader.outcome == "error"
