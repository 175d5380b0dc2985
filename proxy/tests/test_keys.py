import hashlib
import json
import os
import stat
from pathlib import Path

import pytest
from spotinference_proxy.errors import SettingsError
from spotinference_proxy.keys import KeyRing, key_in, new_key


def test_F036_a_key_is_random_and_only_its_digest_is_stored(tmp_path: Path, clock) -> None:
    path = tmp_path / "keys"
    key, other = new_key(path, "team a", clock()), new_key(path, "team b", clock())
    assert key != other
    assert len(key) >= 43
    first, _ = (json.loads(line) for line in path.read_text().splitlines())
    assert first["sha256"] == hashlib.sha256(key.encode()).hexdigest()
    assert (first["label"], first["created_at"]) == ("team a", "2026-11-22T12:00:00.000000Z")
    assert key not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert KeyRing(path).key_id(key) == first["sha256"][:12]


def test_a_key_made_while_running_works_and_a_broken_edit_takes_none_away(tmp_path: Path, clock) -> None:
    path = tmp_path / "keys"
    key = new_key(path, "a", clock())
    ring = KeyRing(path)
    assert ring.key_id("guess") is None
    assert ring.key_id(None) is None
    later = new_key(path, "b", clock())
    os.utime(path, ns=(1, 1))
    assert ring.key_id(later) is not None
    path.write_text("garbage")
    assert ring.key_id("guess") is None
    path.unlink()
    assert ring.key_id("guess") is None
    assert ring.key_id(key) is not None


@pytest.mark.parametrize("content", ["x", "{}", "[]", '{"sha256": 3}', '{"sha256": "ab"}'])
def test_a_damaged_keys_file_is_named_with_its_line(tmp_path: Path, content: str) -> None:
    path = tmp_path / "keys"
    path.write_text("\n" + content)
    with pytest.raises(SettingsError, match="keys:2"):
        KeyRing(path)
    with pytest.raises(SettingsError, match="key new"):
        KeyRing(tmp_path / "none")


def test_where_a_request_may_carry_its_key() -> None:
    assert key_in({"Authorization": "bearer  abc"}) == "abc"
    assert key_in({"Authorization": "Basic abc", "x-api-key": "k"}) == "k"
    assert key_in({"Authorization": "Bearer "}) is None
    assert key_in({}) is None
