"""Whole histories through a simulated Hyperstack that errs: afterwards the ledger is the books, to the last digit.

A day here has a few snapshots, and its books are read at D+1 and again at D+3, by the real client at a virtual clock.
The gate lives some days with every fault at its default and with each at its worst, and one whole month; `make soak`
lives 400 days.
"""

import os
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
import stamina
from spotinference_sim.books import organisation_truth, truth_by_resource
from spotinference_sim.faults import NAMES, Faults
from spotinference_sim.features import Features
from spotinference_sim.hyperstack_answers import HyperstackAnswers
from spotinference_sim.hyperstack_gate import Fate, HyperstackGate
from spotinference_sim.scenario import Scenario

from spotinference_pipeline import backfill, checks, focus, ledger, reconciliation, snapshot, validated
from spotinference_pipeline.books import SETTLE, read_books
from spotinference_pipeline.hyperstack import Hyperstack
from spotinference_pipeline.pacing import Pace
from spotinference_pipeline.reconciliation import Fetched, Known
from spotinference_pipeline.storage import Storage
from spotinference_pipeline.warehouse import Warehouse, open_scratch
from spotinference_pipeline.windows import month_window

pytestmark = pytest.mark.no_cover  # whole simulated days: tracing would double their time

IS_SOAK = os.environ.get("HYPOTHESIS_PROFILE") == "soak"
FIRST = date(2026, 10, 29)  # a month ends inside
SNAPSHOT_HOURS = tuple(range(0, 24, 2 if IS_SOAK else 4))
ONE_DAY = timedelta(days=1)
CORRECTED = timedelta(days=2, hours=1)
"""How long after a day's first instant the simulated service knows of corrections."""
SEED = 20
REASONS = {"boundary", "gap", "rate", "unseen", "unattributed", "correction", "month_boundary"}


class Sky:
    """A clock that calls move on, and the transport through which the simulated service is asked."""

    def __init__(self, scenario: Scenario, faults: Faults) -> None:
        self.now = datetime.fromtimestamp(scenario.start_s, UTC)
        self._began = self.now
        self._gate = HyperstackGate(HyperstackAnswers(scenario, faults=faults))

    def clock(self) -> datetime:
        return self.now

    def elapsed(self) -> float:
        return (self.now - self._began).total_seconds()

    def sleep(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def answer(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path.removeprefix("/v1")
        passage = self._gate.passage(path, dict(request.url.params), int(self.now.timestamp() * 1_000_000))
        if passage.fate is Fate.RESET:
            raise httpx.ReadError("reset")
        if passage.fate is Fate.HANGS or passage.delay_us > 20_000_000:
            self.sleep(20)
            raise httpx.ReadTimeout("nothing came")
        self.sleep(passage.delay_us / 1_000_000)
        found = passage.answer
        headers = {"retry-after": str(found.retry_after_s)} if found.retry_after_s else {}
        return httpx.Response(found.status, headers=headers, stream=httpx.ByteStream(found.body))

    def ask(self, pace: Pace, **patience: float) -> Hyperstack:
        return Hyperstack(
            "https://h.test/v1",
            "key",
            self.clock,
            pace=pace,
            elapsed=self.elapsed,
            sleep=self.sleep,
            transport=httpx.MockTransport(self.answer),
            **patience,
        )


class Years:
    """Lives through days, and holds what was booked against the truth."""

    def __init__(self, folder: Path, warehouse: Warehouse, scenario: Scenario, faults: Faults) -> None:
        self.raw_dir = folder / "raw" / "hyperstack"
        self.log = Storage(str(folder / "log"))
        self.warehouse, self.scenario, self.faults = warehouse, scenario, faults
        self.sky = Sky(scenario, faults)
        self.first = self.sky.now.date()
        self.open_days: list[date] = []
        self.last_day = self.first

    def live(self, days: int, hours: tuple[int, ...] = SNAPSHOT_HOURS) -> list[date]:
        """Live so many days, and some more until every book that can be read was; give the days with a book."""
        self.last_day = self.first + (days - 1) * ONE_DAY
        for number in range(days + 4):
            day = self.first + number * ONE_DAY
            midnight = datetime.combine(day, datetime.min.time(), UTC)
            if number:
                self._reconcile(midnight + timedelta(hours=2), day - ONE_DAY if number <= days else None)
            for hour in hours if number <= days else ():
                self.sky.now = max(self.sky.now, midnight + timedelta(hours=hour, minutes=7))
                with self.sky.ask(Pace()) as hyperstack:
                    snapshot.take(hyperstack, self.raw_dir, self.sky.clock)
        validated.ingest(self.warehouse, self.raw_dir, self.log)
        lived = [self.first + number * ONE_DAY for number in range(days)]
        backfill.build(self.warehouse, lived)
        booked = self.warehouse.query("select utc_day from rollup.reconciliation_days order by 1")["utc_day"].to_list()
        return [day for day in booked if day in lived]

    def _reconcile(self, at: datetime, new_day: date | None) -> None:
        """Read the books of yesterday, of the day two before it once more, and of days whose book could not be read.

        On the third also the book of the month that ended.
        """
        self.sky.now = max(self.sky.now, at)
        if new_day is not None:
            self.open_days.append(new_day)
        validated.ingest(self.warehouse, self.raw_dir, self.log)
        again = [at.date() - 3 * ONE_DAY] if self.first <= at.date() - 3 * ONE_DAY <= self.last_day else []
        taken = [
            self._ask(reconciliation.take, day, reconciliation.read_known(self.warehouse, day))
            for day in dict.fromkeys([*self.open_days, *again])
        ]
        validated.ingest(self.warehouse, self.raw_dir, self.log)
        whole = [fetched.utc_day for fetched in taken if backfill.is_whole(self.warehouse, fetched)]
        self.open_days = [day for day in self.open_days if day not in whole]
        if at.day == 3 and at.date() - 3 * ONE_DAY >= self.first:
            self._ask(reconciliation.take_month, at.date() - 3 * ONE_DAY, Known())

    def _ask(self, take: Any, day: date, known: Known) -> Fetched:
        patience = {"budget_seconds": 1800.0, "patience_seconds": 120.0}
        with self.sky.ask(Pace(most_per_minute=120), **patience) as hyperstack:
            fetched: Fetched = take(hyperstack, self.raw_dir, self.sky.clock, day, known)
        return fetched

    def read_month(self, days: list[date]) -> None:
        """Read the books of a month's days after each of them, the month's on the third, and build the ledger."""
        everyone = Known(seen_vms=frozenset(one.id for one in self.scenario.resources))
        for day in days:
            self.sky.now = max(self.sky.now, datetime.combine(day + ONE_DAY, datetime.min.time(), UTC) + SETTLE)
            self._ask(reconciliation.take, day, everyone)
        self.sky.now += 2 * ONE_DAY
        self._ask(reconciliation.take_month, days[-1], Known())
        validated.ingest(self.warehouse, self.raw_dir, self.log)
        for day in days:
            ledger.build_day(self.warehouse, day)

    def costs(self, day: date) -> dict[tuple[str, int], Decimal]:
        """Give what each resource cost on the day, without what the month's book adds to its last day."""
        rows = self.warehouse.query(
            """
            select resource_type, resource_id, sum(cost_usd)
            from (
                select resource_type, resource_id, cost_usd from rollup.cost_days where utc_day = $day
                union all
                select resource_type, resource_id, -cost_usd
                from rollup.adjustments
                where utc_day = $day and reason = 'month_boundary'
            )
            group by all
            """,
            {"day": day},
        )
        return {(kind, number): amount for kind, number, amount in rows.iter_rows() if amount}

    def check(self, day: date) -> None:
        """Hold a day with a book against the truth, line by line, and against the rules.

        Corrections of closed days come at D+2: they are in the truth that a later book must meet, which is also the
        first one where none could be read at D+1.
        """
        (read_at,) = self.warehouse.query(
            "select last_book_at from rollup.reconciliation_days where utc_day = $day", {"day": day}
        )["last_book_at"]
        is_corrected = read_at >= datetime.combine(day, datetime.min.time(), UTC) + CORRECTED
        whole, costs = organisation_truth(self.scenario, day), self.costs(day)
        if not self.faults.never_settle:  # such books never are the truth, but the ledger is such books
            assert sum(costs.values()) == usd(whole.final_femtos if is_corrected else whole.first_femtos), day
            for key, true in truth_by_resource(self.scenario, day).items():
                if true.listed and not (key[0] == "cluster" and self.faults.cluster_remainder == "list"):
                    assert costs.get(key, 0) == usd(true.final_femtos if is_corrected else true.first_femtos), (
                        day,
                        key,
                    )
        ledger_usd = self.warehouse.query(
            "select coalesce(sum(cost_usd), 0) from rollup.cost_days where utc_day = $day", {"day": day}
        ).item()
        assert sum(focus.read_charges(self.warehouse, [day], "4242")["BilledCost"].to_list()) == ledger_usd, day
        broken = [finding for finding in checks.run(self.warehouse, day) if finding.blocks]
        assert not broken, broken

    def reasons(self) -> set[str]:
        return set(self.warehouse.query("select distinct reason from rollup.adjustments")["reason"].to_list())


def usd(femtos: int) -> Decimal:
    return Decimal(femtos).scaleb(-15)


@pytest.fixture
def live(ram_path: Path) -> Iterator[Any]:
    with open_scratch() as warehouse, stamina.set_testing(True, attempts=3, cap=True):  # no real waits

        def made(scenario: Scenario, faults: Faults) -> Years:
            return Years(ram_path, warehouse, scenario, faults)

        yield made


@pytest.mark.timeout(7200)
def test_with_every_fault_at_its_default_the_ledger_is_the_books(live: Any) -> None:
    days = 400 if IS_SOAK else 6
    scenario = Scenario.long(SEED, FIRST, days, features=Features.all())
    years = live(scenario, Faults())
    booked = years.live(days)
    assert len(booked) == days
    for day in booked:
        years.check(day)
    print("reasons", years.reasons())
    assert years.reasons() <= REASONS
    assert {"unattributed", "correction"} <= years.reasons()


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", NAMES)
def test_with_each_fault_at_its_worst_the_ledger_is_the_books(live: Any, name: str) -> None:
    days = 40 if IS_SOAK else 2
    scenario = Scenario.long(SEED, FIRST, days, (3, 3), features=Features.all())
    years = live(scenario, Faults.worst(name, Faults()))
    for day in years.live(days, SNAPSHOT_HOURS if IS_SOAK else SNAPSHOT_HOURS[::2]):
        years.check(day)
    assert years.reasons() <= REASONS


@pytest.mark.timeout(7200)
def test_F051_the_ledger_of_a_month_is_the_months_book_and_its_other_days_keep_theirs(live: Any) -> None:
    """The gate reads one book a day, and no snapshots; `make soak` lives the month as it is lived."""
    first, days = date(2027, 2, 1), 28
    scenario = Scenario.long(SEED, first, days, (2, 2), features=Features.all())
    years = live(scenario, Faults.worst("month_boundary"))
    lived = [first + number * ONE_DAY for number in range(days)]
    if IS_SOAK:
        assert years.live(days) == lived
        for day in lived:
            years.check(day)
    else:
        years.read_month(lived)
    (month,) = read_books(years.warehouse, month_window(first))
    rows = years.warehouse.query(
        "select resource_type, resource_id, sum(cost_usd) from rollup.cost_days group by all having sum(cost_usd) != 0"
    ).rows()
    costs = {(kind, number): amount for kind, number, amount in rows}
    listed = {key: usd(line.bill) for key, line in month.lines.items() if line.bill}
    assert {key: costs[key] for key in listed} == listed
    assert sum(costs.values()) == usd(month.organisation)
    booked = years.warehouse.query("select distinct utc_day from rollup.adjustments where reason = 'month_boundary'")
    assert booked["utc_day"].to_list() == lived[-1:]
    for day in lived[-2:]:
        (finding,) = checks.run(years.warehouse, day, ["ledger_equals_the_books"])
        assert finding.passed
    years.warehouse.execute("update rollup.cost_days set cost_usd = cost_usd + 1e-9 where utc_day = '2027-02-28'")
    (finding,) = checks.run(years.warehouse, lived[-1], ["ledger_equals_the_books"])
    assert finding.blocks
