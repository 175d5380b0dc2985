"""Raw files and log segments into the validated tables, each exactly once, in any order."""

import itertools
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import date, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spotinference_pipeline import answers, checks, raw, sources, transform, validated

Open = Callable[[], AbstractContextManager[Any]]
TABLES = ("billing_snapshots", "vm_states", "requests", "request_begins", "request_usages", "request_stops")
EVENTS = answers.VM_EVENTS.format(vm_id=700123)


def whole_minute(words: Any, at: str = "10:00", total: str = "1.5") -> list[raw.Exchange]:
    """One snapshot with an answer of each kind."""
    window = {"start_date": "2026-11-01T00:00:00", "end_date": "2026-11-22T10:00:00"}
    return [
        words.exchange(answers.USAGE, words.usages(words.usage(total)), at, query={"deleted": "false"}),
        words.exchange(answers.HISTORY, words.history((1, "9.5")), at, query=window),
        words.exchange(answers.VIRTUAL_MACHINES, words.fleet(words.machine()), at),
        words.exchange(answers.CREDIT, b'{"status":true,"data":{"credit":5}}', at),
        words.exchange(EVENTS, words.events(("2026-11-22T09:00:00", "InstanceCreationSuccess")), at),
        words.exchange(answers.PRICE_BOOK, b'[{"name":"PublicIP","value":"0.00672043"}]', at),
        words.exchange(answers.VOLUMES, None, at, error="no answer: ReadTimeout"),
    ]


def whole_segment(lines: Any) -> bytes:
    """A segment with a line of each kind, one request ended and one still open."""
    open_request = [lines.begin(2, "10:00"), lines.usage(2, "10:00:10")]
    witnesses = [lines.health("10:01"), lines.engine("10:01"), lines.beat("10:01"), {"k": "weather"}]
    return lines.segment(lines.begin(1), lines.end(1), *open_request, *witnesses, lines.seal(2))


def assert_adds_up(desk: Any) -> None:
    (finding,) = checks.run(desk.warehouse, date(2026, 11, 22), ["every_row_is_accounted_for"])
    assert finding.passed, finding.broken


def test_every_kind_of_answer_and_line_lands_in_its_table(desk: Any, words: Any, lines: Any) -> None:
    desk.land(*whole_minute(words))
    desk.log.write(lines.name(1), whole_segment(lines))
    done = desk.ingest()
    tables = (*TABLES, "exchanges", "billing_history", "credit_balances", "prices", "engine_counters", "quarantine")
    assert {table: desk.count(table) for table in tables} == {
        "billing_snapshots": 1,
        "vm_states": 3,
        "requests": 1,
        "request_begins": 1,
        "request_usages": 1,
        "request_stops": 0,
        "exchanges": 7,
        "billing_history": 1,
        "credit_balances": 1,
        "prices": 1,
        "engine_counters": 1,
        "quarantine": 0,
    }
    assert (done.files, done.rows_quarantined, done.rows_repeated) == (2, 0, 0)
    assert done.rows_read == done.rows_accepted == 7 + 6 + 10
    assert done.days == {date(2026, 11, 22)}
    assert_adds_up(desk)


def test_a_second_ingest_reads_nothing(desk: Any, words: Any, lines: Any) -> None:
    desk.land(*whole_minute(words))
    desk.log.write(lines.name(1), whole_segment(lines))
    assert len(sources.list_new(desk.warehouse, desk.raw_dir, desk.log)) == 2
    desk.ingest()
    before = [desk.table(table) for table in TABLES]
    assert sources.list_new(desk.warehouse, desk.raw_dir, desk.log) == []
    assert desk.ingest() == validated.Ingested()
    assert [desk.table(table) for table in TABLES] == before


def test_what_is_no_sealed_segment_is_left_alone(desk: Any, lines: Any) -> None:
    for name in ("notes.txt", lines.name(1).replace("jsonl", "open"), f"old/{lines.name(1)}"):
        desk.log.write(name, lines.segment(lines.end(1)))
    assert desk.ingest().files == 0


@pytest.mark.parametrize("bytes_per_batch", [1, 3_000, validated.BYTES_PER_BATCH])
def test_many_files_are_read_in_batches_and_none_is_forgotten(desk: Any, lines: Any, bytes_per_batch: int) -> None:
    for number in range(7):
        open_request = [lines.begin(number + 10), lines.usage(number + 10, "10:00:10")]
        desk.log.write(lines.name(number), lines.segment(lines.end(number), lines.end(0), *open_request))
    done = validated.ingest(desk.warehouse, desk.raw_dir, desk.log, bytes_per_batch=bytes_per_batch)
    assert (done.files, done.rows_read, done.rows_repeated) == (7, 7 * 6, 7)
    assert (desk.count("requests"), desk.count("request_begins"), desk.count("request_usages")) == (7, 7, 7)
    assert_adds_up(desk)


def test_a_batch_is_stored_as_a_whole_or_not_at_all(desk: Any, lines: Any) -> None:
    desk.log.write(lines.name(1), lines.segment(lines.end(1)))
    desk.warehouse.execute("drop table validated.ingested_files")
    desk.warehouse.execute("create table validated.ingested_files (source_file varchar)")
    with pytest.raises(Exception, match="does not have a column"):
        desk.ingest()
    assert desk.count("requests") == 0


def test_F012_a_copied_segment_under_another_name_adds_only_repeats(desk: Any, lines: Any) -> None:
    desk.log.write(lines.name(1), whole_segment(lines))
    desk.ingest()
    before = [desk.table(table) for table in TABLES]
    desk.log.write(lines.name(1, writer="backup"), whole_segment(lines))
    done = desk.ingest()
    assert (done.files, done.rows_repeated, done.rows_quarantined) == (1, 6, 0)
    assert [desk.table(table) for table in TABLES] == before
    assert_adds_up(desk)


def test_F012_a_copy_in_the_same_batch_adds_only_repeats(desk: Any, words: Any, lines: Any) -> None:
    for writer in ("a", "b"):
        desk.log.write(lines.name(1, writer=writer), whole_segment(lines))
        desk.land(*whole_minute(words))
    done = desk.ingest()
    assert (desk.count("requests"), desk.count("billing_snapshots"), desk.count("vm_states")) == (1, 1, 3)
    assert done.rows_repeated == 6 + 3 + 3
    assert done.rows_quarantined == 0
    assert_adds_up(desk)


def test_F013_the_same_id_with_other_content_is_quarantined_and_the_first_stays(desk: Any, lines: Any) -> None:
    desk.log.write(lines.name(1), lines.segment(lines.end(1)))
    desk.ingest()
    desk.log.write(lines.name(2), lines.segment(lines.end(1, completion_tokens=51), lines.end(2)))
    assert desk.ingest().rows_quarantined == 1
    assert desk.rows("select completion_tokens from validated.requests order by all") == [(50,), (50,)]
    ((reason, content),) = desk.rows("select reason, content from validated.quarantine")
    assert reason == "conflict: request_id was stored before with other content"
    assert "'completion_tokens': 51" in content
    assert_adds_up(desk)


def test_F013_a_conflict_inside_one_file_is_quarantined_too(desk: Any, lines: Any) -> None:
    desk.log.write(lines.name(1), lines.segment(lines.end(1), lines.end(1, completion_tokens=51), lines.end(1)))
    done = desk.ingest()
    assert (desk.count("requests"), done.rows_quarantined, done.rows_repeated) == (1, 1, 1)
    assert_adds_up(desk)


def test_a_request_with_a_detail_that_cannot_be_is_stored_and_one_that_cannot_be_is_a_row_that_is_missing(
    desk: Any, lines: Any
) -> None:
    odd, broken = lines.end(1, reasoning_tokens=51), lines.end(2, prompt_tokens=-1)
    desk.log.write(lines.name(1), lines.segment(odd, broken, lines.seal()))
    assert desk.ingest().rows_quarantined == 1
    assert desk.rows("select completion_tokens, reasoning_tokens from validated.requests") == [(50, None)]
    assert desk.rows("select position from validated.quarantine order by all") == [("detail",), ("row",)]
    transform.build_table(desk.warehouse, "rollup.log_days", date(2026, 11, 22))
    assert desk.rows("select rows_missing from rollup.log_days") == [(1,)]
    assert_adds_up(desk)


def test_F047_a_resource_that_an_answer_names_twice_is_one_row(desk: Any, words: Any) -> None:
    usages = words.usages(words.usage(), words.usage(), words.usage("1.6"))
    desk.land(words.exchange(answers.USAGE, usages))
    done = desk.ingest()
    assert (desk.count("billing_snapshots"), done.rows_repeated, done.rows_quarantined) == (1, 1, 1)
    assert_adds_up(desk)


def test_an_ended_resource_is_one_row_however_often_it_is_shown(desk: Any, words: Any) -> None:
    ended = words.usage(active=False, bill_per_minute=None, terminate_time="2026-11-22T09:30:00")
    for at in ("10:00", "10:15", "10:30"):
        desk.land(words.exchange(answers.USAGE, words.usages(ended), at, query={"deleted": "true"}))
        desk.ingest()
    assert desk.count("billing_snapshots") == 1
    corrected = words.usages(ended | {"total_bill": 1})
    desk.land(words.exchange(answers.USAGE, corrected, "10:45", query={"deleted": "true"}))
    desk.ingest()
    assert desk.count("billing_snapshots") == 2, "but a later correction is another"
    assert_adds_up(desk)


def test_F052_two_ended_lives_of_one_id_are_two_rows_in_one_batch_or_many(open_desk: Open, words: Any) -> None:
    def life(created: str, ended: str, total: str) -> dict[str, Any]:
        times = {"create_time": f"2026-11-22T{created}", "terminate_time": f"2026-11-22T{ended}"}
        return words.usage(total, active=False, bill_per_minute=None, **times)  # type: ignore[no-any-return]

    both = words.usages(life("01:00:00", "03:00:00", "2"), life("04:00:00", "06:00:00", "5"))
    found = []
    for bytes_per_batch in (1, validated.BYTES_PER_BATCH):
        with open_desk() as desk:
            for at in ("10:00", "10:15"):
                desk.land(words.exchange(answers.USAGE, both, at, query={"deleted": "true"}))
            validated.ingest(desk.warehouse, desk.raw_dir, desk.log, bytes_per_batch=bytes_per_batch)
            found.append(desk.rows("select observed_at, created_at, total_bill_usd from validated.billing_snapshots"))
            assert (desk.count("quarantine"), desk.count("exchanges where is_good")) == (0, 2)
            assert_adds_up(desk)
    assert found[0] == found[1]
    assert [row[2] for row in found[0]] == [2, 5]


# What is malformed


@pytest.mark.parametrize(
    "content",
    [b"<html>502</html>", b"", b'{"status":true}', b'{"status":false,"data":[]}', b'{"status":true,"data":[{]}'],
)
def test_F041_an_answer_that_cannot_be_read_is_a_problem_of_its_exchange_only(
    desk: Any, words: Any, content: bytes
) -> None:
    desk.land(words.exchange(answers.USAGE, content), *whole_minute(words, "10:01"))
    done = desk.ingest()
    assert done.rows_quarantined == 1
    assert desk.count("billing_snapshots") == 1
    ((good,), (problem,)) = desk.rows(
        f"select problem from validated.exchanges where endpoint = '{answers.USAGE}' order by problem nulls first"
    )
    assert good is None
    assert problem.startswith("body: expected")
    assert_adds_up(desk)


def test_F043_a_snapshot_cut_at_every_byte_keeps_its_whole_lines(open_desk: Open, words: Any) -> None:
    content = b"".join(map(raw.encode_exchange, whole_minute(words)[:2]))
    with open_desk() as desk:
        sizes = range(0, len(content), 37)
        for size in sizes:
            desk.land_bytes(content[:size])
        desk.ingest()
        torn = [size for size in sizes if size and not content[:size].endswith(b"\n")]
        assert desk.count("quarantine") == len(torn) + 1, "the empty file is flagged too"
        assert desk.count("exchanges") == sum(content[:size].count(b"\n") for size in sizes)
        assert_adds_up(desk)


@pytest.mark.parametrize(
    "number", ["NaN", "Infinity", "-Infinity", "1e999", '"NaN"', '"Infinity"', "1e99999999999999999999"]
)
def test_F044_nan_infinity_and_huge_numbers_are_quarantined(desk: Any, words: Any, number: str) -> None:
    content = words.usages(words.usage("777")).replace(b"777", number.encode())
    desk.land(words.exchange(answers.USAGE, content), *whole_minute(words, "10:01"))
    assert desk.ingest().rows_quarantined == 1
    assert desk.rows("select total_bill_usd from validated.billing_snapshots")[0][0] == 1.5
    assert_adds_up(desk)


def test_F044_tiny_and_negative_amounts_are_kept(desk: Any, words: Any) -> None:
    desk.land(words.exchange(answers.USAGE, words.usages(words.usage("-0.011612903333333001"))))
    desk.ingest()
    assert [str(total) for (total,) in desk.rows("select total_bill_usd from validated.billing_snapshots")] == [
        "-0.011612903"
    ]


@pytest.mark.parametrize("name", ["resource_id", "resource_type", "total_bill", "create_time", "active"])
def test_F045_an_item_with_a_missing_field_is_quarantined_and_the_rest_is_counted(
    desk: Any, words: Any, name: str
) -> None:
    item = words.usage()
    del item[name]
    desk.land(words.exchange(answers.USAGE, words.usages(item, words.usage(resource_id=2))))
    done = desk.ingest()
    assert (done.rows_read, done.rows_accepted, done.rows_quarantined) == (3, 2, 1)
    assert desk.rows("select resource_id from validated.billing_snapshots") == [(2,)]


@pytest.mark.parametrize("name", ["name", "bill_per_minute", "terminate_time", "total_up_time", "exclude_billing"])
def test_F045_a_field_that_may_be_missing_costs_nothing(desk: Any, words: Any, name: str) -> None:
    item = words.usage()
    del item[name]
    desk.land(words.exchange(answers.USAGE, words.usages(item)))
    assert desk.ingest().rows_quarantined == 0
    assert desk.count("billing_snapshots") == 1


def test_F046_a_new_field_is_no_failure(desk: Any, words: Any) -> None:
    desk.land(words.exchange(answers.USAGE, words.usages(words.usage(carbon_grams=[1]))))
    assert desk.ingest().rows_quarantined == 0


def test_malformed_log_lines_are_quarantined_and_the_rest_is_counted(desk: Any, lines: Any) -> None:
    good, wrong_type = lines.segment(lines.end(1)), lines.segment(lines.end(2, prompt_tokens="many"))
    negative = lines.segment(lines.end(3, prompt_tokens=-1))
    bad_crc = lines.segment(lines.end(4)).replace(b'"c":"', b'"c":"0')
    beyond = lines.segment(lines.health("10:00") | {"at": "0001-01-01T00:00:00+14:00"})
    torn = lines.segment(lines.end(5), lines.end(6))[:-5]
    desk.log.write(lines.name(1), good + wrong_type + negative + bad_crc + beyond + torn)
    assert desk.ingest().rows_quarantined == 1 + 1 + 3 + 1 + 1
    assert [row[0][-1] for row in desk.rows("select request_id from validated.requests order by all")] == [
        "1",
        "5",
        "6",
    ]
    assert_adds_up(desk)


def test_a_segment_that_lost_a_row_or_does_not_fit_its_seal_is_flagged_and_its_rows_count(
    desk: Any, lines: Any
) -> None:
    whole = lines.segment(lines.end(1), lines.end(2)).splitlines(keepends=True)
    desk.log.write(lines.name(1), b"".join(whole[:1] + whole[2:]))
    desk.log.write(lines.name(2), b"".join(lines.segment(lines.end(3)).splitlines(keepends=True)[:-1]))
    done = desk.ingest()
    assert (done.rows_read, done.rows_quarantined) == (3 + 2, 0)
    reasons = desk.rows("select position, split_part(reason, ':', 1) from validated.quarantine order by all")
    assert reasons == [("segment", "rows missing"), ("segment", "seal"), ("segment", "seal")]
    assert desk.count("requests") == 2


def test_late_rows_name_every_day_that_they_change(desk: Any, lines: Any) -> None:
    desk.log.write(lines.name(1), lines.segment(lines.begin(1, "10:00"), lines.seal(1)))
    desk.ingest()
    desk.log.write(lines.name(2), lines.segment(lines.seal(1, by="recovery")))
    assert desk.ingest().days == {date(2026, 11, 22)}, "the request is counted on the day of its begin"


def test_a_reading_after_a_gap_names_the_days_of_the_gap_and_an_ordinary_one_only_its_own(
    desk: Any, words: Any
) -> None:
    def land(day: str, clock: str) -> frozenset[date]:
        at = datetime.fromisoformat(f"{day}T{clock}:00+00:00")
        instants = {"scheduled_at": at, "started_at": at, "finished_at": at}
        desk.land(
            words.exchange(answers.USAGE, words.usages(words.usage(create_time="2026-11-01T00:00:00")), **instants)
        )
        return desk.ingest().days

    assert land("2026-11-21", "23:59") == {date(2026, 11, 21)}
    assert land("2026-11-24", "00:00") == {date(2026, 11, day) for day in (21, 22, 23, 24)}
    assert land("2026-11-24", "00:01") == {date(2026, 11, 24)}


def test_lines_of_an_unknown_kind_are_counted_per_file(desk: Any, lines: Any) -> None:
    desk.log.write(lines.name(1), lines.segment({"k": "weather"}, {"k": "tide"}))
    desk.ingest()
    assert desk.rows("select rows_unknown, rows_accepted, rows_read from validated.ingested_files") == [(2, 4, 4)]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_whatever_is_done_to_a_file_every_row_is_accounted_for(
    open_desk: Open, words: Any, lines: Any, data: st.DataObject
) -> None:
    def mutated(content: bytes) -> bytes:
        changed = bytearray(content)
        for _ in range(data.draw(st.integers(0, 4))):
            start = data.draw(st.integers(0, len(changed)))
            end = data.draw(st.integers(start, min(start + 40, len(changed))))
            changed[start:end] = data.draw(st.sampled_from([b"", b"\n", b"\x00", b'"', b"9e9", content[:300]]))
        return bytes(changed)

    def reframed(content: bytes) -> bytes:
        """The same with good checksums, so that the mutations reach the readers behind them."""
        return b"".join(raw.frame(line[:-15] + b"}") for line in content.split(b"\n") if len(line) > 20)

    exchanges = b"".join(map(raw.encode_exchange, whole_minute(words)))
    keep = data.draw(st.sampled_from([lambda content: content, reframed]))
    with open_desk() as desk:
        desk.land_bytes(keep(mutated(exchanges)))
        desk.log.write(lines.name(1), keep(mutated(whole_segment(lines))))
        done = desk.ingest()
        assert done.files == 2
        assert done.rows_read == done.rows_accepted + done.rows_quarantined + done.rows_repeated
        rows = "select count(*) from validated.quarantine where position != 'segment'"
        assert desk.rows(rows) == [(done.rows_quarantined,)]
        assert_adds_up(desk)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_whatever_an_answer_says_every_row_is_accounted_for(open_desk: Open, words: Any, data: st.DataObject) -> None:
    odd = st.sampled_from(
        [
            None,
            "",
            "x",
            -1,
            0,
            2**70,
            1.5,
            True,
            "NaN",
            "1e400",
            [],
            {},
            "0001-01-01T00:00:00+14:00",
            "9999-12-31",
            "\x00",
        ]
    )
    changes = st.dictionaries(st.sampled_from(sorted(words.usage())), odd, min_size=1, max_size=3)
    usages = words.usages(*(words.usage(**change) for change in data.draw(st.lists(changes, min_size=1, max_size=4))))
    machine = words.machine(
        **data.draw(st.dictionaries(st.sampled_from(["id", "status", "flavor", "floating_ip"]), odd))
    )
    with open_desk() as desk:
        desk.land(words.exchange(answers.USAGE, usages), words.exchange(answers.VIRTUAL_MACHINES, words.fleet(machine)))
        done = desk.ingest()
        assert done.rows_read == done.rows_accepted + done.rows_quarantined + done.rows_repeated
        assert_adds_up(desk)


# Requests whose writer died, and requests longer than a segment


def recovered(desk: Any) -> list[tuple[Any, ...]]:
    return desk.rows(
        "select started_at, finished_at, end_reason, usage_source, prompt_tokens, completion_tokens, is_recovered "
        "from validated.requests order by all"
    )


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_F002_a_request_whose_writer_died_counts_once_with_its_last_usage(
    desk: Any, lines: Any, words: Any, order: tuple[int, int]
) -> None:
    segments = {
        1: lines.segment(lines.begin(1, "10:00"), lines.usage(1, "10:00:05", completion=3), lines.seal(1)),
        2: lines.segment(lines.usage(1, "10:00:30", completion=9), lines.seal(1, by="recovery")),
    }
    for number in order:
        desk.log.write(lines.name(number), segments[number])
        desk.ingest()
    times = words.at("10:00"), words.at("10:00:30")
    assert recovered(desk) == [(*times, "proxy_stopped", "engine_partial", 100, 9, True)]


def test_F001_a_request_without_any_usage_is_visible_and_never_zero_tokens(desk: Any, lines: Any, words: Any) -> None:
    desk.log.write(lines.name(1), lines.segment(lines.begin(1, "10:00"), lines.seal(1, by="recovery")))
    desk.ingest()
    start = words.at("10:00")
    assert recovered(desk) == [(start, start, "proxy_stopped", "none", None, None, True)]


def test_a_last_usage_of_nothing_is_no_usage(desk: Any, lines: Any) -> None:
    nothing = lines.usage(1, "10:00:05", prompt=None, completion=None)
    desk.log.write(lines.name(1), lines.segment(lines.begin(1), nothing, lines.seal(1, by="recovery")))
    desk.ingest()
    assert recovered(desk)[0][3:6] == ("none", None, None)


@pytest.mark.parametrize("order", list(itertools.permutations((1, 2, 3))))
def test_a_real_end_replaces_what_a_recovery_said_in_any_order(desk: Any, lines: Any, order: tuple[int, ...]) -> None:
    segments = {
        1: lines.segment(lines.begin(1), lines.seal(1)),
        2: lines.segment(lines.seal(1, by="recovery")),
        3: lines.segment(lines.end(1)),
    }
    for number in order:
        desk.log.write(lines.name(number), segments[number])
        desk.ingest()
    assert [row[2:] for row in recovered(desk)] == [("complete", "engine_final", 100, 50, False)]
    assert desk.count("quarantine") == 0
    assert_adds_up(desk)


def test_a_request_over_three_segments_is_one_row(desk: Any, lines: Any) -> None:
    desk.log.write(lines.name(1), lines.segment(lines.begin(1, "10:00"), lines.usage(1, "10:00:05"), lines.seal(1)))
    desk.log.write(lines.name(2), lines.segment(lines.usage(1, "10:30:05"), lines.seal(1)))
    desk.ingest()
    assert desk.count("requests") == 0, "it is still running"
    desk.log.write(lines.name(3), lines.segment(lines.end(1, "10:00", "11:00"), lines.seal()))
    desk.ingest()
    assert [row[2:] for row in recovered(desk)] == [("complete", "engine_final", 100, 50, False)]


def test_a_stop_of_a_request_that_nobody_began_waits(desk: Any, lines: Any) -> None:
    desk.log.write(lines.name(2), lines.segment(lines.seal(1, by="recovery")))
    desk.ingest()
    assert desk.count("requests") == 0
    assert desk.count("request_stops") == 1


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_the_tables_do_not_depend_on_the_order_of_ingest(
    open_desk: Open, words: Any, lines: Any, data: st.DataObject
) -> None:
    segments = [
        lines.segment(lines.begin(1), lines.usage(1, "10:00:05"), lines.begin(2), lines.seal(1, 2)),
        lines.segment(lines.end(2), lines.usage(1, "10:00:20"), lines.health("10:01"), lines.seal(1)),
        lines.segment(lines.begin(3), lines.seal(1, 3, by="recovery")),
        lines.segment(lines.begin(4), lines.end(4), lines.engine("10:02"), lines.seal()),
    ]
    minutes = [whole_minute(words, f"10:0{number}", f"1.{number}") for number in range(4)]

    def tables(order: list[int], at_once: bool) -> list[list[tuple[Any, ...]]]:
        with open_desk() as desk:
            for number in order:
                desk.log.write(lines.name(number), segments[number])
                desk.land(*minutes[number])
                if not at_once:
                    desk.ingest()
            desk.ingest()
            assert desk.count("quarantine") == 0
            return [desk.table(table) for table in (*TABLES, "engine_counters", "exchanges", "prices")]

    order = data.draw(st.permutations(range(4)))
    assert tables(order, data.draw(st.booleans())) == tables(list(range(4)), at_once=True)


def test_F047_rows_that_come_twice_in_a_page_count_once_and_contradictions_are_kept_apart(
    desk: Any, words: Any
) -> None:
    window = {"start_date": "2026-11-21T00:00:00", "end_date": "2026-11-22T00:00:00"}
    usage, price = words.usage("1"), {"name": "RAM", "value": "1"}
    desk.land(
        words.exchange(answers.USAGE, words.usages(usage, usage, words.usage("2")), query={"deleted": "false"}),
        words.exchange(answers.PRICE_BOOK, words.encode([price, price, price | {"value": "2"}])),
        words.exchange(f"{answers.HISTORY}/volume", words.history((1, "1"), (1, "1"), (1, "2")), query=window),
    )
    done = desk.ingest()
    tables = ("billing_snapshots", "prices", "billing_history")
    assert [desk.count(table) for table in tables] == [1, 1, 1]
    assert (done.rows_repeated, done.rows_quarantined) == (3, 3)
    assert {reason.partition(":")[0] for (reason,) in desk.rows("select reason from validated.quarantine")} == {
        "conflict"
    }
    assert_adds_up(desk)
