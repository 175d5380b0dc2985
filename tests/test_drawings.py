"""Tables and small drawings that an analyst sees beside an asset."""

import re
from base64 import b64decode
from datetime import date
from decimal import Decimal
from xml.etree import ElementTree as Xml

import polars as pl
import pytest

from spotinference_pipeline.orchestration import drawings, markdown
from spotinference_pipeline.orchestration.steps import Written

IMAGE = re.compile(r"!\[([^]]*)\]\(data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)\)")
DAY = date(2026, 11, 22)


def shapes(image: str) -> list[Xml.Element]:
    match = IMAGE.fullmatch(image)
    assert match, image
    return list(Xml.fromstring(b64decode(match[2])))


def test_a_trend_is_a_line_from_the_lowest_to_the_highest_with_a_point_at_the_last_day() -> None:
    line, dot = shapes(drawings.trend([Decimal(1), Decimal(3), Decimal(2)]))
    assert line.get("points") == "4.0,24.0 80.0,4.0 156.0,14.0"
    assert (dot.get("cx"), dot.get("cy")) == ("156.0", "14.0")


def test_an_unknown_figure_interrupts_the_trend() -> None:
    first, second, _ = shapes(drawings.trend([1, 2, None, 2, 1]))
    assert [len(str(run.get("points")).split()) for run in (first, second)] == [2, 2]
    assert drawings.trend([None, None]) == ""


def test_a_flat_trend_is_in_the_middle() -> None:
    assert str(shapes(drawings.trend([0, 0]))[0].get("points")) == "4.0,14.0 156.0,14.0"


@pytest.mark.parametrize(
    ("figure", "width", "below"), [("5", "80.0", False), ("10", "160.0", False), ("-10", "160.0", True)]
)
def test_a_bar_is_the_part_of_the_largest_and_shows_when_it_is_below_zero(figure: str, width: str, below: bool) -> None:
    (bar,) = shapes(drawings.bar(Decimal(figure), Decimal(10)))
    (zero,) = shapes(drawings.bar(0, 1))
    assert bar.get("width") == width
    assert (bar.get("fill") != zero.get("fill")) == below


def test_there_is_no_bar_for_what_is_unknown_or_where_all_is_zero() -> None:
    assert drawings.bar(None, 1) == drawings.bar(0, 0) == ""


def test_several_rows_show_each_digit_and_a_bar_for_their_money() -> None:
    frame = pl.DataFrame(
        {"kind": ["busy", "a|b\n<i>"], "requests": [1, 2], "usd": [Decimal("0.000000000000000001"), None]},
        schema_overrides={"usd": pl.Decimal(38, 18)},
    )
    head, sides, first, second = markdown.lying(frame).splitlines()
    assert head == "| kind | requests | usd | usd as a bar |"
    assert sides == "| --- | ---: | ---: | --- |"
    assert first.startswith("| busy | 1 | 0.000000000000000001 | ![](data:image/svg+xml;base64,")
    assert second == "| a\\|b &lt;i> | 2 |  |  |"


def test_rows_without_a_measure_and_no_rows_are_only_words() -> None:
    assert markdown.lying(pl.DataFrame({"name": ["a", "b"], "vm_id": [1, 2]})).splitlines()[0] == "| name | vm_id |"
    assert markdown.lying(pl.DataFrame({"name": []})) == "no rows"


def test_the_one_row_of_a_day_stands_upright_with_the_trend_of_each_figure() -> None:
    trend = pl.DataFrame({"utc_day": [date(2026, 11, 21), DAY], "usd": [Decimal(1), Decimal(2)], "note": ["x", None]})
    lines = markdown.upright(Written("metric.some", DAY, 1, trend.tail(1), trend)).splitlines()
    assert lines[0] == "| column | 2026-11-22 | last 2 days |"
    assert lines[2] == "| utc_day | 2026-11-22 |  |"
    assert lines[3].startswith("| usd | 2 | ![2 days, 1 to 2](data:image/svg+xml;base64,")
    assert lines[4] == "| note |  |  |"
