"""What a published day says of prices elsewhere and of other loads, and that our break-even is where the number meets them."""

import json
import re
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from fractions import Fraction
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spotinference_pipeline import comparison, publication, shipped
from spotinference_pipeline.comparison import Elsewhere
from spotinference_pipeline.settings import Settings
from spotinference_pipeline.storage import Storage
from spotinference_pipeline.warehouse import Warehouse, open_scratch

DAY = date(2026, 11, 22)
SCHEMA = json.loads((shipped.path("site") / "schema" / "revision.json").read_text())
PRICE = {"basket": "b", "provider": "p", "prices_version": "list 1", "basket_version": 4}
Insert = Callable[..., None]


@pytest.fixture
def document(
    scratch: Warehouse, fill_week: Insert, insert: Insert, settings_in: Callable[..., Settings], tmp_path: Any
) -> Callable[..., dict[str, Any]]:
    """Publish a week of $10 per million tokens at a duty cycle of 1/3 beside given prices."""

    def published(*prices: dict[str, Any], minutes: int = 1440, as_of: date = DAY) -> dict[str, Any]:
        insert(scratch, "validated.list_prices", [PRICE | {"utc_day": as_of} | price for price in prices])
        sizes = {"prompt_tokens": 800, "requests": 7000, "completion_tokens": 1_400_000, "cached_tokens": 7}
        insert(scratch, "rollup.request_size_days", [{"utc_day": DAY} | sizes | {"cached_known_requests": 5}])
        insert(scratch, "rollup.request_size_days", [{"utc_day": DAY, "prompt_tokens": None, "requests": 3}])
        fill_week(scratch, minutes=minutes)
        target = Storage(str(tmp_path / "public"))
        publication.publish(scratch, target, settings_in())
        found: dict[str, Any] = json.loads(target.read("economics/latest.json"))
        jsonschema_rs.validate(SCHEMA, found)
        return found

    return published


def priced(model: str, usd: str | None, **more: Any) -> dict[str, Any]:
    rates = dict.fromkeys(("input_usd_per_million", "output_usd_per_million"), usd)
    return {"model": model, "model_name": f"The {model}"} | rates | more


def test_a_day_is_compared_with_every_member_in_the_form_of_the_contract(document: Callable[..., Any]) -> None:
    day = document(priced("dear", "21"), priced("cheap", "0.5"), priced("none", None, unpriced_reason="it is gone"))
    (basket,) = day["compared_with"]
    assert list(basket)[:6] == ["basket", "as_of", "min", "median", "max", "members"]
    assert basket["basket"] == "b"
    assert basket["as_of"] == "2026-11-22"
    assert [basket[of] for of in ("min", "median", "max")] == ["0.500000000000", "10.750000000000", "21.000000000000"]
    names = {"provider": "p"}
    assert basket["members"] == [
        {"name": "The cheap", "model": "cheap", "usd_per_million_tokens": "0.500000000000", "is_cheapest": True}
        | names,
        {"name": "The dear", "model": "dear", "usd_per_million_tokens": "21.000000000000", "is_cheapest": False}
        | names,
    ]
    assert basket["unpriced"] == [{"name": "The none", "model": "none", "reason": "it is gone"} | names]
    assert (basket["basket_version"], basket["prices_version"]) == (4, "list 1")
    assert (basket["requests"], basket["unpriced_requests"]) == (7000, 3)
    assert basket["mix"] == {
        "prompt_tokens": 5_600_000,
        "completion_tokens": 1_400_000,
        "cached_tokens": 7,
        "cached_known_requests": 5,
    }
    assert basket["break_even_duty_cycle"] == {"min": "never", "median": "0.307692"}
    assert basket["what_if_break_even_duty_cycle"] == {"min": "never", "median": "0.310078"}
    assert day["provenance"]["prices_version"] == "list 1"
    assert not any(caveat.startswith("No comparison") for caveat in day["caveats"])
    assert any(caveat.startswith("Compared with list prices as of 2026-11-22. ") for caveat in day["caveats"])


def test_a_copy_of_another_day_is_named_with_its_date(document: Callable[..., Any]) -> None:
    day = document(priced("m", "1"), as_of=date(2026, 11, 25))
    assert day["compared_with"][0]["as_of"] == "2026-11-25"
    assert any("as of 2026-11-25, not of 2026-11-22" in caveat for caveat in day["caveats"])


def test_a_day_without_a_copy_of_prices_says_that_nothing_is_compared(document: Callable[..., Any]) -> None:
    day = document()
    assert day["compared_with"] == []
    assert day["provenance"]["prices_version"] is None
    assert comparison.NO_COMPARISON in day["caveats"]


def test_a_withheld_day_keeps_prices_elsewhere_and_says_nothing_of_our_own_cost(document: Callable[..., Any]) -> None:
    day = document(priced("m", "1"), minutes=10)
    assert day["status"] == "withheld"
    assert day["what_if"] is None
    (basket,) = day["compared_with"]
    assert basket["min"] == "1.000000000000"
    assert basket["break_even_duty_cycle"] == basket["what_if_break_even_duty_cycle"] == {"min": None, "median": None}


def test_the_measured_load_gives_the_number_itself(document: Callable[..., Any]) -> None:
    day = document()
    (measured,) = [row for row in day["what_if"]["at"] if row["is_measured"]]
    assert measured["duty_cycle"] == day["figures"]["duty_cycle"]
    assert Decimal(measured["usd_per_million_tokens"]) == Decimal(day["usd_per_million_tokens"])
    assert "pessimistic" in day["what_if"]["assumption"]


def test_the_published_formula_on_the_published_fields_gives_the_published_table(document: Callable[..., Any]) -> None:
    day = document(priced("m", "6"))
    what_if = day["what_if"]
    (basket,) = day["compared_with"]
    named = set(re.findall(r"[a-z]+(?:_[a-z]+)+", f"{what_if['formula']} {what_if['break_even_assumption']}"))
    assert len(named) > 5
    assert named <= {*day, *what_if, *what_if["at"][0], *basket}
    rates = ("usd_per_active_gpu_second", "tokens_per_busy_gpu_second", "fixed_usd_per_million_tokens")
    running, tokens, fixed = (Decimal(what_if[each]) for each in rates)
    (measured,) = (Decimal(row["duty_cycle"]) for row in what_if["at"] if row["is_measured"])

    def what_if_usd(duty_cycle: Decimal) -> Decimal:
        return 10**6 * running / (tokens * duty_cycle) + fixed * measured / duty_cycle

    for row in what_if["at"]:
        shown = Decimal(row["usd_per_million_tokens"])
        assert abs(what_if_usd(Decimal(row["duty_cycle"])) - shown) <= shown / 10**5
    crossing, held = (Decimal(basket[f"{kind}break_even_duty_cycle"]["min"]) for kind in ("what_if_", ""))
    assert abs(what_if_usd(crossing) - 6) < Decimal("0.0001")
    assert abs(10**6 * running / (tokens * (6 - fixed)) - held) < Decimal("0.00001")


def test_loads_of_which_a_part_is_not_known_are_not_described() -> None:
    row = {"usd_per_million_tokens": None, "duty_cycle_ratio": Decimal("0.1"), "is_measured": False}
    unknown = Elsewhere(load=[{"usd_per_active_gpu_second": None}], what_if=[row])
    assert comparison.describe_what_if(unknown, is_withheld=False) is None
    assert comparison.describe_what_if(Elsewhere(), is_withheld=False) is None


NANO = Decimal("0.000000001")
MONEY = st.integers(1, 10**14).map(lambda units: units * NANO)


@settings(max_examples=12)
@given(
    running=MONEY,
    fixed=MONEY,
    served=st.integers(1, 10**12),
    seconds=st.tuples(st.integers(1, 10**8), st.integers(1, 10**8)),
    prices=st.tuples(st.integers(0, 10**5), st.integers(0, 10**5)),
)
def test_our_number_is_at_most_a_price_exactly_from_its_break_even_on(
    insert: Insert, running: Decimal, fixed: Decimal, served: int, seconds: tuple[int, int], prices: tuple[int, int]
) -> None:
    busy, active = sorted(seconds)
    numbers = [Decimal(price).scaleb(-3) for price in prices]
    basket = {"utc_day": DAY, "basket": "b"} | {
        f"{of}_usd_per_million_tokens": price for of, price in zip(("min", "median"), numbers, strict=True)
    }
    costs = {"running_usd": running, "fixed_usd": fixed, "served_tokens": served}
    with open_scratch() as warehouse:
        insert(warehouse, "metric.list_price_baskets", [basket])
        times = {"active_gpu_seconds": active, "busy_gpu_seconds": busy}
        insert(warehouse, "metric.load_costs", [{"utc_day": DAY} | costs | times])
        warehouse.build_day("metric.break_even", DAY)
        warehouse.build_day("metric.what_if", DAY)
        found = warehouse.query("from metric.break_even").rows(named=True)
        at = {row["is_measured"]: row for row in warehouse.query("from metric.what_if").rows(named=True)}
    number = Fraction(running + fixed) * 10**6 / served
    measured = Fraction(busy, active)
    for row, price in zip(found, numbers, strict=True):
        margin = Fraction(price) - Fraction(fixed) * 10**6 / served
        exact = Fraction(running) * 10**6 / served * measured / margin if margin > 0 else None
        if exact is None or exact > 1 + Fraction(1, 10**12):
            assert row["is_reachable"] is False
            assert row["duty_cycle_ratio"] is None
            assert number > price
        elif exact < 1 - Fraction(1, 10**12):
            assert row["is_reachable"] is True
            assert abs(Fraction(row["duty_cycle_ratio"]) - exact) <= Fraction(6, 10**7)
            assert (number <= price) == (measured >= exact)
        crossing = number * measured / Fraction(price) if price else None
        if crossing is None or number * measured > Fraction(price) + number / 10**12 + Fraction(1, 10**12):
            assert row["is_what_if_reachable"] is False
            assert row["what_if_duty_cycle_ratio"] is None
        elif number * measured < Fraction(price) - number / 10**12 - Fraction(1, 10**12):
            assert row["is_what_if_reachable"] is True
            assert abs(Fraction(row["what_if_duty_cycle_ratio"]) - crossing) <= Fraction(6, 10**7)
    assert abs(Fraction(at[True]["usd_per_million_tokens"]) - number) <= number / 10**12 + Fraction(6, 10**7)
    assert abs(Fraction(at[False]["usd_per_million_tokens"]) - number * measured) <= number / 10**9 + Fraction(6, 10**7)
