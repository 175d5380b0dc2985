"""The drawn pages: everything escaped, nothing loaded from elsewhere, the same bytes each time."""

import re
from decimal import Decimal
from html.parser import HTMLParser
from typing import Any

import pytest

from spotinference_pipeline import page, revision

HOSTILE = "<script>alert('\u202eevil')</script>\"'&<img src=x onerror=1>{{ 7 * 191 }}"
PARTS = dict.fromkeys(revision.KINDS, "0.25")
UNKNOWN = dict.fromkeys(("p50", "p90", "p99"))


def a_day(**changed: Any) -> dict[str, Any]:
    day = {
        "day": "2026-11-22",
        "window": {"start": "2026-11-16T00:00:00Z", "end": "2026-11-23T00:00:00Z", "days": 7},
        "revision": 2,
        "reason": "late_logs",
        "status": "provisional",
        "status_reason": None,
        "published_at": "2026-11-23T02:10:00Z",
        "usd_per_million_tokens": "1.934512345678",
        "display": "$1.93",
        "bounds": {"low": "1.93", "high": "1.94"},
        "paid_usd": "412.345678901",
        "served_tokens": 213_151_234,
        "requests": 345_678,
        "tokens": {"prompt": 200_000_000, "completion": 13_151_234, "cached": None, "reasoning": None},
        "usd_per_million_by_part": PARTS,
        "by_model": [{"model": "m", "served_tokens": 1, "usd_per_million_tokens": None}],
        "figures": {
            "duty_cycle": "0.410000",
            "powered_fraction": "0.700000",
            "cold_starts": 9,
            "cold_start_seconds": "3120.000000",
            "cache_hit_ratio": "0.125",
            "cache_hit_known_share": "0.95",
            "reasoning_share": None,
            "reasoning_known_share": "0.000000",
            "output_input_ratio": "0.25",
            "tokens_per_busy_second": "900.1",
            "latency_seconds": {"p50": "1.500000", "p90": "12.250400", "p99": "1234.5"},
            "time_to_first_token_seconds": UNKNOWN,
            "answered_requests": 345_678,
        },
        "coverage": {"snapshot": "0.999800", "exact_usage": "0.999100", "token": None},
        "compared_with": [],
        "what_if": None,
        "caveats": ["It contains idle time."],
        "provenance": {"paid_sql_sha256": "a" * 64, "served_sql_sha256": "b" * 64},
    }
    return day | changed


def past(day: str, figure: str | None) -> dict[str, Any]:
    status = "withheld" if figure is None else "provisional"
    return {"day": day, "usd_per_million_tokens": figure, "status": status, "revision": 1}


HISTORY = [past("2026-11-20", "2.5"), past("2026-11-21", None), past("2026-11-22", "1.934512345678")]


def index(day: dict[str, Any] | None = None, history: list[dict[str, Any]] | None = None) -> str:
    return page.render_index(day or a_day(), history or HISTORY).decode()


def method(day: dict[str, Any] | None = None) -> str:
    return page.render_method(day or a_day(), "select 1 < 2 -- paid", "select '&' -- served").decode()


class Balance(HTMLParser):
    """Collects elements and attributes, and fails where end tags do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.attributes += [(name, content or "") for name, content in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize("text", [index(), method()], ids=["index", "method"])
def test_a_page_is_well_formed_and_has_no_script(text: str) -> None:
    found = Balance(text)
    assert {"html", "main", "h1", "title"} <= found.seen
    assert not {"script", "iframe", "object", "embed", "link", "img", "form"} & found.seen
    assert not any(name.startswith("on") for name, _ in found.attributes)


@pytest.mark.parametrize("text", [index(), method()], ids=["index", "method"])
def test_a_page_loads_and_links_nothing_from_elsewhere(text: str) -> None:
    assert not re.search(r"https?:|@import|url\(|src=", text)
    links = [content for name, content in Balance(text).attributes if name == "href"]
    assert links
    assert all(re.fullmatch(r"[\w./-]+", link) for link in links)
    assert not any(link.startswith("/") for link in links)


def test_the_number_and_its_window_are_there() -> None:
    text = index()
    assert '<p class="number">$1.93</p>' in text
    assert "<title>spotinference: $1.93 per million tokens</title>" in text
    assert "$412.35 paid, 213,151,234 tokens served in 345,678 requests." in text
    assert "Revision 2 (late logs), provisional, published" in text
    assert "2026-11-23 02:10:00 UTC" in text
    assert (
        bounds_of(text)
        == "$1.9345 to four decimals. Not below $1.9300 and not above $1.9400, the latter counting exact usage only."
    )
    assert "41.00 % of the time they were on, weighed by GPUs" in text
    assert "12.50 % of the 95.00 % of prompt tokens where known" in text
    assert '<td>reasoning</td><td class="right words">not known of any</td>' in text
    assert "9, 0.9 h in all" in text


def bounds_of(text: str) -> str:
    (found,) = re.findall(r'<p class="soft">([^<]* to four decimals[^<]*)</p>', text)
    return " ".join(found.split())


def test_a_day_with_one_bound_says_that_the_other_is_not_known() -> None:
    text = bounds_of(index(a_day(bounds={"low": None, "high": "1.94"})))
    assert text.endswith("decimals. Not above $1.9400, counting exact usage only. No lower bound is known.")
    text = bounds_of(index(a_day(bounds={"low": "1.93", "high": None})))
    assert text.endswith("decimals. Not below $1.9300; no upper bound is known.")


@pytest.mark.parametrize(
    ("number", "low", "high"),
    [
        ("1.934512345678", "1.934000", "1.940000"),
        ("0.936512345678", "0.936480", "0.936521"),
        ("1.934552345678", "1.934551", "1.940000"),
        ("-0.000051", "-0.000052", "-0.000050"),
    ],
)
def test_shown_bounds_hold_and_the_number_beside_them_lies_between(number: str, low: str, high: str) -> None:
    text = bounds_of(index(a_day(usd_per_million_tokens=number, bounds={"low": low, "high": high})))
    amounts = re.findall(r"−?\$[\d.]*\d", text)
    shown, least, most = (Decimal(each.replace("−", "-").replace("$", "")) for each in amounts)
    assert least <= Decimal(low)
    assert Decimal(high) <= most
    assert least <= shown <= most


def test_a_day_without_bounds_says_nothing_of_them() -> None:
    text = index(a_day(bounds={"low": None, "high": None}))
    assert "exact usage only" not in text
    assert "to four decimals" not in text


def test_a_part_that_is_not_known_has_no_figure_and_the_others_add_up_to_the_number() -> None:
    parts = PARTS | {"busy": None, "idle": "1.434512345678", "cold_start": None, "parked": "0.5"}
    parts |= dict.fromkeys(("storage", "network", "other", "credit"), "0")
    day = a_day(usd_per_million_by_part=parts)
    shown = page.shown_parts(day)
    assert (shown["busy"], shown["cold_start"]) == (None, None)
    assert sum(Decimal(part) for part in shown.values() if part) == Decimal("1.9345")
    assert index(day).count('<td class="right">–</td>') >= 2


def withheld() -> dict[str, Any]:
    return a_day(
        usd_per_million_tokens=None,
        display="withheld",
        status="withheld",
        status_reason="no tokens were served in the window",
        bounds={"low": None, "high": None},
        usd_per_million_by_part=dict.fromkeys(revision.KINDS),
    )


def test_a_withheld_day_shows_no_figure_but_the_reason_and_the_last_good_day() -> None:
    text = index(withheld(), [past("2026-11-20", "2.5"), past("2026-11-22", None)])
    assert '<p class="number withheld">withheld</p>' in text
    assert "No figure for 2026-11-22: no tokens were served in the window." in text
    assert "The last one is $2.50 per million tokens, of 2026-11-20." in text
    assert "$1.93" not in text


def test_a_withheld_day_before_any_good_one_names_none() -> None:
    text = index(withheld(), [past("2026-11-22", None)])
    assert "The last one is" not in text
    assert "polyline" not in text


@pytest.mark.parametrize(
    "hostile",
    [
        withheld() | {"status_reason": HOSTILE},
        a_day(caveats=[HOSTILE]),
        a_day(display=HOSTILE),
        a_day(status=HOSTILE, reason=HOSTILE, published_at=HOSTILE),
        a_day(by_model=[{"model": HOSTILE, "served_tokens": 1, "usd_per_million_tokens": None}]),
        a_day(window={"start": HOSTILE, "end": HOSTILE, "days": 7}),
    ],
)
def test_text_from_outside_never_becomes_markup(hostile: dict[str, Any]) -> None:
    for text in (index(hostile), method(hostile)):
        assert "<script" not in text
        assert "<img" not in text
        assert "1337" not in text
        Balance(text)


def models(text: str) -> list[list[str]]:
    table = text[text.index('id="models"') : text.index('id="caveats"')]
    return [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in re.findall(r"<tr><td>.*</tr>", table)]


def test_models_are_shown_by_their_tokens_and_the_rest_is_counted() -> None:
    many = [{"model": f"m{place}", "served_tokens": place, "usd_per_million_tokens": "1"} for place in range(12)]
    text = index(a_day(by_model=many))
    assert models(text)[0] == ["<bdi>m11</bdi>", "11", "$1.0000"]
    assert len(models(text)) == page.MOST_MODELS
    assert "And 2 more, in the" in text
    assert "No dollars" not in text
    assert 'id="models"' not in index(a_day(by_model=[]))


def test_a_model_without_dollars_is_a_dash_and_says_why() -> None:
    text = index()
    assert models(text) == [["<bdi>m</bdi>", "1", "–"]]
    assert reasons(text) == [" where it is not known which machines serve which model."]


def reasons(text: str) -> list[str]:
    return re.findall(r"No dollars \(–\)(.*)</p>", text)


def test_machines_that_are_known_are_not_called_unknown() -> None:
    busy, spare = (
        {"model": f"m{tokens}", "served_tokens": tokens, "usd_per_million_tokens": None, "paid_usd": "1.5"}
        for tokens in (7, 0)
    )
    held, nothing = (
        " per million tokens while the day's figure is withheld.",
        " per million tokens for a model that served none.",
    )
    assert reasons(index(withheld() | {"by_model": [busy]})) == [held]
    assert reasons(index(a_day(by_model=[spare]))) == [nothing]
    assert reasons(index(withheld() | {"by_model": [busy, spare]})) == [held, nothing]
    unknown = busy | {"paid_usd": None}
    told = [" where it is not known which machines serve which model.", nothing]
    assert reasons(index(withheld() | {"by_model": [unknown, spare]})) == told


def test_names_of_models_cannot_turn_the_line_around() -> None:
    named = [{"model": "\u202e-elddim<script>", "served_tokens": 1, "usd_per_million_tokens": None}]
    assert models(index(a_day(by_model=named)))[0][0] == "<bdi>�-elddim&lt;script&gt;</bdi>"


def test_percentiles_are_shown_where_known() -> None:
    text = index()
    assert '<td class="right">1.500 s</td><td class="right">12.250 s</td><td class="right">1,234.500 s</td>' in text
    assert '<td>Time to first token of streams</td><td class="right">–</td>' in text


def test_hostile_text_is_shown_letter_by_letter() -> None:
    text = index(a_day(caveats=[HOSTILE]))
    assert "&lt;script&gt;alert(&#39;\u202eevil&#39;)&lt;/script&gt;&#34;&#39;&amp;" in text


def test_the_queries_are_shown_verbatim_and_escaped() -> None:
    text = method()
    assert "<pre><code>select 1 &lt; 2 -- paid</code></pre>" in text
    assert "<pre><code>select &#39;&amp;&#39; -- served</code></pre>" in text
    assert "a" * 64 in text
    assert "b" * 64 in text


def test_drawing_twice_gives_the_same_bytes() -> None:
    assert index() == index()
    assert method() == method()


def lines(text: str) -> list[str]:
    return re.findall(r'<polyline class="curve" points="([^"]*)"', text)


def test_a_withheld_day_interrupts_the_curve() -> None:
    days = [past(f"2026-11-{day}", figure) for day, figure in zip(range(10, 16), "12x345", strict=True)]
    days[2]["usd_per_million_tokens"] = None
    text = index(history=days)
    assert [len(line.split()) for line in lines(text)] == [2, 3]
    assert text.count('class="dot"') == 5
    assert text.count('class="gap"') == 1
    assert "2026-11-12: withheld" in text


def test_a_lonely_day_is_a_dot_without_a_curve() -> None:
    text = index(history=[past("2026-11-22", "1.93")])
    assert lines(text) == []
    assert text.count('class="dot"') == 1


def test_days_lie_where_their_date_is() -> None:
    text = index(history=[past("2026-11-01", "1"), past("2026-11-02", "1"), past("2026-11-11", "1")])
    (line,) = lines(text)
    places = [float(point.split(",")[0]) for point in line.split()]
    assert places[1] - places[0] == pytest.approx((places[2] - places[0]) / 10, abs=0.1)


@pytest.mark.parametrize("figures", [["0"], ["-1", "-2"], ["-1", "3"], ["1e9", "0.000000000001"]])
def test_every_figure_lies_inside_the_drawing(figures: list[str]) -> None:
    text = index(history=[past(f"2026-11-{10 + place}", figure) for place, figure in enumerate(figures)])
    heights = [float(y) for y in re.findall(r'class="dot" cx="[\d.]+" cy="([-\d.]+)"', text)]
    assert len(heights) == len(figures)
    assert all(page.TOP <= height <= page.HEIGHT - page.BOTTOM for height in heights)
    labels = re.findall(r'text-anchor="end">(.*?)</text>', text)[:3]
    assert labels[0] == "$0.00"
    assert not any("−" in label for label in labels)


def test_the_table_lists_the_newest_day_first() -> None:
    text = index()
    table = text[text.index("Last day of the window") :]
    assert table.index("2026-11-22") < table.index("2026-11-21") < table.index("2026-11-20")


@pytest.mark.parametrize(
    ("figure", "shown"),
    [("1.005", "$1.00"), ("-0.001", "$0.00"), ("-2.5", "−$2.50"), ("1234.5", "$1,234.50")],
)
def test_amounts_on_the_page_have_one_sign_and_cents(figure: str, shown: str) -> None:
    assert f"{shown} paid," in index(a_day(paid_usd=figure))


def test_what_is_unknown_is_a_dash() -> None:
    unknown = (
        dict.fromkeys(a_day()["figures"])
        | {"answered_requests": 345_678}
        | dict.fromkeys(("latency_seconds", "time_to_first_token_seconds"), UNKNOWN)
    )
    text = index(a_day(figures=unknown, paid_usd=None))
    assert "– paid" in text
    assert "–, – in all" in text
    assert "– of the time they were on" in text


def test_the_shown_parts_add_up_to_the_shown_number() -> None:
    parts = {"busy": "1.48165", "idle": "3.10255", "cold_start": "0.01704", "credit": "-0.04359"}
    day = {"usd_per_million_by_part": parts, "usd_per_million_tokens": "4.55765"}
    shown = page.shown_parts(day)
    assert sum(Decimal(part or 0) for part in shown.values()) == Decimal("4.5576")
    assert all(abs(Decimal(shown[kind] or 0) - Decimal(part)) < Decimal("0.0001") for kind, part in parts.items())
    assert page.shown_parts(day | {"usd_per_million_tokens": None}) == dict.fromkeys(parts)


def a_basket(least: str | None, **changed: Any) -> dict[str, Any]:
    names = {"provider": "p", "model": "m"}
    member = names | {"name": "Otter 70B", "usd_per_million_tokens": least, "is_cheapest": least is not None}
    other = names | {"name": "Beaver", "usd_per_million_tokens": "44", "is_cheapest": False}
    return {
        "basket": "open_70b",
        "as_of": "2026-11-22",
        "min": least,
        "median": "3",
        "max": "44",
        "members": [member, other],
        "unpriced": [names | {"name": "Vole", "reason": "it is gone"}],
        "basket_version": 4,
        "prices_version": "genai-prices 0.2.3",
        "requests": 345_670,
        "unpriced_requests": 8,
        "mix": {"prompt_tokens": 1, "completion_tokens": 2, "cached_tokens": 3, "cached_known_requests": 4},
        "cache_assumption": "Cached there too.",
        "break_even_duty_cycle": {"min": "never", "median": "0.6"},
        "what_if_break_even_duty_cycle": {"min": "0.9", "median": "0.55"},
    } | changed


WHAT_IF = {
    "usd_per_active_gpu_second": "0.0025",
    "tokens_per_busy_gpu_second": "833.3",
    "fixed_usd_per_million_tokens": "1",
    "at": [
        {"duty_cycle": "0.41", "usd_per_million_tokens": "1.93", "is_measured": True},
        {"duty_cycle": "1", "usd_per_million_tokens": "0.8", "is_measured": False},
    ],
    "assumption": "Pessimistic at higher load.",
    "formula": "what_if(d) = c / d",
    "break_even_assumption": "As measured.",
}


def test_where_hosted_is_cheaper_the_page_says_so_in_the_size_of_the_number() -> None:
    text = index(a_day(compared_with=[a_basket("0.188"), a_basket("1.934512345678")], what_if=WHAT_IF))
    Balance(text)
    assert re.findall(r'<p class="number">(.*)</p>', text) == ["$1.93", "$0.19"]
    assert "would have cost for Otter 70B (open 70b):\nhosted is cheaper" in text
    assert "No comparison" not in text
    assert "None of the" not in text


def test_where_hosted_is_not_cheaper_the_page_says_that_too() -> None:
    text = index(a_day(compared_with=[a_basket("1.94", unpriced=[])]))
    assert re.findall(r'<p class="number">(.*)</p>', text) == ["$1.93"]
    assert re.search(r"None of the <a href=\"#elsewhere\">hosted APIs below</a> would have been cheaper", text)


def test_hosts_without_a_price_are_not_said_to_be_dearer() -> None:
    some = index(a_day(compared_with=[a_basket("1.94")]))
    assert re.search(
        r"None of the <a href=\"#elsewhere\">hosted APIs below</a> that have a price would have been", some
    )
    none = index(a_day(compared_with=[a_basket(None, members=[], median=None, max=None)]))
    assert "would have been cheaper for the same requests" not in none
    assert re.search(r"none of <a href=\"#elsewhere\">those below</a> has a price", none)


def break_even(text: str) -> dict[str, list[str]]:
    table = text[text.index("Ours would be cheaper from a busy share of") :]
    rows = re.findall(r"<tr><td>((?:at|with) .*?)</td>(.*?)</tr>", table)
    return {name: re.findall(r"<td[^>]*>(.*?)</td>", shares) for name, shares in rows}


def test_never_is_said_only_where_neither_break_even_is_to_be_had() -> None:
    held, spread = "at today&#39;s fixed cost per token", "with fixed costs spread over the tokens"
    text = index(a_day(compared_with=[a_basket("0.188")]))
    assert break_even(text) == {held: ["none", "60.00 %"], spread: ["90.00 %", "55.00 %"]}
    never = {"min": "never", "median": None}
    both = {"break_even_duty_cycle": never, "what_if_break_even_duty_cycle": never}
    text = index(a_day(compared_with=[a_basket("0.188", **both)]))
    assert break_even(text) == {held: ["never", "–"], spread: ["never", "–"]}


def test_the_requests_of_the_comparison_add_up() -> None:
    figures = a_day()["figures"] | {"answered_requests": 345_678}
    text = index(a_day(requests=345_700, figures=figures, compared_with=[a_basket("1")]))
    sentence = re.findall(
        r"Of ([\d,]+) requests ([\d,]+) were priced,\s+([\d,]+) were not, .* and ([\d,]+) were refused", text
    )
    assert re.search(r"served in 345,700 requests, 22 of\s+them refused", text)
    total, *parts = (int(number.replace(",", "")) for number in sentence[0])
    assert total == sum(parts) == 345_700


def test_a_withheld_day_is_compared_with_nothing_and_still_shows_the_prices() -> None:
    text = index(a_day(usd_per_million_tokens=None, status="withheld", compared_with=[a_basket("0.1")]))
    assert re.findall(r'<p class="number">(.*)</p>', text) == []
    assert "cheaper for the same requests" not in text
    assert "Otter 70B" in text


def test_every_member_and_what_could_not_be_priced_is_shown() -> None:
    text = index(a_day(compared_with=[a_basket("0.188")], what_if=WHAT_IF))
    assert "open 70b, version 4, prices as of" in text
    assert "Otter 70B <strong>(cheapest)</strong>" in text
    assert "no price: it is gone" in text
    assert "$0.1880, $3.0000, $44.0000" in text
    assert "8 were not, because their tokens are not known" in text
    assert "of the priced requests. Cached there too." in text
    assert "what_if(d) = c / d." in text
    assert "41.00 % of the time, <strong>as measured</strong>" in text
    assert "Pessimistic at higher load." in text
    assert "As measured." in text


def test_a_basket_without_any_price_is_shown_without_one() -> None:
    text = index(a_day(compared_with=[a_basket(None, members=[], median=None, max=None)]))
    assert "–, –, –" in text


def test_names_and_reasons_of_others_are_escaped() -> None:
    hostile = a_basket("0.1", unpriced=[{"name": HOSTILE, "provider": HOSTILE, "model": HOSTILE, "reason": HOSTILE}])
    hostile["members"][0]["name"] = HOSTILE
    found = Balance(index(a_day(compared_with=[hostile])))
    assert not {"script", "img"} & found.seen
