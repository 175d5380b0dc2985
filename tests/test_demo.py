"""The demo's own folder. The demo as a whole is run by the gate: `make demo ONCE=1`."""

from pathlib import Path

import pytest

from spotinference_pipeline import demo
from spotinference_pipeline.errors import SettingsError
from spotinference_pipeline.settings import Settings


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


def test_its_folder_may_be_a_link_to_another_disk_and_what_is_linked_in_it_stays(tmp_path: Path) -> None:
    disk, other, data_dir = tmp_path / "disk", tmp_path / "other", tmp_path / "data"
    disk.mkdir()
    data_dir.symlink_to(disk)
    demo.make_empty(data_dir)
    other.mkdir()
    (other / "kept").touch()
    (data_dir / "linked").symlink_to(other)
    (data_dir / "raw" / "hyperstack").mkdir(parents=True)
    demo.make_empty(data_dir)
    assert data_dir.is_symlink()
    assert [file.name for file in disk.iterdir()] == [demo.MARK]
    assert (other / "kept").exists()


def test_a_full_run_refuses_a_foreign_folder_before_it_starts_anything(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    settings = Settings.model_validate({"data_dir": tmp_path})
    with pytest.raises(SettingsError, match="choose another folder"):
        demo.run(settings, {}, once=True)
    assert [file.name for file in tmp_path.iterdir()] == ["mine"]


def test_settings_and_web_proxies_of_the_environment_do_not_reach_the_demos_programs() -> None:
    foreign = {"SPOTINFERENCE_HYPERSTACK_URL": "https://real", "DAGSTER_HOME": "/real", "http_proxy": "http://p"}
    foreign |= {"HTTPS_PROXY": "http://p", "no_proxy": "localhost"}
    assert demo.clean_environment(foreign | {"PATH": "/usr/bin"}) == {"PATH": "/usr/bin"}
