"""What may not change by accident: the SQL of the method, and the format of what is published.

The golden files under `tests/golden/publication/` are what version 1 of the format looks like. Names and meanings stay
for good: a member may be added, never moved, renamed or given another meaning.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spotinference_pipeline import publication, revision
from spotinference_pipeline.settings import Settings
from spotinference_pipeline.storage import Storage
from spotinference_pipeline.warehouse import Warehouse, read_sql

GOLDEN = Path(__file__).parent / "golden" / "publication"
METHOD_VERSION = 1
METHOD_SQL = {
    "metric.bounds": "dc59d0f76d2209faee60431daa96011254d5f9e4f58eab35cfd44aca115e75ff",
    "metric.cost_parts": "0b6797985e2296cbcc73dd595df08c5bb9bd4d300337335af764a6a70f0a3c1c",
    "metric.cost_per_mtok": "9d1359a3e3447628a2a90b2bdaf048f792c049b5c12a152e443caa5534b17492",
    "metric.coverage": "337e437b50dbd40d70ff48f3ae80efbbad1ece8e2811b3efd7a481b27a17eb07",
    "metric.figures": "be8d876b1468562f9055a2248cbdb046b6231028579171e66b4e1faa742c7ac3",
    "metric.inputs": "936eefe7ec528db1449050af3398ff4faacc46512adcc4c261e813bf548a540f",
    "metric.model_costs": "2342f108c4a698107926e40ed11150dee8d33e9d62438d4f06e5b7f3fc1cd998",
    "metric.paid": "b35e322a05f45413e1a557b82c68558fba3c7db7398515d69622dce8e9fb045c",
    "metric.request_percentiles": "7606a15a4e59dc9238e1c6625cc2ea0aaa82a36d9213e35b771539ca2acf2d32",
    "metric.served": "bab7da2f34c2360125a70626cb9fdc86fb31dc11ca2a953989678b7bd8bc3f91",
    "metric.vm_costs": "576c6ee83af17070c44341ee4946ab333c9f339cbaef5e5f3dbfd822f852e543",
    "rollup.engine_days": "af458c50407bb14683371ce13e3e726cb43246ba05d7d6eaeecc6400221be7e0",
    "rollup.log_days": "61ebc6713a98f4255e08fe913f8485b837e88b9df4cf272772efc7380a702a42",
    "rollup.snapshot_days": "a0133ee50a3f322e784200c978ad0e68b74a6e65c2da2f750364cb139ffc2581",
    "rollup.token_days": "124af33cdb51d1596ba96661bbc83696f567d644b01c5535e00a73f534b9387e",
    "rollup.token_residuals": "18d2723e0353ac2a4e78652e478a4a27547dccd91efea7bcd89066939a775f4c",
    "rollup.vm_token_days": "6cb2163bff81d753adec6cdea78461bb443c78bf84b1cad9cfd65726c6aba108",
}


@pytest.mark.parametrize("table", METHOD_SQL)
def test_the_sql_of_the_method_is_that_of_its_version(table: str) -> None:
    found = hashlib.sha256(read_sql(table).encode()).hexdigest()
    assert (revision.METHOD_VERSION, found) == (METHOD_VERSION, METHOD_SQL[table]), (
        f"sql/{table.replace('.', '/')}.sql is not the one of method version {METHOD_VERSION}. If a number can come "
        "out otherwise: raise METHOD_VERSION in spotinference_pipeline/revision.py and here, pin the new digests, and "
        "say in CHANGELOG.md and docs/method.md what it was, what it is and which days move. If only its look changed "
        "(comment, layout): pin the new digest. Where paid.sql or served.sql moved, either way, every published day "
        "gets a revision with the reason method_change."
    )


@pytest.fixture
def published(
    scratch: Warehouse,
    fill_week: Callable[..., None],
    add_late_tokens: Callable[..., None],
    settings_in: Callable[..., Settings],
    tmp_path: Path,
) -> Storage:
    target = Storage(str(tmp_path / "public"))
    fill_week(scratch, days=2)
    publication.publish(scratch, target, settings_in())
    add_late_tokens(scratch)
    publication.publish(scratch, target, settings_in(now="2026-11-24T02:10:00Z"))
    return target


def shape(document: Any) -> Any:
    """Give names in their order and kinds of values, without the values."""
    if isinstance(document, dict):
        return [[name, shape(member)] for name, member in document.items()]
    if isinstance(document, list):
        return [shape(document[0])] if document else []
    return type(document).__name__


def without_versions(document: dict[str, Any]) -> dict[str, Any]:
    """Leave out what moves with the code and its words, not with the data."""
    kept = {name: member for name, member in document.items() if name not in ("provenance", "caveats")}
    digests = {"inputs_sha256": document["provenance"]["inputs_sha256"]} if "provenance" in document else {}
    return kept | digests


@pytest.mark.parametrize("name", ["latest.json", "history.json", "days/2026-11-22/r1.json"])
def test_a_published_document_is_the_golden_one(published: Storage, name: str) -> None:
    found = json.loads(published.read(f"economics/{name}"))
    golden = json.loads((GOLDEN / name.replace("/", ".")).read_text())
    assert shape(found) == shape(golden), f"{name}: members were added, moved, renamed or given another kind"
    assert without_versions(found) == without_versions(golden), f"{name}: the same data gave other figures"


def test_published_inputs_are_the_golden_ones_byte_for_byte(published: Storage) -> None:
    found = published.read("economics/inputs/2026-11-22.csv")
    assert found == (GOLDEN / "inputs.2026-11-22.csv").read_bytes()


def test_the_members_of_a_day_are_in_the_order_of_the_contract(published: Storage) -> None:
    assert list(json.loads(published.read("economics/latest.json"))) == [
        "schema_version",
        "day",
        "window",
        "revision",
        "reason",
        "status",
        "status_reason",
        "published_at",
        "usd_per_million_tokens",
        "display",
        "bounds",
        "paid_usd",
        "served_tokens",
        "requests",
        "tokens",
        "usd_per_million_by_part",
        "by_model",
        "figures",
        "coverage",
        "reconciliation",
        "compared_with",
        "what_if",
        "caveats",
        "previous",
        "provenance",
    ]


def test_the_members_of_the_other_documents_are_in_their_order(published: Storage) -> None:
    line, *_ = published.read("economics/revisions.jsonl").splitlines()
    assert list(json.loads(line)) == ["seq", "day", "revision", "reason", "file", "sha256", "prev", "published_at"]
    assert list(json.loads(published.read("economics/manifest.json"))) == ["schema_version", "files"]
    assert list(json.loads(published.read("economics/method/method.json"))) == [
        "schema_version",
        "method_version",
        "paid_sql_sha256",
        "served_sql_sha256",
    ]
