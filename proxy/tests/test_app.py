"""The proxy as a whole: who may ask what, the rows of a minute, start and stop."""

import asyncio
import dataclasses
import io
import json
import os

import pytest
from aiohttp import web
from spotinference_proxy.app import Proxy, utc_now
from spotinference_proxy.errors import LogError, SettingsError
from spotinference_proxy.keys import new_key
from spotinference_proxy.segments import Calls
from spotinference_proxy.settings import Settings, UpstreamSettings

CHAT = "/v1/chat/completions"


async def test_F037_a_refused_path_never_reaches_vllm(rig) -> None:
    await rig.start()
    assert (await rig.post("/inference/v1/abort_requests", {}))[0] == 404
    assert rig.vllm.requests == rig.rows("end") == []


async def test_F032_keys_are_checked_and_never_passed_on(rig, tmp_path, clock) -> None:
    key = new_key(tmp_path / "keys", "a", clock())
    upstream = UpstreamSettings(rig.vllm.url, 5, (), "engine-key")
    await rig.start(keys_file=tmp_path / "keys", upstreams=(upstream,))
    assert (await rig.post(CHAT, {}))[0] == 401
    assert (await rig.post(CHAT, {}, headers={"Authorization": "Bearer guess"}))[0] == 401
    assert (await rig.post(CHAT, {}, headers={"Authorization": f"Bearer {key}"}))[0] == 200
    assert (await rig.post("/v1/messages", {}, headers={"x-api-key": key}))[0] == 200
    assert [got["Authorization"] for _, got, _ in rig.vllm.requests] == ["Bearer engine-key"] * 2
    assert not any("x-api-key" in {name.lower() for name in got} for _, got, _ in rig.vllm.requests)
    ends = rig.rows("end")
    assert [end["key_id"] for end in ends] == [json.loads((tmp_path / "keys").read_text())["sha256"][:12]] * 2
    assert key not in "".join(path.read_text() for path in rig.folder.iterdir())


async def test_a_large_body_passes_whole(rig) -> None:
    await rig.start()
    text = b'{"model":"otter","prompt":"' + b"a" * 8_000_000 + b'"}'
    assert (await rig.post("/v1/completions", io.BytesIO(text)))[0] == 200
    assert rig.vllm.requests[0][2] == text


async def test_without_keys_nobody_else_is_served(tmp_path) -> None:
    with pytest.raises(SettingsError, match="loopback"):
        Proxy(Settings((UpstreamSettings("http://x"),), listen=("0.0.0.0", 0), log_dir=tmp_path))


async def test_F028_a_body_over_the_limit_is_refused(rig) -> None:
    await rig.start(max_body_bytes=100_000)
    assert (await rig.post(CHAT, bytes(100_001)))[0] == 413
    (end,) = await rig.ends()
    assert (end["end_reason"], end["status"], end["upstream_status"]) == ("refused", 413, None)
    assert rig.vllm.requests == []


@pytest.mark.parametrize("path", ["/tokenize", "/v1/messages/count_tokens"])
async def test_what_cannot_make_tokens_is_passed_and_not_logged(rig, path: str) -> None:
    await rig.start()
    assert (await rig.post(path, {"prompt": "x"}))[0] == 200
    assert rig.vllm.requests[0][0] == path
    assert rig.rows("begin") == rig.rows("end") == []


async def test_the_list_of_models_of_one_upstream_passes_and_of_several_is_merged(rig) -> None:
    async def models(request):
        return web.json_response({"object": "list", "data": [{"id": "otter"}, {"id": "seal"}, 7]})

    rig.vllm.script = models
    await rig.start()
    async with rig.session.get(rig.url("/v1/models")) as answer:
        assert len((await answer.json())["data"]) == 3
    up = UpstreamSettings(rig.vllm.url)
    dead = UpstreamSettings("http://127.0.0.1:1")
    await rig.start(upstreams=(up, UpstreamSettings(rig.vllm.url + "/vm/8"), dead))
    async with rig.session.get(rig.url("/v1/models")) as answer:
        assert [one["id"] for one in (await answer.json())["data"]] == ["otter", "seal"]
    assert rig.rows("end") == []


@pytest.mark.parametrize("status", [401, 403, 500])
async def test_where_no_upstream_gives_its_models_the_refusal_of_one_passes(rig, status: int) -> None:
    refusal = b'{"error":"Unauthorized"}'

    async def refuse(request):
        return web.Response(status=status, body=refusal, content_type="application/json")

    rig.vllm.script = refuse
    await rig.start(upstreams=(UpstreamSettings(rig.vllm.url), UpstreamSettings(rig.vllm.url + "/vm/8")))
    for upstream in rig.proxy.pool.upstreams:
        upstream.is_ready = True
    async with rig.session.get(rig.url("/v1/models"), headers={"Authorization": "Bearer wrong"}) as answer:
        found = answer.status, await answer.read(), answer.content_type
    if status < 500:
        assert found == (status, refusal, "application/json")
    else:
        assert found[0] == 502
    assert {got["Authorization"] for path, got, _ in rig.vllm.requests if "models" in path} == {"Bearer wrong"}


async def test_where_one_upstream_gives_its_models_refusals_of_others_do_not_matter(rig) -> None:
    async def models(request):
        if request.raw_path.startswith("/vm/8"):
            return web.json_response({"data": [{"id": "otter"}]})
        return web.json_response({"error": "Unauthorized"}, status=401)

    rig.vllm.script = models
    await rig.start(upstreams=(UpstreamSettings(rig.vllm.url), UpstreamSettings(rig.vllm.url + "/vm/8")))
    for upstream in rig.proxy.pool.upstreams:
        upstream.is_ready = True
    async with rig.session.get(rig.url("/v1/models")) as answer:
        assert await answer.json() == {"object": "list", "data": [{"id": "otter"}]}


async def test_a_path_prefix_of_the_upstream_is_kept(rig) -> None:
    await rig.start(upstreams=(UpstreamSettings(rig.vllm.url + "/vm/700123", 700123),))
    rig.proxy.pool.upstreams[0].is_ready = True
    assert (await rig.post(CHAT, {}))[0] == 200
    assert rig.vllm.requests[-1][0] == "/vm/700123/v1/chat/completions"


async def test_the_minute_writes_health_counters_and_the_beat(rig) -> None:
    proxy = await rig.start()
    rig.clock.step(60)
    await proxy.minute()
    rig.vllm.is_healthy = False
    await proxy.probe()
    await proxy.probe()
    await proxy.minute()
    at = "2026-11-22T12:01:00.000000Z"
    assert [row["k"] for row in rig.rows()] == [
        "head", "health", "health", "engine", "beat", "health", "health", "beat",
    ]  # fmt: skip
    (engine,) = rig.rows("engine")
    assert (engine["at"], engine["vm_id"], engine["upstream"]) == (at, 700123, rig.vllm.url)
    assert (engine["prompt_tokens_total"], engine["generation_tokens_total"]) == (14, None)
    assert [row["ready"] for row in rig.rows("health")] == [True, True, False, False]
    assert rig.rows("beat")[0]["at"] == at


async def test_the_admin_listener_tells_health_and_readiness(rig) -> None:
    await rig.start()
    for path, status in (("/healthz", 200), ("/readyz", 200), ("/v1/models", 404)):
        async with rig.session.get(rig.url(path, admin=True)) as answer:
            assert answer.status == status


async def test_F005_a_refusal_that_cannot_be_recorded_is_a_503(rig) -> None:
    is_bad: list[bool] = []

    def sync(fd: int) -> None:
        if is_bad:
            raise OSError(28, "No space left on device")
        os.fdatasync(fd)

    await rig.start(calls=Calls(fdatasync=sync))
    rig.proxy.pool.upstreams[0].is_ready = False
    is_bad.append(True)
    assert (await rig.post(CHAT, {}))[0] == 503
    is_bad.clear()


async def test_a_folder_that_cannot_be_written_stops_the_start(rig, tmp_path) -> None:
    rig.folder.write_text("a file")
    with pytest.raises(LogError):
        await rig.start()
    await rig.proxy.stop()


async def test_the_background_work_runs_by_itself_and_stops(rig) -> None:
    proxy = await rig.start(periodic=True)
    rig.vllm.is_healthy = False
    async with asyncio.timeout(10):
        while len(rig.rows("health")) < 2:
            await asyncio.sleep(0.02)
    await proxy.stop()
    await proxy.stop()
    assert [row["ready"] for row in rig.rows("health")] == [True, False]


async def test_many_requests_at_once_have_one_record_each(rig) -> None:
    await rig.start()
    answers = await asyncio.gather(*(rig.post(CHAT, {"model": "otter"}) for _ in range(60)))
    assert {status for status, *_ in answers} == {200}
    await rig.proxy.log.seal()
    ids = [row["request_id"] for row in rig.rows("end")]
    assert len(ids) == len(set(ids)) == 60
    assert sorted(row["request_id"] for row in rig.rows("begin")) == sorted(ids)
    assert rig.rows("seal")[0]["open"] == []
    assert all(one.in_flight == 0 for one in rig.proxy.pool.upstreams)


def test_the_machines_clock_is_utc() -> None:
    assert utc_now().utcoffset().total_seconds() == 0


def hanging(rig, go_on: asyncio.Event):
    async def script(request):
        await go_on.wait()
        return await rig.vllm.say_ok(request)

    return script


async def test_F027_more_than_the_limit_in_flight_is_refused_at_once_and_recorded(rig) -> None:
    go_on = asyncio.Event()
    rig.vllm.script = hanging(rig, go_on)
    proxy = await rig.start(max_in_flight=3)
    running = [asyncio.create_task(rig.post(CHAT, {"model": "otter"})) for _ in range(3)]
    while len(proxy.relays) < 3:
        await asyncio.sleep(0.01)
    status, _, fields = await rig.post(CHAT, {"model": "otter"})
    assert (status, fields["Retry-After"]) == (503, "1")
    go_on.set()
    assert {(await one)[0] for one in running} == {200}
    assert sorted(row["end_reason"] for row in rig.rows("end")) == ["complete"] * 3 + ["refused"]
    assert (await rig.post(CHAT, {"model": "otter"}))[0] == 200


async def test_a_key_has_its_own_limit(rig, tmp_path, clock) -> None:
    go_on = asyncio.Event()
    rig.vllm.script = hanging(rig, go_on)
    keys = [new_key(tmp_path / "keys", name, clock()) for name in "ab"]
    proxy = await rig.start(keys_file=tmp_path / "keys", max_in_flight_per_key=1)
    first, second = ({"Authorization": f"Bearer {key}"} for key in keys)
    running = [asyncio.create_task(rig.post(CHAT, {}, headers=first))]
    while len(proxy.relays) < 1:
        await asyncio.sleep(0.01)
    assert (await rig.post(CHAT, {}, headers=first))[0] == 429
    running.append(asyncio.create_task(rig.post(CHAT, {}, headers=second)))
    while len(proxy.relays) < 2:
        await asyncio.sleep(0.01)
    go_on.set()
    assert {(await one)[0] for one in running} == {200}
    assert (await rig.post(CHAT, {}, headers=first))[0] == 200


async def test_a_reload_takes_new_upstreams_and_keys_and_drops_no_request(rig, tmp_path, clock) -> None:
    go_on = asyncio.Event()
    rig.vllm.script = hanging(rig, go_on)
    old = new_key(tmp_path / "old", "a", clock())
    new = new_key(tmp_path / "new", "b", clock())
    proxy = await rig.start(keys_file=tmp_path / "old")
    running = asyncio.create_task(rig.post(CHAT, {}, headers={"x-api-key": old}))
    while not rig.vllm.requests:
        await asyncio.sleep(0.01)
    moved = UpstreamSettings(rig.vllm.url + "/moved", 9, ("otter",))
    proxy.reload(dataclasses.replace(proxy.settings, upstreams=(moved,), keys_file=tmp_path / "new"))
    proxy.pool.upstreams[0].is_ready = True
    later = asyncio.create_task(rig.post(CHAT, {}, headers={"x-api-key": new}))
    assert (await rig.post(CHAT, {}, headers={"x-api-key": old}))[0] == 401
    go_on.set()
    assert {(await one)[0] for one in (running, later)} == {200}
    assert [row["vm_id"] for row in rig.rows("end")] == [700123, 9]
    assert [path for path, *_ in rig.vllm.requests if "health" not in path] == [CHAT, "/moved" + CHAT]


async def test_a_reload_with_a_bad_keys_file_changes_nothing(rig, tmp_path, clock) -> None:
    key = new_key(tmp_path / "keys", "a", clock())
    proxy = await rig.start(keys_file=tmp_path / "keys")
    (tmp_path / "keys").write_text("nonsense")
    with pytest.raises(SettingsError):
        proxy.reload(dataclasses.replace(proxy.settings, upstreams=(UpstreamSettings("http://127.0.0.1:9"),)))
    assert (await rig.post(CHAT, {}, headers={"x-api-key": key}))[0] == 200


async def test_F036_who_guesses_keys_is_told_to_wait_and_a_good_key_still_passes(rig, tmp_path, clock) -> None:
    key = new_key(tmp_path / "keys", "a", clock())
    await rig.start(keys_file=tmp_path / "keys")
    seen = [(await rig.post(CHAT, {}, headers={"x-api-key": f"guess{i}"}))[0] for i in range(25)]
    assert seen == [401] * 20 + [429] * 5
    assert (await rig.post(CHAT, {}, headers={"x-api-key": key}))[0] == 200
    assert len(rig.rows("end")) == 1


async def test_F034_a_body_nested_too_deep_is_refused_and_never_reaches_vllm(rig) -> None:
    await rig.start()
    assert (await rig.post(CHAT, b'{"a":' + b"[" * 200_000))[0] == 400
    assert rig.vllm.requests == []
    assert [row["end_reason"] for row in rig.rows("end")] == ["refused"]


async def test_F021_an_answer_without_usage_has_unknown_tokens(rig) -> None:
    async def script(request):
        return web.json_response({"model": "otter"})

    rig.vllm.script = script
    await rig.start()
    await rig.post(CHAT, {})
    (end,) = rig.rows("end")
    assert (end["prompt_tokens"], end["completion_tokens"], end["usage_source"]) == (None, None, "none")


async def test_the_metrics_page_counts_requests_tokens_and_refusals(rig) -> None:
    await rig.start()
    await rig.post(CHAT, {"model": "otter"})
    await rig.post("/nothing", {})
    async with rig.session.get(rig.url("/metrics", admin=True)) as answer:
        page = await answer.text()
    label = 'end_reason="complete",model="otter",status_class="2xx",stream="false"'
    assert f"spotinference_proxy_requests_total{{{label}}} 1.0" in page
    assert 'spotinference_tokens_total{kind="prompt",model="otter",source="upstream"} 3.0' in page
    assert 'spotinference_proxy_refused_total{reason="404"} 1.0' in page
    assert "spotinference_log_commit_seconds_count" in page


async def test_a_start_does_not_wait_for_a_sleeping_upstream(rig) -> None:
    async def never(reader, writer):
        await reader.read()
        writer.close()

    sleeping = await asyncio.start_server(never, "127.0.0.1", 0)
    port = sleeping.sockets[0].getsockname()[1]
    start = asyncio.get_running_loop().time()
    await rig.start(upstreams=(UpstreamSettings(f"http://127.0.0.1:{port}", 1),))
    assert asyncio.get_running_loop().time() - start < 1.5  # a probe waits 2 s
    status, body, _ = await rig.post(CHAT, {"model": "otter"})
    assert status == 503
    assert b"waking" in body
    await rig.proxy.stop()
    sleeping.close()


async def test_the_merged_list_is_asked_for_with_the_clients_own_key_and_odd_entries_are_left_out(rig) -> None:
    async def models(request):
        if request.headers.get("Authorization") != "Bearer theirs":
            return web.json_response({"error": "Unauthorized"}, status=401)
        return web.json_response({"data": [{"id": "otter"}, {"id": ["a"]}, {}, 7]})

    rig.vllm.script = models
    up = UpstreamSettings(rig.vllm.url)
    await rig.start(upstreams=(up, UpstreamSettings(rig.vllm.url + "/vm/8")))
    for one in rig.proxy.pool.upstreams:
        one.is_ready = True
    async with rig.session.get(rig.url("/v1/models"), headers={"Authorization": "Bearer theirs"}) as answer:
        assert [one["id"] for one in (await answer.json())["data"]] == ["otter"]
    async with rig.session.get(rig.url("/v1/models")) as answer:
        assert answer.status == 401
    for one in rig.proxy.pool.upstreams:
        one.is_ready = False
    async with rig.session.get(rig.url("/v1/models")) as answer:
        assert (answer.status, answer.headers["Retry-After"]) == (503, "10")


async def test_a_body_as_large_as_the_setting_says_passes_alone(rig) -> None:
    await rig.start(max_body_bytes=64 * 1024 * 1024)
    body = b'{"file":"' + b"a" * (60 * 1024 * 1024) + b'"}'
    assert (await rig.post("/v1/audio/transcriptions", io.BytesIO(body)))[0] == 200
    assert len(rig.vllm.requests[-1][2]) == len(body)


async def test_background_work_outlives_a_bug_in_it(rig) -> None:
    proxy = await rig.start(periodic=True)
    real, calls = proxy.pool.prune, []

    def prune() -> None:
        calls.append(1)
        if len(calls) == 1:
            raise ValueError("a bug")
        real()

    proxy.pool.prune = prune
    proxy._periodic._sweeps = (prune,)
    async with asyncio.timeout(10):
        while len(calls) < 3:
            await asyncio.sleep(0.05)


async def test_the_access_log_has_a_line_for_each_record(rig, capfd) -> None:
    await rig.start(access_log=True, max_body_bytes=100)
    await rig.post(CHAT, {"model": "otter"})
    await rig.post(CHAT, bytes(200))
    await rig.ends(2)
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert [(one["status"], one["end_reason"]) for one in lines if one["event"] == "request"] == [
        (200, "complete"),
        (413, "refused"),
    ]


async def test_an_upstream_that_comes_and_goes_is_told_on_stderr(rig, capfd) -> None:
    await rig.start()
    rig.vllm.is_healthy = False
    await rig.proxy.probe()
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert [(one["event"], one.get("problem")) for one in lines] == [
        ("upstream_ready", None),
        ("upstream_not_ready", "/health answers 503"),
    ]
