import json
import re
import time
import uuid
from datetime import UTC, datetime, timedelta, timezone

import google_crc32c
import pytest
from hypothesis import given
from hypothesis import strategies as st
from spotinference_proxy.errors import RecordError
from spotinference_proxy.record import (
    MAX_LINE_BYTES,
    RequestRecord,
    new_request_id,
    parse_line,
    render_entry,
    render_instant,
    render_line,
    render_lines,
)
from spotinference_proxy.usage import Usage

AT = datetime(2026, 11, 22, 23, 59, 59, 7, tzinfo=UTC)


def test_a_line_is_spelled_exactly_so() -> None:
    line = render_line({"k": "beat", "at": render_instant(AT)}, 3)
    body = b'{"v":1,"k":"beat","n":3,"at":"2026-11-22T23:59:59.000007Z"'
    assert line == body + f',"c":"{google_crc32c.value(body):08x}"}}\n'.encode()
    assert parse_line(line) == json.loads(line)
    assert google_crc32c.value(b"123456789") == 0xE3069283  # Castagnoli, not zlib's


@pytest.mark.parametrize("zone", ["America/Los_Angeles", "Europe/London", "Pacific/Kiritimati"])
def test_F019_instants_are_utc_whatever_the_zones(zone: str, monkeypatch) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        for hours in (-12, 0, 9, 14):
            there = timezone(timedelta(hours=hours))
            assert render_instant(AT.astimezone(there)) == "2026-11-22T23:59:59.000007Z"
            assert render_instant(datetime(2028, 2, 29, tzinfo=UTC).astimezone(there)) == "2028-02-29T00:00:00.000000Z"
        assert render_instant(AT.astimezone()) == "2026-11-22T23:59:59.000007Z"
    finally:
        monkeypatch.delenv("TZ")
        time.tzset()


@given(st.datetimes(timezones=st.timezones()))
def test_an_instant_always_has_microseconds_and_z(instant: datetime) -> None:
    try:
        in_utc = instant.astimezone(UTC)
    except OverflowError:
        return
    text = render_instant(instant)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", text)
    assert datetime.fromisoformat(text) == in_utc


@given(st.text(max_size=40), st.integers(0, 10**6))
def test_every_row_comes_back(text: str, n: int) -> None:
    row = parse_line(render_line({"k": "x", "text": text, "deep": [None, True]}, n))
    assert row["text"] == text.encode("utf-8", "replace").decode()
    assert (row["n"], row["deep"]) == (n, [None, True])


def test_letters_of_all_scripts_are_written_as_they_are_and_split_no_line() -> None:
    odd = "Ünïcödé 模型 \u2028\u2029\x85\x7f\x0b\x1c"
    line = render_line({"k": "x", "text": odd}, 0)
    assert "Ünïcödé 模型 \u2028".encode() in line
    assert line.count(b"\n") == 1
    assert json.loads(line)["text"] == odd


def test_a_row_is_rendered_once_for_any_place() -> None:
    rows = [{"k": "begin", "request_id": "a"}, {"k": "beat"}]
    entries = [render_entry(row) for row in rows]
    assert [entry.request_id for entry in entries] == ["a", None]
    assert render_lines(entries, 8) == render_line(rows[0], 8) + render_line(rows[1], 9)
    with pytest.raises(RecordError, match="first member"):
        render_entry({"v": 1, "k": "beat"})


def test_F011_every_flipped_bit_is_noticed() -> None:
    line = render_line(RequestRecord(new_request_id(AT), AT, "/v1/completions").begin(), 1)
    for bit in range(len(line) * 8):
        flipped = bytearray(line)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(RecordError):
            parse_line(bytes(flipped))


def test_F073_over_long_and_odd_strings_are_cut_and_stay_one_line() -> None:
    record = RequestRecord(new_request_id(AT), AT, "/v1/" + "a" * 9000, requested_model="\n\x00\u2028\ud800" * 9000)
    line = render_line(record.begin(), 1)
    assert len(line) <= MAX_LINE_BYTES
    assert line.count(b"\n") == 1
    assert record.requested_model.startswith(parse_line(line)["requested_model"].replace("?", "\ud800")[:60])


def test_what_is_too_long_without_strings_is_refused() -> None:
    with pytest.raises(RecordError, match="longer than"):
        render_line({"k": "x", "many": list(range(9000))}, 0)


@pytest.mark.parametrize("body", [b'{"v":2,"k":"x","n":0', b'{"v":1,"n":0', b'{"v":1,"k":"x","n":true', b"[1", b"{,"])
def test_another_version_or_shape_is_refused(body: bytes) -> None:
    with pytest.raises(RecordError, match="version 1"):
        parse_line(body + f',"c":"{google_crc32c.value(body):08x}"}}\n'.encode())


def test_a_line_longer_than_the_limit_is_refused() -> None:
    body = b'{"v":1,"k":"x","n":0,"a":"' + b"a" * MAX_LINE_BYTES + b'"'
    with pytest.raises(RecordError, match="bytes"):
        parse_line(body + f',"c":"{google_crc32c.value(body):08x}"}}\n'.encode())


def test_a_request_id_is_a_version_7_uuid_of_its_instant() -> None:
    found = uuid.UUID(new_request_id(AT))
    assert (found.version, found.variant) == (7, uuid.RFC_4122)
    assert found.int >> 80 == int(AT.timestamp() * 1000)
    assert len({new_request_id(AT) for _ in range(100)}) == 100


def test_an_end_row_has_the_members_of_the_format_in_order() -> None:
    record = RequestRecord("id", AT, "/v1/completions", usage=Usage(5, 2, None, 1), is_usage_final=True)
    begin, end = record.begin(), record.end(AT, "complete")
    shared = [
        "k",
        "request_id",
        "started_at",
        "endpoint",
        "requested_model",
        "stream",
        "vm_id",
        "key_id",
        "canary",
    ]
    assert list(begin) == shared
    assert list(end) == shared + re.findall(
        r"\w+",
        "model finished_at first_byte_at status upstream_status end_reason usage_source prompt_tokens "
        "completion_tokens cached_tokens reasoning_tokens choices",
    )
    assert (end["prompt_tokens"], end["cached_tokens"], end["reasoning_tokens"]) == (5, None, 1)


def test_F021_unknown_usage_is_null_and_says_so() -> None:
    record = RequestRecord("id", AT, "/v1/completions")
    end = record.end(AT, "upstream_error")
    assert (end["usage_source"], end["prompt_tokens"], end["completion_tokens"]) == ("none", None, None)
    assert record.progress(AT) is None
    record.usage = Usage(4, 1)
    assert record.end(AT, "client_gone")["usage_source"] == "engine_partial"
    assert record.progress(AT)["completion_tokens"] == 1


def test_F018_a_clock_that_jumps_is_told_and_no_end_is_before_its_start() -> None:
    def end_after(jump: float, lasted: float, monotonic: float | None) -> dict:
        record = RequestRecord("id", AT, "/v1/completions", started_monotonic=100.0, first_byte_at=AT)
        return dict(record.end(AT + timedelta(seconds=jump + lasted), "complete", monotonic))

    back = end_after(-7200, 30, 130.0)
    assert (back["finished_at"], back["clock_jump"]) == (back["started_at"], -7200)
    ahead = end_after(3 * 86400, 30, 130.0)
    assert (ahead["finished_at"], ahead["clock_jump"]) == ("2026-11-26T00:00:29.000007Z", 259200)
    assert "clock_jump" not in end_after(4.9, 3600, 3700.0)
    assert "clock_jump" not in end_after(0, 86400, None)  # a virtual clock has no stopwatch
    fast = RequestRecord("id", AT, "/v1/completions").end(AT + timedelta(days=1), "complete", 130.0)
    assert "clock_jump" not in fast


def test_F018_the_first_byte_lies_between_start_and_end() -> None:
    record = RequestRecord("id", AT, "/v1/completions", first_byte_at=AT - timedelta(hours=2))
    assert record.end(AT + timedelta(1), "complete")["first_byte_at"] == render_instant(AT)
    record.first_byte_at = AT + timedelta(3)
    assert record.end(AT + timedelta(1), "complete")["first_byte_at"] == render_instant(AT + timedelta(1))


def test_F023_what_cannot_be_true_is_kept_and_marked() -> None:
    record = RequestRecord("id", AT, "/v1/completions", usage=Usage(3, 9), is_implausible=True, is_beam=True)
    end = record.end(AT, "complete")
    assert (end["implausible"], end["beam_search"], end["completion_tokens"]) == (True, True, 9)
    record.is_implausible = record.is_beam = False
    assert not {"implausible", "beam_search"} & set(record.end(AT, "complete"))
