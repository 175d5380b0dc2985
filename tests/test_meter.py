"""The arithmetic of the meter."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spotinference_pipeline import meter
from spotinference_pipeline.meter import Leg, Meter, Stretch

MINUTE = 60_000_000
SMALL = st.integers(0, 40)
INTERVALS = st.lists(st.tuples(SMALL, SMALL), max_size=8)


@st.composite
def legs(draw: st.DrawFn) -> list[Leg]:
    """Legs that tile time, each tiled by stretches."""
    found, at = [], draw(st.integers(0, 100))
    for _ in range(draw(st.integers(1, 4))):
        stretches, start = [], at
        for _ in range(draw(st.integers(1, 3))):
            end = at + draw(st.integers(1, 50))
            stretches.append(Stretch(at, end, draw(st.integers(0, 1000)), status=draw(st.sampled_from(["A", "B"]))))
            at = end
        found.append(Leg(start, at, draw(st.integers(0, 10**6)), tuple(stretches)))
    return found


@given(st.integers(-(10**20), 10**20), st.lists(st.integers(0, 10**12), min_size=1).filter(any))
def test_parts_of_an_amount_add_up_to_it(amount: int, weights: list[int]) -> None:
    parts = meter.apportion(amount, weights)
    assert sum(parts) == amount
    assert len(parts) == len(weights)
    for part, weight in zip(parts, weights, strict=True):
        assert abs(part * sum(weights) - amount * weight) <= sum(weights), "within one unit of its share"


def test_an_amount_is_split_in_proportion() -> None:
    assert meter.apportion(100, [1, 0, 3]) == [25, 0, 75]


@given(legs(), st.lists(st.integers(-10, 700), min_size=2, max_size=6))
def test_neighbouring_windows_telescope(course: list[Leg], instants: list[int]) -> None:
    found = Meter(course)
    cuts = sorted(instants)
    parts = [found.between(low, high) for low, high in itertools.pairwise(cuts)]
    assert sum(parts) == found.between(cuts[0], cuts[-1])
    assert all(part >= 0 for part in parts), "a counter that only rises has no negative part"


@given(legs())
def test_the_whole_course_is_the_sum_of_its_legs_and_flat_outside(course: list[Leg]) -> None:
    found = Meter(course)
    start, end = course[0].start, course[-1].end
    assert found.between(start, end) == sum(leg.amount for leg in course)
    assert found.until(start - 5) == found.until(start) == 0
    assert found.until(end) == found.until(end + 5)
    assert [found.until(leg.end) - found.until(leg.start) for leg in course] == [leg.amount for leg in course]


def test_inside_a_leg_the_course_follows_the_expected_rate_scaled_to_the_amount() -> None:
    leg = Leg(0, 100, 300, (Stretch(0, 50, 2), Stretch(50, 100, 4)))
    assert [leg.until(at) for at in (-1, 0, 25, 50, 75, 100, 101)] == [0, 0, 50, 100, 200, 300, 300]


def test_without_an_expected_rate_the_course_is_straight() -> None:
    assert Leg(0, 100, 300, (Stretch(0, 100, 0),)).until(25) == 75


def test_a_meter_of_no_legs_is_nothing() -> None:
    assert Meter([]).between(0, 10) == 0
    assert Meter([]).stretches(0, 10) == []
    assert Meter([]).straddling(5) is None


def test_only_an_instant_strictly_inside_a_leg_is_straddled() -> None:
    first, second = (Leg(start, start + 10, 1, (Stretch(start, start + 10, 1),)) for start in (0, 10))
    found = Meter([first, second])
    assert [found.straddling(at) for at in (-1, 0, 5, 10, 15, 20, 25)] == [None, None, first, None, second, None, None]


@given(legs(), st.integers(-10, 700), st.integers(-10, 700))
def test_stretches_tile_the_part_of_the_window_that_is_known(course: list[Leg], start: int, end: int) -> None:
    found = Meter(course).stretches(start, end)
    low, high = max(start, course[0].start), min(end, course[-1].end)
    if low >= high:
        assert found == []
        return
    edges = [low, *(stretch.end for stretch in found)]
    assert [stretch.start for stretch in found] == edges[:-1]
    assert edges[-1] == high
    for left, right in itertools.pairwise(found):
        assert (left.rate, left.status) != (right.rate, right.status), "like neighbours are joined"
    for stretch in found:
        origin = next(s for leg in course for s in leg.stretches if s.start <= stretch.start < s.end)
        assert (stretch.rate, stretch.status) == (origin.rate, origin.status)


@given(st.integers(0, 10**9), st.integers(1, 100), st.integers(0, 100), st.integers(1, 10**9), st.integers(1, 10**9))
def test_the_counter_itself_tells_when_the_rate_changed(
    start: int, first: int, rest: int, before: int, after: int
) -> None:
    end = start + (first + rest) * MINUTE
    amount = before * first + after * rest
    change = meter.change_of_rate(start, end, amount, before, after)
    assert change == (end if before == after else start + first * MINUTE)


@pytest.mark.parametrize(("amount", "change"), [(0, 10 * MINUTE), (10**6, 0)])
def test_a_change_of_rate_stays_inside_its_gap(amount: int, change: int) -> None:
    assert meter.change_of_rate(0, 10 * MINUTE, amount, 10, 20) == change


def seconds(intervals: list[meter.Interval]) -> set[int]:
    return {second for start, end in intervals for second in range(start, end)}


def assert_is_sorted_and_disjoint(intervals: list[meter.Interval]) -> None:
    assert all(start < end for start, end in intervals)
    assert all(left[1] < right[0] or left[1] == right[0] for left, right in itertools.pairwise(intervals))


@given(INTERVALS)
def test_a_union_is_the_set_of_its_seconds(intervals: list[meter.Interval]) -> None:
    found = meter.union(intervals)
    assert seconds(found) == seconds(intervals)
    assert_is_sorted_and_disjoint(found)
    assert all(left[1] < right[0] for left, right in itertools.pairwise(found)), "neighbours are joined"
    assert meter.length(found) == len(seconds(intervals))


@given(INTERVALS, INTERVALS)
def test_an_intersection_is_the_set_of_common_seconds(one: list[meter.Interval], two: list[meter.Interval]) -> None:
    found = meter.intersect(meter.union(one), meter.union(two))
    assert seconds(found) == seconds(one) & seconds(two)
    assert_is_sorted_and_disjoint(found)


@given(INTERVALS, INTERVALS)
def test_a_difference_is_the_set_of_the_other_seconds(one: list[meter.Interval], two: list[meter.Interval]) -> None:
    found = meter.subtract(meter.union(one), meter.union(two))
    assert seconds(found) == seconds(one) - seconds(two)
    assert_is_sorted_and_disjoint(found)
