"""Raw files and log segments into the validated tables, each exactly once, in any order.

Owns what has been read (`validated.ingested_files` is the authority), what a repeat is, and how requests whose writer
died are completed from their begin and last usage. One transaction per batch of files: rows and the record of the files
are stored together or not at all. What cannot be read ends in `validated.quarantine` with a reason.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl

from spotinference_pipeline import hyperstack_rows, invoice_rows, list_price_rows, log_rows, raw, sources
from spotinference_pipeline.batch import Batch, to_frame
from spotinference_pipeline.contracts import CONTRACTS
from spotinference_pipeline.request_log import read_segment
from spotinference_pipeline.sources import Source
from spotinference_pipeline.storage import Storage
from spotinference_pipeline.warehouse import Warehouse
from spotinference_pipeline.whole_lists import doubt_moved, doubt_refused
from spotinference_pipeline.windows import ONE_DAY, Window, day_window, days_between, month_window

BYTES_PER_BATCH = 64 * 2**20
"""Files are stored together until they are so large, as one segment may be: memory is bounded by it, not by the day."""
_FILE_SCHEMA = {
    "source_file": pl.String,
    "source": pl.String,
    "sha256": pl.String,
    "size_bytes": pl.Int64,
    "rows_read": pl.Int64,
    "rows_accepted": pl.Int64,
    "rows_quarantined": pl.Int64,
    "rows_repeated": pl.Int64,
    "rows_unknown": pl.Int64,
}
_KEYS = {
    "validated.billing_snapshots": ("resource_type", "resource_id", "created_at", "observed_at"),
    "validated.billing_history": (
        "resource_type",
        "billing_id",
        "resource_id",
        "figure",
        "window_start",
        "window_end",
        "observed_at",
    ),
    "validated.credit_balances": ("observed_at",),
    "validated.payments": ("payment_id", "observed_at"),
    "validated.prices": ("price_name", "observed_at"),
    "validated.vm_states": ("vm_id", "source", "observed_at", "reason"),
    "validated.requests": ("request_id",),
    "validated.request_begins": ("request_id",),
    "validated.request_usages": ("request_id", "observed_at"),
    "validated.request_stops": ("request_id",),
    "validated.engine_counters": ("vm_id", "upstream", "observed_at"),
    "validated.log_segments": ("writer", "started_at", "body_sha256", "rows_missing"),
    "validated.invoice_lines": ("invoice_number", "revision", "line"),
    "validated.list_prices": ("utc_day", "basket", "provider", "model", "from_prompt_tokens"),
}
"""What makes two rows the same fact. A second row of one key is an exact repeat, or a conflict if it says otherwise."""


@dataclass(frozen=True)
class Ingested:
    """What one ingest did; `days` are the UTC days of which new rows tell something."""

    files: int = 0
    rows_read: int = 0
    rows_accepted: int = 0
    rows_quarantined: int = 0
    rows_repeated: int = 0
    days: frozenset[date] = frozenset()

    def __add__(self, other: "Ingested") -> "Ingested":
        return Ingested(
            self.files + other.files,
            self.rows_read + other.rows_read,
            self.rows_accepted + other.rows_accepted,
            self.rows_quarantined + other.rows_quarantined,
            self.rows_repeated + other.rows_repeated,
            self.days | other.days,
        )


@dataclass
class _FileBatch(Batch):
    """A batch that knows the files it is made of; their exchanges are rows that nothing can be wrong with."""

    files: list[tuple[str, str, str, int]] = field(default_factory=list)
    exchanges: list[tuple[Any, ...]] = field(default_factory=list)


def ingest(warehouse: Warehouse, raw_dir: Path, log: Storage, *, bytes_per_batch: int = BYTES_PER_BATCH) -> Ingested:
    """Read every raw file and sealed segment that has not been read before.

    A second call reads nothing. A copy of a segment under another name adds only repeats. The tables do not depend on
    `bytes_per_batch`.
    """
    remaining, done = iter(sources.list_new(warehouse, raw_dir, log)), Ingested()
    while (batch := _read_batch(remaining, bytes_per_batch)).files:
        done += _store_batch(warehouse, batch)
    return done


def _read_batch(remaining: Iterator[Source], most_bytes: int) -> _FileBatch:
    """Read the next files, until they are so large together; one that is larger is a batch of its own."""
    batch, size = _FileBatch(), 0
    for source in remaining:
        content = source.read()
        if source.kind == "request_log":
            segment = read_segment(content)
            log_rows.add_segment(batch, segment, source.name)
            digest = segment.sha256
        else:
            digest = hashlib.sha256(content).hexdigest()
            if source.kind == "invoices":
                invoice_rows.add_invoice(batch, content, source.name)
            elif source.kind == "list_prices":
                list_price_rows.add_prices(batch, content, source.name)
            else:
                batch.exchanges += _add_raw_file(batch, content, source.name)
        batch.files.append((source.name, source.kind, digest, len(content)))
        size += len(content)
        if size >= most_bytes:
            break
    return batch


def _store_batch(warehouse: Warehouse, batch: _FileBatch) -> Ingested:
    days = _days_of_gap(warehouse, batch)
    with warehouse.transaction():
        for table in batch.tables():
            days |= _days(_store(warehouse, batch, table, batch.frame(table)))
        exchanges = doubt_refused(batch.exchanges, batch.quarantine)
        warehouse.append("validated.exchanges", to_frame(exchanges, hyperstack_rows.EXCHANGE_SCHEMA))
        recovered = _recovered(warehouse)
        _complete_stopped_requests(warehouse)
        days |= {finished_at.date() for _, finished_at, *_ in recovered ^ _recovered(warehouse)}
        warehouse.append("validated.quarantine", batch.quarantine_frame())
        rows = [(*file, *_counts(batch, file[0])) for file in batch.files]
        warehouse.append("validated.ingested_files", to_frame(rows, _FILE_SCHEMA))
    tallies = batch.tallies.values()
    return Ingested(
        len(batch.files),
        sum(tally.read for tally in tallies),
        sum(tally.accepted for tally in tallies),
        sum(tally.quarantined for tally in tallies),
        sum(tally.repeated for tally in tallies),
        frozenset(days),
    )


def _add_raw_file(batch: Batch, content: bytes, file: str) -> list[tuple[Any, ...]]:
    rows, exchanges = [], []
    if not content:
        batch.flag(file, 1, "file", "validated.exchanges", "empty file: expected at least one line")
    for line, exchange in raw.read_exchanges(content):
        if isinstance(exchange, raw.BadLine):
            batch.refuse(file, line, "line", "validated.exchanges", exchange.reason, exchange.content)
        else:
            rows.append(hyperstack_rows.add_exchange(batch, exchange, file, line))
            exchanges.append(exchange)
    return doubt_moved(exchanges, rows)


def _counts(batch: Batch, file: str) -> tuple[int, int, int, int, int]:
    tally = batch.tallies[file]
    return tally.read, tally.accepted, tally.quarantined, tally.repeated, tally.unknown


def _days(frame: pl.DataFrame) -> set[date]:
    """Give the UTC days that the rows are about."""
    names = [name for name in ("observed_at", "terminated_at", "started_at", "finished_at") if name in frame.columns]
    days = {day for name in names for day in frame[name].drop_nulls().dt.date().unique()}
    if "period_end" in frame.columns:
        for start, end in frame.select("period_start", "period_end").unique().iter_rows():
            days |= set(days_between(start, end - ONE_DAY))
    if "window_start" in frame.columns:
        for start, end in frame.select("window_start", "window_end").unique().iter_rows():
            window = Window(start, end)
            if window in (day_window(start.date()), month_window(start.date())):
                days.add(window.last_day)  # where a month's book counts
    return days


def _days_of_gap(warehouse: Warehouse, batch: Batch) -> set[date]:
    """Give the days between the last reading stored and the first one read now, which tells what they cost."""
    first = min((row[0] for row in batch.rows.get("validated.billing_snapshots", [])), default=None)
    if first is None:
        return set()
    before = warehouse.query(
        "select max(observed_at) as observed_at from validated.billing_snapshots where observed_at < $first",
        {"first": first},
    ).item()
    return set() if before is None else set(days_between(before.date(), first.date()))


def _recovered(warehouse: Warehouse) -> set[tuple[Any, ...]]:
    """Give the requests that were completed for their dead writer."""
    columns = "request_id, finished_at, prompt_tokens, completion_tokens"
    return set(warehouse.query(f"select {columns} from validated.requests where is_recovered").rows())  # noqa: S608


def _store(warehouse: Warehouse, batch: Batch, table: str, frame: pl.DataFrame) -> pl.DataFrame:
    """Append the rows that say something new and give them; count repeats and conflicts with what came before."""
    key = _KEYS.get(table)
    if key is None:
        warehouse.append(table, batch.accept(frame))
        return frame
    if table == "validated.billing_snapshots":
        frame = _first_sights(warehouse, batch, frame)
    numbered = frame.with_row_index("place")
    fresh = numbered.unique(subset=key, keep="first", maintain_order=True)
    again = numbered.clear()
    if fresh.height < numbered.height:
        again = numbered.join(fresh, on="place", how="anti", maintain_order="left")
    new = batch.accept(_new_rows(warehouse, batch, table, fresh.drop("place")))
    warehouse.append(table, new)
    _new_rows(warehouse, batch, table, again.drop("place"))
    return new


def _new_rows(warehouse: Warehouse, batch: Batch, table: str, frame: pl.DataFrame) -> pl.DataFrame:
    """Give the rows whose key is not stored; count the others as repeats or conflicts."""
    if frame.is_empty():
        return frame
    key, content = _KEYS[table], [name for name in frame.columns if not name.startswith("source_")]
    stored = warehouse.query(_matching(table, key, content), source=frame)
    if stored.is_empty():
        return frame
    known = frame.join(stored, on=key, how="semi", nulls_equal=True, maintain_order="left")
    batch.repeat(known.join(stored, on=content, how="semi", nulls_equal=True))
    batch.conflict(table, known.join(stored, on=content, how="anti", nulls_equal=True, maintain_order="left"), key)
    return frame.join(stored, on=key, how="anti", nulls_equal=True, maintain_order="left")


def _first_sights(warehouse: Warehouse, batch: Batch, frame: pl.DataFrame) -> pl.DataFrame:
    """Leave out rows of ended resources that only repeat, in a later answer, what an earlier one said."""
    content = [name for name in frame.columns if name != "observed_at" and not name.startswith("source_")]
    numbered = frame.with_row_index("place")
    ended = numbered.filter(~pl.col("is_active"))
    stored = warehouse.query(f"select {', '.join(content)} from validated.billing_snapshots where not is_active")  # noqa: S608
    first = ended.unique(subset=content, keep="first", maintain_order=True)
    first = first.join(stored, on=content, how="anti", nulls_equal=True)
    seen_before = ended.join(first, on="place", how="anti")
    batch.repeat(seen_before)
    return numbered.join(seen_before, on="place", how="anti", maintain_order="left").drop("place")


def _matching(table: str, key: Sequence[str], columns: Sequence[str]) -> str:
    """Select the stored rows of the same keys; where a key cannot be null DuckDB reads only the rows in its range."""
    is_nullable = {name: column.nullable for name, column in CONTRACTS[table].columns.items()}
    matches = " and ".join(
        f"stored.{name} {'is not distinct from' if is_nullable[name] else '='} source.{name}" for name in key
    )
    not_recovered = " where not stored.is_recovered" if table == "validated.requests" else ""
    wanted = ", ".join(f"stored.{name}" for name in columns)
    return f"select {wanted} from {table} as stored semi join source on {matches}{not_recovered}"  # noqa: S608


def _complete_stopped_requests(warehouse: Warehouse) -> None:
    """Rebuild the requests whose writer died: a recovery seal names them, and no segment ends them."""
    warehouse.execute(
        """
        delete from validated.requests where is_recovered;

        insert into validated.requests
        with last_usages as (
            select
                request_id,
                max(observed_at) as observed_at,
                max_by(prompt_tokens, observed_at) as prompt_tokens,
                max_by(completion_tokens, observed_at) as completion_tokens
            from validated.request_usages
            where request_id in (select stops.request_id from validated.request_stops as stops)
            group by request_id
        )
        select
            begins.request_id,
            begins.started_at,
            null as first_byte_at,
            coalesce(usages.observed_at, begins.started_at) as finished_at,
            begins.endpoint,
            begins.requested_model,
            null as model,
            begins.is_stream,
            begins.is_canary,
            begins.vm_id,
            begins.key_id,
            null as http_status,
            null as upstream_status,
            'proxy_stopped' as end_reason,
            case
                when coalesce(usages.prompt_tokens, usages.completion_tokens) is null then 'none' else 'engine_partial'
            end as usage_source,
            usages.prompt_tokens,
            usages.completion_tokens,
            null as cached_tokens,
            null as reasoning_tokens,
            null as choices,
            true as is_recovered,
            stops.source_file,
            stops.source_line
        from validated.request_stops as stops
        inner join validated.request_begins as begins on stops.request_id = begins.request_id
        left join last_usages as usages on stops.request_id = usages.request_id
        where not exists (
            select 1 from validated.requests as ended where ended.request_id = stops.request_id
        );
        """
    )
