import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spotinference_proxy.errors import BodyError
from spotinference_proxy.inject import ClientRequest, is_true, read_request

CHAT = "/v1/chat/completions"


def asked(text: str | bytes, endpoint: str = CHAT):
    return read_request(endpoint, text.encode() if isinstance(text, str) else text)


@pytest.mark.parametrize("value", [True, 1, 1.0, "true", "TRUE", "1", "yes", "On", "t", "Y"])
def test_what_vllm_takes_for_true(value: object) -> None:
    assert is_true(value)
    assert asked(json.dumps({"stream": value})).hides_final_usage


@pytest.mark.parametrize("value", [False, 0, None, "false", "no", "off", "", 2, [], {}, " true"])
def test_what_vllm_does_not_take_for_true(value: object) -> None:
    assert not is_true(value)
    text = json.dumps({"stream": value}).encode()
    assert asked(text).body == text


@pytest.mark.parametrize(
    "options",
    [
        "",
        ',"stream_options":null',
        ',"stream_options":{}',
        ',"stream_options":{"include_usage":false,"continuous_usage_stats":true}',
    ],
)
def test_usage_is_asked_for_and_hidden(options: str) -> None:
    found = asked('{ "seed": 1.0e2, "stream":true' + options + " }\n")
    assert found.body.startswith(b'{ "seed": 1.0e2, "stream":true')
    assert found.body.endswith(b"}\n")
    wanted = {"include_usage": True, "continuous_usage_stats": True}
    assert json.loads(found.body)["stream_options"] == wanted
    assert (found.hides_final_usage, found.hides_running_usage) == (True, True)


def test_a_clients_own_options_are_kept() -> None:
    found = asked('{"stream":1,"stream_options":{"include_usage":"yes","x":{"a":1}}}')
    options = json.loads(found.body)["stream_options"]
    assert options == {"include_usage": True, "continuous_usage_stats": True, "x": {"a": 1}}
    assert (found.hides_final_usage, found.hides_running_usage) == (False, True)
    odd = asked('{"stream":1,"stream_options":{ "x": [1.00, 1e999,\n"ö"] }, "top_p": NaN}')
    assert json.loads(odd.body)["stream_options"]["x"] == [1.0, float("inf"), "ö"]
    kept = asked('{"stream":1,"stream_options":{ "x": [1.00, 1e999,\n"ö"] }}')
    assert '"stream_options":{ "x": [1.00, 1e999,\n"ö"] ,"include_usage":true,' in kept.body.decode()


@pytest.mark.parametrize(
    "text",
    [
        '{"stream":true,"stream_options":{"include_usage":true,"continuous_usage_stats":1}}',
        '{"stream":true,"stream_options":[]}',
        '{"stream":true,"stream_options":"x"}',
        '{"stream":true,"stream_options":{"include_usage":"maybe"}}',
        '{"stream":true,"stream_options":{"continuous_usage_stats":7}}',
        '{"stream":true',
        "[1]",
        "",
        b"\xff\xfe\xff",
        b'{"stream":true,"a":"\xff"',
        b'{"stream":true,"a":"\n"}',
    ],
)
def test_what_needs_no_edit_or_would_be_refused_passes_unchanged(text: str | bytes) -> None:
    found = asked(text)
    assert found.body == (text.encode() if isinstance(text, str) else text)
    assert not found.hides_running_usage


@pytest.mark.parametrize("endpoint", ["/v1/responses", "/v1/messages", "/v1/embeddings"])
def test_other_endpoints_are_never_edited(endpoint: str) -> None:
    found = asked('{"stream":true}', endpoint)
    assert (found.body, found.is_stream) == (b'{"stream":true}', True)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-le"])
def test_every_encoding_python_reads_is_kept(encoding: str) -> None:
    found = asked('{"stream":true,"model":"ö\U0001f9a6"}'.encode(encoding))
    assert json.loads(found.body)["stream_options"]["include_usage"]
    assert json.loads(found.body)["model"] == found.model == "ö\U0001f9a6"


def test_the_last_of_two_keys_wins_as_in_vllm() -> None:
    assert asked('{"stream":true,"stream":false}').body == b'{"stream":true,"stream":false}'
    found = asked('{"stream":true,"stream_options":{"include_usage":true},"stream_options":null}')
    assert found.hides_final_usage


def test_numbers_json_does_not_know_do_not_stop_the_edit() -> None:
    assert b'"top_p":NaN' in asked('{"stream":true,"top_p":NaN}').body


@pytest.mark.parametrize(
    ("value", "choices"),
    [
        ("null", 1),
        ("3", 3),
        ('"2"', 2),
        ("2.0", 2),
        ('"x"', 1),
        ("0", 1),
        ("true", 1),
        ("1e999", 1),
        ("[]", 1),
    ],
)
def test_choices_are_n_or_one(value: str, choices: int) -> None:
    assert asked(f'{{"n":{value}}}').choices == choices


@pytest.mark.parametrize(
    ("prompt", "count"),
    [
        ('"a"', 1),
        ('["a","b"]', 2),
        ("[1,2,3]", 1),
        ("[ -1]", 1),
        ("[[1],[2],[3]]", 3),
        ("[]", 1),
        ("[ ]", 1),
        ("null", 1),
        ("{}", 1),
        ("[NaN,1]", 1),
        ('["a","b"],"prompt_embeds":["c"]', 3),
        ('null,"prompt_embeds":["c","d"]', 2),
    ],
)
def test_prompts_are_counted_as_vllm_does(prompt: str, count: int) -> None:
    assert asked(f'{{"prompt":{prompt}}}', "/v1/completions").prompts == count
    assert asked(f'{{"prompt":{prompt}}}').prompts == 1


@pytest.mark.parametrize(
    ("model", "expected"),
    [('"m"', "m"), ('""', None), ("null", None), ("3", None), ('"\\ud800"', "?"), ("9" * 5000, None)],
)
def test_the_model_is_what_the_client_wrote(model: str, expected: str | None) -> None:
    assert asked(f'{{"model":{model}}}').model == expected


def test_choices_are_those_of_endpoints_that_know_n() -> None:
    assert asked('{"n":3}', "/v1/messages").choices == 1
    assert asked('{"n":3}', "/v1/chat/completions/batch").choices == 3


@pytest.mark.parametrize(
    ("endpoint", "members", "limit"),
    [
        (CHAT, '"max_tokens":8', 8),
        (CHAT, '"max_tokens":8,"n":3', 24),
        (CHAT, '"max_tokens":8,"max_completion_tokens":5', 5),
        (CHAT, '"max_tokens":8,"max_completion_tokens":null', 8),
        (CHAT, '"max_tokens":null', None),
        (CHAT, '"max_tokens":"9"', 9),
        (CHAT, '"max_tokens":1e999', None),
        (CHAT, '"max_tokens":[]', None),
        (CHAT, '"x":1', None),
        ("/v1/completions", '"max_tokens":0,"echo":true', 1),
        ("/v1/completions", '"max_tokens":8,"n":2,"prompt":["a","b","c"]', 48),
        ("/v1/completions", '"max_tokens":8,"max_completion_tokens":5', 8),
        ("/v1/messages", '"max_tokens":8', 8),
        ("/v1/responses", '"max_tokens":8,"max_output_tokens":9', None),
        ("/v1/chat/completions/batch", '"max_tokens":8', None),
    ],
)
def test_F023_the_most_tokens_that_can_be_true(endpoint: str, members: str, limit: int | None) -> None:
    assert asked(f"{{{members}}}", endpoint).max_completion_tokens == limit


def test_beams_are_told() -> None:
    assert asked('{"use_beam_search":true}').is_beam
    assert not asked('{"use_beam_search":false}').is_beam


def test_an_audio_form_is_read_for_two_fields_and_never_edited() -> None:
    parts = [
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\nContent-Type: audio/wav\r\n\r\n\0{',
        b'--x\r\nContent-Disposition: form-data; name="model"\r\nContent-Type: text/plain\r\n\r\nw\xc3\xb6',
        b'--x\r\nContent-Disposition: form-data; name="stream"\r\n\r\ntrue',
        b"--x--\r\n",
    ]
    body = b"\r\n".join(parts)
    endpoint = "/v1/audio/transcriptions"
    assert read_request(endpoint, body) == ClientRequest(body, model="wö", is_stream=True)
    assert read_request(endpoint, b"\0" * 2**22) == ClientRequest(b"\0" * 2**22)


json_values = st.recursive(
    st.one_of(st.text(max_size=5), st.integers(), st.floats(), st.none(), st.booleans()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=5,
)
names = ["model", "stream", "stream_options", "n", "prompt", "max_tokens", "use_beam_search", "messages", "x"]
options = st.dictionaries(
    st.sampled_from(["include_usage", "continuous_usage_stats", "x"]), st.one_of(st.booleans(), json_values)
)
members = st.lists(
    st.tuples(
        st.sampled_from(names),
        st.one_of(json_values, st.just(True), st.lists(st.text(max_size=3), max_size=3), options),
    ),
    max_size=8,
)


@given(members, st.booleans(), st.sampled_from(["/v1/completions", CHAT, "/v1/messages"]))
def test_both_parsers_read_a_request_alike(found: list, is_ascii: bool, endpoint: str) -> None:
    text = "{" + ",".join(f"{json.dumps(k)}: {json.dumps(v, ensure_ascii=is_ascii)}" for k, v in found) + "}"
    strict, odd = (
        asked(body, endpoint) for body in (text.encode("utf-8", "replace"), text.encode("utf-8-sig", "replace"))
    )
    before, after = json.loads(text.encode("utf-8", "replace")), json.loads(strict.body)
    assert json.dumps(after) == json.dumps(json.loads(odd.body))
    strict.body, odd.body = b"", b""
    assert strict == odd
    if strict.hides_running_usage:
        added = {"include_usage": True, "continuous_usage_stats": True}
        before["stream_options"] = (before.get("stream_options") or {}) | added
    assert json.dumps(after, sort_keys=True) == json.dumps(before, sort_keys=True)


@given(st.binary(max_size=200))
def test_a_body_that_is_nothing_passes_unchanged(body: bytes) -> None:
    assert asked(body) == ClientRequest(body)


MEBIBYTE = 2**20
HOSTILE = {
    "a million keys": b"{" + b",".join(b'"%d":1' % i for i in range(700_000)) + b"}",
    "one key again and again": b"{" + b",".join([b'"stream":1'] * 700_000) + b"}",
    "numbers too large": b'{"a":[' + b",".join([b"1e999"] * 1_300_000) + b"]}",
    "texts as prompts": b'{"prompt":[' + b",".join([b'""'] * 2_700_000) + b"]}",
    "lists as prompts": b'{"prompt":[' + b",".join([b"[1]"] * 2_000_000) + b"]}",
    "numbers as prompt": b'{"prompt":[' + b",".join([b"1"] * 4_000_000) + b"]}",
    "escaped keys": b"{" + b",".join(b'"\\u0041%d":1' % i for i in range(500_000)) + b"}",
    "NaN": b'{"a":[' + b",".join([b"NaN"] * 200_000) + b"]}",
    "spaces": b"{" + b" " * (8 * MEBIBYTE - 2) + b"}",
}
REFUSED = {
    "deep lists": b'{"a":' + b"[" * (4 * MEBIBYTE) + b"]" * (4 * MEBIBYTE - 9) + b"}",
    "deep objects": b'{"a":' * MEBIBYTE + b"1" + b"}" * MEBIBYTE,
    "deep and odd": b'{"b":NaN,"a":' + b"[" * 5000 + b"]" * 5000 + b"}",
    "deep and never closed": b"[" * (8 * MEBIBYTE),
    "one huge number": b'{"n":' + b"9" * (8 * MEBIBYTE - 9) + b"}",
    "huge options": b'{"stream":true,"stream_options":{"a":"' + b"x" * MEBIBYTE + b'"}}',
    "a stream in disguise": b'{"stream":1.' + b"0" * MEBIBYTE + b"}",
    "a huge name": b'{"model":"' + b"x" * MEBIBYTE + b'"}',
    "huge and odd": b'{"a":[' + b",".join([b"NaN"] * 2_000_000) + b"]}",
    "huge and in UTF-16": ('{"stream":true,"a":"' + "x" * MEBIBYTE + '"}').encode("utf-16"),
    "huge and no JSON": b"\xff" * (8 * MEBIBYTE),
}


@pytest.mark.parametrize("name", HOSTILE | REFUSED)
def test_F034_a_hostile_body_costs_little_or_is_refused(name: str) -> None:
    body = (HOSTILE | REFUSED)[name]
    began = time.process_time()
    if name in REFUSED:
        with pytest.raises(BodyError, match=r"^body: "):
            asked(body, "/v1/completions")
    else:
        found = asked(body, "/v1/completions")
        assert len(found.body) <= len(body) + 100
    assert time.process_time() - began < 0.5  # ten times what is allowed, for slow machines


def test_F034_control_the_usual_parser_costs_many_times_more() -> None:
    body = HOSTILE["a million keys"]
    times = []
    for parse in (json.loads, asked):
        began = time.process_time()
        parse(body)
        times.append(time.process_time() - began)
    assert times[0] > 3 * times[1]


def test_F034_what_is_large_but_honest_passes() -> None:
    text = json.dumps({"stream": True, "messages": [{"role": "user", "content": "ö" * 100}] * 10_000})
    assert asked(text).hides_final_usage
    tokens = json.dumps({"prompt": list(range(500_000)), "stream": True})
    assert asked(tokens, "/v1/completions").prompts == 1
    assert asked(b'{"stream":true,"a":' + b"[" * 500 + b"]" * 500 + b"}").hides_final_usage


@pytest.mark.parametrize(
    ("endpoint", "member", "expected"),
    [
        ("/v1/responses", '"request_id":"mine"', True),
        ("/v1/responses", '"request_id":null', False),
        ("/v1/responses", '"x":1', False),
        ("/v1/chat/completions", '"request_id":"mine"', False),
    ],
)
def test_a_response_that_its_client_named_is_told(endpoint: str, member: str, expected: bool) -> None:
    assert read_request(endpoint, b"{%b}" % member.encode()).names_itself is expected
