import json

import pytest
from spotinference_proxy.inject import is_true, read_request

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
        b"[" * 100_000,
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
    ("prompt", "count"), [('"a"', 1), ('["a","b"]', 2), ("[1,2,3]", 1), ("[[1],[2],[3]]", 3), ("[]", 1)]
)
def test_prompts_are_counted_as_vllm_does(prompt: str, count: int) -> None:
    assert asked(f'{{"prompt":{prompt}}}', "/v1/completions").prompts == count


@pytest.mark.parametrize(("model", "expected"), [('"m"', "m"), ('""', None), ("null", None), ("3", None)])
def test_the_model_is_what_the_client_wrote(model: str, expected: str | None) -> None:
    assert asked(f'{{"model":{model}}}').model == expected
