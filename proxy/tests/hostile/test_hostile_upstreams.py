"""Row 33: whatever an upstream answers, a client gets one clean answer, a 502, or a connection that breaks.

The strict reader of wire.py is the judge: one status line, no field twice, framing stated once, nothing behind.
"""

import asyncio
import json

import pytest

PLAIN = b'{"model": "otter", "usage": {"prompt_tokens": 3, "completion_tokens": 2}}'
EVIL = b'HTTP/1.1 200 OK\r\nContent-Length: 6\r\nSet-Cookie: evil=1\r\n\r\n"evil"'
OK = b"HTTP/1.1 200 OK\r\n"
LENGTH = f"Content-Length: {len(PLAIN)}\r\n".encode()
END = b"\r\n" + PLAIN
CHUNKED = b"Transfer-Encoding: chunked\r\n"
CHUNK = b"%x\r\n%b\r\n" % (len(PLAIN), PLAIN)
KNOWN = {  # framing, what describes the answer, and what vLLM and OpenAI's API say in fields
    "allow", "cache-control", "connection", "content-disposition", "content-language", "content-length", "content-type",
    "date", "endpoint-load-metrics", "location", "metadata", "openai-processing-ms", "openai-version", "retry-after",
    "transfer-encoding", "vary", "www-authenticate", "x-request-id",
}  # fmt: skip

UNWANTED = {
    "cookie_and_server": "Set-Cookie: evil=1\r\nSet-Cookie: evil=2\r\nServer: evil\r\nX-Powered-By: evil\r\n",
    "sendfile_and_accel": "X-Accel-Redirect: /evil\r\nX-Sendfile: /evil\r\nX-Accel-Buffering: evil\r\n",
    "cors": "Access-Control-Allow-Origin: evil\r\nAccess-Control-Allow-Credentials: true\r\n",
    "hop_by_hop": "Keep-Alive: evil\r\nUpgrade: evil\r\nProxy-Authenticate: evil\r\nTrailer: evil\r\n",
    "named_by_connection": "Connection: X-Evil\r\nX-Evil: evil\r\n",
    "security_policies": "Strict-Transport-Security: evil\r\nContent-Security-Policy: evil\r\nAlt-Svc: evil\r\n",
    "refresh": "Refresh: 0;url=evil\r\nLink: <evil>\r\nReport-To: evil\r\nClear-Site-Data: evil\r\n",
}
CLEAN = {name: OK + fields.encode() + LENGTH + END for name, fields in UNWANTED.items()} | {
    "plain": OK + LENGTH + END,
    "lower_case_and_no_space": OK + LENGTH.lower().replace(b": ", b":") + END,
    "no_reason": b"HTTP/1.1 200 \r\n" + LENGTH + END,
    "no_reason_no_space": b"HTTP/1.1 200\r\n" + LENGTH + END,
    "http_1_0": b"HTTP/1.0 200 OK\r\n" + LENGTH + END,
    "chunked": OK + CHUNKED + b"\r\n" + CHUNK + b"0\r\n\r\n",
    "chunked_with_trailers": OK + CHUNKED + b"\r\n" + CHUNK + b"0\r\nSet-Cookie: evil=1\r\n\r\n",
    "chunk_extension": OK + CHUNKED + b"\r\n" + CHUNK.replace(b"\r\n", b";evil=1\r\n", 1) + b"0\r\n\r\n",
    "continue_first": b"HTTP/1.1 100 Continue\r\n\r\n" + OK + LENGTH + END,
    "early_hints_first": b"HTTP/1.1 103 Early Hints\r\nLink: </evil>\r\nSet-Cookie: evil=1\r\n\r\n" + OK + LENGTH + END,
    "reason_not_ascii": b"HTTP/1.1 200 \xe4\xf6\xfc\r\n" + LENGTH + END,
    "unknown_status": b"HTTP/1.1 299 Evil\r\n" + LENGTH + END,
    "body_looks_like_an_answer": OK + f"Content-Length: {len(EVIL)}\r\n\r\n".encode() + EVIL,
}

UNTIL_CLOSE = {
    "no_length": OK + END,
    "http_1_0_no_length": b"HTTP/1.0 200 OK\r\n" + END,
    "head_ended_early_by_a_value": OK + b"X-Request-Id: a\r\n\r\n" + EVIL,
}

BROKEN = {
    "nothing": b"",
    "half_a_status_line": b"HTTP/1.1 20",
    "half_a_head": OK + b"Content-Le",
    "garbage": b"\x00\x01\x02\xff\r\n\r\n",
    "tls_alert": b"\x15\x03\x01\x00\x02\x02\x16",
    "other_protocol": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    "icy": b"ICY 200 OK\r\n" + LENGTH + END,
    "version_9_9": b"HTTP/9.9 200 OK\r\n" + LENGTH + END,
    "version_2": b"HTTP/2 200\r\n" + LENGTH + END,
    "version_lower_case": b"http/1.1 200 OK\r\n" + LENGTH + END,
    "no_version": b"200 OK\r\n" + LENGTH + END,
    "status_of_two_digits": b"HTTP/1.1 20 OK\r\n" + LENGTH + END,
    "status_of_four_digits": b"HTTP/1.1 2000 OK\r\n" + LENGTH + END,
    "status_no_number": b"HTTP/1.1 abc OK\r\n" + LENGTH + END,
    "status_000": b"HTTP/1.1 000 OK\r\n" + LENGTH + END,
    "status_negative": b"HTTP/1.1 -20 OK\r\n" + LENGTH + END,
    "status_600": b"HTTP/1.1 600 OK\r\n" + LENGTH + END,
    "two_spaces": b"HTTP/1.1  200 OK\r\n" + LENGTH + END,
    "reason_with_bare_cr": b"HTTP/1.1 200 OK\rX-Evil: evil\r\n" + LENGTH + END,
    "reason_with_nul": b"HTTP/1.1 200 O\0K\r\n" + LENGTH + END,
    "lf_only": (OK + LENGTH + b"\r\n").replace(b"\r\n", b"\n") + PLAIN,
    "empty_line_first": b"\r\n" + OK + LENGTH + END,
    "value_with_lf": OK + b"X-Request-Id: a\nSet-Cookie: evil=1\r\n" + LENGTH + END,
    "value_with_cr": OK + b"X-Request-Id: a\rSet-Cookie: evil=1\r\n" + LENGTH + END,
    "value_with_nul": OK + b"X-Request-Id: a\0evil\r\n" + LENGTH + END,
    "value_with_control": OK + b"X-Request-Id: a\x1bevil\r\n" + LENGTH + END,
    "folded": OK + b"X-Request-Id: a\r\n Set-Cookie: evil=1\r\n" + LENGTH + END,
    "space_before_colon": OK + b"Content-Length : 5\r\n" + LENGTH + END,
    "no_colon": OK + b"evil\r\n" + LENGTH + END,
    "empty_name": OK + b": evil\r\n" + LENGTH + END,
    "name_not_ascii": OK + b"X-\xe4: evil\r\n" + LENGTH + END,
    "length_twice_same": OK + LENGTH * 2 + END,
    "length_twice_different": OK + LENGTH + b"Content-Length: 2\r\n" + END,
    "length_and_chunked": OK + LENGTH + CHUNKED + b"\r\n" + CHUNK + b"0\r\n\r\n",
    "length_negative": OK + b"Content-Length: -1\r\n" + END,
    "length_plus": OK + b"Content-Length: +5\r\n" + END,
    "length_list": OK + b"Content-Length: 5, 5\r\n" + END,
    "length_hex": OK + b"Content-Length: 0x5\r\n" + END,
    "length_empty": OK + b"Content-Length:\r\n" + END,
    "coding_gzip": OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + CHUNK + b"0\r\n\r\n",
    "coding_unknown": OK + b"Transfer-Encoding: evil\r\n" + END,
    "coding_twice": OK + CHUNKED * 2 + b"\r\n" + CHUNK + b"0\r\n\r\n",
    "switching_protocols": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: evil\r\nConnection: Upgrade\r\n\r\nevil",
    "content_type_twice": OK + b"Content-Type: application/json\r\nContent-Type: text/html\r\n" + LENGTH + END,
    "head_of_a_megabyte": OK + b"X-Evil: " + b"a" * 1024 * 1024 + b"\r\n" + LENGTH + END,
    "head_without_end": OK + b"X-Evil: a\r\n" * 100_000,
    "fields_by_the_thousand": OK + b"X-Evil: a\r\n" * 2000 + LENGTH + END,
    "continue_without_end": b"HTTP/1.1 100 Continue\r\n\r\n" * 5000,
}  # fmt: skip

UNFINISHED = ("nothing", "half_a_status_line", "half_a_head", "tls_alert", "lf_only", "continue_without_end")
"""May still become an answer while the connection lives; that time-out is row 25."""

CUT = {
    "length": OK + LENGTH + END[:-5],
    "length_and_no_body": OK + LENGTH + b"\r\n",
    "length_larger_by_far": OK + b"Content-Length: 999999999999\r\n" + END,
    "chunked": OK + CHUNKED + b"\r\n" + CHUNK,
    "chunked_in_a_chunk": OK + CHUNKED + b"\r\n" + CHUNK[:-9],
    "chunked_in_its_end": OK + CHUNKED + b"\r\n" + CHUNK + b"0\r\n",
    "chunk_size_no_hex": OK + CHUNKED + b"\r\n" + CHUNK + b"zz\r\nevil\r\n0\r\n\r\n",
    "chunk_size_negative": OK + CHUNKED + b"\r\n" + CHUNK + b"-5\r\nevil\r\n0\r\n\r\n",
    "chunk_size_huge": OK + CHUNKED + b"\r\n" + CHUNK + b"FFFFFFFFFFFFFFFFF\r\nevil\r\n0\r\n\r\n",
    "chunk_longer_than_size": OK + CHUNKED + b"\r\n" + CHUNK + b"2\r\nevil\r\n0\r\n\r\n",
    "chunk_line_ends_in_lf": OK + CHUNKED + b"\r\n" + CHUNK + b"4\nevil\r\n0\r\n\r\n",
    "event_stream": OK + b"Content-Type: text/event-stream\r\n" + CHUNKED + b"\r\n9\r\ndata: {}\n\r\n",
    "event_stream_without_length": OK + b'Content-Type: text/event-stream\r\n\r\ndata: {"model": "otter"}\n\n',
}

BEHIND = {
    "an_answer": EVIL,
    "a_byte": b"x",
    "line_ends": b"\r\n\r\n",
    "a_megabyte": b"x" * 1024 * 1024,
}


@pytest.fixture(scope="module")
def front(open_front):
    """Nothing periodic: a probe that met what these upstreams do would make them count as not ready, rightly."""
    return open_front(periodic=False)


@pytest.fixture
def ask(front, corpus, make_wire):
    """Have the upstream say something; return the answers a client saw on one connection to its end."""

    def send(raw: bytes, *, closes: bool = True, request: bytes = corpus.plain()):
        front.upstream.say(raw, closes=closes)
        closing = request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1)
        with make_wire(front.address) as wire:
            wire.send(closing)
            return wire.read_all()

    return send


def check_record(front, reasons: set[str]) -> None:
    """The newest request has exactly one end, for one of these reasons."""
    newest = front.upstream.requests[-1].request_id
    assert [row["end_reason"] in reasons for row in front.rows("end") if row["request_id"] == newest] == [True]


@pytest.mark.parametrize("name", CLEAN)
@pytest.mark.parametrize("closes", [False, True], ids=["kept", "closed"])
def test_F033_an_odd_answer_arrives_clean(front, ask, name, closes) -> None:
    (answer,) = ask(CLEAN[name], closes=closes)
    assert answer.is_whole
    assert answer.status in (200, 299)
    assert answer.body == (PLAIN if name != "body_looks_like_an_answer" else EVIL)
    assert answer.fields.keys() <= KNOWN
    assert "evil" not in " ".join(f"{name} {value}" for name, value in answer.fields.items()).lower()
    check_record(front, {"complete"})


@pytest.mark.parametrize("name", UNTIL_CLOSE)
def test_F033_an_answer_until_the_connection_ends_is_framed_anew_or_broken(front, ask, name) -> None:
    (answer,) = ask(UNTIL_CLOSE[name])
    assert answer.fields.keys() <= KNOWN
    if answer.is_whole:
        assert answer.body == UNTIL_CLOSE[name].partition(b"\r\n\r\n")[2]
    check_record(front, {"complete", "upstream_gone"})


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("closes", [False, True], ids=["kept", "closed"])
def test_F033_what_is_no_answer_is_a_502(front, ask, name, closes) -> None:
    answers = ask(BROKEN[name], closes=closes or name in UNFINISHED)
    assert [(one.status, one.is_whole) for one in answers] == [(502, True)]
    assert b"evil" not in answers[0].raw.lower()
    check_record(front, {"upstream_gone"})


@pytest.mark.parametrize("name", CUT)
def test_F033_an_answer_cut_off_never_looks_whole(front, ask, name) -> None:
    answers = ask(CUT[name])
    assert len(answers) <= 1
    assert all(one.status == 502 or not one.is_whole for one in answers)
    assert all(b"evil" not in one.raw for one in answers)
    check_record(front, {"upstream_gone"})


@pytest.mark.parametrize("name", CUT)
def test_F033_an_answer_cut_off_for_an_old_client_does_not_end_cleanly(front, ask, name, corpus, make_wire) -> None:
    """HTTP/1.0 knows an answer's end only from its length, or from how the connection ends."""
    front.upstream.say(CUT[name], closes=True)
    with make_wire(front.address) as wire:
        wire.send(corpus.plain().replace(b"HTTP/1.1", b"HTTP/1.0"))
        answers = wire.read_all()
    assert wire.ending == "reset" or all(not one.is_whole or one.status == 502 for one in answers)


@pytest.mark.parametrize("name", BEHIND)
@pytest.mark.parametrize("seconds", [0, 0.05], ids=["at_once", "later"])
@pytest.mark.parametrize("is_chunked", [False, True], ids=["length", "chunked"])
def test_F033_what_comes_behind_an_answer_is_no_answer_to_the_next(
    front, corpus, make_wire, name, seconds, is_chunked
) -> None:
    whole = OK + (CHUNKED + b"\r\n" + CHUNK + b"0\r\n\r\n" if is_chunked else LENGTH + END)

    async def script(seen, writer) -> None:
        if not seconds:
            writer.write(whole + BEHIND[name])
            return
        writer.write(whole)
        await asyncio.sleep(seconds)
        writer.write(BEHIND[name])

    front.upstream.script = script
    with make_wire(front.address) as wire:
        wire.send(corpus.plain())
        first = wire.read()
        await_quiet(front, seconds)
        front.upstream.script = front.upstream.say_ok
        wire.send(corpus.get())
        second = wire.read()
    assert first.body == PLAIN
    assert second.status == 200
    assert json.loads(second.body)["echo"] == "GET /v1/models"


def await_quiet(front, seconds: float) -> None:
    """Let the upstream's bytes arrive."""
    front.call(asyncio.sleep(2 * seconds + 0.01))


def test_F033_a_probe_that_meets_a_connection_just_closed_takes_no_upstream_down(open_front, corpus, make_wire) -> None:
    """Servers close kept connections when they like (RFC 9112, 9.5); a probe says whether they take new ones."""
    front = open_front(periodic=False)
    for _ in range(2):
        with make_wire(front.address) as wire:
            wire.send(corpus.get())
            assert wire.read().status == 200
        front.upstream.hangs_up_on_probes = True
        front.call(front.proxy.probe())
    with make_wire(front.address) as wire:
        wire.send(corpus.get())
        assert wire.read().status == 200


def test_F033_a_compressed_answer_nobody_asked_for_is_not_passed_as_if_it_were_plain(ask) -> None:
    (answer,) = ask(OK + b"Content-Encoding: gzip\r\n" + LENGTH + END)
    assert answer.status == 502 or answer.fields.get("content-encoding") == "gzip"


def test_F033_an_answer_without_body_has_none(front, corpus, make_wire) -> None:
    for status in (b"204 No Content", b"304 Not Modified"):
        front.upstream.say(b"HTTP/1.1 " + status + b"\r\n\r\n", closes=False)
        with make_wire(front.address) as wire:
            wire.send(corpus.get())
            answer = wire.read()
            front.upstream.script = front.upstream.say_ok
            wire.send(corpus.plain())
            following = wire.read()
        assert (answer.status, answer.body) == (int(status[:3]), b"")
        assert following.status == 200


def test_F033_control_a_relay_passes_every_trick(open_front, corpus, make_wire) -> None:
    front = open_front(is_naive=True)
    passed = 0
    for raw in BROKEN.values():
        front.upstream.say(raw, closes=True)
        with make_wire(front.address, patience=front.patience) as wire:
            wire.send(corpus.plain())
            try:
                passed += [one.status for one in wire.read_all()] != [502]
            except AssertionError:
                passed += 1
    assert passed == len(BROKEN)
