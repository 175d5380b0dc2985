from spotinference_proxy.settings import UpstreamSettings
from spotinference_proxy.upstreams import UpstreamPool, abort_ids, parse_counters


def pool(*models: tuple[str, ...]) -> UpstreamPool:
    found = UpstreamPool([UpstreamSettings(f"http://{i}", i, names) for i, names in enumerate(models)])
    for one in found.upstreams:
        one.is_ready = True
    return found


def test_the_ready_upstream_of_the_model_with_the_fewest_requests_is_next() -> None:
    found = pool(("a",), ("a", "b"), ("b",))
    first, second, third = found.upstreams
    assert found.choose("a") is first
    first.in_flight = 1
    assert found.choose("a") is second
    second.is_ready = False
    assert found.choose("a") is first
    assert found.choose("b") is third
    third.is_ready = None
    assert found.choose("b") is None
    assert found.choose("unknown") is first
    assert found.choose(None) is first


def test_an_upstream_without_a_list_serves_any_model() -> None:
    found = pool(("a",), ())
    assert found.choose("x") is found.upstreams[1]
    assert found.choose(None) is found.upstreams[0]


def test_counters_are_summed_over_labels_and_absent_is_null() -> None:
    page = (
        "# HELP vllm:prompt_tokens_total x\n"
        'vllm:prompt_tokens_total{engine="0",model_name="a}b"} 1414.0\n'
        'vllm:prompt_tokens_total{engine="1"} 1.5e+03 1700000000\n'
        "vllm:generation_tokens_total NaN\nvllm:x y z w\n"
        "process_start_time_seconds 1.79546854747e+09\n"
    )
    assert parse_counters(page) == {
        "process_started_at": "2026-11-23T21:15:47.470000Z",
        "prompt_tokens_total": 2914,
        "generation_tokens_total": None,
    }
    assert set(parse_counters("").values()) == {None}
    assert parse_counters("vllm:prompt_tokens_total oops")["prompt_tokens_total"] is None


def test_a_request_is_aborted_by_the_ids_vllm_gives_it() -> None:
    assert abort_ids("/v1/chat/completions", "x", 1, None) == ["chatcmpl-x"]
    assert abort_ids("/v1/messages", "x", 1, None) == ["chatcmpl-x"]
    assert abort_ids("/v1/completions", "x", 2, None) == ["cmpl-x-0", "cmpl-x-1"]
    assert abort_ids("/v1/responses", "x", 1, "resp_1")[:2] == ["resp_1_0", "resp_1_1"]
    assert abort_ids("/v1/responses", "x", 1, None) == []
    assert abort_ids("/v1/embeddings", "x", 1, "y") == []
