"""Baskets: reviewed data in one form, and the shipped ones hold to their own rules."""

import tomllib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from spotinference_pipeline import list_prices, price_baskets
from spotinference_pipeline.errors import OursError

GOOD = """
name = "small"
version = 3
rules = ["Sold by the token."]

[[members]]
provider = "p"
model = "m"
name = "M"
why = "it is sold"
checked_on = 2026-11-22
link = "https://example.org/prices"
"""


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def written(text: str, name: str = "small") -> Path:
        (tmp_path / f"{name}.toml").write_text(text)
        return tmp_path

    return written


def test_a_basket_says_who_is_in_it_and_why(write: Callable[..., Path]) -> None:
    (basket,) = price_baskets.read_baskets(write(GOOD))
    assert (basket.name, basket.version, basket.rules) == ("small", 3, ("Sold by the token.",))
    (member,) = basket.members
    assert (member.provider, member.model, member.why, f"{member.checked_on}") == ("p", "m", "it is sold", "2026-11-22")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("name = ", "Invalid value"),
        (GOOD.replace("version = 3", "version = 0"), "`int` >= 1"),
        (GOOD.replace('why = "it is sold"\n', ""), "missing required field `why`"),
        (GOOD.replace("https://", "http://"), "matching regex"),
        (GOOD + 'note = "?"\n', "unknown field `note`"),
        (GOOD.partition("[[")[0] + "members = []\n", "length >= 1"),
        (GOOD.replace('"small"', '"large"'), "expected the name 'small', found 'large'"),
        (GOOD + GOOD[GOOD.index("[[") :], "p m twice"),
    ],
)
def test_a_basket_that_is_not_in_its_form_is_refused_in_one_line(
    write: Callable[..., Path], text: str, found: str
) -> None:
    with pytest.raises(OursError) as error:
        price_baskets.read_baskets(write(text))
    assert found in str(error.value)
    assert "small.toml" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_basket_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "small.toml").mkdir()
    with pytest.raises(OursError, match=r"small\.toml: expected a readable file, found Is a directory; correct it"):
        price_baskets.read_baskets(tmp_path)


def test_the_shipped_baskets_are_the_named_ones_and_every_member_has_a_price(tmp_path: Path) -> None:
    baskets = price_baskets.read_baskets()
    assert [(basket.name, len(basket.members)) for basket in baskets] == [("frontier", 6), ("open_70b_serverless", 12)]
    path = list_prices.copy_prices(tmp_path, datetime(2026, 11, 22, 9, tzinfo=UTC))
    assert path is not None
    copied: list[Any] = [price for _, price in list_prices.read_prices(path.read_bytes())]
    assert {price.model: price.unpriced for price in copied if price.unpriced} == {}
    makers = [member.provider for member in baskets[0].members]
    assert max(map(makers.count, makers)) <= 2
    hosts = [member.provider.removeprefix("huggingface_") for member in baskets[1].members]
    assert len(set(hosts)) == len(hosts)


def test_members_are_checked_against_the_pinned_price_list() -> None:
    pins = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]["dependencies"]
    assert f"genai-prices=={list_prices.installed().version}" in pins, "the pin and what is installed differ"
    for path in sorted((Path(__file__).parents[1] / "baskets").glob("*.toml")):
        assert f"genai-prices {list_prices.installed().version}" in path.read_text(), (
            f"{path.name}: the price list moved: hold each member against the rules again, and say so in the file"
        )
