"""The cut of `usage` is exact: events are put together with and without it, in any spelling JSON allows."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import Raw
from spotinference_proxy import strip
from spotinference_proxy.strip import cut_usage, decode_document, read_document, read_json
from spotinference_proxy.usage import AnswerReader

spaces = st.sampled_from(["", "", "", " ", "\t", "  "])
texts = st.one_of(
    st.text(max_size=8), st.sampled_from(['"usage"', ',"usage":{"a":1}}', "data: {}\n\n", "\\", "é🦦", "\u2028\x7f"])
)
keys = st.one_of(texts, st.sampled_from(["id", "model", "delta", "metrics", "usage ", "Usage"])).filter(
    lambda key: key not in ("usage", "choices", "error", "type")
)
usages = st.fixed_dictionaries(
    {"prompt_tokens": st.integers(0, 9), "completion_tokens": st.integers(0, 9)},
    optional={"details": st.one_of(st.none(), st.dictionaries(texts, st.integers(), max_size=2))},
)
values = st.recursive(
    st.one_of(texts, st.integers(), st.floats(allow_nan=False), st.none(), st.booleans(), usages),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.one_of(texts, st.just("usage")), inner, max_size=3)
    ),
    max_leaves=6,
)


def spell(value: object, draw: st.DrawFn) -> str:
    """Write a value as some JSON writer would."""
    gaps = draw(st.sampled_from([(",", ":"), (", ", ": "), (" , ", "\t: ")]))
    return json.dumps(value, separators=gaps, ensure_ascii=draw(st.booleans()))


@st.composite
def events(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """Return an event with a running usage somewhere behind its first member, and the same without."""
    members = [spell(draw(keys), draw) + draw(spaces) + ":" + draw(spaces) + spell(draw(values), draw)]
    for _ in range(draw(st.integers(0, 3))):
        members.append(spell(draw(keys), draw) + ":" + spell(draw(values), draw))
    members.insert(draw(st.integers(0, len(members))), '"choices":[{"index":0,"finish_reason":null}]')
    at = draw(st.integers(1, len(members)))
    usage = f',{draw(spaces)}"usage"{draw(spaces)}:{draw(spaces)}{spell(draw(usages), draw)}'
    gaps = [draw(spaces) for _ in range(3)]
    line_end = draw(st.sampled_from(["\n", "\n", "\r\n", "\r"]))

    def event(added: str) -> bytes:
        head, tail = ",".join(members[:at]), ",".join(["", *members[at:]])
        return f"data:{gaps[0]}{{{gaps[1]}{head}{added}{tail}{gaps[2]}}}{line_end * 2}".encode("utf-8", "replace")

    return event(usage), event("")


def show(*chunks: bytes, final: bool = True, running: bool = True) -> bytes:
    reader = AnswerReader("/v1/chat/completions", 200, "text/event-stream", hides_final=final, hides_running=running)
    return b"".join([*map(reader.feed, chunks), reader.finish()])


@given(events())
def test_what_was_added_goes_and_nothing_else(pair: tuple[bytes, bytes]) -> None:
    event, plain = pair
    assert show(event) == plain
    assert show(plain) == plain
    assert show(event, running=False) == event
    assert show(event, plain, event) == plain * 3


@given(events(), st.data())
def test_both_parsers_read_the_same(pair: tuple[bytes, bytes], data: st.DataObject) -> None:
    document = bytearray(pair[0].strip()[5:])
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, len(document) - 1))
        document[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
        if not document:
            return
    lenient = strip._read_leniently(bytes(document))
    try:
        strict = decode_document(document)
    except strip.UNREADABLE:
        assert read_document(document) == lenient
    else:
        assert strict == lenient
        assert read_json(strict.usage) == (read_json(lenient.usage) if lenient else None)


@given(st.binary(max_size=200), st.binary(max_size=60))
@example(b'data: {"a":1', b',"usage":{}}\n\n')
def test_whatever_comes_no_byte_is_lost_but_of_a_usage(body: bytes, tail: bytes) -> None:
    assert show(body, tail) == body + tail or b"usage" in body + tail


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ('{"a":1, "usage" : {"b":{}} ,"z":2}', '{"a":1 ,"z":2}'),
        ('{"a":1,"usage":{"x":1},"deep":{"k":0,"usage":{"y":1}}}', '{"a":1,"deep":{"k":0,"usage":{"y":1}}}'),
        ('{"a":1,"usage":{"x":1},"deep":{"k":0,"usage":{"x":1}}}', '{"a":1,"deep":{"k":0,"usage":{"x":1}}}'),
        ('{"deep":{"k":0,"usage":{"x":1}},"usage":{"x":1}}', '{"deep":{"k":0,"usage":{"x":1}}}'),
        ('{"a":1,"usage" :{"x":12},"deep":{"k":0,"usage":{"y":1}}}', '{"a":1,"deep":{"k":0,"usage":{"y":1}}}'),
        ('{"a":NaN,"usage":{"x":1}}', '{"a":NaN}'),
        ('{"a":1,"usage":{"x":NaN}}', '{"a":1}'),
        ('{"a":1,"usage":{"x":1},"usage":{"x":2}}', '{"a":1,"usage":{"x":1}}'),  # the last is the one that counts
        ('{"a":1,"usage":{"x":1},"b":2,"usage":{"x":1},"c":3}', '{"a":1,"usage":{"x":1},"b":2,"c":3}'),
        ('{"a":"\\ud800","usage":{"x":1}}', '{"a":"\\ud800"}'),
    ],
)
def test_only_the_member_of_the_event_itself_is_taken_out(text: str, shown: str) -> None:
    choices = '{"choices":[{}],'
    assert show(f"data: {choices}{text[1:]}\n\n".encode()).decode() == f"data: {choices}{shown[1:]}\n\n"


@pytest.mark.parametrize(
    "event",
    [
        'data: {"usage":{"x":1},"choices":[{}]}\n\n',
        'data: {"usage":null,"choices":[]}\n\n',
        'data: {"choices":[{}],"usage":null}\n\n',
        'data: {"choices":[{}],"usage":3}\n\n',
        'data: {"choices":[{}],"us\\u0061ge":{"x":1}}\n\n',
        'data: {"choices":[{}],"deep":{"k":0,"usage":{"y":1}}}\n\n',
        'data: {"choices":[{}],"usage":{"x":1},"a":"\n\n',
        'data: {"choices":[{}],"usage":{"x":1}}x\n\n',
        'data: {"choices":[{}],"usage":{"x":1},}\n\n',
        'data: {"choices":[{}] "usage":{"x":1}}\n\n',
        'data: {"choices":[{}],"a" 1,"usage":{"x":1}}\n\n',
        'data: {"choices":[{}],1:2,"usage":{"x":1}}\n\n',
        'data: {"choices":3,"usage":{"x":1}}\n\n',
        'data: [{"choices":[{}],"usage":{"x":1}}]\n\n',
        ': a comment on ,"usage":{}}\n\n',
        'data: {"choices":[{}],"usage":{"x":1},"deep":{"k":0,"usage":\ndata: {"y":1}}}\n\n',
        'data: {"choices":[{}],"usage": {"x":1}\ndata: }\n: ,"usage":{"x":1}}\n\n',
        "data: " + "[" * 100_000 + "\n\n",
        "data: \n\n",
    ],
)
def test_what_cannot_be_cut_with_certainty_stays(event: str) -> None:
    assert show(event.encode()).decode() == event


def test_a_member_of_one_line_of_an_event_of_several_fields_is_taken_out() -> None:
    event = b'event: x\r\ndata: {"choices":[{}],"usage":{"x":1}}\r\nid: 1\r\n\r\n'
    assert show(event) == event.replace(b',"usage":{"x":1}', b"")


def test_the_size_of_an_event_does_not_matter_to_strict_json() -> None:
    tokens = b'"prompt_token_ids":[' + b"1234567," * 200_000 + b"1]"
    plain = b'data: {"choices":[{"index":0}],' + tokens + b"}\n\n"
    event = plain.replace(b',"prompt', b',"usage":{"prompt_tokens":1,"completion_tokens":0},"prompt')
    assert len(event) > strip.MAX_LENIENT_BYTES
    assert show(event) == plain
    odd = event.replace(b"1234567", b"NaN", 1)  # of this size only strict JSON is read
    assert show(odd) == odd
    assert cut_usage(odd, Raw(b'{"prompt_tokens":2}')) == odd


def test_a_part_that_is_no_json_is_nothing() -> None:
    assert read_json(Raw(b"x")) is None
    assert read_document(b"\xef\xbb\xbf{ }") == read_document(b"{}") != read_document(b"\xef\xbb\xbf[]")


def test_an_event_over_the_limit_passes_as_it_is() -> None:
    event = (
        b'data: {"a":"' + b"x" * (9 * 2**20) + b'","choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}\n\n'
    )
    for step in (2**16, 2**20):
        assert show(*(event[i : i + step] for i in range(0, len(event), step))) == event
