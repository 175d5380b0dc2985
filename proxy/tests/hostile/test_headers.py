"""Rows 32 and 36: what a client sends besides its request reaches nobody; what is a key is known by the ring alone."""

import re
from datetime import UTC, datetime

import pytest
from spotinference_proxy.keys import new_key

UPSTREAM_KEY = "sk-upstream-key"
KNOWN = {  # what vLLM's API reads, and the framing; a name that is not here must not appear at the upstream
    "accept", "anthropic-beta", "anthropic-version", "authorization", "connection", "content-length", "content-type",
    "endpoint-load-metrics-format", "host", "openai-beta", "openai-organization", "openai-project", "traceparent",
    "tracestate", "user-agent", "x-request-id",
}  # fmt: skip
UNWANTED = {
    "Accept-Encoding": "gzip, br, canary",
    "CF-Connecting-IP": "6.6.6.6",
    "Client-IP": "6.6.6.6",
    "Cookie": "session=canary",
    "Content_Length": "6",
    "Content-Range": "bytes 0-5/6",
    "Forwarded": "for=6.6.6.6;host=canary",
    "From": "canary@canary.test",
    "If-None-Match": "canary",
    "Keep-Alive": "timeout=canary",
    "Max-Forwards": "6",
    "Origin": "http://canary.test",
    "Proxy-Authorization": "Basic canary",
    "Proxy-Connection": "canary",
    "Range": "bytes=0-5",
    "Referer": "http://canary.test",
    "TE": "trailers, canary",
    "Trailer": "canary",
    "Transfer_Encoding": "chunked",
    "True-Client-IP": "6.6.6.6",
    "Upgrade": "canary",
    "Via": "1.1 canary",
    "X-Accel-Redirect": "/canary",
    "X-API-Key": "canary",
    "X-Forwarded-For": "6.6.6.6",
    "X-Forwarded-Host": "canary.other",
    "X-Forwarded-Prefix": "/canary",
    "X-Forwarded-Proto": "canary",
    "X-HTTP-Method-Override": "DELETE",
    "X-Original-URL": "/canary",
    "X-Real-IP": "6.6.6.6",
    "X-Rewrite-URL": "/canary",
    "X_Request_Id": "canary",
    "X-Custom": "canary",
    "canary_name": "canary",
}
UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


@pytest.fixture(scope="module")
def keys_file(tmp_path_factory):
    return tmp_path_factory.mktemp("keys") / "keys.jsonl"


@pytest.fixture(scope="module")
def key(keys_file):
    return new_key(keys_file, "test", datetime(2026, 11, 22, tzinfo=UTC))


@pytest.fixture(scope="module")
def open_one(open_front):
    """A proxy that checks no keys, in front of an upstream that wants none."""
    return open_front()


@pytest.fixture(scope="module")
def keyed(open_front, keys_file, key):
    """A proxy with a keys file, in front of an upstream that wants a key too."""
    return open_front(keys_file=keys_file, api_key=UPSTREAM_KEY)


@pytest.fixture
def ask(corpus, make_wire):
    def send(front, fields: str):
        with make_wire(front.address) as wire:
            wire.send(corpus.post(f"{fields}Content-Length: 5\r\n", corpus.HELLO))
            return wire.read()

    return send


def test_F032_only_known_fields_reach_the_upstream(open_one, ask) -> None:
    mark = open_one.upstream.mark()
    answer = ask(open_one, "".join(f"{name}: {value}\r\n" for name, value in UNWANTED.items()))
    assert answer.status == 200
    (seen,) = open_one.upstream.since(mark)
    assert {name for name, _ in seen.fields} <= KNOWN
    assert not set(UNWANTED.values()) & {value for _, value in seen.fields}
    assert seen.body == b'"hi" '


def test_F032_every_unwanted_field_alone_stays_outside(open_one, ask) -> None:
    for name, value in UNWANTED.items():
        mark = open_one.upstream.mark()
        assert ask(open_one, f"{name}: {value}\r\n").status in (200, 400, 426), name
        for seen in open_one.upstream.since(mark):
            assert {one for one, _ in seen.fields} <= KNOWN, name
            assert "canary" not in seen.raw.decode().replace("canary.test\r\n", "", 1), name


def test_F032_fields_named_by_connection_end_at_the_proxy(open_one, ask) -> None:
    """RFC 9110, 7.6.1: they are for us alone, whatever their name."""
    mark = open_one.upstream.mark()
    fields = "Connection: keep-alive, OpenAI-Organization, X-Custom\r\nOpenAI-Organization: canary\r\nX-Custom: b\r\n"
    assert ask(open_one, fields).status == 200
    (seen,) = open_one.upstream.since(mark)
    assert "openai-organization" not in dict(seen.fields)
    assert seen.body == b'"hi" '


@pytest.mark.parametrize("name", ["Host", "Content-Length", "Content-Type", "X-Request-Id", "Authorization"])
def test_F032_connection_cannot_take_away_what_the_proxy_itself_states(open_one, ask, name) -> None:
    mark = open_one.upstream.mark()
    answer = ask(open_one, f"Connection: {name}\r\n")
    seen = open_one.upstream.since(mark)
    assert answer.status in (200, 400)
    assert [one.body for one in seen] == [b'"hi" '] * (answer.status == 200)
    assert all({"host", "x-request-id"} <= dict(one.fields).keys() for one in seen)


def test_F032_the_request_id_is_the_records_own(open_one, ask) -> None:
    mark = open_one.upstream.mark()
    ask(open_one, "X-Request-Id: canary\r\nX-Request-Id: other\r\n")
    (seen,) = open_one.upstream.since(mark)
    assert UUID7.fullmatch(seen.request_id)
    assert seen.request_id in {row["request_id"] for row in open_one.rows("end")}


def test_F032_the_upstreams_key_is_added_by_the_proxy_and_the_clients_is_not_passed_on(keyed, key, ask) -> None:
    for field in (f"Authorization: Bearer {key}\r\n", f"authorization: bearer {key}\r\n", f"X-API-Key: {key}\r\n"):
        mark = keyed.upstream.mark()
        assert ask(keyed, field).status == 200
        (seen,) = keyed.upstream.since(mark)
        assert [value for name, value in seen.fields if name == "authorization"] == [f"Bearer {UPSTREAM_KEY}"]
        assert key.encode() not in seen.raw
    assert {row["key_id"] is None for row in keyed.rows("end")} == {False}


def test_F032_keys_checked_here_do_not_go_to_an_upstream_that_wants_none(open_front, keys_file, key, ask) -> None:
    front = open_front(keys_file=keys_file)
    mark = front.upstream.mark()
    assert ask(front, f"Authorization: Bearer {key}\r\n").status == 200
    (seen,) = front.upstream.since(mark)
    assert "authorization" not in dict(seen.fields)
    assert key.encode() not in seen.raw


WRONG = {
    "none": "",
    "unknown": "Authorization: Bearer sk-spot-canary\r\n",
    "empty": "Authorization: Bearer \r\n",
    "no_scheme": "Authorization: KEY\r\n",
    "basic": "Authorization: Basic KEY\r\n",
    "longer": "Authorization: Bearer KEYx\r\n",
    "shorter": "Authorization: Bearer CUT\r\n",
    "list": "Authorization: Bearer KEY, Bearer KEY\r\n",
    "not_ascii": "Authorization: Bearer \xe4\xf6\xfc\r\n",
    "of_8_kib": "Authorization: Bearer " + "k" * 8192 + "\r\n",
    "with_nul_escape": "Authorization: Bearer KEY%00\r\n",
    "upstreams": f"Authorization: Bearer {UPSTREAM_KEY}\r\n",
    "other_field": "X_API_Key: KEY\r\nApi-Key: KEY\r\nCookie: KEY\r\n",
}


def test_F036_every_wrong_key_gets_the_same_words_and_nothing_is_passed_on(open_front, keys_file, key, ask) -> None:
    front = open_front(keys_file=keys_file)
    mark = front.upstream.mark()
    answers = [ask(front, fields.replace("KEY", key).replace("CUT", key[:-1])) for fields in WRONG.values()]
    assert {one.status for one in answers} == {401}
    assert len({one.body for one in answers}) == 1
    assert all(one.closes and key.encode() not in one.raw for one in answers)
    assert front.upstream.since(mark) == []
    assert front.rows("end") == []


def test_F036_two_keys_in_one_request_are_refused(keyed, key, ask) -> None:
    mark = keyed.upstream.mark()
    assert ask(keyed, f"Authorization: Bearer {key}\r\nAuthorization: Bearer {key}\r\n").status == 400
    assert keyed.upstream.since(mark) == []


def test_F036_who_guesses_is_slowed_down_and_holders_of_a_key_at_the_same_address_are_not(
    open_front, keys_file, key, ask
) -> None:
    """Behind an edge or a NAT everyone has one address."""
    front = open_front(keys_file=keys_file)
    guesses = [ask(front, "Authorization: Bearer canary\r\n").status for _ in range(60)]
    assert set(guesses) == {401, 429}
    assert ask(front, f"Authorization: Bearer {key}\r\n").status == 200


def test_F036_the_key_is_checked_before_a_body_is_waited_for(keyed, corpus, make_wire) -> None:
    with make_wire(keyed.address) as wire:
        wire.send(corpus.post("Content-Length: 8000000\r\n"))
        assert [one.status for one in wire.read_all()] in ([401], [429])


def test_F036_a_path_nobody_may_use_says_nothing_about_keys(keyed, corpus, make_wire) -> None:
    with make_wire(keyed.address) as wire:
        wire.send(corpus.get(line=b"GET /metrics HTTP/1.1"))
        assert wire.read().status in (401, 404)


def test_F032_F037_control_a_relay_passes_every_field_and_every_path(open_front, ask, corpus, make_wire) -> None:
    front = open_front(is_naive=True)
    ask(front, "X-Forwarded-For: 6.6.6.6\r\nAuthorization: Bearer canary\r\n")
    with make_wire(front.address) as wire:
        wire.send(corpus.get(line=b"POST /v1/load_lora_adapter HTTP/1.1"))
        wire.read()
    fields, path = front.upstream.requests
    assert {"x-forwarded-for", "authorization"} <= dict(fields.fields).keys()
    assert path.target == "/v1/load_lora_adapter"
