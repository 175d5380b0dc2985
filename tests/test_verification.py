"""A reader's check: whatever is changed in the published files, verification says no and names the file."""

import hashlib
import io
import json
import re
import shutil
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from spotinference_pipeline import publication, revision
from spotinference_pipeline.errors import SettingsError, VerificationError
from spotinference_pipeline.publication import CHAIN, HISTORY, LATEST, MANIFEST, METHOD, PAID_SQL, ROOT, SERVED_SQL
from spotinference_pipeline.settings import Settings
from spotinference_pipeline.storage import Storage
from spotinference_pipeline.verification import verify
from spotinference_pipeline.warehouse import open_scratch

Make = Callable[..., Any]
R1, R2 = f"{ROOT}/days/2026-11-22/r1.json", f"{ROOT}/days/2026-11-22/r2.json"
CSV, PARQUET = f"{ROOT}/inputs/2026-11-22.csv", f"{ROOT}/inputs/2026-11-22.parquet"


@pytest.fixture(scope="module")
def published_once(fill_week: Make, add_late_tokens: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two days in three revisions: r1 of the newest day is superseded."""
    folder = tmp_path_factory.mktemp("published")
    settings = Settings.model_validate({"data_dir": folder, "now": "2026-11-23T02:10:00Z"})
    with open_scratch() as warehouse:
        fill_week(warehouse, days=2)
        publication.publish(warehouse, Storage(settings.published), settings)
        add_late_tokens(warehouse)
        publication.publish(warehouse, Storage(settings.published), settings)
    return Path(settings.published)


@pytest.fixture
def public(published_once: Path, tmp_path: Path) -> Storage:
    """A copy of what was published, to be spoiled."""
    return Storage(str(shutil.copytree(published_once, tmp_path / "public")))


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def remake_manifest(target: Storage, drop: str | None = None) -> None:
    """Do what a forger would: make the digests of the manifest fit what lies there."""
    files = json.loads(target.read(MANIFEST))["files"]
    names = {name for name in files if f"{ROOT}/{name}" != drop}
    fitting = {name: digest(target.read(f"{ROOT}/{name}")) for name in sorted(names)}
    target.write(MANIFEST, revision.encode({"schema_version": 1, "files": fitting}))


def forge(target: Storage, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the newest revision and make every digest, the chain, the history and the pointer fit again."""
    document = json.loads(target.read(LATEST))
    change(document)
    content = revision.encode(document)
    for name in (LATEST, R2):
        target.write(name, content)
    *before, last = target.read(CHAIN).splitlines()
    entry = json.loads(last) | {"sha256": digest(content)}
    target.write(CHAIN, b"".join(line + b"\n" for line in [*before, json.dumps(entry).encode()]))
    history = json.loads(target.read(HISTORY))
    history["days"][-1]["usd_per_million_tokens"] = document["usd_per_million_tokens"]
    target.write(HISTORY, revision.encode(history))
    remake_manifest(target)


def rejects(target: Storage, pattern: str) -> None:
    with pytest.raises(VerificationError, match=pattern) as caught:
        verify(target)
    assert "\n" not in str(caught.value)


def test_what_was_published_verifies(public: Storage) -> None:
    verified = verify(public)
    assert (verified.revisions, verified.days_recomputed) == (3, 2)
    assert verified.files == len(public.names())
    assert verified.newest["revision"] == 2


def test_one_flipped_byte_in_any_file_is_found_and_the_file_named(public: Storage) -> None:
    for name in public.names():
        content = public.read(name)
        for place in (0, len(content) // 2, len(content) - 2):
            flipped = bytearray(content)
            flipped[place] ^= 1
            public.write(name, bytes(flipped))
            # A manifest is held to what it says of others: it is named, or the file that it is wrong about.
            rejects(public, "manifest" if name == MANIFEST else f"^{re.escape(name)}[: ]")
        public.write(name, content)
    verify(public)


def test_a_manifest_with_any_one_byte_changed_never_verifies(public: Storage) -> None:
    content = public.read(MANIFEST)
    for place in range(0, len(content) - 1, 97):
        flipped = bytearray(content)
        flipped[place] ^= 1
        public.write(MANIFEST, bytes(flipped))
        rejects(public, ".")


def test_one_byte_more_in_any_file_is_found(public: Storage) -> None:
    for name in sorted(set(public.names()) - {MANIFEST}):
        content = public.read(name)
        public.write(name, content + b"\n")
        rejects(public, f"^{re.escape(name)}[: ]")
        public.write(name, content)


def test_a_missing_file_is_named(public: Storage, tmp_path: Path) -> None:
    for name in public.names():
        content = public.read(name)
        (tmp_path / "public" / name).unlink()
        rejects(public, rf"{re.escape(name)}: expected an object, found none")
        public.write(name, content)
    verify(public)


@pytest.mark.parametrize(
    "name", [LATEST, HISTORY, METHOD, CHAIN, PAID_SQL, SERVED_SQL, CSV, PARQUET, f"{ROOT}/schema/revision.json"]
)
def test_a_manifest_must_name_what_a_reader_needs(public: Storage, name: str) -> None:
    remake_manifest(public, drop=name)
    rejects(public, rf"^{MANIFEST}: expected it to name {re.escape(name)}, found no such entry")


@pytest.mark.parametrize("content", [b"[]", b"{}", b'{"files": []}', b"", b"\xff", b"null"])
def test_a_manifest_that_is_none_is_named(public: Storage, content: bytes) -> None:
    public.write(MANIFEST, content)
    rejects(public, f"^{MANIFEST}: expected")


@pytest.mark.parametrize("name", ["../outside", "a//b", ".", ""])
def test_a_manifest_cannot_lead_out_of_its_folder(public: Storage, name: str) -> None:
    public.write(MANIFEST, revision.encode({"schema_version": 1, "files": {name: "0" * 64}}))
    rejects(public, "expected a readable object|expected an object")


def test_a_chain_without_its_last_line_is_found(public: Storage) -> None:
    lines = public.read(CHAIN).splitlines(keepends=True)
    public.write(CHAIN, b"".join(lines[:-1]))
    remake_manifest(public)
    rejects(public, f"^{LATEST}: expected the newest day's newest revision 2026-11-22, found another")


def test_a_chain_without_its_first_line_is_found(public: Storage) -> None:
    lines = public.read(CHAIN).splitlines(keepends=True)
    public.write(CHAIN, b"".join(lines[1:]))
    remake_manifest(public)
    rejects(public, f"^{CHAIN} line 1: expected seq 1 and prev None, found 2, ")


def test_a_chain_in_another_order_is_found(public: Storage) -> None:
    lines = public.read(CHAIN).splitlines(keepends=True)
    public.write(CHAIN, b"".join([lines[0], lines[2], lines[1]]))
    remake_manifest(public)
    rejects(public, f"^{CHAIN} line 2: expected seq 2 and prev [0-9a-f]{{64}}, found 3, ")


def test_an_edited_line_of_the_chain_breaks_the_next_one(public: Storage) -> None:
    first, *others = public.read(CHAIN).splitlines()
    entry = json.loads(first) | {"published_at": "2026-11-23T00:00:00Z"}
    public.write(CHAIN, b"\n".join([json.dumps(entry).encode(), *others]) + b"\n")
    remake_manifest(public)
    rejects(public, f"^{CHAIN} line 2: expected seq 2 and prev ")


def test_a_revision_that_was_left_out_is_found(public: Storage) -> None:
    line = json.loads(public.read(CHAIN).splitlines()[0]) | {"revision": 2}
    public.write(CHAIN, json.dumps(line).encode() + b"\n")
    remake_manifest(public)
    rejects(public, f"^{CHAIN} line 1: expected the next revision of 2026-11-21, found 2")


@pytest.mark.parametrize("content", [b"", b"\n"])
def test_an_empty_chain_is_found(public: Storage, content: bytes) -> None:
    public.write(CHAIN, content)
    remake_manifest(public)
    rejects(public, f"^{CHAIN}")


def test_a_line_that_is_no_json_is_named(public: Storage) -> None:
    public.write(CHAIN, b"{\n")
    remake_manifest(public)
    rejects(public, f"^{CHAIN} line 1: expected JSON")


def test_a_pointer_that_was_rolled_back_is_found(public: Storage) -> None:
    public.write(LATEST, public.read(R1))
    remake_manifest(public)
    rejects(public, f"^{LATEST}: expected the newest day's newest revision 2026-11-22, found another")


def test_a_superseded_revision_that_was_edited_is_found(public: Storage) -> None:
    public.write(R1, public.read(R1).replace(b'"10.000000000000"', b'"11.000000000000"'))
    rejects(public, f"^{R1}: expected the digest [0-9a-f]{{64}} of the chain")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda document: document.update(usd_per_million_tokens="8.750000000001"),
            "2026-11-22 usd_per_million_tokens",
        ),
        (lambda document: document.update(paid_usd="69.000000000000000"), "2026-11-22 paid_usd: the published queries"),
        (lambda document: document.update(served_tokens=8_000_001), "2026-11-22 served_tokens: the published queries"),
        (
            lambda document: document["usd_per_million_by_part"].update(busy="5.250000000001"),
            "2026-11-22 usd_per_million_by_part",
        ),
        (
            lambda document: document["usd_per_million_by_part"].update(busy=None),
            "2026-11-22 usd_per_million_by_part",
        ),
        (lambda document: document["provenance"].update(inputs_sha256="0" * 64), re.escape(CSV)),
        (lambda document: document["provenance"].update(paid_sql_sha256="0" * 64), re.escape(PAID_SQL)),
        (lambda document: document["provenance"].update(served_sql_sha256="0" * 64), re.escape(SERVED_SQL)),
        (lambda document: document.update(usd_per_million_tokens=8.75), re.escape(LATEST)),
        (lambda document: document.pop("caveats"), re.escape(LATEST)),
        (lambda document: document.update(status="perfect"), re.escape(LATEST)),
    ],
)
def test_an_edited_figure_is_found_even_with_all_digests_made_anew(
    public: Storage, change: Callable[[dict[str, Any]], None], said: str
) -> None:
    forge(public, change)
    rejects(public, f"^{said}")


def move_a_dollar(document: dict[str, Any]) -> None:
    parts = document["usd_per_million_by_part"]
    parts["idle"], parts["busy"] = (f"{Decimal(parts['idle']) - 1:f}", f"{Decimal(parts['busy']) + 1:f}")


def a_model(name: str, tokens: int) -> dict[str, Any]:
    return {"model": name, "served_tokens": tokens, "usd_per_million_tokens": None, "paid_usd": "1.000000000000000"}


@pytest.mark.parametrize(
    ("change", "pattern"),
    [
        (lambda document: document.update(display="$0.01"), "display: expected"),
        (move_a_dollar, "usd_per_million_by_part (idle|busy): expected"),
        (lambda document: document.update(requests=document["requests"] + 1), "requests: the published inputs give"),
        (lambda document: document["tokens"].update(prompt=1), "tokens: the published inputs give"),
        (lambda document: document["by_model"].pop(), "by_model: the published inputs give"),
        (lambda document: document["by_model"].append(a_model("llama", 1)), "by_model: the published inputs give"),
        (lambda document: document["by_model"].append(a_model("new", 1)), "by_model: the published inputs give"),
        (lambda document: document["window"].update(start="2026-01-01T00:00:00Z"), "window: the published inputs give"),
    ],
)
def test_whatever_follows_from_the_inputs_is_worked_out_again(
    public: Storage, change: Callable[[dict[str, Any]], None], pattern: str
) -> None:
    forge(public, change)
    rejects(public, pattern)


def test_a_forger_who_changes_nothing_is_not_accused(public: Storage) -> None:
    forge(public, lambda _: None)
    verify(public)


def test_a_model_that_cost_something_and_served_nothing_is_no_lie(public: Storage) -> None:
    forge(public, lambda document: document["by_model"].append(a_model("spare", 0)))
    verify(public)


def swap_inputs(target: Storage, frame: pl.DataFrame) -> None:
    """Publish other inputs with all digests made anew."""
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    target.write(PARQUET, buffer.getvalue())
    target.write(CSV, frame.write_csv().encode())
    content = target.read(CSV)
    forge(target, lambda document: document["provenance"].update(inputs_sha256=digest(content)))


def test_other_inputs_give_another_sum(public: Storage) -> None:
    frame = pl.read_parquet(public.read(PARQUET))
    swap_inputs(public, frame.filter(pl.col("cost_kind").is_null() | (pl.col("cost_kind") != "busy")))
    rejects(public, "^2026-11-22 paid_usd: the published queries give 28.000000000000000, the revision says 70.0")


def test_a_model_without_a_name_is_not_one_that_is_unknown(public: Storage) -> None:
    unnamed = pl.when(pl.col("model") == "llama").then(pl.lit("")).otherwise(pl.col("model")).alias("model")
    swap_inputs(public, pl.read_parquet(public.read(PARQUET)).with_columns(unnamed))
    rejects(public, "^2026-11-22 by_model: the published inputs give")
    forge(public, lambda document: document["by_model"][-1].update(model=""))
    verify(public)


@pytest.mark.parametrize("line", ["cost", "tokens"])
def test_a_figure_without_anything_paid_or_served_is_found(public: Storage, line: str) -> None:
    swap_inputs(public, pl.read_parquet(public.read(PARQUET)).filter(pl.col("line") == line))
    sums = {"served_tokens": 0} if line == "cost" else {"paid_usd": None}
    forge(public, lambda document: document.update(sums))
    rejects(public, "^2026-11-22 usd_per_million_tokens: expected none")


def test_csv_and_parquet_must_hold_the_same_rows(public: Storage) -> None:
    frame = pl.read_parquet(public.read(PARQUET))
    buffer = io.BytesIO()
    frame.head(3).write_parquet(buffer)
    public.write(PARQUET, buffer.getvalue())
    remake_manifest(public)
    rejects(public, f"^{PARQUET}: expected the rows of {CSV}, found others")


def test_inputs_that_are_no_parquet_are_named(public: Storage) -> None:
    public.write(PARQUET, b"not parquet at all")
    remake_manifest(public)
    rejects(public, f"^{PARQUET}: expected Parquet, found")


@pytest.mark.parametrize(
    "sql",
    [
        "select nothing from nowhere",
        "this is no sql",
        "select 1 as another_column",
        "select paid_usd from (values (1), (2)) as rows(paid_usd)",
        "from read_csv('/etc/passwd')",
        "attach '/tmp/other.duckdb'",
    ],
)
def test_a_query_that_does_not_run_on_the_inputs_alone_is_named(public: Storage, sql: str) -> None:
    public.write(PAID_SQL, sql.encode())
    paid_sql = digest(sql.encode())
    for name in (LATEST, R2):
        assert public.read(name)
    # Both days must name the new digest, so that the query itself is what fails.
    forge(public, lambda document: document["provenance"].update(paid_sql_sha256=paid_sql))
    chain = [json.loads(line) for line in public.read(CHAIN).splitlines()]
    public.write(CHAIN, b"".join(json.dumps(entry).encode() + b"\n" for entry in relink(public, chain, paid_sql)))
    remake_manifest(public)
    rejects(public, f"^{PAID_SQL}, {SERVED_SQL}: expected queries that run on the inputs of 2026-11-21, found ")


def relink(public: Storage, chain: list[dict[str, Any]], paid_sql: str) -> list[dict[str, Any]]:
    previous = None
    for entry in chain:
        name = f"{ROOT}/{entry['file']}"
        document = json.loads(public.read(name))
        document["provenance"]["paid_sql_sha256"] = paid_sql
        public.write(name, revision.encode(document))
        entry |= {"sha256": digest(public.read(name)), "prev": previous}
        previous = digest(json.dumps(entry).encode())
    public.write(LATEST, public.read(R2))
    return chain


@pytest.mark.parametrize(
    "change",
    [
        lambda days: days.pop(0),
        lambda days: days[0].update(usd_per_million_tokens="9.9"),
        lambda days: days[0].update(revision=2),
        lambda days: days.insert(0, days[0] | {"day": "2026-11-01"}),
        lambda days: days[0].update(surprise="member"),
    ],
)
def test_a_history_that_says_otherwise_is_found(public: Storage, change: Callable[[list[Any]], None]) -> None:
    history = json.loads(public.read(HISTORY))
    change(history["days"])
    public.write(HISTORY, revision.encode(history))
    remake_manifest(public)
    rejects(public, f"^{HISTORY}: expected the newest revision of 2026-11-(21|01), found another")


def test_a_url_verifies_like_a_folder(public: Storage, tmp_path: Path) -> None:
    assert verify(Storage((tmp_path / "public").as_uri())) == verify(public)


def test_a_folder_without_anything_published_is_no_publication(tmp_path: Path) -> None:
    rejects(Storage(str(tmp_path)), r"economics/manifest\.json: expected an object, found none")
    with pytest.raises(SettingsError, match="expected a folder or a URL, found neither"):
        Storage(str(tmp_path / "nowhere"), must_exist=True)


def test_verifying_twice_is_the_same_and_writes_nothing(public: Storage, tmp_path: Path) -> None:
    def stamps() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in (tmp_path / "public").rglob("*")}

    before = stamps()
    assert verify(public) == verify(public)
    assert stamps() == before
