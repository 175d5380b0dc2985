"""Settings from the environment and a TOML file."""

import os
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from pydantic import ValidationError

from spotinference_pipeline import settings
from spotinference_pipeline.errors import SettingsError

SECRET = "canary-5ecret-key"


def test_without_any_setting_the_defaults_of_the_documentation_hold() -> None:
    found = settings.read({})
    assert found.data_dir == Path.cwd() / "data"
    assert found.hyperstack_url == "https://infrahub-api.nexgencloud.com/v1"
    assert found.raw_dir == found.data_dir / "raw" / "hyperstack"
    assert found.warehouse_path == found.data_dir / "warehouse.duckdb"
    assert found.request_log == str(found.data_dir / "request_log")
    assert found.published == str(found.data_dir / "published")
    assert found.publish_inputs == "by_kind"
    assert found.models == {}
    assert found.min_snapshot_coverage == Decimal("0.95")


def test_names_of_the_environment_are_read_and_others_left_alone(tmp_path: Path) -> None:
    found = settings.read(
        {
            "SPOTINFERENCE_DATA_DIR": str(tmp_path),
            "SPOTINFERENCE_REQUEST_LOG_URL": "s3://bucket/log",
            "SPOTINFERENCE_PUBLISH_URL": "s3://bucket/site",
            "SPOTINFERENCE_MODELS": '{"otter": [1, 2]}',
            "SPOTINFERENCE_PUBLISH_INPUTS": "by_resource",
            "SPOTINFERENCE_PROXY_LISTEN": "127.0.0.1:1",
            "SPOTINFERENCE_HYPERSTACK_URL": "",
            "DATA_DIR": "/elsewhere",
        }
    )
    assert found.data_dir == tmp_path
    assert found.request_log == "s3://bucket/log"
    assert found.published == "s3://bucket/site"
    assert found.models == {"otter": [1, 2]}
    assert found.publish_inputs == "by_resource"
    assert found.hyperstack_url.startswith("https://"), "an empty name is as if it were not set"


def test_a_relative_data_folder_becomes_absolute() -> None:
    assert settings.read({"SPOTINFERENCE_DATA_DIR": "here/../there"}).data_dir == Path.cwd() / "there"


def test_a_day_has_one_spelling() -> None:
    assert settings.read({"SPOTINFERENCE_FIRST_DAY": "2026-11-22"}).first_day == date(2026, 11, 22)
    for text in ("20261122", "2026-W47-7", "1795305600", "tomorrow"):
        with pytest.raises(SettingsError, match=f"SPOTINFERENCE_FIRST_DAY: .*expected YYYY-MM-DD, found '{text}'"):
            settings.read({"SPOTINFERENCE_FIRST_DAY": text})


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        settings.read({}).publish_inputs = "by_resource"  # type: ignore[misc]


def test_the_clock_is_the_fixed_instant_in_utc_if_one_is_set() -> None:
    found = settings.read({"SPOTINFERENCE_NOW": "2026-11-23T02:00:00+02:00"})
    assert found.clock() == datetime(2026, 11, 23, tzinfo=UTC)
    assert found.clock().tzinfo is UTC


def test_the_clock_is_the_machine_s_otherwise() -> None:
    before = datetime.now(UTC)
    assert before <= settings.read({}).clock() <= datetime.now(UTC)


@pytest.mark.parametrize("text", ["2026-11-23T00:00:00", "2026-11-23", "soon"])
def test_a_fixed_instant_needs_a_zone(text: str) -> None:
    with pytest.raises(SettingsError, match="SPOTINFERENCE_NOW"):
        settings.read({"SPOTINFERENCE_NOW": text})


def test_a_toml_file_holds_the_same_names_and_the_environment_wins(tmp_path: Path) -> None:
    config = tmp_path / "spotinference.toml"
    config.write_text(
        'spotinference_publish_inputs = "by_resource"\nspotinference_hyperstack_url = "https://file.test/v1"\n'
        "spotinference_now = 2026-11-23T02:00:00+02:00\n[spotinference_models]\notter = [7]\n"
    )
    found = settings.read(
        {"SPOTINFERENCE_CONFIG": str(config), "SPOTINFERENCE_HYPERSTACK_URL": "https://environment.test/v1"}
    )
    assert found.publish_inputs == "by_resource"
    assert found.hyperstack_url == "https://environment.test/v1"
    assert found.models == {"otter": [7]}
    assert found.now == datetime(2026, 11, 23, tzinfo=UTC)
    assert found.now.tzinfo is UTC


@pytest.mark.parametrize("line", ["spotinference_now = 2026-11-23T00:00:00", "spotinference_now = 2026-11-23"])
def test_an_instant_in_a_toml_file_needs_a_zone_too(tmp_path: Path, line: str) -> None:
    config = tmp_path / "spotinference.toml"
    config.write_text(line)
    with pytest.raises(SettingsError, match=r"SPOTINFERENCE_NOW: .*an instant with a zone"):
        settings.read({"SPOTINFERENCE_CONFIG": str(config)})


def test_a_name_in_a_toml_file_without_the_prefix_is_refused_not_ignored(tmp_path: Path) -> None:
    config = tmp_path / "spotinference.toml"
    config.write_text('data_dir = "/somewhere"')
    with pytest.raises(SettingsError, match=r"expected names such as spotinference_data_dir, found 'data_dir'"):
        settings.read({"SPOTINFERENCE_CONFIG": str(config)})


def test_a_config_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"nowhere\.toml: expected a TOML file, found No such file"):
        settings.read({"SPOTINFERENCE_CONFIG": str(tmp_path / "nowhere.toml")})


def test_a_config_that_is_no_toml_is_named(tmp_path: Path) -> None:
    config = tmp_path / "bad.toml"
    config.write_text("= 1")
    with pytest.raises(SettingsError, match=r"bad\.toml: expected TOML"):
        settings.read({"SPOTINFERENCE_CONFIG": str(config)})


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("SPOTINFERENCE_PUBLISH_INPUTS", "all"),
        ("SPOTINFERENCE_MODELS", "{"),
        ("SPOTINFERENCE_MODELS", '{"otter": ["one"]}'),
        ("SPOTINFERENCE_MIN_SNAPSHOT_COVERAGE", "most"),
    ],
)
def test_a_wrong_setting_is_named_with_what_was_found(name: str, text: str) -> None:
    with pytest.raises(SettingsError, match=f"{name}: .*found .*see .env.example") as caught:
        settings.read({name: text})
    assert "\n" not in str(caught.value)


def test_the_key_is_read_from_its_own_name() -> None:
    assert settings.read({"SPOTINFERENCE_HYPERSTACK_API_KEY": SECRET}).api_key() == SECRET


def test_the_key_is_read_from_a_file_without_the_newline(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(f"{SECRET}\n")
    assert settings.read({"SPOTINFERENCE_HYPERSTACK_API_KEY_FILE": str(file)}).api_key() == SECRET


def test_a_missing_key_says_which_two_names_can_be_set() -> None:
    with pytest.raises(SettingsError, match=r"expected a key, found none; set it, or set .*_FILE"):
        settings.read({}).api_key()


def test_a_key_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    found = settings.read({"SPOTINFERENCE_HYPERSTACK_API_KEY_FILE": str(tmp_path / "nokey")})
    with pytest.raises(SettingsError, match="nokey: expected a readable file, found No such file"):
        found.api_key()


def test_F057_the_key_and_the_database_password_are_never_shown() -> None:
    found = settings.read(
        {
            "SPOTINFERENCE_HYPERSTACK_API_KEY": SECRET,
            "SPOTINFERENCE_DAGSTER_POSTGRES_URL": f"postgresql://u:{SECRET}@h",
        }
    )
    assert SECRET not in f"{found} {found!r} {found.model_dump_json()}"


@pytest.mark.parametrize("name", ["hyperstack_api_key", "dagster_postgres_url"])
def test_F057_a_secret_of_a_wrong_type_is_not_quoted(tmp_path: Path, name: str) -> None:
    config = tmp_path / "spotinference.toml"
    config.write_text(f"spotinference_{name} = 5318008")
    with pytest.raises(SettingsError, match=f"SPOTINFERENCE_{name.upper()}") as caught:
        settings.read({"SPOTINFERENCE_CONFIG": str(config)})
    assert "5318008" not in str(caught.value)


def test_an_instant_that_is_told_to_be_unknown_is_the_machine_s() -> None:
    assert settings.Settings.model_validate({"now": None}).now is None


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("MIN_SNAPSHOT_COVERAGE", "7"),
        ("MIN_SNAPSHOT_COVERAGE", "-1"),
        ("HYPERSTACK_URL", "notaurl"),
        ("HYPERSTACK_URL", "http://[bad"),
        ("NOW", "0001-01-01T00:00:00Z"),
        ("NOW", "0001-01-01T00:00:00+05:00"),
        ("NOW", "9999-12-31T23:59:59-05:00"),
        ("NOW", "2014-12-31T23:59:59Z"),
        ("FIRST_DAY", "0001-01-01"),
        ("FIRST_DAY", "9999-12-31"),
        ("MODELS", '{"a": [99999999999999999999]}'),
        ("MODELS", '{"a": [9223372036854775808]}'),
        ("MODELS", '{"a": [true]}'),
        ("MODELS", '{"a": [1.0]}'),
        ("MODELS", '{"a": ["1"]}'),
        ("MODELS", '{"a": [0]}'),
        ("MODELS", '{"a": [-1]}'),
        ("MODELS", '{"": [1]}'),
        ("MODELS", '{" ": [1]}'),
        ("MODELS", "[1]"),
        ("MODELS", "[" * 5000),
    ],
)
def test_a_setting_out_of_its_range_is_named(name: str, text: str) -> None:
    with pytest.raises(SettingsError, match=f"SPOTINFERENCE_{name}: .*, found .*; see .env.example") as refused:
        settings.read({f"SPOTINFERENCE_{name}": text})
    assert "\n" not in str(refused.value)


def test_ids_of_machines_and_days_reach_to_their_limits() -> None:
    models = f'{{"a": [1, {2**63 - 1}]}}'
    found = settings.read({"SPOTINFERENCE_MODELS": models, "SPOTINFERENCE_NOW": "2199-12-31T23:59:59Z"})
    assert found.models == {"a": [1, 2**63 - 1]}
    assert settings.read({"SPOTINFERENCE_NOW": "2015-01-01T00:00:00Z"}).clock().year == 2015


def test_machines_in_a_toml_file_are_told_what_is_wrong_with_them(tmp_path: Path) -> None:
    config = tmp_path / "spotinference.toml"
    config.write_text("[spotinference_models]\notter = [-7]\n")
    with pytest.raises(SettingsError, match=r"SPOTINFERENCE_MODELS: .*greater than or equal to 1, found '-7'"):
        settings.read({"SPOTINFERENCE_CONFIG": str(config)})


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"two\nlines"])
def test_a_key_that_no_header_can_carry_is_refused_unquoted(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "key"
    file.write_bytes(content)
    found = settings.read({"SPOTINFERENCE_HYPERSTACK_API_KEY_FILE": str(file)})
    with pytest.raises(SettingsError, match="expected one line of printable ASCII") as refused:
        found.api_key()
    assert "lines" not in str(refused.value)


def test_a_key_file_tells_when_it_was_last_written_and_a_key_of_the_environment_does_not(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(SECRET)
    os.utime(file, (1_800_000_000, 1_800_000_000))
    from_file = settings.read({"SPOTINFERENCE_HYPERSTACK_API_KEY_FILE": str(file)})
    assert from_file.key_changed_at() == datetime(2027, 1, 15, 8, tzinfo=UTC)
    file.unlink()
    assert from_file.key_changed_at() is None
    assert settings.read({"SPOTINFERENCE_HYPERSTACK_API_KEY": SECRET}).key_changed_at() is None
