import dataclasses
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spotinference_proxy.errors import SettingsError
from spotinference_proxy.settings import (
    Settings,
    UpstreamSettings,
    hand_down,
    read_keys_file,
    read_settings,
    reloaded,
    setting_name,
    take_over,
    writer_name,
)

ONE = '[{"url": "http://10.0.0.5:8000/", "vm_id": 700123, "models": ["m"]}]'
BASE = {"SPOTINFERENCE_PROXY_UPSTREAMS": ONE}
MIB = 1024 * 1024
MANY = {"SPOTINFERENCE_PROXY_WORKERS": "3"}


def test_the_defaults_are_those_of_the_contract() -> None:
    found = read_settings(BASE)
    assert (found.listen, found.admin_listen) == (("127.0.0.1", 8080), ("127.0.0.1", 8081))
    assert (found.log_dir, found.keys_file, found.now) == (Path("request_log"), None, None)
    assert found.upstreams == (UpstreamSettings("http://10.0.0.5:8000", 700123, ("m",)),)
    assert (found.max_body_bytes, found.max_in_flight, found.max_in_flight_per_key) == (8 * MIB, 2048, 512)
    assert (found.stop_seconds, found.workers, found.worker, found.access_log) == (60.0, 1, None, False)
    assert (found.ship_url, found.min_free_bytes) == (None, None)
    assert found == Settings(found.upstreams, writer=found.writer)


def test_every_setting_is_read_from_the_environment_and_from_the_file(tmp_path: Path) -> None:
    texts = {
        "LISTEN": "127.0.0.2:2",
        "ADMIN_LISTEN": "[::1]:30",
        "LOG_DIR": "/var/log/x",
        "KEYS_FILE": "/k",
        "MAX_BODY_BYTES": "1000",
        "MAX_IN_FLIGHT": "7",
        "MAX_IN_FLIGHT_PER_KEY": "5",
        "STOP_SECONDS": "1.5",
        "WORKERS": "2",
        "ACCESS_LOG": "true",
        "MIN_FREE_BYTES": "0",
    }
    names = {f"SPOTINFERENCE_PROXY_{name}": text for name, text in texts.items()}
    names |= {"SPOTINFERENCE_NOW": "2026-11-22T00:00:00Z", "SPOTINFERENCE_REQUEST_LOG_URL": "s3://b/p"}
    found = read_settings(BASE | names)
    assert (found.listen, found.admin_listen) == (("127.0.0.2", 2), ("::1", 30))
    assert (found.log_dir, found.keys_file) == (Path("/var/log/x"), Path("/k"))
    assert (found.max_body_bytes, found.max_in_flight, found.max_in_flight_per_key) == (1000, 7, 5)
    assert (found.stop_seconds, found.workers, found.access_log, found.min_free_bytes) == (1.5, 2, True, 0)
    assert found.ship_url == "s3://b/p"
    config = tmp_path / "c.toml"
    config.write_text("".join(f"{name.lower()} = {text!r}\n" for name, text in (BASE | names).items()))
    assert read_settings({"SPOTINFERENCE_CONFIG": str(config)}) == found
    fields = {field.name for field in dataclasses.fields(Settings)} - {"writer", "worker"}
    assert {setting_name(field) for field in fields} == {*BASE, *names}, "a setting without a test"


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text(
        'spotinference_proxy_listen = "[::1]:1"\nspotinference_proxy_log_dir = "/var/log/x"\n'
        "spotinference_now = 2026-11-22T00:00:00Z\n"
        "spotinference_proxy_workers = 2\nspotinference_proxy_access_log = true\nspotinference_proxy_stop_seconds = 0.5\n"
        "spotinference_min_snapshot_coverage = 0.5\n"
        '[[spotinference_proxy_upstreams]]\nurl = "http://a/vm/7"\nmodels = ["m"]\napi_key = "k"\n'
    )
    found = read_settings({"SPOTINFERENCE_CONFIG": str(config), "SPOTINFERENCE_PROXY_LISTEN": "127.0.0.2:2"})
    assert (found.listen, found.log_dir) == (("127.0.0.2", 2), Path("/var/log/x"))
    assert found.upstreams[0] == UpstreamSettings("http://a/vm/7", None, ("m",), "k")
    assert (found.workers, found.access_log, found.stop_seconds) == (2, True, 0.5)
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
        ("PROXY_UPSTREAMS", '[{"url": "http://x:99999"}]', "http"),
        ("PROXY_UPSTREAMS", '[{"url": "http://[::1"}]', "http"),
        ("PROXY_UPSTREAMS", '[{"url": "http://gpu..internal:8000"}]', "host name"),
        ("PROXY_UPSTREAMS", '[{"url": "http://.gpu:8000"}]', "host name"),
        ("PROXY_UPSTREAMS", f'[{{"url": "http://{"g" * 64}.internal"}}]', "host name"),
        ("PROXY_UPSTREAMS", f'[{{"url": "http://{"gpu." * 70}internal"}}]', "host name"),
        ("PROXY_UPSTREAMS", '[{"url": "http://gpü.internal"}]', "host name"),
        ("PROXY_UPSTREAMS", '[{"url": "http://gp%75.internal"}]', "host name"),
        ("PROXY_UPSTREAMS", '[{"url": "http://[gpu]:8000"}]', "host name"),
        ("PROXY_LISTEN", "gpu..internal:80", "host name"),
        ("PROXY_WORKER", "x", "whole number"),
        ("PROXY_UPSTREAMS", '[{"url": "http://x/a\\r\\nb"}]', "http"),
        ("PROXY_UPSTREAMS", '[{"url": "http://x", "api_key": "a\\r\\nb: c"}]', "printable"),
        ("PROXY_UPSTREAMS", '[{"url": "http://x"}, {"url": "http://x/"}]', "twice"),
        ("PROXY_LISTEN", "8080", "host:port"),
        ("PROXY_LISTEN", "127.0.0.1:99999", "host:port"),
        ("PROXY_ADMIN_LISTEN", "127.0.0.1:x", "host:port"),
        ("PROXY_ADMIN_LISTEN", "127.0.0.1:8080", "free ports"),
        ("PROXY_LISTEN", "0.0.0.0:80", "key new"),
        ("PROXY_LISTEN", "example.org:80", "key new"),
        ("PROXY_MAX_BODY_BYTES", "0", "whole number"),
        ("PROXY_MAX_BODY_BYTES", "8MB", "whole number"),
        ("PROXY_MAX_IN_FLIGHT", "-1", "whole number"),
        ("PROXY_MAX_IN_FLIGHT_PER_KEY", "1.5", "whole number"),
        ("PROXY_MIN_FREE_BYTES", "9" * 30, "whole number"),
        ("PROXY_WORKERS", "65", "from 1 to 64"),
        ("PROXY_STOP_SECONDS", "nan", "seconds"),
        ("PROXY_STOP_SECONDS", "-1", "seconds"),
        ("PROXY_STOP_SECONDS", "soon", "seconds"),
        ("PROXY_ACCESS_LOG", "maybe", "true or false"),
        ("PROXY_WORKER", "1", "from 0 to 0"),
        ("REQUEST_LOG_URL", "ftp://x/y", "s3://bucket"),
        ("REQUEST_LOG_URL", "https://account:word@x/y", "login"),
        ("REQUEST_LOG_URL", "az://x/y?sig=abc", "query"),
        ("REQUEST_LOG_URL", "request_log/shipped", "inside"),
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


@pytest.mark.parametrize("line", ["workers = true", "workers = 1.5", "stop_seconds = false", "access_log = 2"])
def test_a_wrong_type_in_the_file_is_an_error(tmp_path: Path, line: str) -> None:
    config = tmp_path / "c.toml"
    config.write_text(f"spotinference_proxy_{line}\n")
    with pytest.raises(SettingsError, match=f"SPOTINFERENCE_PROXY_{line.partition(' ')[0].upper()}: expected"):
        read_settings(BASE | {"SPOTINFERENCE_CONFIG": str(config)})


def test_a_misspelt_name_is_an_error_and_the_pipelines_names_are_not(tmp_path: Path) -> None:
    for environ in ({"SPOTINFERENCE_PROXY_LOGDIR": "x"}, {"SPOTINFERENCE_PROXY_WRITER": "x"}):
        with pytest.raises(SettingsError, match=f"{next(iter(environ))}: no such setting"):
            read_settings(BASE | environ)
        with pytest.raises(SettingsError, match="no such setting"):
            read_keys_file({"SPOTINFERENCE_PROXY_KEYS_FILE": "k"} | environ)
    config = tmp_path / "c.toml"
    config.write_text("spotinference_proxy_log_folder = 'x'\n")
    with pytest.raises(SettingsError, match="SPOTINFERENCE_PROXY_LOG_FOLDER"):
        read_settings(BASE | {"SPOTINFERENCE_CONFIG": str(config)})
    others = {"SPOTINFERENCE_DATA_DIR": "x", "SPOTINFERENCE_PROXYLIKE": "x", "SPOTINFERENCE_PROXY_LOGDIR": ""}
    assert read_settings(BASE | others) == read_settings(BASE)


@pytest.mark.parametrize(
    "host", ["gpu", "gpu-1.internal", "gpu_1", "10.0.0.5", "[::1]", "[fe80::1%25eth0]", "gpu.internal.", "g" * 63]
)
def test_control_a_host_that_a_resolver_takes_is_taken(host: str) -> None:
    found = read_settings({"SPOTINFERENCE_PROXY_UPSTREAMS": f'[{{"url": "http://{host}:8000/vm/7"}}]'})
    assert found.upstreams[0].url == f"http://{host}:8000/vm/7"
    host.encode("idna")


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("proxy_listen = '127.0.0.1:1'", "spotinference_proxy_listen"),
        ("SPOTINFERENCE_PROXY_STOP_SECONDS = 1", "spotinference_proxy_stop_seconds"),
        ("spotinference_Proxy_Workers = 2", "spotinference_proxy_workers"),
        ("spotinference-proxy-workers = 2", "spotinference_proxy_workers"),
        ("keys_file = 'k'", "spotinference_proxy_keys_file"),
        ("request_log_url = 's3://b'", "spotinference_request_log_url"),
        ("spotinference_proxyworkers = 2", "names such as"),
        ("[spotinference_proxy]\nworkers = 2", "outside of tables"),
        ("[spotinference]\nproxy_workers = 2", "outside of tables"),
        ('"spotinference_proxy_a\\nb" = 2', "names such as"),
        ("spotinference_proxy_worker = 0", "no such setting"),
    ],
)
def test_a_name_of_the_file_that_would_be_passed_over_is_an_error(tmp_path: Path, line: str, meant: str) -> None:
    config = tmp_path / "c.toml"
    config.write_text(f"{line}\n")
    for read in (read_settings, read_keys_file):
        with pytest.raises(SettingsError, match=meant) as caught:
            read(BASE | {"SPOTINFERENCE_PROXY_KEYS_FILE": "k", "SPOTINFERENCE_CONFIG": str(config)})
        assert len(str(caught.value).splitlines()) == 1


def test_control_the_pipelines_names_in_the_file_are_not_ours_to_judge(tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text("spotinference_data_dir = 'x'\nspotinference_unheard_of = 1\n[spotinference_models]\nM = [7]\n")
    assert read_settings(BASE | {"SPOTINFERENCE_CONFIG": str(config)}) == read_settings(BASE)


@given(
    st.text(st.characters(min_codepoint=1, max_codepoint=0x2FF), min_size=1),
    st.sampled_from(["STOP_SECONDS", "WORKERS", "UPSTREAMS"]),
)
def test_no_text_makes_more_than_one_line(text: str, name: str) -> None:
    message = "no error"
    try:
        read_settings(BASE | {f"SPOTINFERENCE_PROXY_{name}": text})
    except SettingsError as error:
        message = str(error)
    assert len(message.splitlines()) == 1


def test_F038_with_keys_it_may_listen_anywhere() -> None:
    found = read_settings(BASE | {"SPOTINFERENCE_PROXY_LISTEN": "0.0.0.0:80", "SPOTINFERENCE_PROXY_KEYS_FILE": "/k"})
    assert (found.listen, found.keys_file) == (("0.0.0.0", 80), Path("/k"))
    assert read_settings(BASE | {"SPOTINFERENCE_PROXY_LISTEN": "localhost:80"}).listen == ("localhost", 80)


def test_F038_the_admin_pages_have_a_port_of_their_own() -> None:
    keys = {"SPOTINFERENCE_PROXY_KEYS_FILE": "/k"}
    same = {"SPOTINFERENCE_PROXY_LISTEN": "0.0.0.0:9000", "SPOTINFERENCE_PROXY_ADMIN_LISTEN": "127.0.0.1:9000"}
    with pytest.raises(SettingsError, match="ADMIN_LISTEN"):
        read_settings(BASE | keys | same)
    apart = {"SPOTINFERENCE_PROXY_LISTEN": "127.0.0.2:9000", "SPOTINFERENCE_PROXY_ADMIN_LISTEN": "127.0.0.1:9000"}
    assert read_settings(BASE | apart).listen == ("127.0.0.2", 9000)


def test_F016_workers_have_names_ports_and_shares_of_their_own() -> None:
    keys = {"SPOTINFERENCE_PROXY_MAX_IN_FLIGHT": "10", "SPOTINFERENCE_PROXY_MAX_IN_FLIGHT_PER_KEY": "2"}
    found = [read_settings(BASE | MANY | keys | {"SPOTINFERENCE_PROXY_WORKER": str(i)}) for i in range(3)]
    assert [one.worker for one in found] == [0, 1, 2]
    assert [one.admin_listen[1] for one in found] == [8081, 8082, 8083]
    assert len({one.writer for one in found}) == 3
    assert all(re.fullmatch(r"[a-z0-9-]{1,38}-[0-2]", one.writer) for one in found)
    assert {(one.max_in_flight, one.max_in_flight_per_key) for one in found} == {(4, 1)}
    assert {one.listen for one in found} == {("127.0.0.1", 8080)}


@pytest.mark.parametrize("admin", ["127.0.0.1:65534", "127.0.0.1:8078"])
def test_the_admin_ports_of_all_workers_must_be_free(admin: str) -> None:
    with pytest.raises(SettingsError, match="ADMIN_LISTEN"):
        read_settings(BASE | MANY | {"SPOTINFERENCE_PROXY_ADMIN_LISTEN": admin})
    any_ports = {"SPOTINFERENCE_PROXY_ADMIN_LISTEN": "127.0.0.1:0", "SPOTINFERENCE_PROXY_LISTEN": "127.0.0.1:0"}
    assert read_settings(BASE | MANY | any_ports | {"SPOTINFERENCE_PROXY_WORKER": "2"}).admin_listen[1] == 0


@pytest.mark.parametrize("form", ["{}", "{}/", "file://{}", "{}/../request_log"])
def test_the_log_folder_as_the_place_to_ship_to_means_no_shipping(tmp_path: Path, form: str) -> None:
    folder = tmp_path / "request_log"
    names = {"SPOTINFERENCE_PROXY_LOG_DIR": str(folder), "SPOTINFERENCE_REQUEST_LOG_URL": form.format(folder)}
    assert read_settings(BASE | names).ship_url is None
    assert read_settings(BASE | names | {"SPOTINFERENCE_PROXY_LOG_DIR": "elsewhere"}).ship_url == str(folder)


def test_what_may_change_at_a_reload_changes_and_the_rest_is_named() -> None:
    old = read_settings(BASE | MANY | {"SPOTINFERENCE_PROXY_WORKER": "1"})
    new = dataclasses.replace(
        old,
        upstreams=(UpstreamSettings("http://b"),),
        keys_file=Path("/k"),
        workers=4,
        ship_url="s3://b/p",
        admin_listen=("127.0.0.1", 9),
    )
    result, rest = reloaded(old, new)
    assert result == dataclasses.replace(old, upstreams=new.upstreams, keys_file=new.keys_file)
    assert sorted(rest) == [
        "SPOTINFERENCE_PROXY_ADMIN_LISTEN",
        "SPOTINFERENCE_PROXY_WORKERS",
        "SPOTINFERENCE_REQUEST_LOG_URL",
    ]
    assert reloaded(old, old) == (old, [])


def worker_of(handed: Settings, index: int) -> dict[str, str]:
    return {"SPOTINFERENCE_PROXY_WORKER": str(index), "SPOTINFERENCE_PROXY_START": hand_down(handed)}


def test_a_worker_has_what_its_supervisor_started_with_whatever_the_file_says_now() -> None:
    texts = {
        "NOW": "2026-11-22T00:00:00+01:00",
        "PROXY_MAX_IN_FLIGHT": "9",
        "REQUEST_LOG_URL": "s3://b/p",
        "PROXY_LOG_DIR": "/var/log/x",
    }
    before = BASE | MANY | {f"SPOTINFERENCE_{name}": text for name, text in texts.items()}
    handed = read_settings(before)
    first = [take_over(read_settings(before | worker_of(handed, i)), before | worker_of(handed, i)) for i in range(3)]
    assert [(one.worker, one.workers, one.max_in_flight, rest) for one, rest in first] == [
        (0, 3, 3, []),
        (1, 3, 3, []),
        (2, 3, 3, []),
    ]
    now = {
        "SPOTINFERENCE_PROXY_UPSTREAMS": '[{"url": "http://new", "api_key": "hush"}]',
        "SPOTINFERENCE_PROXY_WORKERS": "1",
        "SPOTINFERENCE_PROXY_LOG_DIR": "/elsewhere",
        "SPOTINFERENCE_PROXY_KEYS_FILE": "/k",
    }
    after = before | now | worker_of(handed, 2)
    again, rest = take_over(read_settings(after), after)
    assert again == dataclasses.replace(first[2][0], upstreams=read_settings(after).upstreams, keys_file=Path("/k"))
    assert rest == ["SPOTINFERENCE_PROXY_LOG_DIR", "SPOTINFERENCE_PROXY_WORKERS"]
    assert reloaded(first[2][0], read_settings(after)) == (again, rest), "a worker that ran on says the same"


def test_without_a_supervisor_there_is_nothing_to_take_over() -> None:
    found = read_settings(BASE)
    assert take_over(found, BASE) == (found, [])
    assert take_over(found, BASE | {"SPOTINFERENCE_PROXY_START": hand_down(read_settings(BASE | MANY))}) == (found, [])
    with pytest.raises(SettingsError, match="SPOTINFERENCE_PROXY_START: expected what a supervisor sets"):
        read_settings(BASE | {"SPOTINFERENCE_PROXY_WORKER": "0", "SPOTINFERENCE_PROXY_START": "{"})


def test_what_is_handed_down_holds_no_key_of_an_upstream() -> None:
    found = read_settings({"SPOTINFERENCE_PROXY_UPSTREAMS": '[{"url": "http://x", "api_key": "hush"}]'})
    assert "hush" not in hand_down(found)


def test_F038_a_reload_takes_no_keys_away_from_a_public_proxy() -> None:
    old = read_settings(BASE | {"SPOTINFERENCE_PROXY_LISTEN": "0.0.0.0:80", "SPOTINFERENCE_PROXY_KEYS_FILE": "/k"})
    with pytest.raises(SettingsError, match="key new"):
        reloaded(old, read_settings(BASE))


def test_no_key_of_an_upstream_is_printed() -> None:
    found = read_settings({"SPOTINFERENCE_PROXY_UPSTREAMS": '[{"url": "http://x", "api_key": "hush"}]'})
    assert found.upstreams[0].api_key == "hush"
    assert "hush" not in f"{found!r} {found} {found.upstreams[0]}"


def test_the_keys_file_is_needed_to_make_a_key() -> None:
    with pytest.raises(SettingsError, match="KEYS_FILE"):
        read_keys_file({})


def test_any_host_name_makes_a_writer_name() -> None:
    assert writer_name("GPU_host.example.org") == "gpu-host-example-org"
    assert writer_name("...") == "proxy"
    assert len(writer_name("a" * 99)) == 40
