"""Books of past days against the simulator: what is asked, and days that cost the truth whatever was seen of them."""

import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
import stamina
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from spotinference_sim.faults import Faults
from spotinference_sim.hyperstack_answers import HyperstackAnswers
from spotinference_sim.instants import to_us

from spotinference_pipeline import answers, backfill, checks, ledger, pacing, reconciliation, validated
from spotinference_pipeline.errors import SettingsError
from spotinference_pipeline.hyperstack import Hyperstack
from spotinference_pipeline.raw import has_minute, read_exchanges
from spotinference_pipeline.reconciliation import Known
from spotinference_pipeline.storage import Storage
from spotinference_pipeline.warehouse import Warehouse, open_scratch

pytestmark = pytest.mark.no_cover  # whole simulated days: tracing would double their time

DAYS = [date(2026, 11, 14), date(2026, 11, 15), date(2026, 11, 16)]
NOW = datetime(2026, 11, 17, 2, tzinfo=UTC)
KINDS = ("busy", "idle", "parked", "cold_start", "storage")
Change = Callable[[httpx.Request, httpx.Response], httpx.Response]


@pytest.fixture(autouse=True)
def no_waiting() -> Iterator[None]:
    with stamina.set_testing(True, attempts=2, cap=True):
        yield


class Teller:
    """The simulated Hyperstack behind the real client, at a fixed instant; `change` may spoil an answer."""

    def __init__(
        self,
        simulated_days: Any,
        raw_dir: Path,
        change: Change = lambda _, answer: answer,
        faults: Faults | None = None,
    ) -> None:
        self.raw_dir = raw_dir
        self.now = NOW
        self.asked: list[str] = []
        self._answers = HyperstackAnswers(simulated_days.scenario, faults=faults)
        self._change = change

    def answer(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path.removeprefix("/v1")
        self.asked.append(path)
        found = self._answers.answer(path, dict(request.url.params), to_us(self.now))
        return self._change(request, httpx.Response(found.status, stream=httpx.ByteStream(found.body)))

    def take(self, day: date, known: Known | None = None) -> reconciliation.Fetched:
        transport, books = httpx.MockTransport(self.answer), pacing.Pace(most_per_minute=1000)
        with Hyperstack("https://h.test/v1", "key", lambda: self.now, pace=books, transport=transport) as api:
            return reconciliation.take(api, self.raw_dir, lambda: self.now, day, known or Known())


def ingest(warehouse: Warehouse, data_dir: Path) -> None:
    validated.ingest(warehouse, data_dir / "raw" / "hyperstack", Storage(str(data_dir / "request_log")))


def reconcile(warehouse: Warehouse, data_dir: Path, simulated_days: Any, faults: Faults | None = None) -> Teller:
    """Read what there is, fetch the books of the days, and build them."""
    ingest(warehouse, data_dir)
    teller = Teller(simulated_days, data_dir / "raw" / "hyperstack", faults=faults)
    for day in DAYS:
        teller.take(day, reconciliation.read_known(warehouse, day))
    ingest(warehouse, data_dir)
    for built in backfill.build(warehouse, DAYS):
        assert not built.broken
    return teller


def costs(warehouse: Warehouse, day: date) -> dict[str, Decimal]:
    sql = "select cost_kind, sum(cost_usd) as usd from rollup.cost_days where utc_day = $day group by cost_kind"
    return dict(warehouse.query(sql, {"day": day}).rows())


def assert_true_to_one_percent(
    warehouse: Warehouse, simulated_days: Any, days: Sequence[date], *, is_asked: bool = False
) -> None:
    """`is_asked`: Hyperstack was asked for the parts of every machine, so that public IPs cost exactly what they did."""
    for day in days:
        truth, found = simulated_days.day_truth(day), costs(warehouse, day)
        paid = Decimal(truth["paid_usd"])
        assert sum(found.values()) == paid
        for kind in KINDS:
            missing = abs(found.get(kind, Decimal(0)) - Decimal(truth["paid_usd_by_kind"][kind]))
            assert missing <= paid / 100, f"{day} {kind}"
        if is_asked:
            assert abs(found["network"] - Decimal(truth["paid_usd_by_kind"]["network"])) < Decimal("1e-9"), day


def test_days_that_were_seen_need_no_adjustment_and_eight_requests_each(simulated_days: Any, tmp_path: Path) -> None:
    data_dir = simulated_days.copy_to(tmp_path / "data")
    with open_scratch() as warehouse:
        teller = reconcile(warehouse, data_dir, simulated_days)
        assert len(teller.asked) == 8 * len(DAYS)
        assert warehouse.query("from rollup.adjustments").is_empty()
        rows = warehouse.query("from rollup.reconciliation_days order by utc_day").rows(named=True)
        assert [row["is_agreed"] for row in rows] == [True] * 3
        assert [row["is_final"] for row in rows] == [True, False, False]
        for day in DAYS:
            truth = simulated_days.day_truth(day)["paid_usd_by_kind"]
            found = costs(warehouse, day)
            assert {kind: found.get(kind, Decimal(0)) for kind in truth} == {
                kind: Decimal(usd) for kind, usd in truth.items()
            }


def test_F050_a_day_without_snapshots_is_rebuilt_from_books_graphs_and_events(
    simulated_days: Any, tmp_path: Path
) -> None:
    data_dir = simulated_days.copy_to(tmp_path / "data")
    shutil.rmtree(data_dir / "raw" / "hyperstack" / f"{DAYS[1]}")
    with open_scratch() as warehouse:
        reconcile(warehouse, data_dir, simulated_days)
        assert_true_to_one_percent(warehouse, simulated_days, DAYS)
        assert_true_to_one_percent(warehouse, simulated_days, DAYS[1:2], is_asked=True)
        sources = warehouse.query("select distinct source from rollup.resource_days where utc_day = '2026-11-15'")
        assert sources["source"].to_list() == ["books, hours inferred"]
        reasons = warehouse.query("select distinct reason from rollup.adjustments")["reason"].to_list()
        assert set(reasons) == {"gap"}


def test_F050_without_any_snapshot_every_day_costs_the_truth(simulated_days: Any, tmp_path: Path) -> None:
    data_dir = simulated_days.copy_to(tmp_path / "data")
    shutil.rmtree(data_dir / "raw" / "hyperstack")
    with open_scratch() as warehouse:
        assert reconciliation.read_known(warehouse, DAYS[0]) == Known()
        reconcile(warehouse, data_dir, simulated_days)
        assert_true_to_one_percent(warehouse, simulated_days, DAYS, is_asked=True)
        assert backfill.without_data(warehouse, DAYS) == []
        reasons = warehouse.query("select distinct reason from rollup.adjustments")["reason"].to_list()
        assert reasons == ["unseen"]


def test_F050_where_graphs_are_not_by_the_hour_24_lists_are(simulated_days: Any, tmp_path: Path) -> None:
    """A credit hides in a day's bucket; with the lists of machines by the hour the day is as near the truth as ever."""
    data_dir = simulated_days.copy_to(tmp_path / "data")
    shutil.rmtree(data_dir / "raw" / "hyperstack")
    with open_scratch() as warehouse:
        teller = reconcile(warehouse, data_dir, simulated_days, Faults.worst("coarse_graphs"))
        assert_true_to_one_percent(warehouse, simulated_days, DAYS, is_asked=True)
        machines = sum(path.endswith("/graph") for path in teller.asked)
        assert len(teller.asked) == len(DAYS) * (8 + 24) + 4 * machines
        assert reconciliation.read_known(warehouse, DAYS[1]).seen_vms, "and nobody is asked about again"


@settings(
    max_examples=2, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(seed=st.integers(0, 10**9))
def test_F050_any_half_of_the_snapshots_gives_the_same_reconciled_totals(
    simulated_days: Any, tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    data_dir = simulated_days.copy_to(tmp_path_factory.mktemp("half") / "data")
    files = sorted((data_dir / "raw" / "hyperstack").glob("*/*.jsonl"))
    for file in random.Random(seed).sample(files, len(files) // 2):
        file.unlink()
    with open_scratch() as warehouse:
        reconcile(warehouse, data_dir, simulated_days)
        for day in DAYS:
            assert sum(costs(warehouse, day).values()) == Decimal(simulated_days.day_truth(day)["paid_usd"])


def test_a_second_book_that_says_the_same_changes_no_cost(simulated_days: Any, tmp_path: Path) -> None:
    data_dir = simulated_days.copy_to(tmp_path / "data")
    with open_scratch() as warehouse:
        teller = reconcile(warehouse, data_dir, simulated_days)
        before = {table: warehouse.query(f"from {table} order by all") for table in ledger.TABLES[:4]}
        teller.now = datetime(2026, 11, 19, 2, tzinfo=UTC)
        teller.take(DAYS[2], reconciliation.read_known(warehouse, DAYS[2]))
        ingest(warehouse, data_dir)
        backfill.build(warehouse, DAYS)
        assert all(warehouse.query(f"from {table} order by all").equals(frame) for table, frame in before.items())
        books, is_final = warehouse.query(
            "select books, is_final from rollup.reconciliation_days where utc_day = '2026-11-16'"
        ).row(0)
        assert (books, is_final) == (2, True)


def test_a_wrong_ledger_breaks_the_rule(simulated_days: Any, tmp_path: Path) -> None:
    data_dir = simulated_days.copy_to(tmp_path / "data")
    with open_scratch() as warehouse:
        reconcile(warehouse, data_dir, simulated_days)
        warehouse.execute("update rollup.cost_days set cost_usd = cost_usd + 1e-9 where resource_id = 38111")
        (finding,) = checks.run(warehouse, DAYS[1], ["ledger_equals_the_books"])
        assert finding.blocks
        assert finding.broken["resource_type"].to_list() == ["organisation", "volume"]


# What is asked


def test_a_day_whose_bills_still_move_is_refused_before_anything_is_asked(simulated_days: Any, tmp_path: Path) -> None:
    teller = Teller(simulated_days, tmp_path)
    teller.now = datetime(2026, 11, 17, 1, 59, 59, tzinfo=UTC)
    with pytest.raises(SettingsError, match=r"day 2026-11-16: .* until 2026-11-17 02:00 UTC; wait until then"):
        teller.take(DAYS[2])
    assert teller.asked == []


def test_machines_that_were_not_seen_are_asked_about_and_the_file_is_no_snapshot(
    simulated_days: Any, tmp_path: Path
) -> None:
    teller = Teller(simulated_days, tmp_path)
    seen = frozenset({700100, 700101, 700102, 700103})
    fetched = teller.take(DAYS[0], Known(seen_vms=seen))
    assert teller.asked[7:] == [
        answers.GRAPH.format(kind="virtual-machine", resource_id=700104),
        answers.BILLING_EVENTS.format(vm_id=700104),
        answers.SUB_RESOURCES.format(vm_id=700104),
        answers.VM_EVENTS.format(vm_id=700104),
        answers.PAYMENTS,
    ]
    assert not has_minute(tmp_path, NOW)
    lines = list(read_exchanges(fetched.path.read_bytes()))
    assert (fetched.exchanges, fetched.failed, len(lines)) == (12, 0, 12)


def test_a_list_that_lacks_a_resource_which_cost_something_is_read_once_more(
    simulated_days: Any, tmp_path: Path
) -> None:
    teller = Teller(simulated_days, tmp_path)
    teller.take(DAYS[0], Known(frozenset({("volume", 4711), ("vm", 700101)}), frozenset(range(700100, 700110))))
    assert [path.rpartition("/")[2] for path in teller.asked].count("volume") == 2
    assert len(teller.asked) == 9


def test_events_that_an_earlier_book_of_the_same_run_told_are_not_asked_for_again(
    simulated_days: Any, tmp_path: Path
) -> None:
    """A machine's events are all that ever happened to it: asked for each day, they would grow with the square of the days."""

    def failing(request: httpx.Request, answer: httpx.Response) -> httpx.Response:
        if request.url.path.endswith("/700104/events"):
            return httpx.Response(502, stream=httpx.ByteStream(b"<html>"))
        return answer

    teller = Teller(simulated_days, tmp_path, failing)
    fetched = teller.take(DAYS[0])
    assert fetched.told_vms == frozenset(
        int(path.split("/")[-2]) for path in teller.asked if path.endswith("/events") and "/700104/" not in path
    )
    assert len(fetched.told_vms) > 1
    teller.asked.clear()
    again = teller.take(DAYS[1], Known(told_vms=fetched.told_vms))
    assert not again.told_vms & fetched.told_vms
    asked = {path for path in teller.asked if path.endswith("/events")}
    wanted = {answers.VM_EVENTS.format(vm_id=vm_id) for vm_id in (700104, *again.told_vms)}
    assert asked == wanted, "what was not told is asked for again, and what is new"
    assert sum(path.endswith("/graph") for path in teller.asked) > 1


def test_ai_lists_are_asked_for_where_the_total_shows_their_costs(simulated_days: Any, tmp_path: Path) -> None:
    def with_ai(request: httpx.Request, answer: httpx.Response) -> httpx.Response:
        content = answer.read().replace(b'"ais_token_cost":0', b'"ais_token_cost":0.5')
        return httpx.Response(answer.status_code, stream=httpx.ByteStream(content))

    teller = Teller(simulated_days, tmp_path, with_ai)
    teller.take(DAYS[0], Known(seen_vms=frozenset(range(700100, 700110))))
    assert [path.rpartition("/")[2] for path in teller.asked[1:-1]] == list(answers.HISTORY_LISTS)


@pytest.mark.parametrize("content", [b"<html>", b'{"status":true,"x":{"metrics":{"ais_token_cost":{}}}}'])
def test_F041_a_total_that_cannot_be_read_is_landed_and_makes_no_book(
    simulated_days: Any, tmp_path: Path, content: bytes
) -> None:
    def spoilt(request: httpx.Request, answer: httpx.Response) -> httpx.Response:
        is_total = request.url.path.endswith("/history")
        return httpx.Response(200, stream=httpx.ByteStream(content)) if is_total else answer

    raw_dir = tmp_path / "raw" / "hyperstack"
    teller = Teller(simulated_days, raw_dir, spoilt)
    with open_scratch() as warehouse:
        fetched = teller.take(DAYS[0])
        ingest(warehouse, tmp_path)
        assert not backfill.is_whole(warehouse, fetched)


def test_F040_a_list_that_fails_is_told(simulated_days: Any, tmp_path: Path) -> None:
    def failing(request: httpx.Request, answer: httpx.Response) -> httpx.Response:
        return httpx.Response(500, stream=httpx.ByteStream(b"")) if request.url.path.endswith("/volume") else answer

    teller = Teller(simulated_days, tmp_path, failing)
    fetched = teller.take(DAYS[0], Known(seen_vms=frozenset(range(700100, 700110))))
    assert (fetched.exchanges, fetched.failed) == (9, 2), "tried twice"
