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
    root = Xml.fromstring(b64decode(match[2]).replace(b' xmlns="http://www.w3.org/2000/svg"', b""))
    return list(root)


def test_a_trend_is_a_line_from_the_lowest_to_the_highest_with_a_point_at_the_last_day() -> None:
    line, dot = shapes(drawings.trend([Decimal(1), Decimal(3), Decimal(2)]))
    assert line.get("d") == "M4 24L80 4L156 14"
    assert (dot.get("cx"), dot.get("cy")) == ("156", "14")


def test_an_unknown_figure_interrupts_the_trend() -> None:
    line, dot = shapes(drawings.trend([1, 2, None, 2, 1, None]))
    assert line.get("d") == "M4 24L34 4M95 4L126 24"
    assert dot.get("cx") == "126"
    assert drawings.trend([None, None]) == ""


def test_a_flat_trend_is_in_the_middle() -> None:
    assert shapes(drawings.trend([0, 0]))[0].get("d") == "M4 14L156 14"


def test_a_bar_is_the_part_of_the_largest_and_is_hollow_below_zero() -> None:
    (group,) = shapes(drawings.bars(["busy", "a very long name", "<&"], [Decimal(5), Decimal(-10), None]))
    first, first_name, second, second_name, third, third_name = group
    assert [bar.get("d") for bar in (first, second, third)] == [
        "M110 2h120v11h-120z",
        "M110 18h240v11h-240z",
        "M110 34h0v11h-0z",
    ]
    assert [bar.get("fill") for bar in (first, second)] == [None, "none"]
    assert [name.text for name in (first_name, second_name, third_name)] == ["busy", "a very long na", "(+"]


def test_there_are_no_bars_where_all_is_zero() -> None:
    assert drawings.bars(["a"], [0]) == drawings.bars([], []) == ""


def test_drawings_are_short_enough_to_be_shown_at_once() -> None:
    longest = drawings.bars(["w" * 99] * 99, [Decimal("-123456.123456789012345678")] * 99)
    assert len(drawings.trend([place % 7 * 0.1 for place in range(28)], 420, 90)) < drawings.INLINE_CHARACTERS
    assert len(drawings.bars(["credit", "cold_start"] * 4, [1, 2] * 4)) < drawings.INLINE_CHARACTERS - 50
    assert longest.count("data:image") == 1


def test_rows_show_each_digit_and_keep_what_markdown_would_take_for_its_own() -> None:
    frame = pl.DataFrame(
        {"kind": ["busy", "a|b\n<i>"], "requests": [1, 2], "usd": [Decimal("0.000000000000000001"), None]},
        schema_overrides={"usd": pl.Decimal(38, 18)},
    )
    head, sides, first, second = markdown.lying(frame).splitlines()
    assert (head, sides) == ("| kind | requests | usd |", "| --- | ---: | ---: |")
    assert first == "| busy | 1 | 0.000000000000000001 |"
    assert second == "| a\\|b &lt;i> | 2 |  |"
    assert markdown.lying(pl.DataFrame({"name": []})) == "no rows"


TREND = pl.DataFrame({"utc_day": [date(2026, 11, 21), DAY], "vm_id": [1, 1], "paid_usd": [Decimal(1), Decimal(2)]})


def test_the_one_row_of_a_day_stands_upright_and_each_figure_has_its_trend() -> None:
    assert markdown.upright(TREND.tail(1)).splitlines()[2:] == [
        "| utc_day | 2026-11-22 |",
        "| vm_id | 1 |",
        "| paid_usd | 2 |",
    ]
    head, _, only = markdown.trends(TREND).splitlines()
    assert head == "| figure | last 2 days | lowest | highest |"
    assert only.startswith("| paid_usd | ![2 days, 1 to 2](data:image/svg+xml;base64,")
    assert only.endswith(") | 1 | 2 |")


def test_the_plot_is_the_trend_of_the_leading_measure_or_a_bar_per_row() -> None:
    of_days = markdown.plot(Written("metric.some", DAY, 1, TREND.tail(1), TREND))
    assert of_days.startswith("paid_usd, last 2 days, 1 to 2\n\n![2 days, 1 to 2]")
    rows = pl.DataFrame({"kind": ["busy", "idle"], "same": ["x", "x"], "requests": [9, 9], "prompt_tokens": [1, 2]})
    measure, _, image = markdown.plot(Written("rollup.some", DAY, 2, rows, rows.clear())).partition("\n\n")
    (group,) = shapes(image)
    assert (measure, [name.text for name in group if name.text]) == ("prompt_tokens", ["busy", "idle"])


def test_rows_without_words_are_named_by_their_first_column() -> None:
    rows = pl.DataFrame({"utc_day": [DAY, DAY], "prompt_tokens": [10, None], "completion_tokens": [7, 3]})
    words = markdown.plot(Written("rollup.some", DAY, 2, rows, rows.clear()))
    assert words.startswith("completion_tokens\n\n")


@pytest.mark.parametrize(
    ("columns", "leading"),
    [
        (["paid_usd", "usd_per_million_tokens"], "usd_per_million_tokens"),
        (["prompt_tokens", "cost_usd", "counter_usd"], "cost_usd"),
        (["requests", "busy_seconds"], "busy_seconds"),
        (["requests"], None),
    ],
)
def test_money_is_drawn_before_tokens_before_time(columns: list[str], leading: str | None) -> None:
    assert markdown.leading_measure(pl.DataFrame({name: [1] for name in columns})) == leading
    assert markdown.plot(Written("a.b", DAY, 0, pl.DataFrame({"usd": []}), pl.DataFrame())) == ""
