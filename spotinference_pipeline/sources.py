"""Which files there are to read: raw files of every kind, and sealed segments of the request log.

Owns their names as the tables tell them, and what counts as new: `validated.ingested_files` is the authority.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from spotinference_pipeline import list_prices, raw, raw_invoices
from spotinference_pipeline.request_log import SEGMENT_NAME
from spotinference_pipeline.storage import Storage
from spotinference_pipeline.warehouse import Warehouse


@dataclass(frozen=True)
class Source:
    """A file: its name in `source_file`, its kind, and how to get its bytes."""

    name: str
    kind: str
    read: Callable[[], bytes]


def list_new(warehouse: Warehouse, raw_dir: Path, log: Storage) -> list[Source]:
    """Give the files that an ingest would read: those that it has not read before."""
    known = set(warehouse.query("select source_file from validated.ingested_files")["source_file"])
    return [source for source in [*_raw_sources(raw_dir), *_log_sources(log)] if source.name not in known]


def segment_names(log: Storage) -> list[str]:
    """Give the names of the sealed segments; anything else in the folder is left alone."""
    return [name for name in log.names() if SEGMENT_NAME.fullmatch(name)]


def misnamed_segments(log: Storage) -> list[str]:
    """Give the names that look like sealed segments and are none: nobody reads them, so somebody must be told."""
    return [name for name in log.names() if name.endswith(".jsonl") and not SEGMENT_NAME.fullmatch(name)]


def _raw_sources(raw_dir: Path) -> Iterator[Source]:
    for path in raw.list_files(raw_dir):
        yield Source(f"hyperstack/{path.parent.name}/{path.name}", "hyperstack", path.read_bytes)
    for path in raw_invoices.list_files(raw_invoices.folder_beside(raw_dir)):
        yield Source(f"invoices/{path.parent.name}/{path.name}", "invoices", path.read_bytes)
    for path in list_prices.list_files(list_prices.folder_beside(raw_dir)):
        yield Source(f"list_prices/{path.name}", "list_prices", path.read_bytes)


def _log_sources(log: Storage) -> Iterator[Source]:
    for name in segment_names(log):
        yield Source(f"request_log/{name}", "request_log", lambda name=name: log.read(name))  # type: ignore[misc]
