"""The proxy as a whole: who may ask what, the rows of a minute, start and stop."""

import asyncio
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
