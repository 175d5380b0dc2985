"""From one log segment to rows.

Owns which lines become rows: ended requests do; begins and running usages only where the request did not end in the
same segment, because its end, or its writer's death, is told by another one, whichever is read first. Millions of rows
a day: they are gathered column by column, never row by row.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from itertools import repeat
from typing import Any

import polars as pl
from msgspec.structs import astuple

from spotinference_pipeline import contracts
from spotinference_pipeline.answers import utc
from spotinference_pipeline.batch import EPOCH, Batch
from spotinference_pipeline.request_log import Begin, End, Engine, Head, Health, Records, Segment, Usage

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
    ended = {end.request_id for end in segment.ends.records}
    begun = segment.begins.where(lambda begin: begin.request_id not in ended)
    last_usage = {usage.request_id: usage for usage in segment.usages.records}
    running = segment.usages.where(
        lambda usage: usage.request_id not in ended and last_usage[usage.request_id] is usage
    )
    batch.keep(file, len(segment.begins.lines) - len(begun.lines) + len(segment.usages.lines) - len(running.lines))
    _add(batch, "validated.request_begins", begun, file)
    _add(batch, "validated.request_usages", running, file)
    _add(batch, "validated.requests", segment.ends, file)
    _add_witnesses(batch, segment, file)
    for bad in segment.bad:
        batch.refuse(file, bad.line, "line", "validated.requests", bad.reason, bad.content)
    for line, reason in segment.damage:
        batch.flag(file, line, "segment", "validated.requests", reason)
    heads = segment.heads
    for line, head in zip(heads.lines[:1], heads.records[:1], strict=True):
        batch.add("validated.log_segments", _segment_row(head, segment, file, line))
    batch.keep(file, len(heads.lines[1:]) + len(segment.beats.lines) + segment.unknown)
    batch.tallies[file].unknown += segment.unknown


def _add_witnesses(batch: Batch, segment: Segment, file: str) -> None:
    probes = segment.healths.where(lambda health: health.vm_id is not None)
    batch.keep(file, len(segment.healths.lines) - len(probes.lines))
    _add(batch, "validated.vm_states", probes, file)
    _add(batch, "validated.engine_counters", segment.engines, file)
    for line, seal in zip(segment.seals.lines, segment.seals.records, strict=True):
        batch.keep(file)
        if seal.by == "recovery":
            for request_id in seal.open:
                batch.add("validated.request_stops", (request_id, file, line))


def _segment_row(head: Head, segment: Segment, file: str, line: int) -> tuple[object, ...]:
    seal = segment.seals.records[-1] if segment.seals.records else None
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


def _add(batch: Batch, table: str, found: Records[Any], file: str) -> None:
    """Add records of one kind to their table."""
    records = found.records
    if not records:
        return
    kind = type(records[0])
    members = dict(zip(kind.__struct_fields__, zip(*map(astuple, records), strict=True), strict=True))
    columns: dict[str, Iterable[Any]] = {
        name: repeat(value, len(records)) for name, value in _GIVEN.get(kind, {}).items()
    }
    for name, dtype in contracts.polars_schema(table).items():
        values = members.get(_RENAMED[kind].get(name, name))
        if values is not None and name not in columns:
            columns[name] = _since_epoch(values) if isinstance(dtype, pl.Datetime) else values
    batch.add_columns(table, columns, file, found.lines)


def _since_epoch(instants: Iterable[datetime | None]) -> list[timedelta | None]:
    return [None if at is None else (at if at.tzinfo is UTC else utc(at)) - EPOCH for at in instants]
