"""When machines had requests in flight, and when their first answers came."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spotinference_pipeline import contracts
from spotinference_pipeline.flights import read_busy, read_first_bytes
from spotinference_pipeline.meter import Interval, union
from spotinference_pipeline.warehouse import Warehouse, open_scratch
from spotinference_pipeline.windows import day_window, to_microseconds

DAY = day_window(date(2026, 11, 22))
NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
AROUND = st.integers(-15 * 3600, 15 * 3600)
REQUESTS = st.lists(
    st.tuples(st.sampled_from([1, 2, None]), AROUND, st.sampled_from([0, 1, 60, 7200, 90_000])), max_size=12
)
PLAUSIBLE = {
    "endpoint": "/v1",
    "end_reason": "complete",
    "usage_source": "none",
    "source_file": "file",
    "source_line": 1,
}
PLAUSIBLE |= dict.fromkeys(("is_stream", "is_canary", "is_recovered"), False)


def at(seconds: int) -> datetime:
    return NOON + timedelta(seconds=seconds)


@pytest.fixture(scope="module")
def fill() -> Iterator[Callable[[Sequence[tuple[int | None, int, int]]], Warehouse]]:
    with open_scratch() as warehouse:

        def fill_requests(requests: Sequence[tuple[int | None, int, int]]) -> Warehouse:
            warehouse.execute("delete from validated.requests")
            rows: list[dict[str, Any]] = [
                PLAUSIBLE
                | {
                    "request_id": f"{number}",
                    "vm_id": vm_id,
                    "started_at": at(start),
                    "first_byte_at": at(start) if number % 3 else None,
                    "finished_at": at(start + length),
                }
                for number, (vm_id, start, length) in enumerate(requests)
            ]
            warehouse.append(
                "validated.requests", pl.DataFrame(rows, schema=contracts.polars_schema("validated.requests"))
            )
            return warehouse

        yield fill_requests


@settings(max_examples=40)
@given(requests=REQUESTS)
def test_busy_time_is_the_union_of_the_intervals_that_touch_the_day(fill: Any, requests: list[Any]) -> None:
    expected: dict[int, list[Interval]] = defaultdict(list)
    for vm_id, start, length in requests:
        if vm_id is not None and at(start + length) > DAY.start and at(start) < DAY.end:
            expected[vm_id].append((to_microseconds(at(start)), to_microseconds(at(start + length))))
    joined = {vm_id: union(intervals) for vm_id, intervals in expected.items()}
    assert read_busy(fill(requests), DAY) == {vm_id: intervals for vm_id, intervals in joined.items() if intervals}


@settings(max_examples=40)
@given(requests=REQUESTS, runs=st.lists(st.tuples(st.sampled_from([1, 2]), AROUND, st.integers(1, 80_000)), max_size=3))
def test_the_first_byte_of_each_run_is_the_earliest_within_it(fill: Any, requests: list[Any], runs: list[Any]) -> None:
    wanted = [(vm_id, to_microseconds(at(start)), to_microseconds(at(start + length))) for vm_id, start, length in runs]
    bytes_at = [(vm_id, to_microseconds(at(start))) for number, (vm_id, start, _) in enumerate(requests) if number % 3]
    expected: dict[int, list[int]] = defaultdict(list)
    for vm_id, low, high in sorted(set(wanted)):
        within = [byte for of, byte in bytes_at if of == vm_id and low <= byte < high]
        if within:
            expected[vm_id].append(min(within))
    far = timedelta(days=9)
    found = read_first_bytes(fill(requests), DAY.start - far, DAY.end + far, wanted)
    assert {vm_id: sorted(set(times)) for vm_id, times in found.items()} == {
        vm_id: sorted(set(times)) for vm_id, times in expected.items()
    }
