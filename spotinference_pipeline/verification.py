"""What a reader can check from public files alone: digests, chain, schemas, and the sums themselves.

Reads nothing but the published folder or URL. Runs the published queries on the published inputs in an empty database
without access to files or network.
"""

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from fractions import Fraction
from typing import Any

import jsonschema_rs
import polars as pl

from spotinference_pipeline.errors import RawFileError, VerificationError
from spotinference_pipeline.public_files import (
    CHAIN,
    HISTORY,
    LATEST,
    MANIFEST,
    METHOD,
    PAID_SQL,
    ROOT,
    SERVED_SQL,
    recompute,
    sha256,
)
from spotinference_pipeline.revision import format_usd
from spotinference_pipeline.storage import Storage
from spotinference_pipeline.warehouse import QueryError
from spotinference_pipeline.windows import format_second, trailing_window

_SCHEMAS = {
    LATEST: "revision.json",
    HISTORY: "history.json",
    MANIFEST: "manifest.json",
    METHOD: "method.json",
}


@dataclass(frozen=True)
class Verified:
    """What was checked and holds."""

    files: int
    revisions: int
    days_recomputed: int
    newest: dict[str, Any]


def verify(published: Storage) -> Verified:
    """Check everything that the manifest names.

    Raises: VerificationError naming the first file that does not fit, with what was expected and found.
    """
    files = _check_digests(published)
    for name, schema in _SCHEMAS.items():
        _check_schema(files, name, files[name], schema)
    chain = _check_chain(published, files)
    newest = {entry["day"]: json.loads(files[f"{ROOT}/{entry['file']}"]) for entry in chain.values()}
    last = newest[max(newest)]
    if json.loads(files[LATEST]) != last:
        raise VerificationError(f"{LATEST}: expected the newest day's newest revision {last['day']}, found another")
    recomputed = [day for day, document in newest.items() if _check_day(files, day, document)]
    _check_history(files, newest)
    return Verified(len(files), len(files[CHAIN].splitlines()), len(recomputed), last)


def _check_digests(published: Storage) -> dict[str, bytes]:
    manifest = _read(published, MANIFEST)
    files = {MANIFEST: manifest}
    document = _json(MANIFEST, manifest)
    listed = document.get("files") if isinstance(document, dict) else None
    if not isinstance(listed, dict):
        raise VerificationError(f"{MANIFEST}: expected the digests of files, found none")
    for name, expected in listed.items():
        content = files[f"{ROOT}/{name}"] = _read(published, f"{ROOT}/{name}")
        if sha256(content) != expected:
            raise VerificationError(
                f"{ROOT}/{name}: expected the digest {expected} of the manifest, found {sha256(content)}"
            )
    for name in (LATEST, HISTORY, METHOD, CHAIN, PAID_SQL, SERVED_SQL):
        _named(files, name)
    return files


def _named(files: dict[str, bytes], name: str) -> bytes:
    if name not in files:
        raise VerificationError(f"{MANIFEST}: expected it to name {name}, found no such entry")
    return files[name]


def _check_chain(published: Storage, files: dict[str, bytes]) -> dict[str, dict[str, Any]]:
    """Check each line against the one before and each revision file against its line; give each day's last line."""
    newest: dict[str, dict[str, Any]] = {}
    previous: bytes | None = None
    for place, line in enumerate(files[CHAIN].splitlines(), start=1):
        where = f"{CHAIN} line {place}"
        _check_schema(files, where, line, "revisions.json")
        entry = _json(where, line)
        expected = None if previous is None else sha256(previous)
        if (entry["seq"], entry["prev"]) != (place, expected):
            raise VerificationError(
                f"{where}: expected seq {place} and prev {expected}, found {entry['seq']}, {entry['prev']}"
            )
        if entry["revision"] != newest.get(entry["day"], {"revision": 0})["revision"] + 1:
            raise VerificationError(f"{where}: expected the next revision of {entry['day']}, found {entry['revision']}")
        name = f"{ROOT}/{entry['file']}"
        content = files.get(name) or _read(published, name)
        if sha256(content) != entry["sha256"]:
            raise VerificationError(
                f"{name}: expected the digest {entry['sha256']} of the chain, found {sha256(content)}"
            )
        _check_schema(files, name, content, "revision.json")
        newest[entry["day"]] = entry
        files[name], previous = content, line
    if not newest:
        raise VerificationError(f"{CHAIN}: expected at least one revision, found none")
    return newest


def _check_day(files: dict[str, bytes], day: str, document: dict[str, Any]) -> bool:
    """Run the published queries on the day's published inputs and compare every digit.

    A day of an older method is not recomputed, since its queries are no longer published; its digests hold all the same.
    """
    csv_name, parquet_name = (f"{ROOT}/inputs/{day}.{kind}" for kind in ("csv", "parquet"))
    provenance = document["provenance"]
    if provenance["method_version"] < _json(METHOD, files[METHOD])["method_version"]:
        return False
    for name, member in (
        (csv_name, "inputs_sha256"),
        (PAID_SQL, "paid_sql_sha256"),
        (SERVED_SQL, "served_sql_sha256"),
    ):
        if sha256(_named(files, name)) != provenance[member]:
            raise VerificationError(f"{name}: expected the digest {provenance[member]} of {day}, found another")
    inputs = _read_inputs(parquet_name, _named(files, parquet_name))
    if inputs.write_csv().encode() != files[csv_name]:
        raise VerificationError(f"{parquet_name}: expected the rows of {csv_name}, found others")
    paid, served = _recompute(inputs, files, day)
    found = {"paid_usd": None if paid is None else f"{paid:f}", "served_tokens": served}
    for name, figure in found.items():
        if document[name] != figure:
            raise VerificationError(
                f"{day} {name}: the published queries give {figure}, the revision says {document[name]}"
            )
    if document["usd_per_million_tokens"] is not None:
        _check_number(day, document, paid, served)
        _check_parts(day, document, inputs, served)
    _check_counts(day, document, inputs)
    return True


def _read_inputs(name: str, content: bytes) -> pl.DataFrame:
    try:
        return pl.read_parquet(io.BytesIO(content))
    except pl.exceptions.PolarsError as error:
        raise VerificationError(f"{name}: expected Parquet, found {_first_line(error)}") from None


def _recompute(inputs: pl.DataFrame, files: dict[str, bytes], day: str) -> tuple[Any, int]:
    try:
        return recompute(inputs, files[PAID_SQL].decode(), files[SERVED_SQL].decode(), date.fromisoformat(day))
    except (QueryError, pl.exceptions.PolarsError, ValueError) as error:
        raise VerificationError(
            f"{PAID_SQL}, {SERVED_SQL}: expected queries that run on the inputs of {day}, found {_first_line(error)}"
        ) from None


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _check_history(files: dict[str, bytes], newest: dict[str, dict[str, Any]]) -> None:
    listed = {entry["day"]: entry for entry in json.loads(files[HISTORY])["days"]}
    for day in sorted(listed.keys() | newest.keys()):
        found, document = listed.get(day, {}), newest.get(day, {})
        if not found or {name: document.get(name) for name in found} != found:
            raise VerificationError(f"{HISTORY}: expected the newest revision of {day}, found another")


def _check_number(day: str, document: dict[str, Any], paid: Decimal | None, served: int) -> None:
    if paid is None or not served:
        raise VerificationError(
            f"{day} usd_per_million_tokens: expected none, as nothing was paid or served, found a figure"
        )
    number = Fraction(document["usd_per_million_tokens"])
    expected = Fraction(round(Fraction(paid) * 10**18 / served), 10**12)
    if number != expected:
        raise VerificationError(f"{day} usd_per_million_tokens: expected {float(expected)}, found {float(number)}")
    display = format_usd(Decimal(document["usd_per_million_tokens"]))
    if document["display"] != display:
        raise VerificationError(f"{day} display: expected {display}, found {document['display']}")


def _check_parts(day: str, document: dict[str, Any], inputs: pl.DataFrame, served: int) -> None:
    """Hold each part against the cost lines of its kind, and their sum against the number."""
    costs = inputs.filter(pl.col("line") == "cost").group_by("cost_kind").agg(pl.col("cost_usd").sum())
    spent = dict(costs.iter_rows())
    parts = {kind: Fraction(part or 0) for kind, part in document["usd_per_million_by_part"].items()}
    for kind in parts.keys() | spent.keys():
        exact = Fraction(spent.get(kind, 0)) * 10**6 / served
        if not exact - Fraction(1, 10**12) < parts.get(kind, Fraction(0)) < exact + Fraction(1, 10**12):
            raise VerificationError(
                f"{day} usd_per_million_by_part {kind}: expected {float(exact)}, found {float(parts.get(kind, 0))}"
            )
    if sum(parts.values()) != Fraction(document["usd_per_million_tokens"]):
        raise VerificationError(
            f"{day} usd_per_million_by_part: expected parts that add up to the number, found others"
        )


def _check_counts(day: str, document: dict[str, Any], inputs: pl.DataFrame) -> None:
    """Hold requests, tokens, models and window against the token lines and the day.

    A model without tokens is published where its machines cost something; of that no token line tells.
    """
    lines = inputs.filter(pl.col("line") == "tokens")
    counts = ("prompt", "completion", "cached", "reasoning")
    models: dict[str, int] = {}
    for model, prompt, completion in lines.select("model", "prompt_tokens", "completion_tokens").iter_rows():
        name = "unknown" if model is None else model
        models[name] = models.get(name, 0) + (prompt or 0) + (completion or 0)
    window = trailing_window(date.fromisoformat(day))
    expected = {
        "requests": sum(lines["requests"].to_list()),
        "tokens": {name: _known_sum(lines[f"{name}_tokens"]) for name in counts},
        "by_model": sorted((model, tokens) for model, tokens in models.items() if tokens),
        "window": {"start": format_second(window.start), "end": format_second(window.end), "days": window.days},
    }
    found = {name: document[name] for name in ("requests", "tokens", "window")}
    listed = [(entry["model"], entry["served_tokens"]) for entry in document["by_model"]]
    found["by_model"] = sorted(entry for entry in listed if entry[1])
    for name, figure in expected.items():
        if found[name] != figure:
            raise VerificationError(
                f"{day} {name}: the published inputs give {figure}, the revision says {found[name]}"
            )


def _known_sum(column: pl.Series) -> int | None:
    known = column.drop_nulls().to_list()
    return sum(known) if known else None


def _check_schema(files: dict[str, bytes], name: str, content: bytes, schema: str) -> None:
    document = _json(schema, _named(files, f"{ROOT}/schema/{schema}"))
    for problem in _problems(document, _json(name, content)):
        raise VerificationError(f"{name}: expected the form of schema/{schema}, found {problem}")


def _problems(schema: Any, document: Any) -> Iterator[str]:
    for error in jsonschema_rs.validator_for(schema).iter_errors(document):
        yield f"{error.message} at {'/'.join(map(str, error.instance_path)) or 'the top'}"


def _read(published: Storage, name: str) -> bytes:
    try:
        return published.read(name)
    except RawFileError as error:
        raise VerificationError(str(error)) from None


def _json(name: str, content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError as error:
        raise VerificationError(f"{name}: expected JSON, found {error}") from None
