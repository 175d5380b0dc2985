import asyncio
import contextlib

from spotinference_proxy.settings import UpstreamSettings
from spotinference_proxy.upstreams import UpstreamPool


def pool(*models: tuple[str, ...]) -> UpstreamPool:
    found = UpstreamPool([UpstreamSettings(f"http://{i}", i, names) for i, names in enumerate(models)])
    for one in found.upstreams:
        one.is_ready = True
    return found


def test_the_ready_upstream_of_the_model_with_the_fewest_requests_is_next() -> None:
    found = pool(("a",), ("a", "b"), ("b",))
    first, second, third = found.upstreams
    assert found.choose("a") is first
    first.in_flight = 1
    assert found.choose("a") is second
    second.is_ready = False
    assert found.choose("a") is first
    assert found.choose("b") is third
    third.is_ready = None
    assert found.choose("b") is None
    second.is_ready, first.is_ready = True, None
    assert found.choose("unknown") is second
    assert found.choose(None) is second


def test_among_equally_busy_upstreams_it_is_the_one_not_asked_for_longest() -> None:
    found = pool(("a",), ("a",), ("a",))
    assert [found.choose("a") for _ in range(4)] == [*found.upstreams, found.upstreams[0]]


def test_a_new_list_keeps_the_state_of_known_upstreams() -> None:
    found = pool(("a",), ("b",))
    first, second = found.upstreams
    found.configure([UpstreamSettings("http://1", 1, ("a",)), UpstreamSettings("http://2", 2, ("a",))])
    assert found.upstreams[0] is second
    assert second.settings.models == ("a",)
    assert found.upstreams[1].is_ready is None
    assert first not in found.upstreams
    assert found.choose("a") is second


def test_an_upstream_without_a_list_serves_any_model() -> None:
    found = pool(("a",), ())
    assert found.choose("x") is found.upstreams[1]
    assert found.choose(None) is found.upstreams[0]


async def test_a_name_that_no_resolver_takes_is_an_upstream_that_is_not_there() -> None:
    found = UpstreamPool([UpstreamSettings("http://gpu..internal:8000", 1)])
    assert await found.probe() == found.upstreams
    assert found.upstreams[0].is_ready is False
    assert "gpu..internal" in (found.upstreams[0].problem or "")


async def answering_health(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    writer.close()


async def test_one_that_is_gone_from_the_list_serves_until_the_new_ones_are_known() -> None:
    found = pool(("a",), ("b",))
    old = found.upstreams[0]
    async with await asyncio.start_server(answering_health, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        found.configure([UpstreamSettings(f"http://127.0.0.1:{port}", 7, ("a",))])
        assert found.choose("a") is old
        assert found.choose("a", (old,)) is None
        await found.probe()
        assert found.choose("a") is found.upstreams[0] is not old
        found.upstreams[0].is_ready = False
        assert found.choose("a") is None
        found.close()


async def test_one_that_is_gone_from_the_list_is_probed_while_it_has_requests() -> None:
    found = pool(("a",))
    old = found.upstreams[0]
    old.in_flight = 1
    found.configure([])
    assert found.choose("a") is None
    assert await found.probe() == [old]  # nobody listens at its address
    assert old.is_ready is False
    old.in_flight, old.is_ready = 0, True
    assert await found.probe() == [old]
    old.is_ready = True
    assert await found.probe() == []


async def test_one_that_comes_back_before_its_requests_ended_is_the_same() -> None:
    found = pool(("a",))
    old = found.upstreams[0]
    old.in_flight = 1
    found.configure([])
    found.configure([old.settings])
    assert found.upstreams == [old]
