"""Nothing gets lost between reading and storing."""

from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl

from spotinference_pipeline.batch import EPOCH, QUARANTINE_CHARACTERS, Batch, Tally, to_frame
from spotinference_pipeline.log_rows import add_segment
from spotinference_pipeline.request_log import read_segment


def test_what_is_read_is_accepted_quarantined_or_repeated() -> None:
    batch = Batch()
    batch.add("validated.request_stops", ("a", "file", 1))
    batch.add("validated.request_stops", ("b", "file", 2))
    batch.keep("file", 3)
    batch.refuse("file", 4, "line", "validated.requests", "torn", b"\xff")
    frame = batch.frame("validated.request_stops")
    batch.accept(frame.head(1))
    batch.repeat(frame.tail(1))
    assert batch.tallies == {"file": Tally(read=6, accepted=4, quarantined=1, repeated=1)}


def test_rows_that_break_the_contract_go_to_quarantine_with_what_was_there() -> None:
    batch = Batch()
    batch.add("validated.request_stops", ("a", "file", 1))
    batch.add("validated.request_stops", ("b", "file", -7))
    assert batch.frame("validated.request_stops").rows() == [("a", "file", 1)]
    (row,) = batch.quarantine_frame().rows(named=True)
    assert (row["source_line"], row["position"], row["target_table"]) == (-7, "row", "validated.request_stops")
    assert "source_line" in row["reason"]
    assert "'request_id': 'b'" in row["content"]


def test_a_detail_that_cannot_be_is_told_and_its_row_is_kept_without_it(lines: Any) -> None:
    wrong = {"cached_tokens": 101}, {"reasoning_tokens": 51}, {"cached_tokens": -1}, {"reasoning_tokens": 10**15 + 1}
    right = {"cached_tokens": 100, "reasoning_tokens": 50}
    ends = [lines.end(number, **details) for number, details in enumerate((*wrong, right))]
    partial = {"usage_source": "engine_partial", "prompt_tokens": None, "cached_tokens": 7}
    batch = Batch()
    add_segment(batch, read_segment(lines.segment(*ends, lines.end(5, **partial))), "file")
    frame = batch.frame("validated.requests")
    assert frame.select("prompt_tokens", "completion_tokens").rows() == [(100, 50)] * 5 + [(None, 50)]
    assert frame["cached_tokens"].to_list() == [None] * 4 + [100, 7]
    assert frame["reasoning_tokens"].to_list() == [None] * 4 + [50, None]
    told = batch.quarantine_frame()
    assert told.select("source_line", "position", "target_table").unique().height == 4
    assert told.sort("source_line")["reason"].to_list() == [
        "cached_tokens: expected 0 to prompt_tokens 100, found 101; it is not known, the request counts",
        "reasoning_tokens: expected 0 to completion_tokens 50, found 51; it is not known, the request counts",
        "cached_tokens: expected 0 to prompt_tokens 100, found -1; it is not known, the request counts",
        "reasoning_tokens: expected 0 to completion_tokens 50, found 1000000000000001; it is not known, the request counts",
    ]
    assert batch.tallies["file"].quarantined == 0, "no row is lost"


def test_rows_of_both_kinds_make_one_frame_and_columns_that_are_not_given_are_null() -> None:
    batch = Batch()
    at = datetime(2026, 11, 22, 10, 0, 0, 7, tzinfo=UTC)
    batch.add("validated.request_usages", ("a", at, 1, None, "file", 1))
    columns = {
        "request_id": ["b", "c"],
        "observed_at": [at - EPOCH, timedelta(days=20_000)],
        "prompt_tokens": [2, None],
    }
    batch.add_columns("validated.request_usages", columns, "other", [8, 9])
    assert batch.tables() == ["validated.request_usages"]
    assert batch.frame("validated.request_usages").rows() == [
        ("a", at, 1, None, "file", 1),
        ("b", at, 2, None, "other", 8),
        ("c", datetime(2024, 10, 4, tzinfo=UTC), None, None, "other", 9),
    ]
    assert [batch.tallies[file].read for file in ("file", "other")] == [1, 2]


def test_a_conflict_says_by_which_key(words: Any) -> None:
    batch = Batch()
    frame = to_frame([("a", "file", 1)], {"request_id": pl.String, "source_file": pl.String, "source_line": pl.Int64})
    batch.conflict("validated.requests", frame, ("request_id",))
    assert batch.quarantine[0][4] == "conflict: request_id was stored before with other content"
    assert batch.tallies["file"].quarantined == 1


def test_quarantine_keeps_the_beginning_of_what_is_long() -> None:
    batch = Batch()
    batch.refuse("file", 1, "line", "validated.requests", "long", b"x" * 10_000)
    assert batch.quarantine_frame()["content"].item() == "x" * QUARANTINE_CHARACTERS


def test_no_rows_make_a_frame_with_its_columns() -> None:
    assert to_frame([], {"a": pl.Int64}).schema == {"a": pl.Int64}
    assert Batch().frame("validated.requests").height == 0
    assert Batch().quarantine_frame().height == 0
