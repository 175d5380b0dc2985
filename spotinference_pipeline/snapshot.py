"""One minute of Hyperstack, landed as one immutable raw file. Touches no database.

Owns which calls a minute takes: counters, organisation total, fleet and credit each minute; counters of terminated
resources every 15 minutes and as soon as a known id has left; a machine's events when its status has changed; price
book and volumes every hour. What it must remember between minutes it reads from the last raw files, so that it can be
run by a sensor, a timer or by hand alike. A missed minute costs resolution, never money.
"""

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from spotinference_pipeline import answers, raw
from spotinference_pipeline.errors import HyperstackError, RawFileError
from spotinference_pipeline.hyperstack import Hyperstack, minute_of

REMEMBERED_FILES = 15
MOST_CALLS = 10
"""Most requests in one snapshot, retries left aside; the vendor allows 500 a minute and address."""
TERMINATED_EVERY_MINUTES = 15


@dataclass(frozen=True)
class Snapshot:
    """What one snapshot did."""

    path: Path
    scheduled_at: datetime
    exchanges: int
    failed: int


@dataclass
class _Memory:
    """What the last raw files tell: who was active, in which status, and which follow-up call is still owed."""

    active: set[tuple[str, int]] = field(default_factory=set)
    statuses: dict[int, str] = field(default_factory=dict)
    changed: set[int] = field(default_factory=set)
    has_left: bool = False

    def learn(self, exchange: raw.Exchange) -> None:
        if exchange.status != 200:
            return
        try:
            content = exchange.body_bytes() or b""
            items = answers.read_items(exchange.endpoint, content)
        except (HyperstackError, RawFileError):
            return
        if exchange.endpoint == answers.USAGE:
            self._learn_usage(exchange.query.get("deleted") == "true", items)
        elif exchange.endpoint == answers.VIRTUAL_MACHINES:
            self._learn_fleet(items)
        elif exchange.endpoint.endswith("/events"):
            self.changed.discard(int(exchange.endpoint.split("/")[-2]))

    def _learn_usage(self, deleted: bool, items: list[answers.Item | answers.BadItem]) -> None:
        if deleted:
            self.has_left = False
            return
        active = {(item.resource_type, item.resource_id) for item in items if isinstance(item, answers.UsageItem)}
        self.has_left = self.has_left or bool(self.active - active)
        self.active = active

    def _learn_fleet(self, items: list[answers.Item | answers.BadItem]) -> None:
        statuses = {item.id: item.status for item in items if isinstance(item, answers.VirtualMachine)}
        self.changed |= {vm_id for vm_id, status in statuses.items() if self.statuses.get(vm_id) != status}
        self.changed |= self.statuses.keys() - statuses.keys()
        self.statuses = statuses


def take(hyperstack: Hyperstack, raw_dir: Path, clock: Callable[[], datetime]) -> Snapshot:
    """Take one snapshot now and land it.

    A failed call is a line in the file like any other. A second call in the same minute lands a second file.
    Raises: RawFileError when the file cannot be written.
    """
    now = clock()
    scheduled_at = minute_of(now)
    memory = _remember(raw_dir)
    is_first = not memory.statuses
    taken = hyperstack.fetch_usage(scheduled_at)
    month_start = scheduled_at.replace(day=1, hour=0, minute=0)
    if month_start < now:
        taken += hyperstack.fetch_history(scheduled_at, month_start, now)
    taken += hyperstack.fetch_virtual_machines(scheduled_at)
    taken += hyperstack.fetch_credit(scheduled_at)
    for exchange in taken:
        memory.learn(exchange)
    if memory.has_left or is_first or scheduled_at.minute % TERMINATED_EVERY_MINUTES == 0:
        taken += hyperstack.fetch_usage(scheduled_at, deleted=True)
    if is_first or scheduled_at.minute == 0:
        taken += hyperstack.fetch_price_book(scheduled_at)
        taken += hyperstack.fetch_volumes(scheduled_at)
    for vm_id in sorted(memory.changed)[: max(MOST_CALLS - len(taken), 0)]:
        taken += hyperstack.fetch_vm_events(scheduled_at, vm_id)
    path = raw.append_exchanges(raw_dir, taken, secrets.token_hex(4))
    return Snapshot(path, scheduled_at, len(taken), sum(exchange.status != 200 for exchange in taken))


def _remember(raw_dir: Path) -> _Memory:
    memory = _Memory()
    folders = sorted(raw_dir.glob("????-??-??"))[-2:]
    files = [file for folder in folders for file in sorted(folder.glob("*.jsonl"))][-REMEMBERED_FILES:]
    for file in files:
        for _, exchange in raw.read_exchanges(file.read_bytes()):
            if isinstance(exchange, raw.Exchange):
                memory.learn(exchange)
    return memory
