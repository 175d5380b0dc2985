"""Publishing: immutable revisions first, the pointer last.

Owns the files under `economics/` and their order, the append-only chain of revisions, and the self-check that the
published queries on the published inputs give the published sums. What a day's document says is `revision`'s; how the
pages look is `page`'s. A day whose figures did not change gets no new revision.
"""

import io
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from importlib.metadata import version
from typing import Any

import polars as pl

from spotinference_pipeline import comparison, page, revision, shipped
from spotinference_pipeline.errors import PublicationError
from spotinference_pipeline.public_files import (
    CHAIN,
    HISTORY,
    LATEST,
    MANIFEST,
    METHOD,
    PAID_SQL,
    ROOT,
    SERVED_SQL,
    chain_line,
    recompute,
    sha256,
)
from spotinference_pipeline.settings import Settings
from spotinference_pipeline.storage import Storage
from spotinference_pipeline.warehouse import Warehouse, read_sql

_FORCED = re.compile(r"Coverage was (\d\.\d+) in revision \d+: published with less by the operator's order\.")


@dataclass(frozen=True)
class Published:
    """What became of one day: its newest revision, and whether this call made it."""

    utc_day: date
    revision: int
    is_new: bool
    status: str
    usd_per_million_tokens: str | None


@dataclass
class _State:
    """What is published: the chain's lines, each day's newest document and its file; and what is still to be written."""

    chain: list[bytes]
    newest: dict[str, revision.Document]
    files: dict[str, str]
    revisions: dict[str, bytes] = field(default_factory=dict)
    inputs: dict[str, bytes] = field(default_factory=dict)

    def last_good_day(self, before: str) -> str | None:
        good = (day for day, document in self.newest.items() if day < before and document["status"] != "withheld")
        return max(good, default=None)

    def add(self, document: revision.Document, file: str, content: bytes) -> None:
        """Name a written revision in the chain."""
        previous = self.chain[-1] if self.chain else None
        self.chain.append(chain_line(len(self.chain) + 1, document, file, content, previous))
        self.newest[document["day"]], self.files[document["day"]] = document, file


def publish(
    warehouse: Warehouse,
    target: Storage,
    settings: Settings,
    days: Sequence[date] | None = None,
    *,
    force: bool = False,
) -> list[Published]:
    """Publish the given days, or every built day, oldest first; then the pages, the history and the pointer.

    Raises: PublicationError when a day is not built, the self-check fails, or a day would be published with less
    coverage than before and that is not forced; nothing is then written.
    """
    state = _read_state(target)
    built = warehouse.query("select utc_day from metric.cost_per_mtok order by utc_day")["utc_day"].to_list()
    missing = sorted(set(days or []) - set(built))
    if missing:
        raise PublicationError(
            f"day {missing[0]}: expected its figures in metric.cost_per_mtok, found none; run `spotinference build {missing[0]}`"
        )
    wanted = built if days is None else sorted(days)
    done = [_publish_day(warehouse, target, settings, state, day, force=force) for day in wanted]
    for name, content in state.revisions.items():
        target.create(name, content)
    for name, content in state.inputs.items():
        _put(target, name, content)
    if state.newest:
        _write_pointer(target, state)
    return done


def published_days(target: Storage) -> set[date]:
    """Give the days that have a revision."""
    return set(map(date.fromisoformat, _read_state(target).newest))


def export_inputs(warehouse: Warehouse, utc_day: date, detail: str) -> pl.DataFrame:
    """Give the rows that the two queries read for the day, in the detail that may be published.

    `by_kind` adds up the resources of a day and kind, and names none; `by_resource` gives each.
    """
    return warehouse.query(read_sql(f"publication.inputs_{detail}"), {"utc_day": utc_day})


def draft(
    warehouse: Warehouse, settings: Settings, utc_day: date, last_good_day: str | None
) -> tuple[revision.Document, pl.DataFrame]:
    """Give a built day's document as it would be published now, and the inputs of its two queries.

    Raises: PublicationError when the queries on these inputs do not give the warehouse's sums.
    """
    paid_sql, served_sql = read_sql("metric.paid"), read_sql("metric.served")
    inputs = export_inputs(warehouse, utc_day, settings.publish_inputs)
    terms = revision.Terms(
        revision.Gates(
            settings.min_snapshot_coverage,
            settings.min_exact_usage,
            settings.min_token_coverage,
            settings.max_unattributed,
        ),
        settings.hyperstack_url,
        sha256(inputs.write_csv().encode()),
        sha256(paid_sql.encode()),
        sha256(served_sql.encode()),
        version("spotinference"),
    )
    facts = _read_facts(warehouse, utc_day)
    _check_recomputed(utc_day, facts, recompute(inputs, paid_sql, served_sql, utc_day))
    return revision.build_document(utc_day, facts, terms, last_good_day), inputs


def _publish_day(
    warehouse: Warehouse, target: Storage, settings: Settings, state: _State, utc_day: date, *, force: bool
) -> Published:
    day = utc_day.isoformat()
    document, inputs = draft(warehouse, settings, utc_day, state.last_good_day(day))
    _adopt(target, state, day)
    document = _guard_coverage(document, state.newest.get(day), force=force)
    revised = revision.revise(document, state.newest.get(day), settings.clock())
    files = {"csv": inputs.write_csv().encode(), "parquet": _parquet(inputs)}
    state.inputs |= {f"{ROOT}/inputs/{day}.{form}": content for form, content in files.items()}
    if revised is not None:
        file, content = _revision_file(day, revised["revision"]), revision.encode(revised)
        state.revisions[f"{ROOT}/{file}"] = content
        state.add(revised, file, content)
    newest = state.newest[day]
    return Published(
        utc_day, newest["revision"], revised is not None, newest["status"], newest["usd_per_million_tokens"]
    )


def _adopt(target: Storage, state: _State, day: str) -> None:
    """Name the revisions of a day that an earlier call wrote and was cut off before it named them: they stay."""
    while True:
        number = state.newest[day]["revision"] + 1 if day in state.newest else 1
        file = _revision_file(day, number)
        content = target.find(f"{ROOT}/{file}")
        if content is None:
            return
        state.add(json.loads(content), file, content)


def _revision_file(day: str, number: int) -> str:
    return f"days/{day}/r{number}.json"


def _put(target: Storage, name: str, content: bytes) -> None:
    if target.find(name) != content:
        target.write(name, content)


def _check_recomputed(utc_day: date, facts: revision.Facts, recomputed: tuple[Any, int]) -> None:
    expected = facts.cost["paid_usd"], facts.cost["served_tokens"]
    if recomputed != expected:
        raise PublicationError(
            f"day {utc_day}: the published queries on the published inputs give {recomputed}, the warehouse {expected}; "
            f"run `spotinference build {utc_day}` and publish again"
        )


def is_published(document: revision.Document, newest: revision.Document) -> bool:
    """Tell whether a day's newest revision says what its draft does, so that publishing it would change nothing."""
    return revision.says_the_same(_with_forced_caveats(document, newest), newest)


def _with_forced_caveats(document: revision.Document, newest: revision.Document) -> revision.Document:
    """Give the document with what its newest revision says of minutes that were forced away and are not back."""
    after = Decimal(document["coverage"]["snapshot"])
    forced = (_FORCED.fullmatch(caveat) for caveat in newest["caveats"])
    kept = [match[0] for match in forced if match and Decimal(match[1]) > after]
    return document | {"caveats": document["caveats"] + kept}


def _guard_coverage(document: revision.Document, newest: revision.Document | None, *, force: bool) -> revision.Document:
    """Refuse a day that was published with more minutes seen; a forced one says so in public, until they are back."""
    if newest is None:
        return document
    document = _with_forced_caveats(document, newest)
    day, before, after = document["day"], newest["coverage"]["snapshot"], document["coverage"]["snapshot"]
    if Decimal(after) >= Decimal(before):
        return document
    if not force:
        raise PublicationError(
            f"day {day}: expected a snapshot coverage of at least {before} as published, found {after}; "
            f"bring the raw files back, or run `spotinference publish {day} --force`"
        )
    document["caveats"].append(
        f"Coverage was {before} in revision {newest['revision']}: published with less by the operator's order."
    )
    return document


def _read_facts(warehouse: Warehouse, utc_day: date) -> revision.Facts:
    given = {"utc_day": utc_day}
    cost = warehouse.query("select * from metric.cost_per_mtok where utc_day = $utc_day", given).row(0, named=True)
    parts = warehouse.query(
        "select cost_kind, usd_per_million_tokens from metric.cost_parts where utc_day = $utc_day", given
    )
    percentiles = warehouse.query(
        "select * from metric.request_percentiles where utc_day = $utc_day and model is null", given
    ).row(0, named=True)
    figures, coverage, bounds = (
        warehouse.query(f"select * from metric.{name} where utc_day = $utc_day", given).row(0, named=True)  # noqa: S608
        for name in ("figures", "coverage", "bounds")
    )
    models = warehouse.query(
        """
        select model, served_tokens, usd_per_million_tokens, cost_usd
        from metric.model_costs
        where utc_day = $utc_day and (served_tokens > 0 or cost_usd is not null)
        order by model
        """,
        given,
    ).rows(named=True)
    invoiced = warehouse.query(read_sql("publication.invoice_residual"), given)["invoice_residual_usd"].item()
    return revision.Facts(
        cost,
        dict(parts.iter_rows()),
        figures,
        percentiles,
        coverage,
        bounds,
        models,
        invoiced,
        comparison.read(warehouse, utc_day),
    )


def _parquet(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.write_parquet(buffer, compression="zstd", statistics=False)
    return buffer.getvalue()


def _read_state(target: Storage) -> _State:
    chain = (target.find(CHAIN) or b"").splitlines()
    state = _State(chain, {}, {})
    name = CHAIN
    try:
        for line in chain:
            entry = json.loads(line)
            state.files[entry["day"]] = entry["file"]
        for day, file in state.files.items():
            name = f"{ROOT}/{file}"
            state.newest[day] = json.loads(target.read(name))
    except (ValueError, KeyError, TypeError) as error:
        raise PublicationError(
            f"{name}: expected what was published, found {type(error).__name__}; bring the file back from a copy"
        ) from None
    return state


def _write_pointer(target: Storage, state: _State) -> None:
    """Write everything that may change: the pointer last, so that a reader never sees it ahead of its files."""
    days = sorted(state.newest)
    newest = state.newest[days[-1]]
    history = [
        {name: state.newest[day][name] for name in ("day", "usd_per_million_tokens", "status", "revision")}
        for day in days
    ]
    paid_sql, served_sql = read_sql("metric.paid"), read_sql("metric.served")
    files = {
        f"{ROOT}/schema/{path.name}": path.read_bytes() for path in sorted((shipped.path("site") / "schema").iterdir())
    }
    files |= {
        PAID_SQL: paid_sql.encode(),
        SERVED_SQL: served_sql.encode(),
        METHOD: revision.encode(
            {
                "schema_version": revision.SCHEMA_VERSION,
                "method_version": revision.METHOD_VERSION,
                "paid_sql_sha256": sha256(paid_sql.encode()),
                "served_sql_sha256": sha256(served_sql.encode()),
            }
        ),
        CHAIN: b"".join(line + b"\n" for line in state.chain),
        f"{ROOT}/index.html": page.render_index(newest, history),
        f"{ROOT}/method/index.html": page.render_method(newest, paid_sql, served_sql),
        HISTORY: revision.encode({"schema_version": revision.SCHEMA_VERSION, "days": history}),
        LATEST: target.read(f"{ROOT}/{state.files[days[-1]]}"),
    }
    kept = _immutable_names(state, days)
    digests = {name: sha256(content) for name, content in files.items()}
    digests |= {name: sha256(target.read(name)) for name in kept}
    files[MANIFEST] = revision.encode(
        {
            "schema_version": revision.SCHEMA_VERSION,
            "files": {name.removeprefix(f"{ROOT}/"): digests[name] for name in sorted(digests)},
        }
    )
    for name in [*sorted(set(files) - {MANIFEST, LATEST}), MANIFEST, LATEST]:
        _put(target, name, files[name])


def _immutable_names(state: _State, days: Iterable[str]) -> list[str]:
    """Name the newest revision and the inputs of every day that the current state consists of."""
    names = [f"{ROOT}/{state.files[day]}" for day in days]
    return names + [name for day in days for name in (f"{ROOT}/inputs/{day}.csv", f"{ROOT}/inputs/{day}.parquet")]
