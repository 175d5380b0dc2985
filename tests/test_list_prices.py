"""List prices: one copy of our own a day, exactly the package's, and no past day is ever priced anew."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import genai_prices
import msgspec
import pytest
from genai_prices import data_snapshot
from hypothesis import given, settings
from hypothesis import strategies as st

from spotinference_pipeline import list_prices, publication, raw, transform, validated
from spotinference_pipeline.errors import RawFileError
from spotinference_pipeline.list_prices import PriceList, RawPrice, Tier, UnpricedError
from spotinference_pipeline.price_baskets import Basket, Member, read_baskets
from spotinference_pipeline.settings import Settings
from spotinference_pipeline.storage import Storage
from spotinference_pipeline.warehouse import Warehouse, open_scratch

DAY = date(2026, 11, 22)
NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
MORNING = datetime(2026, 11, 22, 9, 30, tzinfo=UTC)
MEMBERS = [member for basket in read_baskets() for member in basket.members]
Insert = Callable[..., None]


def member(provider: str = "p", model: str = "m") -> Member:
    return Member(provider, model, f"The {model}", "for a test", DAY, "https://example.org")


def basket(*members: Member) -> Basket:
    return Basket("small", 1, ("any",), members)


def fixed(version: str, usd: str) -> PriceList:
    """A price list on which everything costs the same."""
    tier = Tier(from_prompt_tokens=0, input=Decimal(usd), cached_input=None, output=Decimal(usd))
    return PriceList("genai-prices", version, lambda _provider, _model, _at: (tier,))


def copied(folder: Path, now: datetime = MORNING, *given: Any) -> list[RawPrice]:
    path = list_prices.copy_prices(folder, now, *given)
    assert path is not None
    prices = [price for _, price in list_prices.read_prices(path.read_bytes())]
    assert all(isinstance(price, RawPrice) for price in prices)
    return prices  # type: ignore[return-value]


def ingest(warehouse: Warehouse, data_dir: Path) -> validated.Ingested:
    return validated.ingest(warehouse, data_dir / "raw" / "hyperstack", Storage(str(data_dir / "request_log")))


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    (tmp_path / "request_log").mkdir()
    return tmp_path


@pytest.fixture
def folder(data_dir: Path) -> Path:
    return list_prices.folder_beside(data_dir / "raw" / "hyperstack")


def test_the_pinned_prices_at_80_20_without_cache(
    scratch: Warehouse, insert: Insert, data_dir: Path, folder: Path
) -> None:
    list_prices.copy_prices(folder, MORNING)
    ingest(scratch, data_dir)
    size = {"utc_day": DAY, "prompt_tokens": 800, "requests": 1000, "completion_tokens": 200_000}
    insert(scratch, "rollup.request_size_days", [size])
    for table in ("metric.list_price_comparison", "metric.list_price_baskets"):
        scratch.build_day(table, DAY)
    members = dict(scratch.query("select model, usd_per_million_tokens from metric.list_price_comparison").iter_rows())
    assert members["gpt-5.5"] == Decimal("10")
    baskets = scratch.query("from metric.list_price_baskets").rows(named=True)
    found = {row["basket"]: [row[f"{of}_usd_per_million_tokens"] for of in ("min", "median", "max")] for row in baskets}
    assert found == {
        "frontier": [Decimal("2.8"), Decimal("8.6"), Decimal("18")],
        "open_70b_serverless": [Decimal("0.188"), Decimal("0.6925"), Decimal("0.9")],
    }
    assert {row["prices_version"] for row in baskets} == {"genai-prices 0.2.3"}


REQUESTS = st.tuples(st.integers(0, 600_000), st.integers(0, 50_000), st.none() | st.integers(0, 600_000))


@settings(max_examples=10)
@given(requests=st.lists(REQUESTS, min_size=1, max_size=12))
def test_our_sums_are_the_packages_own_of_each_request(tmp_path_factory: Any, requests: list[Any], insert: Any) -> None:
    rows = [(prompt, done, None if cached is None else min(cached, prompt)) for prompt, done, cached in requests]
    data_dir = tmp_path_factory.mktemp("data")
    (data_dir / "request_log").mkdir()
    list_prices.copy_prices(list_prices.folder_beside(data_dir / "raw" / "hyperstack"), MORNING)
    with open_scratch() as warehouse:
        ingest(warehouse, data_dir)
        names = ("prompt_tokens", "completion_tokens", "cached_tokens")
        plain = {"finished_at": MORNING, "usage_source": "engine_final", "vm_id": 1}
        logged = [dict(zip(names, row, strict=True)) | plain | {"request_id": f"{n}"} for n, row in enumerate(rows)]
        insert(warehouse, "validated.requests", logged)
        warehouse.build_day("rollup.request_size_days", DAY)
        warehouse.build_day("metric.list_price_comparison", DAY)
        found = {row[:2]: row[2] for row in warehouse.query(WORKLOADS).rows()}
    total = sum(prompt + done for prompt, done, _ in rows)
    for one in MEMBERS:
        expected = sum(
            genai_prices.calc_price(
                genai_prices.Usage(input_tokens=prompt, output_tokens=done, cache_read_tokens=cached),
                one.model,
                provider_id=one.provider,
                genai_request_timestamp=NOON,
            ).total_price
            for prompt, done, cached in rows
        )
        assert found[one.provider, one.model] == (expected if total else None)


WORKLOADS = "select provider, model, workload_usd from metric.list_price_comparison"


def test_a_day_has_one_copy_and_it_is_never_changed(folder: Path) -> None:
    one = list_prices.copy_prices(folder, MORNING, fixed("1", "1"), [basket(member())])
    assert one == folder / "2026-11-22.jsonl"
    content = one.read_bytes()
    late = datetime(2026, 11, 22, 23, 59, 59, tzinfo=UTC)
    assert list_prices.copy_prices(folder, late, fixed("2", "2"), [basket(member())]) is None
    assert one.read_bytes() == content
    west = datetime(2026, 11, 22, 23, 0, tzinfo=timezone(timedelta(hours=-2)))
    assert list_prices.copy_prices(folder, west, fixed("2", "2"), [basket(member())]) == folder / "2026-11-23.jsonl"
    assert [path.name for path in list_prices.list_files(folder)] == ["2026-11-22.jsonl", "2026-11-23.jsonl"]


def test_of_two_that_copy_at_once_the_first_one_stays(folder: Path) -> None:
    other = fixed("2", "2")

    def find(provider: str, model: str, at: datetime) -> tuple[Tier, ...]:
        assert list_prices.copy_prices(folder, MORNING, other, [basket(member())]) is not None
        return other.find(provider, model, at)

    assert list_prices.copy_prices(folder, MORNING, PriceList("slow", "1", find), [basket(member())]) is None
    ((_, kept),) = list_prices.read_prices((folder / "2026-11-22.jsonl").read_bytes())
    assert isinstance(kept, RawPrice)
    assert kept.package == "genai-prices"
    assert len(list(folder.iterdir())) == 1


def test_a_copy_that_cannot_be_written_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "list_prices").write_text("a file where a folder should be")
    with pytest.raises(RawFileError, match=r"could not be written, found File exists; .*ingest"):
        list_prices.copy_prices(tmp_path / "list_prices", MORNING)


def test_the_members_of_a_line_are_those_of_the_documentation(folder: Path) -> None:
    now = MORNING.replace(microsecond=7)
    path = list_prices.copy_prices(folder, now, fixed("0.2.3", "1.50"), [basket(member())])
    assert path is not None
    line = path.read_bytes()
    tiers = [{"from_prompt_tokens": 0, "input": "1.50", "cached_input": None, "output": "1.50"}]
    assert msgspec.json.decode(line) == {
        "v": 1,
        "copied_at": "2026-11-22T09:30:00.000007Z",
        "basket": "small",
        "basket_version": 1,
        "provider": "p",
        "model": "m",
        "name": "The m",
        "package": "genai-prices",
        "package_version": "0.2.3",
        "tiers": tiers,
        "unpriced": None,
        "c": line[-11:-3].decode(),
    }


def test_a_new_version_of_the_package_changes_no_past_row_and_no_published_day(
    scratch: Warehouse, fill_week: Insert, data_dir: Path, folder: Path, settings_in: Callable[..., Settings]
) -> None:
    target = Storage(str(data_dir / "public"))
    assert list_prices.copy_prices(folder, MORNING, fixed("0.2.3", "2"), [basket(member())])
    ingest(scratch, data_dir)
    fill_week(scratch)
    before = everything_priced(scratch)
    (first,) = publication.publish(scratch, target, settings_in())

    updated = basket(member(model="m"), member(model="new"))
    assert list_prices.copy_prices(folder, MORNING + timedelta(days=1), fixed("9.9", "77"), [updated])
    ingest(scratch, data_dir)
    transform.build_metrics(scratch, DAY)
    assert everything_priced(scratch) == before
    assert [row["prices_version"] for row in before[0]] == ["genai-prices 0.2.3"]
    (again,) = publication.publish(scratch, target, settings_in(now="2027-01-01T00:00:00Z"))
    assert (first.is_new, again.is_new, again.revision) == (True, False, 1)

    scratch.build_day("metric.list_price_comparison", DAY + timedelta(days=1))
    later = scratch.query("from metric.list_price_comparison where utc_day > $day", {"day": DAY}).rows(named=True)
    assert {(row["model"], row["prices_version"], row["as_of"]) for row in later} == {
        ("m", "genai-prices 9.9", date(2026, 11, 23)),
        ("new", "genai-prices 9.9", date(2026, 11, 23)),
    }


def everything_priced(warehouse: Warehouse) -> list[list[dict[str, Any]]]:
    tables = ("list_price_comparison", "list_price_baskets", "break_even", "what_if")
    return [
        warehouse.query(f"from metric.{table} where utc_day = $day", {"day": DAY}).rows(named=True) for table in tables
    ]


def test_a_price_that_begins_on_a_day_is_copied_from_that_day_on(folder: Path) -> None:
    flagship = [basket(member("google", "gemini-4-argon"))]
    last, first = datetime(2026, 11, 30, 23, 59, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC)
    rates = [copied(folder, at, None, flagship)[0].tiers[0] for at in (last, first)]
    assert [(rate.input, rate.cached_input, rate.output) for rate in rates] == [
        (Decimal("2"), Decimal("0.1"), Decimal("10")),
        (Decimal("4"), Decimal("0.2"), Decimal("20")),
    ]


def test_a_tier_above_200000_tokens_of_the_maker_begins_where_the_package_says(folder: Path) -> None:
    (grok,) = copied(folder, MORNING, None, [basket(member("x-ai", "grok-4.7"))])
    assert [tier.from_prompt_tokens for tier in grok.tiers] == [0, 200_000]


@pytest.mark.parametrize(
    ("provider", "model", "reason"),
    [
        ("openai", "gpt-99", "genai-prices has no such model"),
        ("nobody", "gpt-5.5", "genai-prices has no such model"),
        ("openai", "gpt-5.5-chat", "genai-prices has no such model, the nearest is gpt-5.5"),
        ("google", "gemma-3", "genai-prices has no price for its input_mtok and output_mtok"),
        ("openai", "text-embedding-3-small", "genai-prices has no price for its output_mtok"),
        ("perplexity", "sonar", "it charges by requests_kcount too, which is not compared"),
    ],
)
def test_a_member_without_a_comparable_price_is_kept_with_the_reason(
    folder: Path, provider: str, model: str, reason: str
) -> None:
    (price,) = copied(folder, MORNING, None, [basket(member(provider, model))])
    assert (price.tiers, price.unpriced) == ((), reason)


def test_a_price_list_that_fails_leaves_the_other_members_priced(folder: Path) -> None:
    def find(_provider: str, model: str, _at: datetime) -> tuple[Tier, ...]:
        if model == "bad":
            raise UnpricedError("it is gone")
        return fixed("1", "1").find("p", model, NOON)

    prices = copied(folder, MORNING, PriceList("list", "1", find), [basket(member(model="bad"), member())])
    assert [price.unpriced for price in prices] == ["it is gone", None]


@pytest.fixture
def _updated() -> Iterator[None]:
    """What the package's own updater leaves behind when another program in this process used it."""
    data_snapshot.set_custom_snapshot(data_snapshot.DataSnapshot(providers=[], from_auto_update=True))
    yield
    data_snapshot.set_custom_snapshot(None)


@pytest.mark.usefixtures("_updated")
def test_prices_that_were_downloaded_into_the_package_are_not_ours(folder: Path) -> None:
    (price,) = copied(folder, MORNING, None, [basket(member("openai", "gpt-5.5"))])
    assert price.unpriced is None


_COPY_WITHOUT_NETWORK = """
import socket, sys
from datetime import UTC, datetime
from pathlib import Path

def refuse(*_): raise AssertionError("asked over the network")
socket.socket.connect = socket.getaddrinfo = refuse

from spotinference_pipeline import list_prices
print(list_prices.copy_prices(Path(sys.argv[1]), datetime.now(UTC)))
"""


def test_copying_asks_nothing_over_the_network(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _COPY_WITHOUT_NETWORK, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip().endswith(".jsonl")


def framed(**changed: Any) -> bytes:
    line = {
        "v": 1,
        "copied_at": "2026-11-22T09:30:00Z",
        "basket": "small",
        "basket_version": 1,
        "provider": "p",
        "model": "m",
        "name": "M",
        "package": "genai-prices",
        "package_version": "1",
        "tiers": [{"from_prompt_tokens": 0, "input": "1", "cached_input": None, "output": "2"}],
        "unpriced": None,
    }
    return raw.frame(msgspec.json.encode(line | changed))


def tiers(*starts: int, rate: str = "1") -> list[dict[str, Any]]:
    return [{"from_prompt_tokens": start, "input": rate, "cached_input": None, "output": "1"} for start in starts]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"v":1}\n', "checksum"),
        (framed(v=2), "list price: "),
        (framed(tiers=[]), "expected either tiers or why there are none"),
        (framed(unpriced="gone"), "expected either tiers or why there are none"),
        (framed(tiers=tiers(5)), "expected tiers from 0 prompt tokens upwards, found [5]"),
        (framed(tiers=tiers(0, 7, 7)), "expected tiers from 0 prompt tokens upwards"),
        (framed(tiers=tiers(-1)), "list price: "),
        (framed(tiers=tiers(0, rate="-1")), "expected rates from 0"),
        (framed(tiers=tiers(0, rate="NaN")), "expected rates from 0"),
        (framed(tiers=tiers(0, rate="1e30")), "expected rates from 0"),
        (framed(basket_version=0), "basket_version"),
        (framed(basket_version=10**30), "list price: "),
        (framed(tiers=tiers(0, 10**30)), "list price: "),
        (framed(name="M" * 20_000), "list price: "),
        (
            framed(copied_at="2026-11-21T23:59:59Z"),
            "expected a copy of 2026-11-22 as the file's name says, found one of",
        ),
        (framed(copied_at="0001-01-01T00:00:00+05:00"), "expected a copy of 2026-11-22 as the file's name says"),
    ],
)
def test_a_copy_with_a_line_that_is_no_price_counts_as_none(
    scratch: Warehouse, data_dir: Path, folder: Path, line: bytes, reason: str
) -> None:
    folder.mkdir(parents=True)
    (folder / "2026-11-22.jsonl").write_bytes(line + framed(model="good"))
    done = ingest(scratch, data_dir)
    assert (done.rows_read, done.rows_accepted, done.rows_quarantined) == (2, 0, 2)
    reasons = scratch.query("select reason from validated.quarantine order by source_line")["reason"].to_list()
    assert reason in reasons[0]
    assert reasons[1] == "list price: expected a copy without damage, found line 1 of it refused"
    assert scratch.query("from validated.list_prices").is_empty()


def test_a_damaged_line_takes_no_rival_out_of_the_comparison(
    scratch: Warehouse, data_dir: Path, folder: Path, insert: Insert
) -> None:
    members = [basket(member(model="dear"), member(model="cheap"))]
    for back in (1, 0):
        list_prices.copy_prices(folder, MORNING - timedelta(days=back), fixed("0.2.3", "1"), members)
    newest = folder / "2026-11-22.jsonl"
    content = newest.read_bytes()
    newest.chmod(0o600)
    newest.write_bytes(content.replace(b'"model":"cheap"', b'"model":"chewp"'))
    ingest(scratch, data_dir)
    insert(scratch, "rollup.request_size_days", [{"utc_day": DAY, "prompt_tokens": 8, "requests": 1}])
    for table in ("metric.list_price_comparison", "metric.list_price_baskets"):
        scratch.build_day(table, DAY)
    (basket_row,) = scratch.query("from metric.list_price_baskets").rows(named=True)
    found = [basket_row[name] for name in ("as_of", "members", "min_usd_per_million_tokens")]
    assert found == [date(2026, 11, 21), 2, Decimal("1")]


def test_an_empty_copy_is_told_and_a_second_ingest_reads_nothing(
    scratch: Warehouse, data_dir: Path, folder: Path
) -> None:
    folder.mkdir(parents=True)
    (folder / "2026-11-22.jsonl").write_bytes(b"")
    tomorrow = {"copied_at": "2026-11-23T09:30:00Z"}
    unpriced = framed(model="none", tiers=[], unpriced="gone", **tomorrow)
    (folder / "2026-11-23.jsonl").write_bytes(framed(**tomorrow) + unpriced)
    (folder / "notes.jsonl").write_bytes(b"not ours")
    assert ingest(scratch, data_dir).files == 2
    assert "empty file" in scratch.query("select reason from validated.quarantine").item()
    assert ingest(scratch, data_dir).files == 0
    rows = scratch.query("select model, input_usd_per_million, unpriced_reason from validated.list_prices").rows()
    assert rows == [("m", Decimal("1"), None), ("none", None, "gone")]


def test_binary_noise_of_a_price_is_taken_off_at_nano_dollars(scratch: Warehouse, data_dir: Path, folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "2026-11-22.jsonl").write_bytes(framed(tiers=tiers(0, rate="1.0399999999999998")))
    ingest(scratch, data_dir)
    assert scratch.query("select input_usd_per_million from validated.list_prices").item() == Decimal("1.04")
