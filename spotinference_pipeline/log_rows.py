"""From one log segment to rows.

Owns which lines become rows: ended requests do; begins and running usages only where the request did not end in the
same segment, because its end, or its writer's death, is told by another one, whichever is read first.
"""

from spotinference_pipeline.answers import utc
from spotinference_pipeline.batch import Batch
from spotinference_pipeline.request_log import Begin, End, Head, Segment, Usage


def add_segment(batch: Batch, segment: Segment, file: str) -> None:
    """Add a segment's records to the batch."""
    ended = {end.request_id for _, end in segment.ends}
    for line, begin in segment.begins:
        if begin.request_id in ended:
            batch.keep(file)
        else:
            batch.add("validated.request_begins", _begin_row(begin, file, line))
    last_usage = {usage.request_id: line for line, usage in segment.usages}
    for line, usage in segment.usages:
        if usage.request_id in ended or last_usage[usage.request_id] != line:
            batch.keep(file)
        else:
            batch.add("validated.request_usages", _usage_row(usage, file, line))
    for line, end in segment.ends:
        batch.add("validated.requests", _end_row(end, file, line))
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
    for line, health in segment.healths:
        if health.vm_id is None:
            batch.keep(file)
            continue
        row = (utc(health.at), health.vm_id, "health", None, None, health.ready, None, None, None, file, line)
        batch.add("validated.vm_states", row)
    for line, engine in segment.engines:
        started_at = None if engine.process_started_at is None else utc(engine.process_started_at)
        totals = engine.prompt_tokens_total, engine.generation_tokens_total
        batch.add(
            "validated.engine_counters",
            (utc(engine.at), engine.vm_id, engine.upstream, started_at, *totals, file, line),
        )
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


def _begin_row(begin: Begin, file: str, line: int) -> tuple[object, ...]:
    return (
        begin.request_id,
        utc(begin.started_at),
        begin.endpoint,
        begin.requested_model,
        begin.stream,
        begin.canary,
        begin.vm_id,
        begin.key_id,
        file,
        line,
    )


def _usage_row(usage: Usage, file: str, line: int) -> tuple[object, ...]:
    return usage.request_id, utc(usage.at), usage.prompt_tokens, usage.completion_tokens, file, line


def _end_row(end: End, file: str, line: int) -> tuple[object, ...]:
    return (
        end.request_id,
        utc(end.started_at),
        None if end.first_byte_at is None else utc(end.first_byte_at),
        utc(end.finished_at),
        end.endpoint,
        end.requested_model,
        end.model,
        end.stream,
        end.canary,
        end.vm_id,
        end.key_id,
        end.status,
        end.upstream_status,
        end.end_reason,
        end.usage_source,
        end.prompt_tokens,
        end.completion_tokens,
        end.cached_tokens,
        end.reasoning_tokens,
        end.choices,
        False,
        file,
        line,
    )
