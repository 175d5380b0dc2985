from pathlib import Path

import pytest
from spotinference_proxy.errors import SettingsError
from spotinference_proxy.settings import UpstreamSettings, read_keys_file, read_settings, writer_name

ONE = '[{"url": "http://10.0.0.5:8000/", "vm_id": 700123, "models": ["m"]}]'
BASE = {"SPOTINFERENCE_PROXY_UPSTREAMS": ONE}


def test_the_defaults_are_those_of_the_contract() -> None:
    found = read_settings(BASE)
    assert (found.listen, found.admin_listen) == (("127.0.0.1", 8080), ("127.0.0.1", 8081))
    assert (found.log_dir, found.keys_file, found.now) == (Path("request_log"), None, None)
    assert found.upstreams == (UpstreamSettings("http://10.0.0.5:8000", 700123, ("m",)),)


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text(
        'spotinference_proxy_listen = "[::1]:1"\nspotinference_proxy_log_dir = "/var/log/x"\n'
        "spotinference_now = 2026-11-22T00:00:00Z\n"
        '[[spotinference_proxy_upstreams]]\nurl = "http://a/vm/7"\nmodels = ["m"]\napi_key = "k"\n'
    )
    found = read_settings({"SPOTINFERENCE_CONFIG": str(config), "SPOTINFERENCE_PROXY_LISTEN": "127.0.0.2:2"})
    assert (found.listen, found.log_dir) == (("127.0.0.2", 2), Path("/var/log/x"))
    assert found.upstreams[0] == UpstreamSettings("http://a/vm/7", None, ("m",), "k")
    assert found.now is not None
    assert found.now.isoformat() == "2026-11-22T00:00:00+00:00"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("PROXY_UPSTREAMS", "", "not set"),
        ("PROXY_UPSTREAMS", "{", "expected a JSON list"),
        ("PROXY_UPSTREAMS", "[]", "empty"),
        ("PROXY_UPSTREAMS", '[{"vm_id": 1}]', "url"),
        ("PROXY_UPSTREAMS", '[{"url": "http://x", "model": "m"}]', "model"),
        ("PROXY_UPSTREAMS", '[{"url": "ftp://x"}]', "http"),
        ("PROXY_UPSTREAMS", '[{"url": "http://me:secret@x"}]', "without login"),
        ("PROXY_LISTEN", "8080", "host:port"),
        ("PROXY_LISTEN", "127.0.0.1:99999", "host:port"),
        ("PROXY_ADMIN_LISTEN", "127.0.0.1:x", "host:port"),
        ("PROXY_LISTEN", "0.0.0.0:80", "key new"),
        ("PROXY_LISTEN", "example.org:80", "key new"),
        ("NOW", "yesterday", "RFC 3339"),
        ("NOW", "2026-11-22T00:00:00", "RFC 3339"),
        ("CONFIG", "/nowhere.toml", "readable"),
    ],
)
def test_a_wrong_setting_is_named_in_one_line(name: str, value: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        read_settings(BASE | {f"SPOTINFERENCE_{name}": value})
    assert f"SPOTINFERENCE_{name}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_F038_with_keys_it_may_listen_anywhere() -> None:
    found = read_settings(BASE | {"SPOTINFERENCE_PROXY_LISTEN": "0.0.0.0:80", "SPOTINFERENCE_PROXY_KEYS_FILE": "/k"})
    assert (found.listen, found.keys_file) == (("0.0.0.0", 80), Path("/k"))
    assert read_settings(BASE | {"SPOTINFERENCE_PROXY_LISTEN": "localhost:80"}).listen == ("localhost", 80)


def test_the_keys_file_is_needed_to_make_a_key() -> None:
    with pytest.raises(SettingsError, match="KEYS_FILE"):
        read_keys_file({})


def test_any_host_name_makes_a_writer_name() -> None:
    assert writer_name("GPU_host.example.org") == "gpu-host-example-org"
    assert writer_name("...") == "proxy"
    assert len(writer_name("a" * 99)) == 40
