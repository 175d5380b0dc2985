import hashlib
import hmac
import inspect
import json
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spotinference_proxy import keys
from spotinference_proxy.errors import SettingsError
from spotinference_proxy.keys import FailureLimiter, KeyRing, digest_of, key_in, new_key, read_entries


class Stopwatch:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def stopwatch() -> Stopwatch:
    return Stopwatch()


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


def test_F036_a_key_is_looked_up_by_its_hash_and_compared_in_constant_time(tmp_path: Path, clock, monkeypatch) -> None:
    path = tmp_path / "keys"
    key = new_key(path, "a", clock())
    ring = KeyRing(path)
    compared = []
    monkeypatch.setattr(hmac, "compare_digest", lambda one, other: compared.append((one, other)) or one == other)
    assert ring.key_id(key) is not None
    assert compared == [(digest_of(key), digest_of(key))]
    assert ring.key_id("sk-spot-guess") is None
    assert len(compared) == 1, "an unknown key is never held against a known one"
    assert "digest ==" not in inspect.getsource(keys.KeyRing.key_id)


def test_an_existing_file_keeps_its_mode_and_a_cut_last_line_its_own_line(tmp_path: Path, clock) -> None:
    path = tmp_path / "keys"
    new_key(path, "a", clock())
    path.chmod(0o640)
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    new_key(path, "b", clock())
    assert [entry.label for entry in read_entries(path)] == ["a", "b"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.parametrize(
    "label", ["", "  ", "a\nb", "a\tb", "a\x00b", "\x1b[31mred", "a\u2028b", "\u202eabc", "x" * 201]
)
def test_a_label_that_would_not_stay_on_its_line_is_refused(tmp_path: Path, clock, label: str) -> None:
    with pytest.raises(SettingsError, match="--label") as caught:
        new_key(tmp_path / "keys", label, clock())
    assert str(caught.value).isprintable()
    assert not (tmp_path / "keys").exists()


@pytest.mark.parametrize(("place", "step"), [("nowhere/keys", "make the folder"), (".", "choose another file")])
def test_a_keys_file_that_cannot_be_opened_is_named_with_the_next_step(
    tmp_path: Path, clock, place: str, step: str
) -> None:
    with pytest.raises(SettingsError, match=f"keys file {tmp_path / place}: cannot be written .*{step}"):
        new_key(tmp_path / place, "a", clock())


def test_a_key_made_or_removed_while_running_counts_within_a_second(tmp_path: Path, clock, stopwatch) -> None:
    path = tmp_path / "keys"
    first = new_key(path, "a", clock())
    os.utime(path, ns=(1, 1))
    ring = KeyRing(path, monotonic=stopwatch)
    second = new_key(path, "b", clock())
    assert ring.key_id(second) is None, "the file was looked at a moment ago"
    stopwatch.now += 1
    assert ring.key_id(second) is not None
    path.write_text(path.read_text().splitlines()[1] + "\n")
    assert ring.key_id(first) is not None
    stopwatch.now += 1
    assert ring.key_id(first) is None
    assert ring.key_id(second) is not None
    assert ring.key_id(None) is None


def test_a_removal_that_leaves_time_and_size_as_they_were_is_seen(tmp_path: Path, clock, stopwatch) -> None:
    path = tmp_path / "keys"
    key, ring = new_key(path, "a", clock()), KeyRing(path, monotonic=stopwatch)
    before = path.stat()
    path.write_text(path.read_text().replace(digest_of(key), digest_of("another")))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    stopwatch.now += 1
    assert ring.key_id(key) is None


def test_an_unchanged_file_is_not_read_again(tmp_path: Path, clock, stopwatch) -> None:
    path = tmp_path / "keys"
    key = new_key(path, "a", clock())
    os.utime(path, ns=(1, 1))
    ring = KeyRing(path, monotonic=stopwatch)
    ring._digests = {}  # what a second reading would repair
    stopwatch.now += 5
    assert ring.key_id(key) is None
    ring.refresh()
    assert ring.key_id(key) is not None


def test_a_broken_edit_takes_no_key_away_and_is_told_once(tmp_path: Path, clock, stopwatch) -> None:
    path = tmp_path / "keys"
    key = new_key(path, "a", clock())
    told: list[str] = []
    ring = KeyRing(path, monotonic=stopwatch, tell=told.append)
    path.write_text("garbage")
    for _ in range(3):
        stopwatch.now += 1
        assert ring.key_id(key) is not None
    path.unlink()
    for _ in range(3):
        stopwatch.now += 1
        assert ring.key_id(key) is not None
    assert ["keys:1" in told[0], len(told)] == [True, 2]
    with pytest.raises(SettingsError, match="cannot be read"):
        ring.refresh()
    path.write_text("")
    stopwatch.now += 1
    assert ring.key_id(key) is None, "a file that can be read and is empty has no keys"


@pytest.mark.parametrize(
    "content",
    ["x", "{}", "[]", '{"sha256": 3}', '{"sha256": "ab"}', f'{{"sha256": "{"A" * 64}"}}', '"text"', "[" * 9999],
)
def test_a_damaged_keys_file_is_named_with_its_line(tmp_path: Path, content: str) -> None:
    path = tmp_path / "keys"
    path.write_text("\n" + content)
    with pytest.raises(SettingsError, match="keys:2") as caught:
        KeyRing(path)
    assert content not in str(caught.value) or len(content) < 3
    with pytest.raises(SettingsError, match="key new"):
        KeyRing(tmp_path / "none")
    path.write_bytes(b"\xff")
    with pytest.raises(SettingsError, match="not UTF-8"):
        KeyRing(path)


def test_where_a_request_may_carry_its_key() -> None:
    assert key_in({"authorization": "bearer  abc"}) == "abc"
    assert key_in({"authorization": "Basic abc", "x-api-key": "k"}) == "k"
    assert key_in({"authorization": "Bearer "}) is None
    assert key_in({}) is None


def test_F036_too_many_wrong_keys_block_an_address_until_its_minute_is_over(stopwatch) -> None:
    limiter = FailureLimiter(stopwatch)
    for _ in range(19):
        limiter.note("192.0.2.1")
    assert not limiter.is_blocked("192.0.2.1"), "control: one fewer than the limit"
    stopwatch.now += 30
    limiter.note("192.0.2.1")
    assert limiter.is_blocked("192.0.2.1")
    assert not limiter.is_blocked("192.0.2.2")
    stopwatch.now += 29.9
    limiter.note("192.0.2.1")
    assert limiter.is_blocked("192.0.2.1")
    stopwatch.now += 0.1
    assert not limiter.is_blocked("192.0.2.1")
    limiter.note("192.0.2.1")
    assert not limiter.is_blocked("192.0.2.1"), "a new minute begins with one failure"


def test_F036_one_network_of_IPv6_is_one_address(stopwatch) -> None:
    limiter = FailureLimiter(stopwatch, limit=2)
    limiter.note("2001:db8::1")
    limiter.note("2001:db8::ffff:2")
    assert limiter.is_blocked("2001:db8::3")
    assert not limiter.is_blocked("2001:db8:0:1::3")
    limiter.note("::ffff:192.0.2.1")
    limiter.note("192.0.2.1")
    assert limiter.is_blocked("::ffff:192.0.2.1")
    limiter.note("fe80::1%eth0")
    limiter.note("a:b")
    assert not limiter.is_blocked("")


@given(st.lists(st.tuples(st.integers(0, 30), st.floats(0, 40)), max_size=200))
def test_F036_memory_is_bounded_and_no_address_is_blocked_for_more_than_its_minute(steps) -> None:
    stopwatch = Stopwatch()
    limiter = FailureLimiter(stopwatch, limit=3, max_addresses=8)
    for host, pause in steps:
        stopwatch.now += pause
        limiter.note(f"192.0.2.{host}")
        assert len(limiter) <= 8
    stopwatch.now += 60
    assert not any(limiter.is_blocked(f"192.0.2.{host}") for host in range(31))
    limiter.note("198.51.100.1")
    assert len(limiter) == 1, "what is over is forgotten"
