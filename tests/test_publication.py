"""Publishing: revisions that never change, the pointer last, and no file that a reader could not check."""

import csv
import hashlib
import io
import json
from collections.abc import Callable
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import jsonschema_rs
import polars as pl
import pytest

from spotinference_pipeline import publication, shipped, transform, verification
from spotinference_pipeline.errors import PublicationError, RawFileError
from spotinference_pipeline.publication import CHAIN, HISTORY, LATEST, MANIFEST, METHOD, ROOT
from spotinference_pipeline.settings import Settings
from spotinference_pipeline.storage import Storage
from spotinference_pipeline.warehouse import Warehouse, open_scratch, read_sql

DAY = date(2026, 11, 22)
Make = Callable[..., Any]


class CutOffError(Exception):
    """The machine went away."""


class Watched(Storage):
    """Notes the order of what is written, and goes away when `left` writes are done."""

    def __init__(self, location: str, left: int | None = None) -> None:
        super().__init__(location)
        self.written: list[str] = []
        self.left = left

    def write(self, name: str, content: bytes) -> None:
        self._note(name)
        super().write(name, content)

    def create(self, name: str, content: bytes) -> None:
        self._note(name)
        super().create(name, content)

    def _note(self, name: str) -> None:
        if self.left is not None and len(self.written) == self.left:
            raise CutOffError
        self.written.append(name)


@pytest.fixture
def target(tmp_path: Path) -> Watched:
    return Watched(str(tmp_path / "public"))


def read(target: Storage, name: str) -> Any:
    return json.loads(target.read(name))


def chain(target: Storage) -> list[dict[str, Any]]:
    return [json.loads(line) for line in target.read(CHAIN).splitlines()]


def everything(target: Storage) -> dict[str, bytes]:
    return {name: target.read(name) for name in target.names()}


@pytest.fixture
def publish(scratch: Warehouse, target: Watched, settings_in: Callable[..., Settings]) -> Make:
    def run(days: list[date] | None = None, *, force: bool = False, **changed: Any) -> list[publication.Published]:
        return publication.publish(scratch, target, settings_in(**changed), days, force=force)

    return run


def test_the_first_publication_has_every_file_and_verifies(
    scratch: Warehouse, fill_week: Make, publish: Make, target: Watched
) -> None:
    fill_week(scratch)
    assert publish() == [publication.Published(DAY, 1, True, "provisional", "10.000000000000")]
    assert target.names() == [
        f"{ROOT}/{name}"
        for name in [
            "days/2026-11-22/r1.json",
            "history.json",
            "index.html",
            "inputs/2026-11-22.csv",
            "inputs/2026-11-22.parquet",
            "latest.json",
            "manifest.json",
            "method/index.html",
            "method/method.json",
            "method/paid.sql",
            "method/served.sql",
            "revisions.jsonl",
            "schema/history.json",
            "schema/manifest.json",
            "schema/method.json",
            "schema/revision.json",
            "schema/revisions.json",
        ]
    ]
    verified = verification.verify(target)
    assert (verified.revisions, verified.days_recomputed, verified.newest["day"]) == (1, 1, "2026-11-22")
    assert verified.files == len(target.names())


def test_the_pointer_is_the_newest_revision_byte_for_byte(
    scratch: Warehouse, fill_week: Make, publish: Make, target: Watched
) -> None:
    fill_week(scratch)
    publish()
    assert target.read(LATEST) == target.read(f"{ROOT}/days/2026-11-22/r1.json")
    latest = read(target, LATEST)
    assert (latest["revision"], latest["reason"], latest["previous"]) == (1, "first", None)
    assert latest["published_at"] == "2026-11-23T02:10:00Z"
    assert latest["usd_per_million_by_part"]["busy"] == "6.000000000000"
    unknown = {"usd_per_million_tokens": None, "paid_usd": None}
    assert latest["by_model"] == [{"model": "llama", "served_tokens": 7_000_000, **unknown}]


def test_revisions_are_written_first_and_the_pointer_last(
    scratch: Warehouse, fill_week: Make, publish: Make, target: Watched
) -> None:
    fill_week(scratch)
    publish()
    assert target.written[0] == f"{ROOT}/days/2026-11-22/r1.json"
    assert target.written[-2:] == [MANIFEST, LATEST]
    assert len(target.written) == len(set(target.written))


def test_an_unchanged_day_gets_no_revision_and_not_one_byte_is_written(
    scratch: Warehouse, fill_week: Make, publish: Make, target: Watched
) -> None:
    fill_week(scratch)
    publish()
    before = everything(target)
    target.written.clear()
    (again,) = publish(now="2026-11-24T02:10:00Z")
    assert (again.revision, again.is_new) == (1, False)
    assert target.written == []
    assert everything(target) == before


def test_late_logs_make_a_second_revision_that_names_the_first(
    scratch: Warehouse, fill_week: Make, add_late_tokens: Make, publish: Make, target: Watched
) -> None:
    fill_week(scratch)
    publish()
    first = target.read(f"{ROOT}/days/2026-11-22/r1.json")
    add_late_tokens(scratch)
    (second,) = publish(now="2026-11-25T02:10:00Z")
    assert (second.revision, second.is_new, second.usd_per_million_tokens) == (2, True, "8.750000000000")
    latest = read(target, LATEST)
    assert (latest["revision"], latest["reason"]) == (2, "late_logs")
    assert latest["previous"] == {"revision": 1, "usd_per_million_tokens": "10.000000000000"}
    assert latest["by_model"][0]["model"] == "late"
    assert target.read(f"{ROOT}/days/2026-11-22/r1.json") == first
    assert [(line["seq"], line["revision"], line["reason"]) for line in chain(target)] == [
        (1, 1, "first"),
        (2, 2, "late_logs"),
    ]
    assert verification.verify(target).revisions == 2


def test_late_billing_makes_a_second_revision(
    scratch: Warehouse, fill_week: Make, publish: Make, target: Watched, insert: Make
) -> None:
    fill_week(scratch)
    publish()
    late = {"utc_day": DAY, "resource_type": "vm", "resource_id": 11, "cost_kind": "credit", "cost_usd": Decimal("-7")}
    insert(scratch, "rollup.cost_days", [late])
    transform.build_metrics(scratch, DAY)
    publish()
    latest = read(target, LATEST)
    assert latest["reason"] == "late_billing"
    assert latest["usd_per_million_tokens"] == "9.000000000000"
    assert latest["usd_per_million_by_part"]["credit"] == "-1.000000000000"
    verification.verify(target)


def test_each_line_of_the_chain_names_the_line_before_and_its_file(
    scratch: Warehouse, fill_week: Make, add_late_tokens: Make, publish: Make, target: Watched
) -> None:
    fill_week(scratch, days=2)
    publish()
    add_late_tokens(scratch)
    publish()
    lines = target.read(CHAIN).splitlines()
    assert [(entry["day"], entry["revision"]) for entry in chain(target)] == [
        ("2026-11-21", 1),
        ("2026-11-22", 1),
        ("2026-11-22", 2),
    ]
    assert [entry["prev"] for entry in chain(target)] == [
        None,
        *(hashlib.sha256(line).hexdigest() for line in lines[:-1]),
    ]
    for entry in chain(target):
        content = target.read(f"{ROOT}/{entry['file']}")
        assert entry["sha256"] == hashlib.sha256(content).hexdigest()
        assert json.loads(content)["revision"] == entry["revision"]


def test_the_manifest_names_the_current_state_and_no_superseded_revision(
    scratch: Warehouse, fill_week: Make, add_late_tokens: Make, publish: Make, target: Watched
) -> None:
    fill_week(scratch)
    publish()
    add_late_tokens(scratch)
    publish()
    files = read(target, MANIFEST)["files"]
    expected = set(target.names()) - {MANIFEST, f"{ROOT}/days/2026-11-22/r1.json"}
    assert {f"{ROOT}/{name}" for name in files} == expected
    assert all(hashlib.sha256(target.read(f"{ROOT}/{name}")).hexdigest() == digest for name, digest in files.items())
    assert list(files) == sorted(files)


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 2, 0]])
def test_days_may_be_published_in_any_order(
    scratch: Warehouse, fill_week: Make, publish: Make, target: Watched, order: list[int]
) -> None:
    fill_week(scratch, days=3)
    for back in order:
        publish([DAY - timedelta(days=back)])
    assert [entry["day"] for entry in read(target, HISTORY)["days"]] == ["2026-11-20", "2026-11-21", "2026-11-22"]
    assert read(target, LATEST)["day"] == "2026-11-22"
    assert verification.verify(target).days_recomputed == 3


def test_an_older_day_does_not_become_the_newest(
    scratch: Warehouse, fill_week: Make, publish: Make, target: Watched
) -> None:
    fill_week(scratch, days=2)
    publish([DAY])
    publish([DAY - timedelta(days=1)])
    assert read(target, LATEST)["day"] == "2026-11-22"


def test_a_day_that_is_not_built_is_refused_before_anything_is_written(
    scratch: Warehouse, fill_week: Make, publish: Make, target: Watched
) -> None:
    fill_week(scratch)
    with pytest.raises(
        PublicationError, match=r"day 2026-11-23: expected its figures .*`spotinference build 2026-11-23`"
    ):
        publish([DAY, DAY + timedelta(days=1)])
    assert target.names() == []


def test_nothing_built_publishes_nothing(scratch: Warehouse, publish: Make, target: Watched) -> None:
    assert publish() == []
    assert target.names() == []


def lose_minutes(warehouse: Warehouse, minutes: int) -> None:
    warehouse.execute("update rollup.snapshot_days set minutes_good = $minutes", {"minutes": minutes})
    transform.build_metrics(warehouse, DAY)


def test_less_coverage_is_refused(scratch: Warehouse, fill_week: Make, publish: Make, target: Watched) -> None:
    fill_week(scratch)
    publish()
    before = everything(target)
    lose_minutes(scratch, 1400)
    with pytest.raises(PublicationError, match=r"at least 1\.000000 as published, found 0\.972222; .*--force"):
        publish()
    assert everything(target) == before


def test_less_coverage_by_order_says_so_until_the_minutes_are_back(
    scratch: Warehouse, fill_week: Make, publish: Make, target: Watched
) -> None:
    fill_week(scratch)
    publish()
    lose_minutes(scratch, 1400)
    (forced,) = publish(force=True)
    said = "Coverage was 1.000000 in revision 1: published with less by the operator's order."
    assert (forced.revision, read(target, LATEST)["caveats"][-1]) == (2, said)
    assert said in target.read(f"{ROOT}/index.html").decode().replace("&#39;", "'")

    (same,) = publish()
    assert (same.revision, same.is_new) == (2, False)

    lose_minutes(scratch, 1410)
    publish()
    assert read(target, LATEST)["caveats"][-1] == said

    lose_minutes(scratch, 1440)
    (back,) = publish()
    assert back.revision == 4
    assert said not in read(target, LATEST)["caveats"]
    verification.verify(target)


def test_force_adds_nothing_where_coverage_did_not_fall(
    scratch: Warehouse, fill_week: Make, publish: Make, target: Watched
) -> None:
    fill_week(scratch)
    publish(force=True)
    assert not any("operator" in caveat for caveat in read(target, LATEST)["caveats"])


def test_a_refused_day_leaves_nothing_of_the_other_days_behind(
    scratch: Warehouse, fill_week: Make, add_late_tokens: Make, publish: Make, target: Watched
) -> None:
    fill_week(scratch, days=2)
    publish()
    before = everything(target)
    add_late_tokens(scratch, DAY - timedelta(days=1), [])
    lose_minutes(scratch, 1400)
    with pytest.raises(PublicationError, match="day 2026-11-22"):
        publish()
    assert everything(target) == before
    verification.verify(target)


def test_inputs_that_do_not_give_the_built_sums_are_refused(
    scratch: Warehouse, fill_week: Make, publish: Make, target: Watched
) -> None:
    fill_week(scratch)
    scratch.execute("update metric.cost_per_mtok set paid_usd = paid_usd + 0.000000000000001")
    with pytest.raises(PublicationError, match=r"published queries on the published inputs give .* build 2026-11-22"):
        publish()
    assert target.names() == []


def test_a_publication_that_is_cut_off_anywhere_is_mended_by_the_next_one(
    scratch: Warehouse,
    fill_week: Make,
    add_late_tokens: Make,
    settings_in: Callable[..., Settings],
    tmp_path: Path,
) -> None:
    fill_week(scratch)
    whole = Watched(str(tmp_path / "whole"))
    publication.publish(scratch, whole, settings_in())
    places = [Watched(str(tmp_path / f"cut{left}"), left) for left in range(len(whole.written))]
    for place in places:
        with pytest.raises(CutOffError):
            publication.publish(scratch, place, settings_in())
        assert place.find(LATEST) is None
    add_late_tokens(scratch)
    for place in places:
        place.left = None
        publication.publish(scratch, place, settings_in(now="2026-11-24T02:10:00Z"))
        latest = read(place, LATEST)
        assert latest["usd_per_million_tokens"] == "8.750000000000"
        verification.verify(place)


def test_a_second_publication_that_is_cut_off_never_shows_a_pointer_without_its_files(
    scratch: Warehouse,
    fill_week: Make,
    add_late_tokens: Make,
    settings_in: Callable[..., Settings],
    tmp_path: Path,
) -> None:
    fill_week(scratch)
    counted = Watched(str(tmp_path / "counted"))
    places = [Watched(str(tmp_path / f"cut{left}")) for left in range(9)]
    for place in [counted, *places]:
        publication.publish(scratch, place, settings_in())
    counted.written.clear()
    add_late_tokens(scratch)
    publication.publish(scratch, counted, settings_in(now="2026-11-24T02:10:00Z"))
    assert 4 < len(counted.written) <= len(places)
    for left, place in enumerate(places[: len(counted.written)]):
        place.written.clear()
        place.left = left
        with pytest.raises(CutOffError):
            publication.publish(scratch, place, settings_in(now="2026-11-24T02:10:00Z"))
        assert read(place, LATEST)["revision"] == 1
        place.left = None
        publication.publish(scratch, place, settings_in(now="2026-11-25T02:10:00Z"))
        assert read(place, LATEST)["revision"] == 2
        assert verification.verify(place).revisions == 2


def test_an_immutable_file_is_never_overwritten(
    scratch: Warehouse, fill_week: Make, add_late_tokens: Make, publish: Make, target: Watched
) -> None:
    fill_week(scratch)
    publish()
    name = f"{ROOT}/days/2026-11-22/r1.json"
    content = target.read(name)
    target.create(name, content)
    with pytest.raises(RawFileError, match="immutable"):
        target.create(name, content + b" ")
    assert target.read(name) == content


def test_inputs_by_kind_name_no_resource(scratch: Warehouse, fill_week: Make, publish: Make, target: Watched) -> None:
    fill_week(scratch)
    publish(publish_inputs="by_kind")
    rows = list(csv.DictReader(io.StringIO(target.read(f"{ROOT}/inputs/2026-11-22.csv").decode())))
    assert len(rows) == 7 * 4
    assert {row["resource_id"] for row in rows} == {row["resource_type"] for row in rows} == {""}
    for content in everything(target).values():
        assert b"name-11" not in content


def test_inputs_by_resource_name_each(scratch: Warehouse, fill_week: Make, publish: Make, target: Watched) -> None:
    fill_week(scratch)
    publish(publish_inputs="by_resource")
    rows = pl.read_csv(target.read(f"{ROOT}/inputs/2026-11-22.csv"))
    assert set(rows["resource_id"].drop_nulls()) == {11, 12, 21}
    verification.verify(target)


def test_csv_and_parquet_hold_the_same_seven_days(
    scratch: Warehouse, fill_week: Make, publish: Make, target: Watched
) -> None:
    fill_week(scratch)
    publish()
    frame = pl.read_parquet(target.read(f"{ROOT}/inputs/2026-11-22.parquet"))
    assert frame.write_csv().encode() == target.read(f"{ROOT}/inputs/2026-11-22.csv")
    assert sorted(set(frame["utc_day"])) == [DAY - timedelta(days=back) for back in range(6, -1, -1)]
    assert not any(kind.is_float() for kind in frame.schema.dtypes())


def test_the_published_queries_are_the_files_and_their_digests_agree_everywhere(
    scratch: Warehouse, fill_week: Make, publish: Make, target: Watched
) -> None:
    fill_week(scratch)
    publish()
    method, provenance = read(target, METHOD), read(target, LATEST)["provenance"]
    for name in ("paid", "served"):
        content = target.read(f"{ROOT}/method/{name}.sql")
        assert content == read_sql(f"metric.{name}").encode()
        assert method[f"{name}_sql_sha256"] == provenance[f"{name}_sql_sha256"] == hashlib.sha256(content).hexdigest()
    assert method["method_version"] == provenance["method_version"] == 1
    csv_content = target.read(f"{ROOT}/inputs/2026-11-22.csv")
    assert provenance["inputs_sha256"] == hashlib.sha256(csv_content).hexdigest()


def no_floats(document: Any) -> bool:
    if isinstance(document, dict):
        return all(map(no_floats, document.values()))
    if isinstance(document, list):
        return all(map(no_floats, document))
    return not isinstance(document, float)


def test_every_json_file_has_the_form_of_its_schema_and_no_binary_number(
    scratch: Warehouse, fill_week: Make, add_late_tokens: Make, publish: Make, target: Watched
) -> None:
    fill_week(scratch, days=2)
    publish()
    add_late_tokens(scratch)
    publish()
    files = everything(target)
    schemas = {"latest": "revision", "history": "history", "manifest": "manifest", "method": "method"}
    checked = 0
    for name, content in files.items():
        if name.startswith(f"{ROOT}/schema/"):
            assert content == (shipped.path("site") / "schema" / Path(name).name).read_bytes()
            jsonschema_rs.meta.validate(json.loads(content))
        elif name.endswith((".json", ".jsonl")):
            stem = "revisions" if name == CHAIN else "revision" if "/days/" in name else schemas[Path(name).stem]
            for document in map(json.loads, content.splitlines() if name == CHAIN else [content]):
                jsonschema_rs.validate(json.loads(files[f"{ROOT}/schema/{stem}.json"]), document)
                assert no_floats(document)
                checked += 1
    assert checked == 4 + 3 + 3


def test_a_withheld_day_is_published_and_names_the_last_good_one(
    scratch: Warehouse, fill_week: Make, publish: Make, target: Watched
) -> None:
    fill_week(scratch, days=2)
    scratch.execute("update metric.figures set snapshot_coverage_ratio = 0.5 where utc_day = $day", {"day": DAY})
    done = publish()
    assert [(day.status, day.usd_per_million_tokens) for day in done] == [
        ("provisional", "10.000000000000"),
        ("withheld", None),
    ]
    latest = read(target, LATEST)
    assert latest["status_reason"].endswith("the last good day is 2026-11-21")
    assert read(target, HISTORY)["days"][-1]["usd_per_million_tokens"] is None
    assert verification.verify(target).days_recomputed == 2


def test_a_window_without_anything_is_withheld_and_verifies(scratch: Warehouse, publish: Make, target: Watched) -> None:
    transform.build_metrics(scratch, DAY)
    (done,) = publish(min_snapshot_coverage=Decimal(0))
    assert done.status == "withheld"
    assert read(target, LATEST)["paid_usd"] is None
    verification.verify(target)


def test_tokens_of_an_unknown_model_are_listed_as_unknown(
    scratch: Warehouse, fill_week: Make, publish: Make, target: Watched
) -> None:
    fill_week(scratch, model=None)
    publish()
    assert [entry["model"] for entry in read(target, LATEST)["by_model"]] == ["unknown"]


def test_a_hostile_model_name_is_data_in_json_and_nothing_in_the_pages(
    scratch: Warehouse, fill_week: Make, publish: Make, target: Watched
) -> None:
    hostile = "\u202e</script><script>alert(1)</script>,\"';\n=cmd()"
    fill_week(scratch, model=hostile)
    publish()
    assert read(target, LATEST)["by_model"][0]["model"] == hostile
    for page in ("index.html", "method/index.html"):
        assert b"<script" not in target.read(f"{ROOT}/{page}")
    verification.verify(target)


def test_the_same_rows_give_the_same_bytes_anywhere(
    scratch: Warehouse, fill_week: Make, settings_in: Callable[..., Settings], tmp_path: Path
) -> None:
    fill_week(scratch, days=2)
    one, two = Storage(str(tmp_path / "one")), Storage(str(tmp_path / "two"))
    publication.publish(scratch, one, settings_in())
    publication.publish(scratch, two, settings_in())
    assert everything(one) == everything(two)


def test_the_recipe_on_the_method_page_gives_the_published_sums(
    scratch: Warehouse, fill_week: Make, publish: Make, target: Watched
) -> None:
    fill_week(scratch)
    publish()
    assert "set variable utc_day = date '2026-11-22';" in target.read(f"{ROOT}/method/index.html").decode().replace(
        "&#39;", "'"
    )
    with open_scratch() as reader:
        reader.append("metric.inputs", pl.read_parquet(target.read(f"{ROOT}/inputs/2026-11-22.parquet")))
        reader.execute("set variable utc_day = date '2026-11-22'")
        sums = {
            name: reader.query(
                target.read(f"{ROOT}/method/{name}.sql").decode().replace("$utc_day", "getvariable('utc_day')")
            ).row(0, named=True)
            for name in ("paid", "served")
        }
    latest = read(target, LATEST)
    assert f"{sums['paid']['paid_usd']:f}" == latest["paid_usd"]
    assert sums["served"]["served_tokens"] == latest["served_tokens"]
