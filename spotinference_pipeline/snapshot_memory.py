"""What a snapshot must know of the minutes before it, from the last raw files: who was there, and which calls are owed.

Owns the reading back of raw files. A snapshot is a process of its own, so nothing else is remembered. A call that failed,
or waited for its turn, is a line in the last file, so that it stays owed however long ago it came up.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from spotinference_pipeline import answers, raw
from spotinference_pipeline.errors import HyperstackError, RawFileError
from spotinference_pipeline.pacing import is_settled, was_asked

REMEMBERED_MINUTES = 15
EACH_MINUTE = frozenset({answers.USAGE, answers.HISTORY, answers.VIRTUAL_MACHINES, answers.CREDIT})
TERMINATED = f"{answers.USAGE}?deleted=true"


@dataclass
class Memory:
    """What the last minutes tell.

    `statuses` is None while no list of the fleet was read. `owed` and `extras` name calls as `name_of` does.
    """

    active: set[tuple[str, int]] = field(default_factory=set)
    statuses: dict[int, str] | None = None
    owed: set[str] = field(default_factory=set)
    extras: list[datetime] = field(default_factory=list)
    last_minute: datetime | None = None

    def learn(self, exchange: raw.Exchange) -> None:
        """Take in one exchange; they come in the order in which they were made."""
        self.last_minute = max(exchange.scheduled_at, self.last_minute or exchange.scheduled_at)
        name = name_of(exchange)
        if name not in EACH_MINUTE:
            if was_asked(exchange):
                self.extras.append(exchange.scheduled_at)
            if is_settled(exchange):
                self.owed.discard(name)
            else:
                self.owed.add(name)
        elif exchange.status == 200:
            self._learn_items(exchange)

    def _learn_items(self, exchange: raw.Exchange) -> None:
        try:
            items = answers.read_items(exchange.endpoint, exchange.body_bytes() or b"")
        except (HyperstackError, RawFileError):
            return
        if exchange.endpoint == answers.USAGE:
            self._learn_usage(items)
        elif exchange.endpoint == answers.VIRTUAL_MACHINES:
            self._learn_fleet(items)

    def _learn_usage(self, items: list[answers.Item | answers.BadItem]) -> None:
        active = {(item.resource_type, item.resource_id) for item in items if isinstance(item, answers.UsageItem)}
        if not items and self.statuses:
            return  # nobody has left: an empty answer while there are machines is a failure
        if self.active - active:
            self.owed.add(TERMINATED)
        self.active = active

    def _learn_fleet(self, items: list[answers.Item | answers.BadItem]) -> None:
        statuses = {item.id: item.status for item in items if isinstance(item, answers.VirtualMachine)}
        if self.statuses is not None:
            changed = {vm_id for vm_id, status in statuses.items() if self.statuses.get(vm_id) != status}
            self.owe_events(changed | (self.statuses.keys() - statuses.keys()))
        self.statuses = statuses

    def owe_events(self, vm_ids: set[int]) -> None:
        """Owe the events of these machines."""
        self.owed |= {answers.VM_EVENTS.format(vm_id=vm_id) for vm_id in vm_ids}


def name_of(exchange: raw.Exchange) -> str:
    """Give the name of a call: its path, and `deleted=true` where that is asked."""
    return TERMINATED if exchange.query.get("deleted") == "true" else exchange.endpoint


def read_back(raw_dir: Path) -> list[raw.Exchange]:
    """Give the exchanges of the last minutes of which there are files, oldest first; lines that are bad are left out."""
    taken: list[list[raw.Exchange]] = []
    minutes: set[datetime] = set()
    for file in _newest_first(raw_dir):
        exchanges = _of_snapshots(file)
        taken.append(exchanges)
        minutes.update(exchange.scheduled_at for exchange in exchanges)
        if len(minutes) >= REMEMBERED_MINUTES:
            break
    remembered = sorted(minutes)[-REMEMBERED_MINUTES:]
    return [exchange for exchanges in reversed(taken) for exchange in exchanges if exchange.scheduled_at in remembered]


def _of_snapshots(file: Path) -> list[raw.Exchange]:
    """Read a file of snapshots, which begins with the counters; books lie beside them and keep a pace of their own."""
    found = (line for _, line in raw.read_exchanges(file.read_bytes()) if isinstance(line, raw.Exchange))
    first = next(found, None)
    return [first, *found] if first is not None and name_of(first) == answers.USAGE else []


def _newest_first(raw_dir: Path) -> Iterator[Path]:
    for folder in sorted(raw_dir.glob("????-??-??"), reverse=True)[:2]:
        # Names alone: to make a thousand paths would cost more than all the reading.
        for name in sorted(os.listdir(folder), reverse=True):  # noqa: PTH208
            if name.endswith(".jsonl"):
                yield folder / name
