"""Raw files: framing, exchanges, landing."""

import hashlib
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spotinference_pipeline import raw
from spotinference_pipeline.errors import RawFileError

BODIES = st.none() | st.binary(max_size=60) | st.text(max_size=60).map(str.encode)


def read(content: bytes) -> list[raw.Exchange | raw.BadLine]:
    return [found for _, found in raw.read_exchanges(content)]


def test_a_line_ends_with_the_checksum_of_what_is_before_it() -> None:
    # The check value of CRC32C (Castagnoli) for "123456789" is e3069283.
    assert raw.frame(b"123456789}") == b'123456789,"c":"e3069283"}\n'


@given(st.dictionaries(st.text(max_size=5).filter(lambda name: name != "c"), st.text(max_size=10), min_size=1))
def test_a_framed_line_is_plain_json_and_is_given_back(document: dict[str, str]) -> None:
    (line,) = raw.split_lines(raw.frame(msgspec.json.encode(document)))
    assert isinstance(line, bytes)
    found = msgspec.json.decode(line)
    assert list(found)[-1] == "c"
    assert {name: text for name, text in found.items() if name != "c"} == document


def why_bad(line: bytes) -> str:
    (bad,) = raw.split_lines(line + b"\n")
    assert isinstance(bad, raw.BadLine)
    assert (bad.line, bad.content) == (1, line)
    return bad.reason


@given(st.data())
def test_any_changed_byte_of_a_line_is_noticed(data: st.DataObject) -> None:
    line = raw.frame(b'{"v":1,"name":"otter"}').removesuffix(b"\n")
    place = data.draw(st.integers(0, len(line) - 1))
    other = data.draw(st.integers(0, 255).filter(lambda byte: byte not in (line[place], ord("\n"))))
    assert why_bad(line[:place] + bytes([other]) + line[place + 1 :]).startswith("checksum")


def test_an_upper_case_checksum_is_another_text() -> None:
    line = raw.frame(b'{"v":1}').removesuffix(b"\n")
    content, checksum = line[:-10], line[-10:-2]
    assert checksum != checksum.upper()
    assert why_bad(content + checksum.upper() + b'"}').startswith(f"checksum: expected {checksum.decode()}, found ")


@pytest.mark.parametrize("line", [b"", b"{}", b'{"c":"00000000"}', b"\x00" * 64])
def test_a_line_without_checksum_is_bad(line: bytes) -> None:
    assert why_bad(line).startswith("checksum: expected")


def test_a_torn_last_line_is_reported_and_the_lines_before_it_are_read() -> None:
    content = raw.frame(b'{"a":1}') + raw.frame(b'{"a":2}')
    for size in range(len(raw.frame(b'{"a":1}')) + 1, len(content)):
        first, torn = raw.split_lines(content[:size])
        assert first == raw.frame(b'{"a":1}').removesuffix(b"\n")
        assert isinstance(torn, raw.BadLine)
        assert (torn.line, torn.reason) == (2, "torn line: expected a newline at its end")


def test_an_empty_file_has_no_lines() -> None:
    assert raw.split_lines(b"") == []


@given(body=BODIES, sent=st.none() | st.text(max_size=20), seconds=st.integers(0, 60))
def test_an_exchange_survives_being_written_and_read(body: bytes | None, sent: str | None, seconds: int) -> None:
    started_at = datetime(2026, 11, 22, 10, tzinfo=UTC)
    exchange = raw.Exchange(
        scheduled_at=started_at,
        started_at=started_at,
        finished_at=started_at + timedelta(seconds=seconds, microseconds=3),
        endpoint="/pricebook",
        query={"deleted": "false"},
        status=None if body is None else 200,
        date=sent,
        **raw.body_members(body),
    )
    (found,) = read(raw.encode_exchange(exchange))
    assert found == exchange
    assert found.body_bytes() == body


def test_a_body_that_is_no_text_is_kept_as_base64_and_text_is_not(words: Any) -> None:
    binary = raw.encode_exchange(words.exchange("/pricebook", b"\xff\xfe"))
    text = raw.encode_exchange(words.exchange("/pricebook", "é".encode()))
    assert b'"body_base64":"//4="' in binary
    assert b'"body":null' in binary
    assert b"body_base64" not in text
    assert hashlib.sha256(b"\xff\xfe").hexdigest().encode() in binary


def test_the_members_of_a_line_are_those_of_the_documentation(words: Any) -> None:
    line = raw.encode_exchange(words.exchange("/pricebook", b"[]", "10:00:30"))
    assert msgspec.json.decode(line) == {
        "v": 1,
        "scheduled_at": "2026-11-22T10:00:00.000000Z",
        "started_at": "2026-11-22T10:00:30.000000Z",
        "finished_at": "2026-11-22T10:00:31.000000Z",
        "endpoint": "/pricebook",
        "query": {},
        "status": 200,
        "date": None,
        "sha256": hashlib.sha256(b"[]").hexdigest(),
        "body": "[]",
        "error": None,
        "c": line[-11:-3].decode(),
    }


def test_what_a_line_says_only_now_and_then_survives_being_written_and_read(words: Any) -> None:
    pause = raw.Pause(why="failing", began_at=words.at("09:59"), ends_at=words.at("10:14"), failures=9)
    exchange = words.exchange("/pricebook", None, retry_after="120", pause=pause)
    line = raw.encode_exchange(exchange)
    assert read(line) == [exchange]
    assert msgspec.json.decode(line)["pause"] == {
        "why": "failing",
        "began_at": "2026-11-22T09:59:00.000000Z",
        "ends_at": "2026-11-22T10:14:00.000000Z",
        "failures": 9,
    }


def test_an_observation_is_from_the_middle_of_its_request(words: Any) -> None:
    assert words.exchange("/pricebook", b"[]", "10:00:30").observed_at == words.at("10:00:30.5")


def test_a_body_without_the_digest_of_its_arrival_is_refused(words: Any) -> None:
    exchange = msgspec.structs.replace(words.exchange("/pricebook", b"[]"), body="[ ]")
    with pytest.raises(RawFileError, match="body: expected the sha256"):
        exchange.body_bytes()


def test_a_body_that_is_no_base64_is_refused(words: Any) -> None:
    exchange = msgspec.structs.replace(words.exchange("/pricebook", b"\xff"), body_base64="*")
    with pytest.raises(RawFileError, match="body_base64"):
        exchange.body_bytes()


@pytest.mark.parametrize(
    "changes",
    [
        {"status": 2**40},
        {"status": "200"},
        {"started_at": "2026-11-22T10:00:00"},
        {"scheduled_at": "ten"},
        {"endpoint": None},
        {"query": {"page": 1}},
        {"later": "[" * 5 + "{"},
    ],
    ids=str,
)
def test_a_line_that_is_no_exchange_is_reported_with_its_number(words: Any, changes: dict[str, Any]) -> None:
    line = msgspec.json.decode(raw.encode_exchange(words.exchange("/pricebook", b"[]")))
    del line["c"]
    good = raw.frame(msgspec.json.encode(line))
    found = read(good + raw.frame(msgspec.json.encode(line | changes)))
    assert isinstance(found[0], raw.Exchange)
    if "later" in changes:
        assert isinstance(found[1], raw.Exchange), "unknown members are ignored"
    else:
        assert isinstance(found[1], raw.BadLine)
        assert found[1].line == 2
        assert found[1].reason.startswith("exchange: ")


def test_endless_nesting_is_a_bad_line() -> None:
    deep = b'{"v":1,"x":' + b"[" * 50_000 + b"]" * 50_000 + b"}"
    (found,) = read(raw.frame(deep))
    assert isinstance(found, raw.BadLine)


def test_landing_writes_one_file_in_the_folder_of_the_day_and_leaves_nothing_else(words: Any, tmp_path: Path) -> None:
    exchanges = [
        words.exchange("/pricebook", b"[]", "10:00:30"),
        words.exchange("/pricebook", None, "10:00:40"),
    ]
    path = raw.append_exchanges(tmp_path, exchanges, "0a0b0c0d")
    assert path == tmp_path / "2026-11-22" / "20261122T100030Z.0a0b0c0d.jsonl"
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert read(path.read_bytes()) == exchanges


def test_a_landed_file_is_never_written_over(words: Any, tmp_path: Path) -> None:
    path = raw.append_exchanges(tmp_path, [words.exchange("/pricebook", b"[]")], "0a0b0c0d")
    before = path.read_bytes()
    with pytest.raises(RawFileError, match="found a file of that name"):
        raw.append_exchanges(tmp_path, [words.exchange("/pricebook", b"[1]")], "0a0b0c0d")
    assert path.read_bytes() == before
    assert raw.list_files(tmp_path) == [path]


def test_a_folder_that_cannot_be_made_is_an_error_that_says_what_to_do(words: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RawFileError, match=r"could not be written, found .*; free space or correct permissions"):
        raw.append_exchanges(tmp_path / "file", [words.exchange("/pricebook", b"[]")], "0a0b0c0d")


def test_files_are_listed_oldest_first_and_others_are_left_out(words: Any, tmp_path: Path) -> None:
    late = raw.append_exchanges(tmp_path, [words.exchange("/pricebook", b"[]", "11:00")], "00000000")
    early = raw.append_exchanges(tmp_path, [words.exchange("/pricebook", b"[]", "10:00")], "ffffffff")
    before = raw.append_exchanges(tmp_path, [words.exchange("/pricebook", b"[]", "2026-11-21T23:59")], "00000000")
    (late.parent / "20261122T120000Z.00000000.open").touch()
    (tmp_path / "notes.jsonl").touch()
    assert raw.list_files(tmp_path) == [before, early, late]


def test_the_first_day_is_the_oldest_folder_and_unknown_without_one(words: Any, tmp_path: Path) -> None:
    assert raw.first_day(tmp_path) is None
    for at in ("2026-11-22T10:00", "2026-11-20T10:00"):
        raw.append_exchanges(tmp_path, [words.exchange("/pricebook", b"[]", at)], "00000000")
    assert raw.first_day(tmp_path) == date(2026, 11, 20)


def test_only_files_in_folders_of_days_are_raw_files(tmp_path: Path) -> None:
    day = tmp_path / "2026-11-22"
    (day / "20261122T100000Z.00000001.jsonl").mkdir(parents=True)
    (day / "20261122T100000Z.00000002.jsonl").symlink_to(tmp_path / "nowhere")
    (tmp_path / "abcd-ef-gh").mkdir()
    kept = day / "20261122T100159Z.00000003.jsonl"
    kept.write_bytes(b"")
    assert raw.list_files(tmp_path) == [kept]
    assert raw.first_day(tmp_path) == date(2026, 11, 22)
    assert raw.has_minute(tmp_path, datetime(2026, 11, 22, 10, 1, tzinfo=UTC))
    assert not raw.has_minute(tmp_path, datetime(2026, 11, 22, 10, 2, tzinfo=UTC))
