"""One request through a real socket: what the client sees, what vLLM is asked, what the log says."""

import asyncio
import contextlib
import io
import json
import os
import resource
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from spotinference_proxy.client_connection import Limits
from spotinference_proxy.relay import STALE_SECONDS
from spotinference_proxy.segments import Calls
from spotinference_proxy.settings import UpstreamSettings
from yarl import URL

FIXTURES = Path(__file__).parent / "fixtures"
CHAT = "/v1/chat/completions"
STREAM = {"model": "otter", "stream": True, "messages": []}


def recording(name: str) -> tuple[dict, bytes]:
    cases = {case["name"]: case for case in json.loads((FIXTURES / "cases.json").read_text())}
    return cases[name], (FIXTURES / f"{name}.body").read_bytes()


def answering(body: bytes, *, stream: bool = True, status: int = 200, size: int = 0) -> Callable:
    async def script(request: web.Request) -> web.StreamResponse:
        if not stream:
            return web.Response(body=body, status=status, content_type="application/json")
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await answer.prepare(request)
        for i in range(0, len(body), size or len(body)):
            await answer.write(body[i : i + (size or len(body))])
        await answer.write_eof()
        return answer

    return script


def event(index: int, tokens: int) -> bytes:
    usage = {"prompt_tokens": 7, "completion_tokens": tokens}
    found = {"model": "otter", "choices": [{"index": index, "delta": {"content": "a"}}], "usage": usage}
    return f"data: {json.dumps(found, separators=(',', ':'))}\n\n".encode()


LAST = b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":9}}\n\ndata: [DONE]\n\n'


def running(vllm, *, after_abort: bytes = LAST, first: bytes = event(0, 3)) -> Callable:
    """Stream until the abort call comes, then end as vLLM does (or never)."""

    async def script(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        await answer.write(first)
        await vllm.aborted.wait()
        if not after_abort:
            await asyncio.sleep(60)
        await answer.write(after_abort)
        await answer.write_eof()
        return answer

    return script


@pytest.mark.parametrize("size", [0, 1, 50])
@pytest.mark.parametrize("name", ["chat_stream_continuous", "chat_stream_final_usage", "chat_stream_no_usage"])
async def test_F022_a_client_sees_the_stream_it_asked_for(rig, name: str, size: int) -> None:
    case, body = recording(name)
    rig.vllm.script = answering(body, size=size)
    await rig.start()
    status, seen, fields = await rig.post(CHAT, STREAM)
    assert (status, seen) == (200, recording("chat_stream_no_usage")[1])
    assert fields["Content-Type"] == "text/event-stream; charset=utf-8"
    sent = json.loads(rig.vllm.requests[0][2])
    assert sent["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}
    (end,) = rig.rows("end")
    expected = case["usage"] or [None] * 4
    names = ("prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens")
    assert [end[name] for name in names] == expected
    assert end["usage_source"] == ("engine_final" if case["usage"] else "none")
    assert (end["end_reason"], end["stream"], end["model"]) == ("complete", True, "otter")


@pytest.mark.parametrize(
    "name",
    [
        "chat_plain", "chat_n2", "chat_error_404", "responses_plain", "responses_stream", "messages_stream",
        "messages_cache_read", "embeddings", "rerank", "completions_two_prompts", "not_json",
        "chat_error_401",
        "chat_stream_error_event", "responses_stream_failed",
    ],
)  # fmt: skip
async def test_every_kind_of_answer_passes_byte_for_byte(rig, name: str) -> None:
    case, body = recording(name)
    is_stream = "event-stream" in case["content_type"]
    rig.vllm.script = answering(body, stream=is_stream, status=case["status"], size=37)
    await rig.start()
    request = {"model": "alias", "stream": is_stream, "n": case["choices"]}
    if is_stream:
        request["stream_options"] = {"include_usage": True, "continuous_usage_stats": True}
    text = json.dumps(request).encode()
    assert (await rig.post(case["endpoint"], text))[:2] == (case["status"], body)
    assert rig.vllm.requests[0][2] == text
    begin, end = rig.rows("begin")[0], rig.rows("end")[0]
    assert end["model"] == case["model"]
    assert end["requested_model"] == "alias"
    assert (end["status"], end["upstream_status"], end["choices"]) == (case["status"],) * 2 + (case["choices"],)
    assert end["end_reason"] == ("upstream_error" if case["outcome"] == "error" else "complete")
    assert [end["prompt_tokens"], end["completion_tokens"]] == (case["usage"] or [None, None])[:2]
    assert {key: end[key] for key in begin if key not in "kcn"} == {k: begin[k] for k in begin if k not in "kcn"}


async def test_F026_the_request_id_is_the_proxys_own_and_headers_pass_both_ways(rig) -> None:
    async def script(request: web.Request) -> web.StreamResponse:
        return web.json_response(
            {}, headers={"Retry-After": "1", "Set-Cookie": "a=b", "Access-Control-Allow-Origin": "*"}
        )

    rig.vllm.script = script
    await rig.start()
    fields = {"X-Request-Id": "mine", "Authorization": "Bearer theirs", "X-Spotinference-Canary": "1"}
    fields |= {
        "Anthropic-Version": "2",
        "X-Forwarded-For": "1.2.3.4",
        "Connection": "X-Hop",
        "X-Hop": "h",
        "Host": "api.example.org",
        "TE": "trailers",
    }
    url = URL(rig.url("/v1/embeddings?x=%2F1"), encoded=True)
    async with rig.session.post(url, json={"model": "otter"}, headers=fields) as answer:
        seen = answer.headers
    path, got, _ = rig.vllm.requests[0]
    (end,) = await rig.ends()
    assert path == "/v1/embeddings?x=%2F1"
    assert (got["X-Request-Id"], end["canary"], end["endpoint"]) == (
        end["request_id"],
        True,
        "/v1/embeddings",
    )
    assert (got["Anthropic-Version"], got["Authorization"], got["Host"]) == ("2", "Bearer theirs", "api.example.org")
    hidden = {"x-spotinference-canary", "x-hop", "te", "accept-encoding", "x-forwarded-for"}
    assert not hidden & {name.lower() for name in got}
    assert seen["Retry-After"] == "1"
    assert not {"Set-Cookie", "Access-Control-Allow-Origin"} & set(seen)


async def test_bytes_are_sent_on_at_once_and_the_end_waits_for_the_record(rig) -> None:
    go_on, synced = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    gate: list[bool] = []

    def sync(fd: int) -> None:
        os.fdatasync(fd)
        if gate:
            asyncio.run_coroutine_threadsafe(synced.wait(), loop).result(10)

    async def script(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        await answer.write(event(0, 1))
        await go_on.wait()
        await answer.write(event(0, 2) + LAST)
        return answer

    rig.vllm.script = script
    await rig.start(calls=Calls(fdatasync=sync))
    async with rig.session.post(rig.url(CHAT), json=STREAM) as answer:
        first = await answer.content.readuntil(b"\n\n")
        assert first == b'data: {"model":"otter","choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
        gate.append(True)
        go_on.set()
        rest = asyncio.create_task(answer.content.read())
        done, _ = await asyncio.wait([rest], timeout=0.2)
        assert not done  # the record is not on disk yet
        gate.clear()
        synced.set()
        assert (await rest).endswith(b"data: [DONE]\n\n")


async def test_F003_a_plain_answer_is_not_whole_before_its_record_is_on_disk(rig) -> None:
    synced = asyncio.Event()
    loop = asyncio.get_running_loop()
    gate: list[bool] = []

    def sync(fd: int) -> None:
        if gate:
            asyncio.run_coroutine_threadsafe(synced.wait(), loop).result(10)
        os.fdatasync(fd)

    await rig.start(calls=Calls(fdatasync=sync))
    gate.append(True)
    asked = asyncio.create_task(rig.post(CHAT, {"model": "otter"}))
    done, _ = await asyncio.wait([asked], timeout=0.2)
    assert not done
    gate.clear()
    synced.set()
    assert (await asked)[0] == 200


async def leave(rig, path: str = CHAT, body: object = None) -> None:
    """Begin a stream, read its first bytes, hang up."""
    async with rig.session.post(rig.url(path), json=body or STREAM) as answer:
        await answer.content.readany()
        answer.close()


@pytest.mark.parametrize("is_stream", [True, False])
async def test_F024_a_left_request_is_ended_by_its_id_and_its_usage_is_exact(rig, is_stream) -> None:
    async def plain(request: web.Request) -> web.StreamResponse:
        await rig.vllm.aborted.wait()
        return web.json_response({"model": "otter", "usage": {"prompt_tokens": 7, "completion_tokens": 9}})

    rig.vllm.script = running(rig.vllm) if is_stream else plain
    await rig.start()
    if is_stream:
        await leave(rig)
    else:
        with contextlib.suppress(TimeoutError):
            await rig.post(CHAT, {"model": "otter"}, timeout=aiohttp.ClientTimeout(total=0.2))
    (end,) = await rig.ends()
    assert rig.vllm.aborts[0] == [f"chatcmpl-{end['request_id']}"]
    assert (end["end_reason"], end["usage_source"]) == ("client_gone", "engine_final")
    assert (end["prompt_tokens"], end["completion_tokens"]) == (7, 9)
    assert end["status"] == (200 if is_stream else 499)


async def test_F024_without_the_abort_call_the_upstream_is_closed_and_the_bound_kept(rig) -> None:
    rig.vllm.has_abort = False
    rig.vllm.script = running(rig.vllm, first=event(0, 3) + event(1, 4))
    await rig.start()
    await leave(rig, body=STREAM | {"n": 2})
    (end,) = await rig.ends()
    await asyncio.wait_for(rig.vllm.left.wait(), 5)
    assert (end["end_reason"], end["usage_source"]) == ("client_gone", "engine_partial")
    assert (end["prompt_tokens"], end["completion_tokens"], end["choices"]) == (7, 7, 2)


async def test_F024_an_abort_without_effect_is_repeated_then_the_upstream_is_closed(rig) -> None:
    rig.vllm.script = running(rig.vllm, after_abort=b"")
    await rig.start()
    await leave(rig)
    (end,) = await rig.ends()
    assert len(rig.vllm.aborts) > 5
    assert (end["end_reason"], end["usage_source"]) == ("client_gone", "engine_partial")
    await asyncio.wait_for(rig.vllm.left.wait(), 5)


async def test_F024_an_embedding_whose_client_leaves_is_closed_at_once(rig) -> None:
    async def script(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(60)
        return web.Response()

    rig.vllm.script = script
    await rig.start()
    with contextlib.suppress(TimeoutError):
        await rig.post("/v1/embeddings", {"model": "otter"}, timeout=aiohttp.ClientTimeout(total=0.2))
    (end,) = await rig.ends()
    await asyncio.wait_for(rig.vllm.left.wait(), 5)
    assert rig.vllm.aborts == []
    assert (end["end_reason"], end["usage_source"], end["first_byte_at"]) == ("client_gone", "none", None)


@pytest.mark.parametrize("is_named", [True, False])
async def test_F026_a_response_of_the_clients_own_name_is_never_ended_by_it(rig, is_named: bool) -> None:
    """Others may have chosen the same name: the call would end theirs too. So it is closed instead."""
    created = b'event: response.created\ndata: {"type":"response.created","response":{"id":"resp_x","usage":null}}\n\n'
    rig.vllm.script = running(rig.vllm, first=created, after_abort=b"")
    await rig.start()
    await leave(rig, path="/v1/responses", body=STREAM | ({"request_id": "resp_x"} if is_named else {}))
    (end,) = await rig.ends()
    await asyncio.wait_for(rig.vllm.left.wait(), 5)
    assert bool(rig.vllm.aborts) is not is_named
    assert (end["end_reason"], end["usage_source"]) == ("client_gone", "none")


async def test_a_client_that_reads_done_and_hangs_up_has_a_complete_request(rig) -> None:
    async def script(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        await answer.write(LAST)
        await asyncio.sleep(60)
        return answer

    rig.vllm.script = script
    await rig.start()
    async with rig.session.post(rig.url(CHAT), json=STREAM) as answer:
        assert await answer.content.readuntil(b"[DONE]\n\n") == b"data: [DONE]\n\n"
        answer.close()
    await asyncio.wait_for(rig.vllm.left.wait(), 5)
    assert [row["end_reason"] for row in rig.rows("end")] == ["complete"]
    assert rig.vllm.aborts == []


@pytest.mark.parametrize(("sent", "is_partial"), [(b"", False), (event(0, 3), True)])
async def test_F025_a_truncated_upstream_breaks_the_clients_connection(rig, sent: bytes, is_partial: bool) -> None:
    async def script(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        if sent:
            await answer.write(sent)
        request.transport.close()
        return answer

    rig.vllm.script = script
    await rig.start()
    with pytest.raises(aiohttp.ClientPayloadError):
        await rig.post(CHAT, STREAM)
    (end,) = await rig.ends()
    assert (end["end_reason"], end["status"]) == ("upstream_gone", 200)
    assert end["usage_source"] == ("engine_partial" if is_partial else "none")


async def test_F025_a_clean_end_without_done_is_passed_and_recorded_as_gone(rig) -> None:
    rig.vllm.script = answering(event(0, 3))
    await rig.start()
    assert (await rig.post(CHAT, STREAM))[0] == 200
    assert rig.rows("end")[0]["end_reason"] == "upstream_gone"


async def test_F025_an_upstream_that_hangs_up_before_an_answer_is_a_502(rig) -> None:
    async def script(request: web.Request) -> web.StreamResponse:
        request.transport.close()
        return web.Response()

    rig.vllm.script = script
    await rig.start()
    status, body, _ = await rig.post(CHAT, {"model": "otter"})
    assert (status, json.loads(body)["error"]["code"]) == (502, 502)
    (end,) = rig.rows("end")
    assert (end["status"], end["upstream_status"], end["end_reason"]) == (502, None, "upstream_gone")


async def test_an_upstream_that_refuses_connections_is_not_ready_from_then_on(rig) -> None:
    await rig.start()
    await rig.vllm.stop()
    assert (await rig.post(CHAT, {"model": "otter"}))[0] == 502
    status, _, fields = await rig.post(CHAT, {"model": "otter"})
    assert (status, fields["Retry-After"]) == (503, "10")
    assert [row["ready"] for row in rig.rows("health")] == [True, False]
    refused = rig.rows("end")[1]
    assert (refused["end_reason"], refused["vm_id"], refused["status"]) == ("refused", None, 503)


async def test_F025_a_silent_dead_upstream_is_given_up(rig) -> None:
    rig.vllm.script = running(rig.vllm)
    proxy = await rig.start()
    async with rig.session.post(rig.url(CHAT), json=STREAM) as answer:
        await answer.content.readany()
        (relay,) = proxy.relays
        await proxy.probe()
        relay.silent_since -= 31
        await proxy.probe()
        assert rig.rows("end") == []  # silent, but it answers its probe: it may be a long queue
        rig.vllm.is_healthy = False
        await proxy.probe()
        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.read()
    (end,) = await rig.ends()
    assert (end["end_reason"], end["usage_source"]) == ("upstream_timeout", "engine_partial")


async def test_F002_progress_of_running_streams_is_written(rig) -> None:
    rig.vllm.script = running(rig.vllm)
    proxy = await rig.start()
    async with rig.session.post(rig.url(CHAT), json=STREAM) as answer:
        await answer.content.readany()
        rig.clock.step(4)
        proxy.progress()
        rig.vllm.aborted.set()
        await answer.read()
    (row,) = rig.rows("usage")
    assert (row["prompt_tokens"], row["completion_tokens"]) == (7, 3)
    assert row["at"] == "2026-11-22T12:00:04.000000Z"
    assert [r["k"] for r in rig.rows() if "request_id" in r] == ["begin", "usage", "end"]


async def test_a_request_running_at_the_stop_has_its_time_to_end(rig) -> None:
    rig.vllm.script = running(rig.vllm)
    proxy = await rig.start(stop_seconds=30.0)
    async with rig.session.post(rig.url(CHAT), json=STREAM) as answer:
        await answer.content.readany()
        stopping = asyncio.create_task(proxy.stop())
        await asyncio.sleep(0.05)
        with pytest.raises(aiohttp.ClientConnectorError):
            await rig.post(CHAT, {"model": "otter"})
        rig.vllm.aborted.set()
        assert (await answer.read()).endswith(b"[DONE]\n\n")
        await stopping
    (end,) = rig.rows("end")
    assert (end["end_reason"], end["usage_source"]) == ("complete", "engine_final")


async def test_a_request_that_outlives_the_stop_is_ended_by_vllm_and_its_usage_is_exact(rig) -> None:
    rig.vllm.script = running(rig.vllm)
    proxy = await rig.start()
    async with rig.session.post(rig.url(CHAT), json=STREAM) as answer:
        await answer.content.readany()
        await proxy.stop()
        assert (await answer.read()).endswith(b"[DONE]\n\n")
    (end,) = rig.rows("end")
    assert (end["end_reason"], end["usage_source"], end["completion_tokens"]) == ("proxy_stopped", "engine_final", 9)


async def test_a_request_running_at_the_stop_is_cut_where_vllm_cannot_end_it(rig) -> None:
    rig.vllm.has_abort = False
    rig.vllm.script = running(rig.vllm)
    proxy = await rig.start()
    async with rig.session.post(rig.url(CHAT), json=STREAM) as answer:
        await answer.content.readany()
        await proxy.stop()
        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.read()
    (end,) = rig.rows("end")
    assert (end["end_reason"], end["usage_source"]) == ("proxy_stopped", "engine_partial")
    assert rig.rows("seal")[-1]["open"] == []
    assert not list(rig.folder.glob("*.open"))


async def raw(rig, head: str, until: bytes | None = None) -> bytes:
    """Speak HTTP by hand; return what came until the end of the connection."""
    reader, writer = await asyncio.open_connection(*rig.proxy.address)
    writer.write(head.encode())
    content = await reader.readuntil(until) if until else await reader.read()
    writer.close()
    await writer.wait_closed()
    return content


async def test_an_http_1_0_client_has_a_stream_to_the_end_of_the_connection(rig) -> None:
    body = recording("chat_stream_no_usage")[1]
    rig.vllm.script = answering(body)
    await rig.start()
    text = json.dumps(STREAM)
    seen = await raw(rig, f"POST {CHAT} HTTP/1.0\r\nContent-Length: {len(text)}\r\n\r\n{text}")
    assert seen.partition(b"\r\n\r\n")[2] == body


async def test_F025_an_http_1_0_client_of_a_truncated_stream_has_a_reset(rig) -> None:
    go_on = asyncio.Event()

    async def script(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        await answer.write(event(0, 1))
        await go_on.wait()
        request.transport.close()
        return answer

    rig.vllm.script = script
    await rig.start()
    reader, writer = await asyncio.open_connection(*rig.proxy.address)
    writer.write(f"POST {CHAT} HTTP/1.0\r\nContent-Length: 15\r\n\r\n".encode() + b'{"stream":true}')
    await reader.readuntil(b"\n\n")
    go_on.set()
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def test_F030_a_client_that_stops_reading_and_leaves_is_noticed(rig) -> None:
    async def script(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        while not rig.vllm.aborted.is_set():
            await answer.write(event(0, 3).replace(b'"a"', b'"' + b"a" * 60_000 + b'"'))
        await answer.write(LAST)
        return answer

    rig.vllm.script = script
    await rig.start()
    with socket.create_connection(rig.proxy.address) as client:
        text = json.dumps(STREAM)
        client.sendall(f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(text)}\r\n\r\n{text}".encode())
        await asyncio.sleep(0.3)
    (end,) = await rig.ends()
    assert (end["end_reason"], end["usage_source"], end["completion_tokens"]) == (
        "client_gone",
        "engine_final",
        9,
    )


async def test_F006_an_answer_whose_record_cannot_be_written_does_not_end_well(rig) -> None:
    is_bad: list[bool] = []

    def sync(fd: int) -> None:
        if is_bad:
            raise OSError(28, "No space left on device")
        os.fdatasync(fd)

    rig.vllm.script = answering(recording("chat_stream_no_usage")[1])
    proxy = await rig.start(calls=Calls(fdatasync=sync))
    is_bad.append(True)
    with pytest.raises(aiohttp.ClientError):
        await rig.post(CHAT, STREAM)
    assert (await rig.post(CHAT, STREAM))[0] == 503
    async with rig.session.get(rig.url("/readyz", admin=True)) as answer:
        assert (answer.status, (await answer.json())["log_writable"]) == (503, False)
    is_bad.clear()
    async with asyncio.timeout(10):
        while not proxy.log.is_admitting:
            await asyncio.sleep(0.05)
            await proxy.log.tick()
    assert (await rig.post(CHAT, STREAM))[0] == 200


async def test_a_kept_connection_that_vllm_had_closed_is_replaced_and_the_request_made_once(rig) -> None:
    async def script(request: web.Request) -> web.StreamResponse:
        if len(rig.vllm.requests) == 2:  # what a server does that closes an idle connection just then
            request.transport.abort()
        return web.json_response({"model": "otter", "usage": {"prompt_tokens": 3, "completion_tokens": 2}})

    rig.vllm.script = script
    await rig.start()
    for _ in range(2):
        assert (await rig.post(CHAT, {"model": "otter"}))[0] == 200
    assert len(rig.vllm.requests) == 3
    assert [row["end_reason"] for row in rig.rows("end")] == ["complete"] * 2
    assert len(rig.rows("begin")) == 2


async def test_a_request_that_reached_a_live_connection_is_never_made_twice(rig) -> None:
    async def script(request: web.Request) -> web.StreamResponse:
        request.transport.abort()
        return web.Response()

    rig.vllm.script = script
    await rig.start()
    rig.proxy.pool.close()  # so that the connection is new
    assert (await rig.post(CHAT, {"model": "otter"}))[0] == 502
    assert len(rig.vllm.requests) == 1


async def test_an_unreachable_upstream_is_passed_over_and_told_about(rig) -> None:
    dead = UpstreamSettings("http://127.0.0.1:9", 1, ("otter",))
    await rig.start(upstreams=(dead, UpstreamSettings(rig.vllm.url, 2, ("otter",))))
    first = rig.proxy.pool.upstreams[0]
    first.is_ready = True
    assert (await rig.post(CHAT, {"model": "otter"}))[0] == 200
    assert first.is_ready is False
    assert (first.in_flight, rig.proxy.pool.upstreams[1].in_flight) == (0, 0)
    (begin,), (end,) = rig.rows("begin"), rig.rows("end")
    assert (begin["vm_id"], end["vm_id"]) == (2, 2)
    assert (rig.rows("health")[-1]["vm_id"], rig.rows("health")[-1]["ready"]) == (1, False)


async def test_F026_each_try_of_a_client_is_a_request_of_its_own(rig) -> None:
    await rig.start()
    fields = {"Idempotency-Key": "same", "X-Request-Id": "same"}
    for _ in range(3):
        assert (await rig.post(CHAT, {"model": "otter"}, headers=fields))[0] == 200
    ids = {row["request_id"] for row in rig.rows("end")}
    assert len(ids) == 3
    assert {got["X-Request-Id"] for _, got, _ in rig.vllm.requests} == ids


async def test_pipelined_requests_are_answered_in_order(rig) -> None:
    async def script(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(0.05 if b"first" in await request.read() else 0)
        return web.json_response({"echo": (await request.read()).decode()})

    rig.vllm.script = script
    await rig.start()
    bodies = [json.dumps({"model": name}) for name in ("first", "second", "third")]
    seen = await raw(
        rig,
        "".join(f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n{body}" for body in bodies)
        + "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    )
    assert [seen.find(name) for name in (b"first", b"second", b"third", b"not found")] == sorted(
        seen.find(name) for name in (b"first", b"second", b"third", b"not found")
    )
    assert seen.count(b"HTTP/1.1 200 OK") == 3
    assert len(rig.rows("end")) == 3


async def test_F023_what_vllm_says_is_kept_and_flagged_where_it_cannot_be(rig) -> None:
    async def script(request: web.Request) -> web.StreamResponse:
        return web.json_response({"model": "otter", "usage": {"prompt_tokens": 3, "completion_tokens": 50}})

    rig.vllm.script = script
    await rig.start()
    assert (await rig.post(CHAT, {"model": "otter", "max_tokens": 9}))[0] == 200
    assert (await rig.post(CHAT, {"model": "otter", "max_tokens": 90}))[0] == 200
    first, second = rig.rows("end")
    assert (first["completion_tokens"], first["implausible"]) == (50, True)
    assert "implausible" not in second


async def test_an_n_of_a_beam_search_is_marked(rig) -> None:
    await rig.start()
    assert (await rig.post(CHAT, {"model": "otter", "use_beam_search": True}))[0] == 200
    assert rig.rows("end")[0]["beam_search"] is True


async def test_usage_in_a_response_header_is_read(rig) -> None:
    async def script(request: web.Request) -> web.StreamResponse:
        usage = '{"usage":{"prompt_tokens":5,"total_tokens":5}}'
        return web.Response(body=b"\0" * 8, content_type="application/octet-stream", headers={"metadata": usage})

    rig.vllm.script = script
    await rig.start()
    status, body, fields = await rig.post("/v1/embeddings", {"model": "otter", "encoding_format": "bytes"})
    assert (status, body) == (200, b"\0" * 8)
    assert "metadata" in {name.lower() for name in fields}
    (end,) = rig.rows("end")
    assert (end["prompt_tokens"], end["completion_tokens"], end["usage_source"]) == (5, 0, "engine_final")


async def test_F024_the_abort_call_carries_what_opened_vllm_for_the_request(rig) -> None:
    rig.vllm.script = running(rig.vllm)
    await rig.start()
    async with rig.session.post(rig.url(CHAT), json=STREAM, headers={"Authorization": "Bearer theirs"}) as answer:
        await answer.content.readany()
        answer.close()
    assert (await rig.ends())[0]["usage_source"] == "engine_final"
    assert rig.vllm.abort_keys == ["Bearer theirs"] * len(rig.vllm.aborts)


async def test_a_large_body_is_kept_until_the_connection_it_went_over_has_proved_good(rig) -> None:
    body = b'{"model":"otter","prompt":"' + b"a" * 200_000 + b'"}'

    async def script(request: web.Request) -> web.StreamResponse:
        if len(rig.vllm.requests) == 2:  # closes a kept connection
            request.transport.abort()
        return await rig.vllm.say_ok(request)

    rig.vllm.script = script
    proxy = await rig.start()
    assert (await rig.post("/v1/completions", body))[0] == 200
    upstream = proxy.pool.upstreams[0]
    connect = upstream.connections.connect

    async def slowly():
        await asyncio.sleep(STALE_SECONDS + 0.3)
        return await connect()

    upstream.connections.connect = slowly
    assert (await rig.post("/v1/completions", body))[0] == 200
    assert [got for _, _, got in rig.vllm.requests] == [body] * 3


async def test_F030_a_client_that_reads_slowly_but_reads_is_not_dropped(rig) -> None:
    whole = b"a" * 2_000_000

    async def script(request: web.Request) -> web.StreamResponse:
        return web.Response(body=whole, content_type="application/json")

    rig.vllm.script = script
    await rig.start(periodic=True, limits=Limits(write_seconds=1.0))
    seen = bytearray()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(client, rig.proxy.address)
        await loop.sock_sendall(client, f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{{}}".encode())
        while not seen.endswith(b"aaaa") or len(seen) < len(whole):
            part = await loop.sock_recv(client, 8192)
            assert part, f"dropped after {len(seen)} bytes"
            seen += part
            await asyncio.sleep(0.01)  # some 3 s in all
    assert len(seen.partition(b"\r\n\r\n")[2]) == len(whole)


async def test_F024_a_client_far_ahead_of_its_answers_that_leaves_is_noticed(rig) -> None:
    rig.vllm.script = running(rig.vllm)
    await rig.start(periodic=True)
    text = json.dumps(STREAM)
    request = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(text)}\r\n\r\n{text}".encode()
    with socket.create_connection(rig.proxy.address) as client:
        await asyncio.to_thread(client.sendall, request * 1200)
        await asyncio.to_thread(client.recv, 1000)
    (end,) = await rig.ends()
    assert (end["end_reason"], end["usage_source"]) == ("client_gone", "engine_final")
    assert len(rig.rows("begin")) == 1


@pytest.mark.parametrize(
    ("fields", "status"), [("Content-Length: 99999999", 413), ("Content-Length: 2\r\nContent-Encoding: gzip", 415)]
)
async def test_F003_a_refusal_by_the_head_has_its_record_before_its_answer(rig, fields: str, status: int) -> None:
    may = threading.Event()

    def sync(fd: int) -> None:
        assert may.wait(30)
        os.fdatasync(fd)

    may.set()
    await rig.start(calls=Calls(fdatasync=sync))
    may.clear()
    reader, writer = await asyncio.open_connection(*rig.proxy.address)
    writer.write(f"POST {CHAT} HTTP/1.1\r\nHost: x\r\n{fields}\r\n\r\n".encode())
    answer = asyncio.create_task(reader.readline())
    await asyncio.sleep(0.2)
    assert not answer.done()
    may.set()
    assert str(status).encode() in await asyncio.wait_for(answer, 5)
    (end,) = rig.rows("end")
    assert (end["status"], end["end_reason"]) == (status, "refused")
    writer.close()


async def test_a_request_that_came_early_is_not_late_while_its_client_reads_the_answer_before(rig) -> None:
    """It was sent whole: what takes time is the client's reading, which has a limit of its own."""
    body = b"x" * 3_000_000
    rig.vllm.script = answering(body, stream=False)
    await rig.start(limits=Limits(header_seconds=0.3))
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(rig.proxy.address)
        asked = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{{}}".encode()
        await asyncio.to_thread(client.sendall, asked * 2)
        await asyncio.sleep(1.2)
        found = await asyncio.to_thread(receive, client, 2 * len(body))
    assert found.count(b"HTTP/1.1 200 OK") == 2
    assert b" 408 " not in found


def receive(client: socket.socket, size: int) -> bytes:
    """Read until there are so many bytes, or the end."""
    client.settimeout(10)
    found = bytearray()
    while len(found) < size and (part := client.recv(1 << 20)):
        found += part
    return bytes(found)


async def test_a_connection_that_the_proxy_cannot_make_says_nothing_about_vllm(rig) -> None:
    await rig.start()
    upstream = rig.proxy.pool.upstreams[0]
    upstream.connections.prune(0)
    low, high = resource.getrlimit(resource.RLIMIT_NOFILE)
    reader, writer = await asyncio.open_connection(*rig.proxy.address)
    await asyncio.sleep(0.05)
    taken = [os.open(os.devnull, os.O_RDONLY)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (taken[0] + 1, high))
    try:
        writer.write(f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{{}}".encode())
        assert b" 503 " in await asyncio.wait_for(reader.readline(), 5)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (low, high))
        os.close(taken[0])
    (end,) = rig.rows("end")
    assert (end["status"], end["end_reason"], end["upstream_status"]) == (503, "refused", None)
    assert upstream.is_ready
    assert (await rig.post(CHAT, {"model": "otter"}))[0] == 200
    writer.close()


async def test_F028_large_bodies_that_vllm_does_not_take_are_bounded(rig) -> None:
    """Small requests pass meanwhile; once vLLM takes what waits, large ones do again."""
    may_read = asyncio.Event()

    async def script(request: web.Request) -> web.StreamResponse:
        if request.content_length and request.content_length > 1000:
            await may_read.wait()
        return web.json_response({"bytes": len(await request.read())})

    rig.vllm.script = script
    await rig.start(limits=Limits(held_bytes=41_000_000, buffered_bytes=100_000_000))
    large = b'{"model":"otter","prompt":"' + b"x" * 8_000_000 + b'"}'
    asked = [asyncio.create_task(rig.post(CHAT, io.BytesIO(large))) for _ in range(8)]
    async with asyncio.timeout(10):
        while sum(one.done() for one in asked) < 3:
            await asyncio.sleep(0.02)
    assert [one.result()[0] for one in asked if one.done()] == [503] * 3
    assert (await rig.post(CHAT, {"model": "otter"}))[0] == 200
    may_read.set()
    assert sorted(status for status, _, _ in await asyncio.gather(*asked)) == [200] * 5 + [503] * 3
    assert (await rig.post(CHAT, io.BytesIO(large)))[0] == 200
    assert len(rig.rows("end")) == 10


@pytest.mark.parametrize("size", [1, 3])
async def test_F028_a_body_in_small_parts_is_whole(rig, size: int) -> None:
    body = b'{"model":"otter","prompt":"' + bytes(range(48, 58)) * 1000 + b'"}'
    await rig.start()
    reader, writer = await asyncio.open_connection(*rig.proxy.address)
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    chunks = b"".join(
        b"%x\r\n%b\r\n" % (len(part), part) for part in (body[i : i + size] for i in range(0, len(body), size))
    )
    writer.write(head.encode() + chunks + b"0\r\n\r\n")
    assert b"200 OK" in await asyncio.wait_for(reader.read(), 10)
    assert rig.vllm.requests[0][2] == body
    writer.close()
