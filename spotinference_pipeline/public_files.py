"""What publishing and verifying have in common: the public files' names, the chain's form, the sums run again."""

import hashlib
import json
from collections.abc import Mapping
from datetime import date
from typing import Any

import polars as pl

from spotinference_pipeline.warehouse import open_scratch

ROOT = "economics"
LATEST, HISTORY, CHAIN, MANIFEST = (
    f"{ROOT}/{name}" for name in ("latest.json", "history.json", "revisions.jsonl", "manifest.json")
)
PAID_SQL, SERVED_SQL, METHOD = (f"{ROOT}/method/{name}" for name in ("paid.sql", "served.sql", "method.json"))


def recompute(inputs: pl.DataFrame, paid_sql: str, served_sql: str, utc_day: date) -> tuple[Any, int]:
    """Run the two queries on published inputs alone; give paid_usd and served_tokens."""
    with open_scratch() as scratch:
        scratch.append("metric.inputs", inputs)
        paid = scratch.query(paid_sql, {"utc_day": utc_day})["paid_usd"].item()
        served = scratch.query(served_sql, {"utc_day": utc_day})["served_tokens"].item()
    return paid, served


def chain_line(sequence: int, document: Mapping[str, Any], file: str, content: bytes, prev: bytes | None) -> bytes:
    """Write a revision's line of the chain; it names the digest of the line before it."""
    line = {
        "seq": sequence,
        "day": document["day"],
        "revision": document["revision"],
        "reason": document["reason"],
        "file": file,
        "sha256": sha256(content),
        "prev": None if prev is None else sha256(prev),
        "published_at": document["published_at"],
    }
    return json.dumps(line, separators=(",", ":")).encode()


def sha256(content: bytes) -> str:
    """Give the digest in hex."""
    return hashlib.sha256(content).hexdigest()
