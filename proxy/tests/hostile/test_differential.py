"""Rows 31 and 32: two parsers, one meaning. What ours accepts, llhttp (by httptools) reads the same way.

Requests are made by breaking good ones. Ours may be the stricter of the two, never the more lenient: a proxy and
a server that read a request differently are how requests are smuggled.
"""

import re

import httptools
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from spotinference_proxy.errors import ProtocolError
from spotinference_proxy.http1 import ChunkedDecoder, parse_request_head

METHODS = {"GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE"}  # llhttp knows a list, ours a form
HEADS = [
    b"GET /v1/models HTTP/1.1\r\nHost: canary.test\r\n\r\n",
    b"GET /v1/models?a=b&c=%20 HTTP/1.0\r\nAccept: */*\r\nConnection: keep-alive\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\nHost: [::1]:80\r\nContent-Length: 5\r\nContent-Type: application/json\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n",
    b"POST /v1/chat/completions HTTP/1.1\r\nHOST:a\r\nX-Empty:\r\nX-Two: a b\r\nX-Two:\tc \r\nConnection: close\r\n\r\n",
]
PARTS = [
    b"\r", b"\n", b"\r\n", b"\0", b" ", b"\t", b"\x0b", b"\x0c", b"\x7f", b"\x80", b"\xa0", b"\xff", b":", b";", b",",
    b"0", b"+", b"-", b"_", b"#", b"?", b"%", b"/", b"//", b"\\", b"HTTP/1.1", b"HTTP/1.0", b" HTTP/1.1", b"chunked",
    b"identity", b"Host: b\r\n", b"Content-Length: 5\r\n", b"Content-Length: 6\r\n", b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: gzip, chunked\r\n", b"Content-Length:", b" Content-Length: 5\r\n", b"Connection: close\r\n",
    b"Connection: upgrade\r\nUpgrade: h2c\r\n", b"X-A: b\r\n", b"X-A: b\n", b"X-A : b\r\n", b"\r\n\r\n", b"GET / HTTP/1.1\r\n",
]  # fmt: skip
BODIES = [
    b"5\r\nhello\r\n0\r\n\r\n",
    b"1\r\na\r\nA;b=c\r\n0123456789\r\n000\r\nX-A: b\r\n\r\n",
    b"0\r\n\r\n",
    b"0005\r\nhello\r\n0\r\nX-A:b\r\nX-C: d\r\n\r\nGET / HTTP/1.1\r\n\r\n",
]


SEAMS = re.compile(rb"(?=[ :;,\r\n/?])|(?<=[ :;,\r\n/?])")  # where a parser decides
EXAMPLES = settings(max_examples=max(300, settings.default.max_examples))


@st.composite
def broken(draw, originals: list[bytes]) -> bytes:
    """Return one of `originals` with up to three edits, most of them where something begins or ends."""
    raw = draw(st.sampled_from(originals))
    for _ in range(draw(st.sampled_from([1, 1, 2, 3, 0]))):
        seams = [found.start() for found in SEAMS.finditer(raw)] or [0]
        at = draw(st.sampled_from(seams) | st.integers(0, len(raw)))
        to = min(len(raw), at + draw(st.sampled_from([0, 0, 1, 2, 5])))
        raw = raw[:at] + draw(st.sampled_from(PARTS) | st.binary(max_size=2)) + raw[to:]
    return raw


class Heard:
    """What llhttp makes of bytes."""

    def __init__(self, raw: bytes) -> None:
        self.target, self.headers, self.body = b"", [], b""
        self.has_head = self.is_over = False
        parser = httptools.HttpRequestParser(self)
        try:
            parser.feed_data(raw)
        except httptools.HttpParserUpgrade:
            pass
        except httptools.HttpParserError as error:
            self.error: Exception | None = error
        else:
            self.error = None
        if self.has_head:
            self.method = parser.get_method().decode()
            self.version = parser.get_http_version()

    error = None

    def on_url(self, part: bytes) -> None:
        self.target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.has_head:
            self.headers.append((name.decode("latin-1").lower(), value.decode("latin-1").strip(" \t")))

    def on_headers_complete(self) -> None:
        self.has_head = True

    def on_body(self, part: bytes) -> None:
        self.body += part

    def on_message_complete(self) -> None:
        self.is_over = True


def whole(raw: bytes) -> bytes:
    """End it as a head ends, so that most of what is drawn is one."""
    return raw.rstrip(b"\r\n") + b"\r\n\r\n"


def compare(parse, head: bytes) -> None:
    """Check that what `parse` accepts, llhttp accepts too and reads the same way."""
    try:
        ours = parse(head)
    except ProtocolError:
        return
    if ours.method not in METHODS:
        return
    theirs = Heard(head)
    assert theirs.error is None, f"accepted by us, refused by llhttp: {theirs.error}"
    assert theirs.has_head
    assert (ours.method, ours.target) == (theirs.method, theirs.target.decode("latin-1"))
    assert theirs.version == ("1.0" if ours.is_http_1_0 else "1.1")
    assert ours.headers == theirs.headers
    has_body = ours.is_chunked or bool(ours.content_length)
    assert theirs.is_over != has_body or "upgrade" in ours.fields, "one of the two waits for a body"


@EXAMPLES
@given(broken(HEADS).map(whole))
def test_F031_a_head_that_is_accepted_means_the_same_to_another_parser(head: bytes) -> None:
    compare(parse_request_head, head)


@pytest.mark.parametrize(
    ("pattern", "repaired"),
    [
        (rb"[ \t]+:", b":"),
        (rb"(?<!\r)\n", b"\r\n"),
        (rb"\r\n[ \t]+", b" "),
        (rb"[\0\x0b\x0c\x7f]", b""),
    ],
    ids=["space_before_colon", "bare_lf", "folded", "controls"],
)
def test_F031_control_a_parser_that_repairs_is_found_out(pattern: bytes, repaired: bytes) -> None:
    @settings(max_examples=5000, database=None, phases=[Phase.generate], report_multiple_bugs=False)
    @given(broken(HEADS).map(whole))
    def differ(head: bytes) -> None:
        compare(lambda raw: parse_request_head(re.sub(pattern, repaired, raw)), head)

    with pytest.raises(AssertionError):
        differ()


@EXAMPLES
@given(broken(HEADS).map(whole))
def test_F031_what_is_accepted_can_be_written_on_as_it_is(head: bytes) -> None:
    """No value may begin a line, end a head or be seen as two."""
    try:
        ours = parse_request_head(head)
    except ProtocolError:
        return
    assert re.fullmatch(r"/[\x21-\x7e]*", ours.target)
    for name, value in ours.headers:
        assert re.fullmatch(r"[!#$%&'*+\-.^_`|~0-9a-z]+", name)
        assert re.fullmatch(r"[\t\x20-\x7e\x80-\xff]*", value)
        assert value == value.strip(" \t")
    assert [name for name, _ in ours.headers].count("host") <= 1
    assert (ours.content_length is None) or not ours.is_chunked


def decode(parts: list[bytes]) -> tuple[bytes, bytes, bool] | None:
    """Return body, rest and whether it was whole; None for what is refused."""
    decoder = ChunkedDecoder()
    content, rest = b"", b""
    try:
        for i, part in enumerate(parts):
            content += decoder.feed(part)
            if decoder.is_done:
                rest = decoder.rest + b"".join(parts[i + 1 :])
                break
    except ProtocolError:
        return None
    return content, rest, decoder.is_done


@EXAMPLES
@given(broken(BODIES))
def test_F031_chunks_that_are_accepted_mean_the_same_to_another_parser(raw: bytes) -> None:
    ours = decode([raw])
    if ours is None or not ours[2]:
        return
    content, rest, _ = ours
    head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    theirs = Heard(head + raw[: len(raw) - len(rest)])
    if theirs.error is None:
        assert (theirs.body, theirs.is_over) == (content, True)
    else:
        assert b";" in raw or b":" in raw, (
            f"only extensions and trailers, which are dropped, may differ: {theirs.error}"
        )


@EXAMPLES
@given(broken(BODIES), st.lists(st.integers(1, 9), min_size=1, max_size=40))
def test_F031_chunks_mean_the_same_however_they_are_cut(raw: bytes, sizes: list[int]) -> None:
    parts, at, i = [], 0, 0
    while at < len(raw):
        parts.append(raw[at : at + sizes[i % len(sizes)]])
        at += len(parts[-1])
        i += 1
    together, apart = decode([raw]), decode(parts)
    if together is not None and together[2]:
        assert apart == together
    else:
        assert apart is None or not apart[2], "refused in one piece, accepted in several"


@pytest.fixture(scope="module")
def front(open_front):
    return open_front()


@given(data=st.data())
def test_F031_broken_requests_reach_the_upstream_whole_or_not_at_all(front, corpus, make_wire, data) -> None:
    """On a socket: whatever is made of it, the upstream reads only whole requests of known fields."""
    originals = [corpus.plain(), corpus.get(), corpus.chunks(b"5\r\nhello\r\n0\r\n\r\n", end=b"")]
    raw = data.draw(broken(originals)) + corpus.get(line=b"GET /v1/models?behind HTTP/1.1")
    mark = front.upstream.mark()
    with make_wire(front.address, patience=0.03) as wire:
        wire.send(raw)
        answers = wire.read_all()
    with make_wire(front.address) as wire:
        wire.send(corpus.get(line=b"GET /v1/models?barrier HTTP/1.1"))
        assert wire.read().status == 200
    *seen, _ = front.upstream.since(mark)
    assert len([one for one in answers if one.status == 200]) <= len(seen) <= raw.count(b"HTTP/1.")
    assert all(re.fullmatch(r"/[\x21-\x7e]+", one.target) for one in seen)
    assert all(dict(one.fields).get("content-length", "0") == str(len(one.body)) for one in seen)
