"""From one log segment to rows.

Owns which lines become rows: ended requests do; begins and running usages only where the request did not end in the
same segment, because its end, or its writer's death, is told by another one, whichever is read first. Millions of rows
a day: they are gathered column by column, never row by row.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import repeat
from operator import attrgetter
from typing import Any

import polars as pl

from spotinference_pipeline import contracts
from spotinference_pipeline.answers import utc
from spotinference_pipeline.batch import EPOCH, Batch
from spotinference_pipeline.request_log import Begin, End, Engine, Head, Health, Segment, Usage

_RENAMED: Mapping[type, Mapping[str, str]] = {
    Begin: {"is_stream": "stream", "is_canary": "canary"},
    End: {"is_stream": "stream", "is_canary": "canary", "http_status": "status"},
    Usage: {"observed_at": "at"},
    Health: {"observed_at": "at", "is_ready": "ready"},
    Engine: {"observed_at": "at"},
}
"""Columns that the log calls otherwise."""
_GIVEN: Mapping[type, Mapping[str, object]] = {End: {"is_recovered": False}, Health: {"source": "health"}}
"""What a column holds where the log need not say it."""


def add_segment(batch: Batch, segment: Segment, file: str) -> None:
    """Add a segment's records to the batch."""
    ended = {end.request_id for _, end in segment.ends}
    begun = [entry for entry in segment.begins if entry[1].request_id not in ended]
    last_usage = {usage.request_id: line for line, usage in segment.usages}
    running = [
        (line, usage)
        for line, usage in segment.usages
        if usage.request_id not in ended and last_usage[usage.request_id] == line
    ]
    batch.keep(file, len(segment.begins) - len(begun) + len(segment.usages) - len(running))
    _add(batch, "validated.request_begins", begun, file)
    _add(batch, "validated.request_usages", running, file)
    _add(batch, "validated.requests", segment.ends, file)
    _add_witnesses(batch, segment, file)
    for bad in segment.bad:
        batch.refuse(file, bad.line, "line", "validated.requests", bad.reason, bad.content)
    for line, reason in segment.damage:
        batch.flag(file, line, "segment", "validated.requests", reason)
    for line, head in segment.heads[:1]:
        batch.add("validated.log_segments", _segment_row(head, segment, file, line))
    batch.keep(file, len(segment.heads[1:]) + len(segment.beats) + segment.unknown)
    batch.tallies[file].unknown += segment.unknown


def _add_witnesses(batch: Batch, segment: Segment, file: str) -> None:
    probes = [(line, health) for line, health in segment.healths if health.vm_id is not None]
    batch.keep(file, len(segment.healths) - len(probes))
    _add(batch, "validated.vm_states", probes, file)
    _add(batch, "validated.engine_counters", segment.engines, file)
    for line, seal in segment.seals:
        batch.keep(file)
        if seal.by == "recovery":
            for request_id in seal.open:
                batch.add("validated.request_stops", (request_id, file, line))


def _segment_row(head: Head, segment: Segment, file: str, line: int) -> tuple[object, ...]:
    seal = segment.seals[-1][1] if segment.seals else None
    return (
        head.writer,
        utc(head.started_at),
        utc(segment.last_instant or head.started_at),
        head.prev,
        head.prev_sha256,
        seal.by if seal else None,
        seal.sha256 if seal else None,
        segment.rows_missing,
        seal.torn if seal else 0,
        file,
        line,
    )


def _add(batch: Batch, table: str, entries: Sequence[tuple[int, Any]], file: str) -> None:
    """Add records of one kind to their table."""
    if not entries:
        return
    records = [record for _, record in entries]
    kind = type(records[0])
    columns: dict[str, Iterable[Any]] = {
        name: repeat(value, len(records)) for name, value in _GIVEN.get(kind, {}).items()
    }
    for name, dtype in contracts.polars_schema(table).items():
        member = _RENAMED[kind].get(name, name)
        if member in kind.__struct_fields__ and name not in columns:
            values = map(attrgetter(member), records)
            columns[name] = _since_epoch(values) if isinstance(dtype, pl.Datetime) else values
    batch.add_columns(table, columns, file, [line for line, _ in entries])


def _since_epoch(instants: Iterable[datetime | None]) -> list[timedelta | None]:
    return [None if at is None else (at if at.tzinfo is UTC else utc(at)) - EPOCH for at in instants]
