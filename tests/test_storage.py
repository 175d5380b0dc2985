"""Folders and object stores by one interface."""

from pathlib import Path

import pytest

from spotinference_pipeline.errors import RawFileError, SettingsError
from spotinference_pipeline.storage import Storage


def test_a_folder_is_made_and_objects_are_written_read_and_listed(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path / "deep" / "folder"))
    storage.write("b", b"2")
    storage.write("a/c", b"1")
    storage.write("b", b"3")
    assert storage.names() == ["a/c", "b"]
    assert storage.names("a") == ["a/c"]
    assert storage.read("b") == b"3"
    assert (tmp_path / "deep" / "folder" / "a" / "c").read_bytes() == b"1"


def test_a_url_of_a_folder_is_the_same_as_its_path(tmp_path: Path) -> None:
    Storage(str(tmp_path)).write("a", b"1")
    assert Storage(tmp_path.as_uri()).read("a") == b"1"


def test_an_object_that_is_not_there_is_named(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    assert storage.find("nowhere") is None
    with pytest.raises(RawFileError, match=f"{tmp_path}/nowhere: expected an object, found none"):
        storage.read("nowhere")


def test_an_object_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(RawFileError, match=f"{tmp_path}/folder: expected "):
        Storage(str(tmp_path)).read("folder")


def test_an_object_that_is_there_is_found(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    storage.write("a", b"")
    assert storage.find("a") == b""


def test_an_immutable_object_is_created_once_and_again_only_with_the_same_bytes(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    storage.create("r1.json", b"1")
    storage.create("r1.json", b"1")
    with pytest.raises(RawFileError, match=r"r1\.json: expected no object or the same bytes, found others"):
        storage.create("r1.json", b"2")
    assert storage.read("r1.json") == b"1"


def test_a_folder_that_must_exist_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="expected a folder or a URL, found neither"):
        Storage(str(tmp_path / "nowhere"), must_exist=True)
    assert not (tmp_path / "nowhere").exists()
    assert Storage(str(tmp_path), must_exist=True).names() == []


@pytest.mark.parametrize("location", ["gopher://host/x", "s3://"])
def test_a_location_that_no_store_knows_is_refused(location: str) -> None:
    with pytest.raises(SettingsError, match=f"location {location}: expected a folder or an object-store URL"):
        Storage(location)


@pytest.mark.parametrize("name", ["../secret", "a/../../secret", "a//b"])
def test_a_name_cannot_leave_the_location(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_text("elsewhere")
    with pytest.raises(RawFileError, match="expected a readable object"):
        Storage(str(tmp_path / "folder")).read(name)
