"""The demo's own folder. The demo as a whole is run by the gate: `make demo ONCE=1`."""

from pathlib import Path

import pytest

from spotinference_pipeline import demo
from spotinference_pipeline.errors import SettingsError


def test_a_folder_that_the_demo_did_not_make_is_refused_untouched(tmp_path: Path) -> None:
    kept = tmp_path / "raw" / "day.jsonl"
    kept.parent.mkdir()
    kept.write_text("real")
    with pytest.raises(SettingsError, match=r"expected an empty folder or one that the demo made") as refused:
        demo.make_empty(tmp_path)
    assert "\n" not in str(refused.value)
    assert kept.read_text() == "real"


def test_its_own_folder_is_made_anew(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    demo.make_empty(data_dir)
    (data_dir / "warehouse.duckdb").write_text("old")
    demo.make_empty(data_dir)
    assert [file.name for file in data_dir.iterdir()] == [demo.MARK]
