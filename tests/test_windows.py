"""UTC days, windows, and instants as text."""

from datetime import UTC, date, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spotinference_pipeline import windows
from spotinference_pipeline.errors import OursError, SettingsError, SpotinferenceError

DAY = date(2026, 11, 22)
SOME_DAYS = st.dates(date(2020, 1, 10), date(2090, 1, 1))
SOME_INSTANTS = st.datetimes(datetime(1990, 1, 1), datetime(2090, 1, 1), timezones=st.just(UTC))


def test_the_trailing_window_is_seven_whole_days_that_end_with_the_day() -> None:
    window = windows.trailing_window(DAY)
    assert window.start == datetime(2026, 11, 16, tzinfo=UTC)
    assert window.end == datetime(2026, 11, 23, tzinfo=UTC)
    assert window.days == 7


@given(SOME_DAYS)
def test_days_tile_time(day: date) -> None:
    assert windows.day_window(day).end == windows.day_window(day + timedelta(days=1)).start
    assert windows.day_window(day).days == 1


@given(SOME_DAYS)
def test_the_trailing_window_is_its_seven_days(day: date) -> None:
    window = windows.trailing_window(day)
    days = list(windows.days_between(window.start.date(), day))
    assert len(days) == windows.TRAILING_DAYS
    assert windows.day_start(days[0]) == window.start
    assert windows.day_window(days[-1]).end == window.end


@given(SOME_DAYS)
def test_a_day_is_in_the_windows_of_seven_days_and_in_the_bounds_of_three_more(day: date) -> None:
    resting = sorted(windows.days_resting_on([day]))
    holding = [each for each in resting if windows.trailing_window(each).start <= windows.day_start(day)]
    assert resting == list(windows.days_between(day, day + timedelta(days=9)))
    assert holding == resting[:7]


def test_the_last_closed_day_is_yesterday_in_utc_wherever_the_clock_is() -> None:
    midnight = datetime(2026, 11, 23, tzinfo=UTC)
    assert windows.last_closed_day(midnight) == DAY
    assert windows.last_closed_day(midnight - timedelta(microseconds=1)) == date(2026, 11, 21)
    auckland = timezone(timedelta(hours=13))
    assert windows.last_closed_day(datetime(2026, 11, 23, 5, tzinfo=auckland)) == date(2026, 11, 21)


def test_one_day_or_a_range_with_both_ends_can_be_typed() -> None:
    assert windows.parse_days("2026-11-22") == [DAY]
    assert windows.parse_days("2026-11-20..2026-11-22") == [date(2026, 11, 20), date(2026, 11, 21), DAY]
    assert windows.parse_days("2026-11-22..2026-11-22") == [DAY]


@pytest.mark.parametrize(
    "text",
    [
        *("", "yesterday", "2026-11-31", "2026-11-16..", "..2026-11-16", "2026-11-16..soon"),
        *("20261122", "2026-W47-7", "2026W477", "2026-11-16..20261122", "2026-11-22 ", "2026-11-22\n", "٢٠٢٦-11-22"),
    ],
)
def test_what_is_no_day_is_refused_with_the_form_that_is_expected(text: str) -> None:
    with pytest.raises(SettingsError, match="expected YYYY-MM-DD") as caught:
        windows.parse_days(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize("text", ["2026-W4", "2026-1", "202611", "2026-11-01", "2014-12", "2026-13"])
def test_a_month_has_one_spelling(text: str) -> None:
    assert windows.parse_month("2026-11") == (date(2026, 11, 1), date(2026, 12, 1))
    with pytest.raises(SettingsError, match="expected YYYY-MM since 2015"):
        windows.parse_month(text)


def test_a_range_that_runs_backwards_is_refused() -> None:
    with pytest.raises(SettingsError, match="swap the two"):
        windows.parse_days("2026-11-22..2026-11-21")


def test_errors_are_ours_and_of_one_family() -> None:
    assert issubclass(SettingsError, OursError)
    assert issubclass(OursError, SpotinferenceError)


@given(SOME_INSTANTS)
def test_an_instant_survives_being_written_and_read(instant: datetime) -> None:
    text = windows.format_instant(instant)
    assert windows.parse_instant(text) == instant
    assert text.endswith("Z")
    assert len(text) == len("2026-11-22T10:00:00.000000Z")


def test_an_instant_without_zone_is_utc_and_one_with_a_zone_is_converted() -> None:
    assert windows.parse_instant("2026-11-22T10:00:00") == datetime(2026, 11, 22, 10, tzinfo=UTC)
    converted = windows.parse_instant("2026-11-22T10:00:00+02:00")
    assert converted == datetime(2026, 11, 22, 8, tzinfo=UTC)
    assert converted.tzinfo is UTC


def test_what_is_no_instant_is_refused() -> None:
    with pytest.raises(ValueError, match="Invalid isoformat"):
        windows.parse_instant("ten")


def test_instants_are_written_in_utc_whatever_their_zone() -> None:
    instant = datetime(2026, 11, 22, 1, 2, 3, 4, tzinfo=timezone(timedelta(hours=2)))
    assert windows.format_instant(instant) == "2026-11-21T23:02:03.000004Z"
    assert windows.format_second(instant) == "2026-11-21T23:02:03Z"


@given(SOME_INSTANTS)
def test_microseconds_are_exact(instant: datetime) -> None:
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    assert epoch + timedelta(microseconds=windows.to_microseconds(instant)) == instant
