"""Hyperstack's books of one closed day or month, landed as one immutable raw file: what it really cost, line by line.

Owns which calls a book takes: the organisation's total, every list of lines with all its pages, AI lists where the total
shows AI cost, of a day the payments, and for machines that nobody looked at for a while their graph, billing events, events
and parts, so that hours, states and public IPs can be rebuilt; where a graph is not by the hour, the day's 24 lists of
machines by the hour. The pace is the client's, apart from the minute snapshot's. What a book means is `books`', what
follows from it `settlement`'s.

Source: the vendor's API description; its limit is 500 requests a minute and address, shared by everybody behind it.
"""

import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from itertools import pairwise
from pathlib import Path

from spotinference_pipeline import raw
from spotinference_pipeline.answers import HISTORY, HISTORY_LISTS, BillingRow, GraphPoint, read_items
from spotinference_pipeline.books import SETTLE, Key
from spotinference_pipeline.errors import HyperstackError, RawFileError, SettingsError
from spotinference_pipeline.history_lists import read_history_list
from spotinference_pipeline.hyperstack import Hyperstack, minute_of
from spotinference_pipeline.hyperstack_rows import type_of_list
from spotinference_pipeline.pacing import is_settled, name_commonest_problem
from spotinference_pipeline.readings import read_graphs, read_lives
from spotinference_pipeline.settlement import HOLE
from spotinference_pipeline.warehouse import Warehouse
from spotinference_pipeline.windows import Window, day_window, month_window, to_microseconds

PATIENCE_SECONDS = 120.0
"""How long one call waits for its turn, or for the end of the pause after a 429."""
BUDGET_SECONDS = 1800.0
"""After this time nothing more is asked: a book that takes longer is incomplete, and is fetched again another time."""
VIRTUAL_MACHINE = "virtual-machine"
HOUR = timedelta(hours=1)
_AI_COSTS = ("ais_token_cost", "ais_workload_cost")


@dataclass(frozen=True)
class Known:
    """What our own ledger knows of a day: the resources that cost something, and the machines that were seen all day.

    `told_vms`: machines whose events need not be asked for, because a later answer than the day has told all of them.
    """

    spending: frozenset[Key] = frozenset()
    seen_vms: frozenset[int] = frozenset()
    told_vms: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Fetched:
    """What fetching one book did; `told_vms` are the machines whose events it brought, each one's from the first to now.

    `problem`: what most of the failed exchanges failed of, and what to do; None where none failed.
    """

    path: Path
    window: Window
    exchanges: int
    failed: int
    problem: str | None = None
    told_vms: frozenset[int] = frozenset()

    @property
    def utc_day(self) -> date:
        """The day in whose ledger the book counts: the day itself, of a month its last one."""
        return self.window.last_day

    @property
    def source_file(self) -> str:
        """Name the file as the validated tables do."""
        return f"hyperstack/{self.path.parent.name}/{self.path.name}"


def read_known_of_month(warehouse: Warehouse, utc_day: date) -> Known:
    """Read which resources cost something in the day's month, to compare the lists with."""
    window = month_window(utc_day)
    keys = warehouse.query(
        """
        select distinct resource_type, resource_id
        from rollup.cost_days
        where utc_day >= cast($start as date) and utc_day < cast($end as date) and cost_usd > 0
        """,
        {"start": window.start.date(), "end": window.end.date()},
    )
    return Known(frozenset(keys.iter_rows()))


def check_settled(utc_day: date, now: datetime) -> None:
    """Refuse a day whose bills still move.

    Raises: SettingsError before SETTLE after the day's end.
    """
    ready = day_window(utc_day).end + SETTLE
    if now < ready:
        raise SettingsError(
            f"day {utc_day}: expected one that ended 2 hours ago or more, its bills move until {ready:%Y-%m-%d %H:%M} UTC; "
            "wait until then"
        )


def read_known(warehouse: Warehouse, utc_day: date) -> Known:
    """Read what our own counters say of the day, to compare the lists with, and to know of which machines to ask more."""
    window = day_window(utc_day)
    start, end = to_microseconds(window.start), to_microseconds(window.end)
    graphs = {resource_id for kind, resource_id in read_graphs(warehouse, window) if kind == "vm"}
    spending: set[Key] = set()
    seen: set[int] = set(graphs)
    blind: set[int] = set()
    for life in read_lives(warehouse, window.start, window.end):
        key = life.resource_type, life.resource_id
        inside = [reading for reading in life.readings if start <= reading.at <= end]
        if not life.is_excluded and inside and inside[-1].total > inside[0].total:
            spending.add(key)
        instants = [reading.at for reading in life.readings] + ([] if life.is_ended else [end])
        has_hole = any(
            high - low >= HOLE and low < end and high > start for low, high in pairwise(instants) if low < high
        )
        if key[0] == "vm":
            (blind if has_hole else seen).add(key[1])
    return Known(frozenset(spending), frozenset(seen - (blind - graphs)))


def take(
    hyperstack: Hyperstack,
    raw_dir: Path,
    clock: Callable[[], datetime],
    utc_day: date,
    known: Known,
) -> Fetched:
    """Fetch the day's book now and land it as one raw file; a failed call is a line in it like any other.

    A list that lacks a resource which our ledger knows to have cost something is read once more: rows move between pages.
    Raises: SettingsError when the day's bills still move; RawFileError when the file cannot be written.
    """
    check_settled(utc_day, clock())
    scheduled_at, window = minute_of(clock()), day_window(utc_day)
    taken, billed = _take_lines(hyperstack, scheduled_at, window, known)
    unseen = sorted(number for kind, number in billed if kind == "vm" and number not in known.seen_vms)
    graphs = [
        hyperstack.fetch_graph(scheduled_at, VIRTUAL_MACHINE, vm_id, window.start, window.end) for vm_id in unseen
    ]
    told: set[int] = set()
    for vm_id, graph in zip(unseen, graphs, strict=True):
        taken += [*graph, *_ask_about(hyperstack, scheduled_at, vm_id, window)]
        if vm_id not in known.told_vms:
            events = hyperstack.fetch_vm_events(scheduled_at, vm_id)
            taken += events
            told |= {vm_id} if is_settled(events[-1]) else set()
    if not all(map(_is_hourly, graphs)):
        for start in (window.start + number * HOUR for number in range(24)):
            taken += hyperstack.fetch_history_list(scheduled_at, VIRTUAL_MACHINE, start, start + HOUR)
    taken += hyperstack.fetch_payments(scheduled_at)
    return _land(raw_dir, taken, window, frozenset(told))


def take_month(
    hyperstack: Hyperstack,
    raw_dir: Path,
    clock: Callable[[], datetime],
    utc_day: date,
    known: Known,
) -> Fetched:
    """Fetch the book of the whole month that a day lies in now: its bills as one window, which may differ from its days.

    Raises: SettingsError when the month's bills still move; RawFileError when the file cannot be written.
    """
    window = month_window(utc_day)
    check_settled(window.last_day, clock())
    taken, _ = _take_lines(hyperstack, minute_of(clock()), window, known)
    return _land(raw_dir, taken, window)


def _take_lines(
    hyperstack: Hyperstack, scheduled_at: datetime, window: Window, known: Known
) -> tuple[list[raw.Exchange], set[Key]]:
    """Ask for the organisation's total and every list of lines; give the exchanges, and who stands in the lists."""
    taken = hyperstack.fetch_history(scheduled_at, window.start, window.end)
    has_ai = _shows_ai(taken)
    billed: set[Key] = set()
    for kind, is_needed in HISTORY_LISTS.items():
        if is_needed or has_ai:
            billed |= _read_list(hyperstack, taken, (scheduled_at, kind, window), known)
    return taken, billed


def _land(raw_dir: Path, taken: list[raw.Exchange], window: Window, told: frozenset[int] = frozenset()) -> Fetched:
    path = raw.append_exchanges(raw_dir, taken, f"books-{secrets.token_hex(4)}")
    failed = [exchange for exchange in taken if exchange.status not in (200, 404)]
    return Fetched(path, window, len(taken), len(failed), name_commonest_problem(failed), told)


def _read_list(
    hyperstack: Hyperstack, taken: list[raw.Exchange], asked: tuple[datetime, str, Window], known: Known
) -> set[Key]:
    scheduled_at, kind, window = asked
    resource_type = type_of_list(kind)
    expected = {key for key in known.spending if key[0] == resource_type}
    found: set[Key] = set()
    for _ in range(2):
        exchanges = hyperstack.fetch_history_list(scheduled_at, kind, window.start, window.end)
        taken += exchanges
        found |= {
            (resource_type, row.about.infrahub_id)
            for row in read_history_list(exchanges).rows
            if row.about.infrahub_id is not None
        }
        if expected <= found or exchanges[-1].status not in (200, 404):
            break
    return found


def _ask_about(hyperstack: Hyperstack, scheduled_at: datetime, vm_id: int, window: Window) -> list[raw.Exchange]:
    """Ask how one machine was billed by state within the day, and which part of its money was for public IPs."""
    span = window.start, window.end
    return [
        *hyperstack.fetch_billing_events(scheduled_at, VIRTUAL_MACHINE, vm_id, *span),
        *hyperstack.fetch_sub_resources(scheduled_at, vm_id, *span),
    ]


def _is_hourly(graph: Sequence[raw.Exchange]) -> bool:
    """Tell whether a graph says what each hour cost: Hyperstack chooses its buckets, and may choose days."""
    try:
        points = read_items(graph[-1].endpoint, graph[-1].body_bytes() or b"")
    except (HyperstackError, RawFileError):
        return False
    return graph[-1].status == 200 and all(
        isinstance(point, GraphPoint) and point.granularity == HOUR.total_seconds() for point in points
    )


def _shows_ai(total: Iterable[raw.Exchange]) -> bool:
    """Tell whether the organisation's total has costs of AI services."""
    for exchange in total:
        if exchange.status != 200:
            continue
        try:
            rows = read_items(HISTORY, exchange.body_bytes() or b"")
            amounts = [row.amounts() for row in rows if isinstance(row, BillingRow)]
        except (HyperstackError, RawFileError, ValueError):
            continue
        if any(found.get(name) for found in amounts for name in _AI_COSTS):
            return True
    return False
