"""The corpus: raw requests that must be refused, that must pass once and exactly, and that may do either.

Owns the bytes and the outcomes allowed; conftest.py loads it by path and hands its cases to the tests. Does not
own how a case is sent (wire.py). Rests on RFC 9112 and on what real servers let through: framing stated twice,
lines that end in other ways, numbers that Python reads and HTTP does not. Every refused request carries the word
`canary`, which no answer may repeat, and most of them a second request that nobody may ever serve.
"""

from typing import NamedTuple

SMUGGLED = b"GET /v1/models?smuggled HTTP/1.1\r\nHost: canary.test\r\n\r\n"
BODY = b'{"model": "otter", "prompt": "canary"}'
HELLO = b'"hi" '  # JSON of five bytes, so that a length of 5 is true


class Refused(NamedTuple):
    """`raw` gets one of `statuses` and the connection ends; `silent`: it may also end without an answer.

    `ends`: the client ends its side after the last byte. `keeps`: the connection may live on, because nobody
    can doubt where the next request begins.
    """

    name: str
    raw: bytes
    statuses: tuple[int, ...] = (400,)
    silent: bool = False
    ends: bool = False
    keeps: bool = False


class Passed(NamedTuple):
    """`raw` reaches the upstream as exactly `seen`: method, target and body of each request, in order."""

    name: str
    raw: bytes
    seen: tuple[tuple[str, str, bytes], ...]


class Doubtful(NamedTuple):
    """Either refused with one of `statuses`, or passed as `seen` (and whatever follows is refused)."""

    name: str
    raw: bytes
    seen: tuple[tuple[str, str, bytes], ...]
    statuses: tuple[int, ...] = (400,)


def post(fields: str | bytes, body: bytes = b"", *, line: str = "POST /v1/completions HTTP/1.1") -> bytes:
    """Return a POST with the fields given, each ended by CR LF, besides Host and Content-Type."""
    named = fields.encode("latin-1") if isinstance(fields, str) else fields
    return f"{line}\r\nHost: canary.test\r\nContent-Type: application/json\r\n".encode() + named + b"\r\n" + body


def get(fields: str | bytes = b"", *, line: bytes = b"GET /v1/models HTTP/1.1", host: bytes = b"canary.test") -> bytes:
    """Return a GET; `line` and `host` as given."""
    named = fields.encode("latin-1") if isinstance(fields, str) else fields
    return line + b"\r\nHost: " + host + b"\r\n" + named + b"\r\n"


def length(value: str | bytes, body: bytes = HELLO) -> bytes:
    """Return a POST of which Content-Length is spelled so, with a second request behind it."""
    spelled = value.encode("latin-1") if isinstance(value, str) else value
    return post(b"Content-Length:" + spelled + b"\r\n", body + SMUGGLED)


def coding(value: str, *, end: bytes = SMUGGLED) -> bytes:
    """Return a chunked POST of which Transfer-Encoding is spelled so."""
    return post(f"Transfer-Encoding:{value}\r\n", b'5\r\n"hi" \r\n0\r\n\r\n' + end)


def chunks(body: bytes, *, end: bytes = SMUGGLED) -> bytes:
    """Return a POST with a chunked body as given."""
    return post("Transfer-Encoding: chunked\r\n", body + end)


def plain(body: bytes = BODY, target: str = "/v1/completions") -> bytes:
    """Return an ordinary POST."""
    return post(f"Content-Length: {len(body)}\r\n", body, line=f"POST {target} HTTP/1.1")


GOOD = plain(b'{"model": "otter", "prompt": "first"}')

_BOTH = "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"
_FRAMING = (
    Refused("length_and_chunked", post(_BOTH, b"0\r\n\r\n" + SMUGGLED)),
    Refused("chunked_and_length", post("transfer-encoding: chunked\r\nCONTENT-LENGTH: 5\r\n", b"0\r\n\r\n" + SMUGGLED)),
    Refused("length_twice_same", post("Content-Length: 5\r\nContent-Length: 5\r\n", HELLO)),
    Refused("length_twice_different", post("Content-Length: 5\r\nContent-Length: 0\r\n", SMUGGLED)),
    Refused("length_list_same", length(" 5, 5")),
    Refused("length_list_different", length(" 5,6")),
    Refused("length_plus", length(" +5")),
    Refused("length_minus", length(" -5")),
    Refused("length_inner_space", length(" 1 0")),
    Refused("length_hex", length(" 0x5")),
    Refused("length_underscore", length(" 1_0", b'"hello!!" ')),  # int() of Python reads it as 10
    Refused("length_other_digits", length(b" \xd9\xa5")),  # isdigit() of Python takes it for one
    Refused("length_superscript", length(b" \xb2")),
    Refused("length_empty", length("")),
    Refused("length_decimal_point", length(" 5.0")),
    Refused("length_exponent", length(" 5e0")),
    Refused("length_vertical_tab", length(" \x0b5")),
    Refused("length_form_feed_behind", length(" 5\x0c")),
    Refused("length_huge", length(" 99999999999999999999"), (400, 413)),
    Refused("length_wraps_64_bits", length(" 18446744073709551621"), (400, 413)),
    Refused("coding_gzip_chunked", coding(" gzip, chunked"), (400, 501)),
    Refused("coding_chunked_gzip", coding(" chunked, gzip"), (400, 501)),
    Refused("coding_chunked_twice", coding(" chunked, chunked"), (400, 501)),
    Refused("coding_unknown", coding(" xchunked"), (400, 501)),
    Refused("coding_identity", coding(" identity"), (400, 501)),
    Refused("coding_empty", coding("")),
    Refused("coding_quoted", coding(' "chunked"'), (400, 501)),
    Refused("coding_with_parameter", coding(" chunked;q=1"), (400, 501)),
    Refused("coding_vertical_tab", coding(" \x0bchunked"), (400, 501)),
    Refused("coding_vertical_tab_behind", coding(" chunked\x0b"), (400, 501)),
    Refused("coding_no_break_space", coding(" chunked\xa0"), (400, 501)),
    Refused("coding_two_fields", post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n")),
    Refused(
        "coding_two_fields_identity", post("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", SMUGGLED)
    ),
    Refused("coding_folded", post("Transfer-Encoding:\r\n chunked\r\n", b"0\r\n\r\n" + SMUGGLED)),
    Refused("coding_space_before_colon", post("Transfer-Encoding : chunked\r\n", b"0\r\n\r\n" + SMUGGLED)),
    Refused(
        "coding_in_http_1_0",
        post("Transfer-Encoding: chunked\r\n", b"0\r\n\r\n" + SMUGGLED, line="POST /v1/completions HTTP/1.0"),
    ),
)

_LINES = (
    Refused("folded_with_space", get("X-A: b\r\n c: d\r\n")),
    Refused("folded_with_tab", get("X-A: b\r\n\tc: d\r\n")),
    Refused("fold_before_first_field", b"GET /v1/models HTTP/1.1\r\n Host: canary.test\r\nX-A: b\r\n\r\n"),
    Refused("space_before_colon", b"GET /v1/models HTTP/1.1\r\nHost : canary.test\r\n\r\n"),
    Refused("tab_before_colon", get("X-A\t: b\r\n")),
    Refused("no_colon", get("X-A b\r\n")),
    Refused("empty_name", get(": b\r\n")),
    Refused("name_not_ascii", get("X-\xc4: b\r\n")),
    Refused("name_with_slash", get("X/A: b\r\n")),
    Refused("name_with_brackets", get("X(A): b\r\n")),
    Refused("name_with_quote", get('"X-A": b\r\n')),
    Refused("nul_in_value", get("X-A: b\0c\r\n")),
    Refused("nul_in_name", get("X\0A: b\r\n")),
    Refused("nul_in_target", get(line=b"GET /v1/models\0 HTTP/1.1")),
    Refused("control_in_value", get("X-A: b\x01c\r\n")),
    Refused("delete_in_value", get("X-A: b\x7fc\r\n")),
    Refused("vertical_tab_in_value", get("X-A: b\x0bc\r\n")),
    Refused("bare_cr_in_value", get("X-A: b\rX-C: d\r\n")),
    Refused("bare_cr_before_length", post("X-A: b\rContent-Length: 5\r\n", HELLO)),
    Refused("bare_lf_in_value", get("X-A: b\nX-C: d\r\n")),
    Refused("bare_lf_hides_coding", post("X-A: b\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n" + SMUGGLED)),
    Refused("lf_only", b"GET /v1/models HTTP/1.1\nHost: canary.test\n\n", (400, 408)),
    Refused("lf_ends_head", b"GET /v1/models HTTP/1.1\r\nHost: canary.test\r\n\n", (400, 408)),
    Refused("lf_ends_request_line", b"GET /v1/models HTTP/1.1\nHost: canary.test\r\n\r\n", (400, 408)),
    Refused("cr_only", b"GET /v1/models HTTP/1.1\rHost: canary.test\r\r", (400, 408)),
    Refused("cr_cr_lf", b"GET /v1/models HTTP/1.1\r\r\nHost: canary.test\r\n\r\n"),
)

_HOSTS = (
    Refused("host_twice_same", get("Host: canary.test\r\n")),
    Refused("host_twice_different", get("HOST: evil.test\r\n")),
    Refused("host_missing", b"GET /v1/models?canary HTTP/1.1\r\nAccept: */*\r\n\r\n"),
    Refused("host_with_space", get(host=b"canary test")),
    Refused("host_with_slash", get(host=b"canary.test/v1")),
    Refused("host_with_user", get(host=b"user@canary.test")),
    Refused("host_not_ascii", get(host=b"can\xc3\xa4ry.test")),
    Refused("host_with_quote", get(host=b'canary"test')),
    Refused("host_with_angle_bracket", get(host=b"<canary>")),
    Refused("host_with_bad_port", get(host=b"canary.test:80x")),
    Refused("host_with_scheme", get(host=b"http://canary.test")),
)

_REQUEST_LINES = (
    Refused("version_9_9", get(line=b"GET /v1/models HTTP/9.9"), (400, 505)),
    Refused("version_2_0", get(line=b"GET /v1/models HTTP/2.0"), (400, 505)),
    Refused("version_1_2", get(line=b"GET /v1/models HTTP/1.2"), (400, 505)),
    Refused("version_1_10", get(line=b"GET /v1/models HTTP/1.10"), (400, 505)),
    Refused("version_01_1", get(line=b"GET /v1/models HTTP/01.1"), (400, 505)),
    Refused("version_0_9", b"GET /v1/models?canary\r\n\r\n", (400, 505), silent=True),
    Refused("version_lower_case", get(line=b"GET /v1/models http/1.1"), (400, 505)),
    Refused("version_missing", get(line=b"GET /v1/models"), (400, 505)),
    Refused("version_with_space", get(line=b"GET /v1/models HTTP/ 1.1"), (400, 505)),
    Refused("version_of_another_protocol", get(line=b"GET /v1/models RTSP/1.1"), (400, 505)),
    Refused("http2_preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\ncanary", (400, 505), silent=True),
    Refused("two_spaces", get(line=b"GET  /v1/models HTTP/1.1")),
    Refused("two_spaces_before_version", get(line=b"GET /v1/models  HTTP/1.1")),
    Refused("leading_space", get(line=b" GET /v1/models HTTP/1.1")),
    Refused("space_behind_version", get(line=b"GET /v1/models HTTP/1.1 ")),
    Refused("tab_in_request_line", get(line=b"GET\t/v1/models HTTP/1.1")),
    Refused("absolute_form", get(line=b"GET http://canary.test/v1/models HTTP/1.1"), (400, 404)),
    Refused("absolute_form_elsewhere", get(line=b"GET http://169.254.169.254/ HTTP/1.1"), (400, 404)),
    Refused("authority_form", get(line=b"CONNECT canary.test:443 HTTP/1.1"), (400, 404, 405, 501)),
    Refused("connect_path", get(line=b"CONNECT /v1/models HTTP/1.1"), (400, 404, 405, 501), keeps=True),
    Refused("asterisk_form", get(line=b"OPTIONS * HTTP/1.1"), (400, 404, 405, 501)),
    Refused("asterisk_form_get", get(line=b"GET * HTTP/1.1"), (400, 404)),
    Refused("target_relative", get(line=b"GET v1/models HTTP/1.1"), (400, 404)),
    Refused("target_with_fragment", get(line=b"GET /v1/models#canary HTTP/1.1"), (400, 404)),
    Refused("target_with_space", get(line=b"GET /v1/models?a b HTTP/1.1")),
    Refused("target_not_ascii", get(line=b"GET /v1/models?\xc3\xa4 HTTP/1.1"), (400, 404)),
    Refused("target_with_delete", get(line=b"GET /v1/models?\x7f HTTP/1.1"), (400, 404)),
    Refused("target_with_bare_cr", get(line=b"GET /v1/models?\rX HTTP/1.1")),
    Refused("target_too_long", get(line=b"GET /v1/models?" + b"a" * 40_000 + b" HTTP/1.1"), (400, 414, 431)),
    Refused("method_lower_case", get(line=b"get /v1/models HTTP/1.1"), (400, 405, 501)),
    Refused("method_trace", get(line=b"TRACE /v1/models HTTP/1.1"), (400, 405, 501), keeps=True),
    Refused("method_unknown", get(line=b"BREW /v1/models HTTP/1.1"), (400, 405, 501), keeps=True),
    Refused("method_delete", get(line=b"DELETE /v1/models HTTP/1.1"), (400, 405, 501), keeps=True),
    Refused("method_put_with_body", plain().replace(b"POST", b"PUT"), (400, 405, 501)),
    Refused("method_with_symbol", get(line=b"GET( /v1/models HTTP/1.1"), (400, 405, 501)),
    Refused("method_get_where_post", get(line=b"GET /v1/completions HTTP/1.1"), (400, 405), keeps=True),
)

_CHUNKS = (
    Refused("chunk_size_hex_prefix", chunks(b'0x5\r\n"hi" \r\n0\r\n\r\n')),
    Refused("chunk_size_plus", chunks(b'+5\r\n"hi" \r\n0\r\n\r\n')),
    Refused("chunk_size_minus", chunks(b'-5\r\n"hi" \r\n0\r\n\r\n')),
    Refused("chunk_size_leading_space", chunks(b' 5\r\n"hi" \r\n0\r\n\r\n')),
    Refused("chunk_size_space_behind", chunks(b'5 \r\n"hi" \r\n0\r\n\r\n')),
    Refused("chunk_size_underscore", chunks(b'0_5\r\n"hi" \r\n0\r\n\r\n')),
    Refused("chunk_size_empty", chunks(b'\r\n"hi" \r\n0\r\n\r\n')),
    Refused("chunk_size_no_hex", chunks(b'g\r\n"hi" \r\n0\r\n\r\n')),
    Refused("chunk_size_not_ascii", chunks(b'\xd9\xa5\r\n"hi" \r\n0\r\n\r\n')),
    Refused("chunk_size_overlong", chunks(b"0" * 400 + b'5\r\n"hi" \r\n0\r\n\r\n'), (400, 413)),
    Refused("chunk_size_wraps_64_bits", chunks(b'10000000000000005\r\n"hi" \r\n0\r\n\r\n'), (400, 413)),
    Refused("chunk_size_largest", chunks(b'FFFFFFFFFFFFFFFF\r\n"hi" \r\n0\r\n\r\n'), (400, 413)),
    Refused("chunk_without_line_end", chunks(b'5\r\n"hi" 0\r\n\r\n')),
    Refused("chunk_longer_than_size", chunks(b'3\r\n"hi" \r\n0\r\n\r\n')),
    Refused("chunk_ends_in_lf", chunks(b'5\r\n"hi" \n0\r\n\r\n')),
    Refused("chunk_line_ends_in_lf", chunks(b'5\n"hi" \r\n0\r\n\r\n')),
    Refused("chunk_line_ends_in_cr", chunks(b'5\r"hi" \r\n0\r\n\r\n')),
    Refused("chunk_extension_with_lf", chunks(b'5;a\nb\r\n"hi" \r\n0\r\n\r\n')),
    Refused("chunk_extension_with_cr", chunks(b'5;a\rb\r\n"hi" \r\n0\r\n\r\n')),
    Refused("chunk_extension_with_nul", chunks(b'5;a\0b\r\n"hi" \r\n0\r\n\r\n')),
    Refused("chunk_extension_overlong", chunks(b"5;" + b"a" * 40_000 + b'\r\n"hi" \r\n0\r\n\r\n'), (400, 413, 431)),
    Refused("last_chunk_ends_in_lf", chunks(b'5\r\n"hi" \r\n0\n\n')),
    Refused("trailers_overlong", chunks(b"0\r\nX-A: " + b"a" * 70_000 + b"\r\n\r\n"), (400, 413, 431)),
    Refused("trailer_with_nul", chunks(b"0\r\nX-A: b\0c\r\n\r\n")),
)

_OTHERS = (
    Refused("head_too_long", get("X-A: " + "a" * 40_000 + "\r\n"), (400, 431)),
    Refused("head_too_long_in_parts", get("".join(f"X-{i}: {'a' * 900}\r\n" for i in range(50))), (400, 431)),
    Refused("too_many_fields", get("".join(f"X-{i}: b\r\n" for i in range(2000))), (400, 431)),
    Refused("a_few_fields_too_many", get("".join(f"X-{i}: b\r\n" for i in range(120))), (400, 431)),
    Refused("expectation_unknown", post("Expect: a-canary\r\nContent-Length: 5\r\n", HELLO), (417,)),
    Refused("expectation_twice", post("Expect: 100-continue, a-canary\r\nContent-Length: 5\r\n", HELLO), (400, 417)),
    Refused("garbage", b"\x00\x01\x02canary\xff\xfe\r\n\r\n", silent=True),
    Refused("tls_client_hello", b"\x16\x03\x01\x00\x2fcanary\x01\x00\x00\x2b\x03\x03" + b"\x11" * 32, silent=True),
    Refused("another_protocol", b"canary EHLO\r\n\r\n", silent=True),
    Refused("head_cut_off", b"GET /v1/models HTTP/1.1\r\nHost: can", silent=True, ends=True),
    Refused("body_cut_off", post("Content-Length: 5\r\n", b'"h'), silent=True, ends=True),
    Refused("chunked_body_cut_off", chunks(b'5\r\n"h', end=b""), silent=True, ends=True),
    Refused("chunked_body_without_end", chunks(b'5\r\n"hi" \r\n', end=b""), silent=True, ends=True),
    Refused("chunked_body_cut_off_in_end", chunks(b'5\r\n"hi" \r\n0\r\n', end=b""), silent=True, ends=True),
)

REFUSED = (*_FRAMING, *_LINES, *_HOSTS, *_REQUEST_LINES, *_CHUNKS, *_OTHERS)

_SEEN = (("POST", "/v1/completions", BODY),)
_SEEN_HELLO = (("POST", "/v1/completions", HELLO),)
_SEEN_EMPTY = (("POST", "/v1/completions", b""),)
_SEEN_MODELS = (("GET", "/v1/models", b""),)
_MIXED_CASE = f"cOnTeNt-LeNgTh: {len(BODY)}\r\nX-mIxEd: b\r\n"
_SPACES = f"Content-Length: \t {len(BODY)} \t\r\nAccept:*/*\r\nX-Empty:\r\n"
_HALVES = b"%x\r\n%b\r\n%X\r\n%b\r\n0\r\n\r\n" % (10, BODY[:10], len(BODY) - 10, BODY[10:])

PASSED = (
    Passed("get", get(), _SEEN_MODELS),
    Passed("post", plain(), _SEEN),
    Passed("query", get(line=b"GET /v1/models?a=b&c=%20%00 HTTP/1.1"), (("GET", "/v1/models?a=b&c=%20%00", b""),)),
    Passed("mixed_case_names", post(_MIXED_CASE, BODY), _SEEN),
    Passed("spaces_around_values", post(_SPACES, BODY), _SEEN),
    Passed("chunked", chunks(_HALVES, end=b""), _SEEN),
    Passed("chunked_with_trailers", chunks(_HALVES[:-2] + b"X-A: b\r\nHost: evil.test\r\n\r\n", end=b""), _SEEN),
    Passed("chunked_by_bytes", chunks(b"".join(b"1\r\n%c\r\n" % i for i in BODY) + b"0\r\n\r\n", end=b""), _SEEN),
    Passed("value_of_4_kib", post(f"X-A: {'a' * 4096}\r\nContent-Length: {len(BODY)}\r\n", BODY), _SEEN),
    Passed(
        "connection_named_length", post(f"Connection: content-length\r\nContent-Length: {len(BODY)}\r\n", BODY), _SEEN
    ),
    Passed("two_in_one_packet", plain() + get(), _SEEN + _SEEN_MODELS),
    Passed(
        "four_in_one_packet",
        get() + plain() + chunks(_HALVES, end=b"") + get(),
        _SEEN_MODELS + _SEEN * 2 + _SEEN_MODELS,
    ),
)

DOUBTFUL = (
    Doubtful("coding_tab", coding("\tchunked", end=b""), _SEEN_HELLO),
    Doubtful("coding_upper_case", coding(" CHUNKED", end=b""), _SEEN_HELLO),
    Doubtful("coding_trailing_comma", coding(" chunked,", end=b""), _SEEN_HELLO, (400, 501)),
    Doubtful("length_leading_zeros", length(" 0005").removesuffix(SMUGGLED), _SEEN_HELLO),
    Doubtful("empty_line_first", b"\r\n" + get(), _SEEN_MODELS),
    Doubtful("host_empty", get(host=b""), _SEEN_MODELS),
    Doubtful("host_ipv6", get(host=b"[::1]:8080"), _SEEN_MODELS),
    Doubtful("value_not_ascii", get("X-A: \xe4\xf6\r\n"), _SEEN_MODELS),
    Doubtful("field_of_9_kib", get("X-A: " + "a" * 9000 + "\r\n"), _SEEN_MODELS, (400, 431)),
    Doubtful("name_of_1_kib", get("X-" + "a" * 1024 + ": b\r\n"), _SEEN_MODELS, (400, 431)),
    Doubtful("no_length", post(""), _SEEN_EMPTY, (400, 411)),
    Doubtful("length_of_zero", post("Content-Length: 0\r\n"), _SEEN_EMPTY, (400, 411)),
    Doubtful("get_with_body", get("Content-Length: 5\r\n") + HELLO, (("GET", "/v1/models", HELLO),)),
    Doubtful(
        "get_with_request_as_body",
        get(f"Content-Length: {len(SMUGGLED)}\r\n") + SMUGGLED,
        (("GET", "/v1/models", SMUGGLED),),
    ),
    Doubtful("get_with_chunked_body", get("Transfer-Encoding: chunked\r\n") + b"0\r\n\r\n", _SEEN_MODELS),
    Doubtful("http_1_0", b"GET /v1/models HTTP/1.0\r\n\r\n", _SEEN_MODELS, (400, 505)),
    Doubtful(
        "http_1_0_kept", get("Connection: keep-alive\r\n", line=b"GET /v1/models HTTP/1.0"), _SEEN_MODELS, (400, 505)
    ),
    Doubtful("path_escaped", get(line=b"GET /v1/mod%65ls HTTP/1.1"), _SEEN_MODELS, (400, 404)),
    Doubtful("chunk_extension", chunks(b'5;a=b\r\n"hi" \r\n0\r\n\r\n', end=b""), _SEEN_HELLO),
    Doubtful("chunk_size_leading_zeros", chunks(b'0005\r\n"hi" \r\n000\r\n\r\n', end=b""), _SEEN_HELLO),
    Doubtful("trailer_no_colon", chunks(b'5\r\n"hi" \r\n0\r\ncanary\r\n\r\n', end=b""), _SEEN_HELLO),
    Doubtful("trailer_length", chunks(b'5\r\n"hi" \r\n0\r\nContent-Length: 9\r\n\r\n', end=b""), _SEEN_HELLO),
    Doubtful("trailer_ends_in_lf", chunks(b'5\r\n"hi" \r\n0\r\nX-A: b\n\r\n', end=b""), _SEEN_HELLO),
    Doubtful(
        "upgrade_websocket",
        get(
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: Y2FuYXJ5\r\nSec-WebSocket-Version: 13\r\n"
        ),
        _SEEN_MODELS,
        (400, 426, 501),
    ),
    Doubtful(
        "upgrade_h2c",
        get("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"),
        _SEEN_MODELS,
        (400, 426, 501),
    ),
    Doubtful(
        "upgrade_with_body",
        post(f"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: {len(BODY)}\r\n", BODY),
        _SEEN,
        (400, 426),
    ),
    Doubtful("length_with_underscore", post(f"Content_Length: 3\r\nContent-Length: {len(BODY)}\r\n", BODY), _SEEN),
    Doubtful(
        "coding_with_underscore", post(f"Transfer_Encoding: chunked\r\nContent-Length: {len(BODY)}\r\n", BODY), _SEEN
    ),
    Doubtful(
        "expectation_upper_case", post(f"Expect: 100-CONTINUE\r\nContent-Length: {len(BODY)}\r\n", BODY), _SEEN, (417,)
    ),
)
