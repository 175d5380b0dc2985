"""Lines of the request log."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spotinference_pipeline import raw
from spotinference_pipeline.request_log import SEGMENT_NAME, End, read_segment


def framed(**line: Any) -> bytes:
    return raw.frame(json.dumps({"v": 1, "n": 0} | line).encode())


def test_each_kind_of_line_lands_in_its_list_with_its_number(lines: Any) -> None:
    segment = read_segment(
        lines.segment(
            lines.begin(1),
            lines.usage(1, "10:00:05"),
            lines.end(1),
            lines.health("10:01"),
            lines.engine("10:01"),
            lines.beat("10:01"),
            lines.seal(),
        )
    )
    found = (segment.heads, segment.begins, segment.usages, segment.ends)
    witnesses = (segment.healths, segment.engines, segment.beats, segment.seals)
    assert [kind.lines for kind in (*found, *witnesses)] == [[n] for n in range(1, 9)]
    assert (segment.lines, segment.unknown, segment.bad) == (8, 0, [])


def test_an_end_keeps_unknown_tokens_unknown(lines: Any) -> None:
    end = lines.end(1, usage_source="none", prompt_tokens=None, completion_tokens=None, vm_id=None, model=None)
    (found,) = read_segment(lines.segment(end)).ends.records
    assert isinstance(found, End)
    assert (found.prompt_tokens, found.completion_tokens, found.vm_id, found.model) == (None,) * 4
    assert found.finished_at.utcoffset().total_seconds() == 0


def test_F046_unknown_members_are_ignored(lines: Any) -> None:
    segment = read_segment(lines.segment(lines.end(1, speculative_tokens=7), lines.beat() | {"load": [1]}))
    assert (len(segment.ends.records), len(segment.beats.records), segment.bad) == (1, 1, [])


def test_lines_of_an_unknown_kind_are_counted() -> None:
    segment = read_segment(framed(k="weather", at=1) + framed(k="beat", at="2026-11-22T10:00:00Z"))
    assert (segment.unknown, len(segment.beats.records), segment.bad) == (1, 1, [])


@pytest.mark.parametrize(
    "line",
    [
        {"k": "beat"},
        {"k": "beat", "at": "2026-11-22T10:00:00"},
        {"k": "beat", "at": 1},
        {"k": None},
        {"k": 7, "at": "2026-11-22T10:00:00Z"},
        {"at": "2026-11-22T10:00:00Z"},
        {"k": "beat", "at": "2026-11-22T10:00:00Z", "n": "0"},
    ],
    ids=str,
)
def test_a_line_of_wrong_types_is_bad_and_the_others_are_read(line: dict[str, Any], lines: Any) -> None:
    segment = read_segment(framed(**line) + lines.segment(lines.end(1)))
    (bad,) = segment.bad
    assert bad.line == 1
    assert bad.reason.startswith("record: ")
    assert len(segment.ends.records) == 1


@pytest.mark.parametrize("name", ["request_id", "started_at", "finished_at", "end_reason", "prompt_tokens", "choices"])
def test_F045_a_missing_member_makes_a_bad_line_that_names_it(lines: Any, name: str) -> None:
    end = lines.end(1)
    del end[name]
    (bad,) = read_segment(lines.segment(end)).bad
    assert name in bad.reason


@pytest.mark.parametrize("tokens", [1.5, "7", True, 2**62 + 1, 10**30])
def test_F044_tokens_that_are_no_count_make_a_bad_line(lines: Any, tokens: Any) -> None:
    segment = read_segment(lines.segment(lines.end(1, prompt_tokens=tokens)))
    assert len(segment.bad) == 1
    assert segment.ends.records == []


@pytest.mark.parametrize("depth", [900, 50_000])
def test_endless_nesting_is_a_bad_line_or_is_ignored(lines: Any, depth: int) -> None:
    deep = b'{"v":1,"n":0,"k":"beat","at":"2026-11-22T10:00:00Z","x":' + b"[" * depth + b"]" * depth + b"}"
    segment = read_segment(raw.frame(deep) + lines.segment(lines.end(1)))
    assert len(segment.beats.records) + len(segment.bad) == 1
    assert len(segment.ends.records) == 1


def test_F009_a_torn_segment_gives_its_whole_lines_at_every_cut(lines: Any) -> None:
    content = lines.segment(lines.end(1), lines.end(2), lines.seal())
    whole = read_segment(content)
    for size in range(len(content)):
        cut = read_segment(content[:size])
        complete = content[:size].count(b"\n")
        readable = [line for line in whole.ends.lines if line <= complete]
        assert (cut.ends.lines, cut.ends.records) == (readable, whole.ends.records[: len(readable)])
        assert len(cut.bad) == (not content[:size].endswith(b"\n") and size > 0)
        assert cut.lines == complete + len(cut.bad)


def test_F010_a_tail_of_zeros_is_one_bad_line(lines: Any) -> None:
    segment = read_segment(lines.segment(lines.end(1)) + bytes(4096))
    assert len(segment.ends.records) == 1
    assert len(segment.bad) == 1


@given(data=st.data())
def test_F011_a_flipped_bit_costs_at_most_the_lines_it_touches(lines: Any, data: st.DataObject) -> None:
    content = lines.segment(lines.end(1), lines.end(2), lines.end(3))
    place = data.draw(st.integers(0, len(content) - 1))
    flipped = bytearray(content)
    flipped[place] ^= 1 << data.draw(st.integers(0, 7))
    segment = read_segment(bytes(flipped))
    before = read_segment(content).ends.records
    assert all(end in before for end in segment.ends.records), "no line says something else than before"
    assert len(segment.bad) >= 1
    assert len(segment.ends.records) >= 1


@given(st.binary(max_size=300))
def test_any_bytes_can_be_read(content: bytes) -> None:
    segment = read_segment(content)
    assert segment.lines == len(segment.bad)


def test_only_sealed_segments_have_the_name_of_one(lines: Any) -> None:
    assert SEGMENT_NAME.fullmatch(lines.name(1))
    for name in (
        lines.name(1).replace(".jsonl", ".open"),
        "x/" + lines.name(1),
        lines.name(1) + "\n",
        "A" + lines.name(1),
    ):
        assert not SEGMENT_NAME.fullmatch(name)
