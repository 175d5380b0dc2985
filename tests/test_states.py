"""States of a VM along time, and its cold starts."""

from hypothesis import given
from hypothesis import strategies as st

from spotinference_pipeline.states import ColdStart, Readiness, Sight, StateLine, find_cold_starts

INSTANTS = st.integers(0, 50).map(lambda half: 2 * half)
STATUSES = st.sampled_from(["ACTIVE", "SHUTOFF", "STARTING"])
SIGHTS = st.lists(st.builds(Sight, INSTANTS, STATUSES, st.booleans()), max_size=8)


def fleet(at: int, status: str) -> Sight:
    return Sight(at, status, is_event=False)


def event(at: int, status: str) -> Sight:
    return Sight(at, status, is_event=True)


WOKEN = StateLine([event(0, "SHUTOFF"), event(100, "ACTIVE"), event(500, "SHUTOFF")])


def test_before_the_first_sight_nothing_is_known() -> None:
    line = StateLine([fleet(10, "ACTIVE")])
    assert (line.at(9), line.at(10), line.at(99)) == (None, "ACTIVE", "ACTIVE")
    assert StateLine([]).at(0) is None


def test_an_event_tells_the_instant_of_a_change() -> None:
    line = StateLine([fleet(0, "ACTIVE"), event(7, "SHUTOFF"), fleet(60, "SHUTOFF")])
    assert line.pieces(0, 60) == [(0, 7, "ACTIVE"), (7, 60, "SHUTOFF")]
    assert line.unexplained == []


def test_a_change_without_event_is_put_in_the_middle_of_its_gap_and_counted() -> None:
    line = StateLine([fleet(0, "ACTIVE"), fleet(60, "ACTIVE"), fleet(120, "SHUTOFF")])
    assert line.pieces(0, 120) == [(0, 90, "ACTIVE"), (90, 120, "SHUTOFF")]
    assert line.unexplained == [90]


def test_an_event_and_a_sight_of_the_same_instant_are_one_change() -> None:
    line = StateLine([fleet(0, "ACTIVE"), fleet(60, "SHUTOFF"), event(60, "SHUTOFF")])
    assert line.pieces(0, 70) == [(0, 60, "ACTIVE"), (60, 70, "SHUTOFF")]
    assert line.unexplained == []


def test_two_events_of_one_second_leave_the_later_one() -> None:
    line = StateLine([event(0, "SHUTOFF"), event(5, "STARTING"), event(5, "ACTIVE")])
    assert line.pieces(0, 10) == [(0, 5, "SHUTOFF"), (5, 10, "ACTIVE")]


def test_pieces_know_what_is_before_the_first_sight() -> None:
    assert StateLine([fleet(10, "ACTIVE")]).pieces(0, 20) == [(0, 10, None), (10, 20, "ACTIVE")]


@given(SIGHTS, st.integers(-10, 50), st.integers(51, 120))
def test_pieces_tile_time(sights: list[Sight], start: int, end: int) -> None:
    pieces = StateLine(sights).pieces(start, end)
    assert [piece[0] for piece in pieces] == [start, *(piece[1] for piece in pieces[:-1])]
    assert pieces[-1][1] == end
    assert all(low < high for low, high, _ in pieces)


@given(SIGHTS)
def test_every_status_that_was_seen_holds_at_the_instant_of_its_last_sight(sights: list[Sight]) -> None:
    line = StateLine(sights)
    at_once = {sight.at: sight for sight in sorted(sights, key=lambda s: (s.at, not s.is_event))}
    for at, sight in at_once.items():
        assert line.at(at) == sight.status


@given(SIGHTS)
def test_active_runs_are_the_active_time(sights: list[Sight]) -> None:
    line = StateLine(sights)
    runs = line.active_runs(100)
    assert {at for low, high, _ in runs for at in range(low, high)} == {
        at for at in range(100) if line.at(at) == "ACTIVE"
    }
    assert all(wake_seen == (line.at(low - 1) is not None) for low, _, wake_seen in runs)


def test_a_run_that_lasts_ends_at_the_horizon() -> None:
    assert StateLine([event(0, "ACTIVE")]).active_runs(50) == [(0, 50, False)]
    assert StateLine([event(60, "ACTIVE")]).active_runs(50) == []


def test_a_cold_start_lasts_until_the_first_healthy_probe() -> None:
    ready = Readiness(probes=[(90, True), (110, False), (170, True), (200, False)], first_bytes=[150])
    (cold,) = find_cold_starts(WOKEN, ready, 1000)
    assert cold == ColdStart(100, 170, failed=False)
    assert cold.interval == (100, 170)


def test_without_a_healthy_probe_it_lasts_until_the_first_byte_of_an_answer() -> None:
    ready = Readiness(probes=[(110, False)], first_bytes=[50, 150, 160])
    assert find_cold_starts(WOKEN, ready, 1000) == [ColdStart(100, 150, failed=False)]
    assert find_cold_starts(WOKEN, Readiness(first_bytes=[150]), 1000) == [ColdStart(100, 150, failed=False)]


def test_a_wake_that_never_got_ready_is_a_cold_start_as_a_whole() -> None:
    ready = Readiness(probes=[(110, False), (600, True)], first_bytes=[700])
    assert find_cold_starts(WOKEN, ready, 1000) == [ColdStart(100, 500, failed=True)]


def test_a_wake_that_is_still_warming_up_has_not_failed() -> None:
    line = StateLine([event(0, "SHUTOFF"), event(100, "ACTIVE")])
    assert find_cold_starts(line, Readiness(probes=[(110, False)]), 200) == [ColdStart(100, 200, failed=False)]


def test_a_machine_that_serves_no_model_has_no_cold_start() -> None:
    assert find_cold_starts(WOKEN, Readiness(), 1000) == []
    assert find_cold_starts(WOKEN, Readiness(probes=[(50, False), (900, True)], first_bytes=[900]), 1000) == []


def test_a_machine_that_was_active_at_first_sight_was_not_seen_to_wake() -> None:
    assert find_cold_starts(StateLine([fleet(0, "ACTIVE")]), Readiness(probes=[(10, True)]), 1000) == []


def test_each_wake_has_its_own_cold_start() -> None:
    line = StateLine([event(at, "ACTIVE" if at % 200 else "SHUTOFF") for at in range(0, 500, 100)])
    ready = Readiness(probes=[(110, True), (310, False), (330, True)])
    assert find_cold_starts(line, ready, 1000) == [ColdStart(100, 110, False), ColdStart(300, 330, False)]
