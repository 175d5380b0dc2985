from spotinference_proxy.aborts import abort_ids


def test_a_request_is_aborted_by_the_ids_vllm_gives_it() -> None:
    assert abort_ids("/v1/chat/completions", "x", 1, None) == ["chatcmpl-x"]
    assert abort_ids("/v1/messages", "x", 1, None) == ["chatcmpl-x"]
    assert abort_ids("/v1/completions", "x", 2, None) == ["cmpl-x-0", "cmpl-x-1"]
    assert abort_ids("/v1/responses", "x", 1, "resp_1")[:2] == ["resp_1_0", "resp_1_1"]
    assert abort_ids("/v1/responses", "x", 1, None) == []
    assert abort_ids("/v1/embeddings", "x", 1, "y") == []
    assert abort_ids("/v1/completions", "x", 1001, None) == [], "one call of 50 kB, repeated: closing is cheaper"
