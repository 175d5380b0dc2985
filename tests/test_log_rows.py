"""From a segment to rows."""

from typing import Any

import pytest

from spotinference_pipeline.batch import Batch, Tally
from spotinference_pipeline.log_rows import add_segment
from spotinference_pipeline.request_log import read_segment


def rows_of(content: bytes) -> Batch:
    batch = Batch()
    add_segment(batch, read_segment(content), "file")
    return batch


def found(batch: Batch, table: str) -> list[dict[str, Any]]:
    return batch.frame(table).to_dicts()


def ids(batch: Batch, table: str) -> list[str]:
    return [row["request_id"] for row in found(batch, table)]


def test_a_request_that_ended_is_one_row_and_its_other_lines_are_kept_count(lines: Any) -> None:
    batch = rows_of(lines.segment(lines.begin(1), lines.usage(1, "10:00:05"), lines.end(1), lines.seal()))
    assert batch.tables() == ["validated.log_segments", "validated.requests"]
    assert batch.tallies["file"] == Tally(read=5, accepted=3), "a row itself is accepted when it is stored"


def test_an_end_says_everything_that_the_table_holds(lines: Any, words: Any) -> None:
    end = lines.end(1, first_byte_at="2026-11-22T10:00:01.000000Z", cached_tokens=3, reasoning_tokens=4, canary=True)
    assert found(rows_of(lines.segment(end)), "validated.requests") == [
        {
            "request_id": end["request_id"],
            "started_at": words.at("10:00"),
            "first_byte_at": words.at("10:00:01"),
            "finished_at": words.at("10:01"),
            "endpoint": "/v1/chat/completions",
            "requested_model": "otter",
            "model": "otter",
            "is_stream": True,
            "is_canary": True,
            "vm_id": 700123,
            "key_id": "3f1c9a04b7de",
            "http_status": 200,
            "upstream_status": 200,
            "end_reason": "complete",
            "usage_source": "engine_final",
            "prompt_tokens": 100,
            "completion_tokens": 50,
            "cached_tokens": 3,
            "reasoning_tokens": 4,
            "choices": 1,
            "is_recovered": False,
            "source_file": "file",
            "source_line": 2,
        }
    ]


def test_a_request_that_did_not_end_leaves_its_begin_and_its_last_usage(lines: Any) -> None:
    batch = rows_of(
        lines.segment(
            lines.begin(1), lines.begin(2), lines.usage(1, "10:00:05"), lines.usage(1, "10:00:10"), lines.end(2)
        )
    )
    assert ids(batch, "validated.request_begins") == [lines.begin(1)["request_id"]]
    assert [row["observed_at"].second for row in found(batch, "validated.request_usages")] == [10]


def test_only_a_recovery_seal_stops_requests(lines: Any) -> None:
    assert not rows_of(lines.segment(lines.begin(1), lines.seal(1))).tables().count("validated.request_stops")
    stops = ids(rows_of(lines.segment(lines.seal(1, 2, by="recovery"))), "validated.request_stops")
    assert stops == [lines.begin(1)["request_id"], lines.begin(2)["request_id"]]


def test_probes_of_a_machine_are_states_and_others_are_only_counted(lines: Any, words: Any) -> None:
    batch = rows_of(lines.segment(lines.health("10:00", ready=False), lines.health("10:01", vm_id=None)))
    (row,) = found(batch, "validated.vm_states")
    assert tuple(row.values())[:6] == (words.at("10:00"), 700123, "health", None, None, False)
    assert batch.tallies["file"].accepted == 2


def test_the_engine_s_counters_are_rows_with_and_without_the_start_of_its_process(lines: Any, words: Any) -> None:
    known = lines.engine("10:02") | {"process_started_at": "2026-11-22T09:00:00Z"}
    first, second = found(rows_of(lines.segment(lines.engine("10:01"), known)), "validated.engine_counters")
    assert tuple(first.values())[:6] == (words.at("10:01"), 700123, "http://u", None, 1000, 500)
    assert second["process_started_at"] == words.at("09:00")


def test_unknown_kinds_are_kept_count_and_bad_lines_are_refused(lines: Any) -> None:
    batch = rows_of(lines.segment({"k": "weather"}, lines.beat()) + b"torn")
    assert batch.tallies["file"] == Tally(read=5, accepted=3, quarantined=1, unknown=1)
    assert batch.quarantine[0][1:4] == (5, "line", "validated.requests")


def segment_row(content: bytes) -> dict[str, Any]:
    (row,) = found(rows_of(content), "validated.log_segments")
    return row


def test_a_segment_is_a_row_with_its_place_in_the_chain(lines: Any, words: Any) -> None:
    content = lines.segment(
        lines.beat("10:00:30"), lines.end(1, until="10:02"), lines.seal(by="recovery") | {"torn": 7}
    )
    row = segment_row(content)
    assert row.pop("body_sha256")
    assert row == {
        "writer": "test",
        "started_at": words.at("10:00"),
        "ended_at": words.at("10:02"),
        "previous": None,
        "previous_sha256": None,
        "sealed_by": "recovery",
        "rows_missing": 0,
        "torn_bytes": 7,
        "source_file": "file",
        "source_line": 1,
    }


def test_a_segment_counts_the_lines_that_are_missing_in_it(lines: Any) -> None:
    whole = lines.segment(*(lines.beat(f"10:0{minute}") for minute in range(6))).splitlines(keepends=True)
    assert segment_row(b"".join(whole))["rows_missing"] == 0
    assert segment_row(b"".join(whole[:2] + whole[4:]))["rows_missing"] == 2
    assert segment_row(b"".join(whole[:-2] + whole[-1:]))["rows_missing"] == 1, "the seal tells of the last line"
    assert segment_row(b"".join(whole[:3]) + b"torn\n" + b"".join(whole[4:]))["rows_missing"] == 1
    assert segment_row(b"".join(whole[:3]))["rows_missing"] == 0, "nothing tells of what came after"


def test_a_segment_without_a_head_has_no_place_in_a_chain(lines: Any) -> None:
    headless = b"".join(lines.segment(lines.end(1)).splitlines(keepends=True)[1:])
    assert rows_of(headless).tables() == ["validated.requests"]


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("2026-11-22T10:00:00.000001Z", "2026-11-22T10:00:00.000001Z"),
        ("2026-11-22T12:00:00+02:00", "2026-11-22T10:00:00Z"),
        ("2015-01-01T00:00:00Z", "2015-01-01T00:00:00Z"),
        ("2099-12-31T23:59:59.999999Z", "2099-12-31T23:59:59.999999Z"),
    ],
)
def test_instants_are_read_to_the_microsecond_and_in_utc(lines: Any, words: Any, written: str, read: str) -> None:
    (row,) = found(rows_of(lines.segment(lines.health("10:00") | {"at": written})), "validated.vm_states")
    assert row["observed_at"] == words.at(read)


@pytest.mark.parametrize("written", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "1969-12-31T23:59:59Z"])
def test_an_instant_at_the_end_of_the_calendar_is_refused_and_kept(lines: Any, written: str) -> None:
    batch = rows_of(lines.segment(lines.end(1, started_at=written, finished_at=written)))
    assert found(batch, "validated.requests") == []
    ((_, line, position, table, reason, _),) = batch.quarantine
    assert (line, position, table) == (2, "row", "validated.requests")
    assert "started_at" in reason
