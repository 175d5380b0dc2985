"""The client of Hyperstack's API, against a transport that is written here."""

import gzip
import logging
import socket
import struct
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from spotinference_pipeline import answers, http_get, hyperstack, raw
from spotinference_pipeline.errors import HyperstackError
from spotinference_pipeline.hyperstack import Hyperstack
from spotinference_pipeline.pacing import Pace

KEY = "canary-5ecret-key"
MINUTE = datetime(2026, 11, 22, 10, tzinfo=UTC)
Handler = Callable[[httpx.Request], httpx.Response]


class Ticking:
    """A clock that moves on by a second each time it is read."""

    def __init__(self) -> None:
        self.now = MINUTE

    def __call__(self) -> datetime:
        self.now += timedelta(seconds=1)
        return self.now


def client(handler: Handler, **options: Any) -> Hyperstack:
    transport = httpx.MockTransport(handler)
    return Hyperstack("https://hyperstack.test/v1/", KEY, Ticking(), transport=transport, **options)


def answering(*answers_in_order: httpx.Response | Exception) -> tuple[Handler, list[httpx.Request]]:
    """A handler that gives these answers one after the other, and the requests it saw."""
    seen: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        given = answers_in_order[len(seen) - 1]
        if isinstance(given, Exception):
            raise given
        return given

    return handle, seen


def answer(status: int, content: bytes = b"", **headers: str) -> httpx.Response:
    return httpx.Response(status, headers=headers, stream=httpx.ByteStream(content))


def test_an_answer_is_kept_as_its_exact_bytes_with_its_instants() -> None:
    handle, seen = answering(answer(200, b'{"data": []} ', date="Sun, 22 Nov 2026 10:00:01 GMT"))
    with client(handle) as api:
        (exchange,) = api.fetch_usage(MINUTE)
    assert exchange.body_bytes() == b'{"data": []} '
    assert exchange.status == 200
    assert exchange.date == "Sun, 22 Nov 2026 10:00:01 GMT"
    assert exchange.error is None
    assert exchange.scheduled_at == MINUTE
    assert exchange.finished_at - exchange.started_at == timedelta(seconds=1)
    assert str(seen[0].url) == "https://hyperstack.test/v1/billing/billing/usage?deleted=false"
    assert seen[0].headers["api_key"] == KEY
    assert seen[0].headers["accept-encoding"] == "identity"


def test_each_method_asks_for_its_path_and_nothing_else() -> None:
    handle, seen = answering(*(answer(200, b"{}") for _ in range(8)))
    with client(handle) as api:
        api.fetch_usage(MINUTE)
        api.fetch_usage(MINUTE, deleted=True)
        api.fetch_history(MINUTE, MINUTE - timedelta(hours=10), MINUTE)
        api.fetch_credit(MINUTE)
        api.fetch_virtual_machines(MINUTE)
        api.fetch_vm_events(MINUTE, 700123)
        api.fetch_volumes(MINUTE)
        api.fetch_price_book(MINUTE)
    assert [request.url.raw_path.decode().removeprefix("/v1") for request in seen] == [
        "/billing/billing/usage?deleted=false",
        "/billing/billing/usage?deleted=true",
        "/billing/billing/history?start_date=2026-11-22T00%3A00%3A00&end_date=2026-11-22T10%3A00%3A00",
        "/billing/user-credit/credit",
        "/core/virtual-machines",
        "/core/virtual-machines/700123/events",
        "/core/volumes",
        "/pricebook",
    ]
    assert {request.method for request in seen} == {"GET"}


@pytest.mark.parametrize(
    "path",
    [
        "/core/virtual-machines/700123/start",
        "/core/virtual-machines/700123/stop",
        "/core/virtual-machines/700123/hard-reboot",
        "/core/virtual-machines/700123/hibernate",
        "/core/virtual-machines/700123/hibernate-restore",
        "/core/virtual-machines/700123/events/../stop",
        "/core/virtual-machines/700123/events\n",
        "/core/virtual-machines/700123/events?x=/stop",
        "/core/virtual-machines/700123/stop#/events",
        "//core/virtual-machines",
        "https://elsewhere.test/billing/billing/usage",
        "/pricebook/",
        "",
    ],
)
def test_a_path_that_may_change_state_is_refused_before_anything_is_sent(path: str) -> None:
    handle, seen = answering()
    with client(handle) as api, pytest.raises(HyperstackError, match="GET changes state"):
        api.fetch(MINUTE, path, {})
    assert seen == []


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_F041_a_failing_answer_is_a_record_and_is_asked_for_once_more(status: int) -> None:
    handle, seen = answering(answer(status, b"<h1>no</h1>"), answer(200, b"{}"))
    with client(handle) as api:
        failed, good = api.fetch_usage(MINUTE)
    assert len(seen) == 2
    assert (failed.status, failed.body) == (status, "<h1>no</h1>")
    assert (good.status, good.body) == (200, "{}")


def test_F041_an_endpoint_that_keeps_failing_gives_as_many_records_as_attempts() -> None:
    handle, seen = answering(*(answer(500) for _ in range(3)))
    with client(handle, attempts=3) as api:
        assert [exchange.status for exchange in api.fetch_usage(MINUTE)] == [500, 500, 500]
    assert len(seen) == 3


@pytest.mark.parametrize(
    "failure",
    [
        httpx.ConnectError(f"to {KEY}"),
        httpx.ConnectTimeout(f"to {KEY}"),
        httpx.ReadTimeout(f"to {KEY}"),
        httpx.RemoteProtocolError(f"to {KEY}"),
        httpx.LocalProtocolError(f"Illegal header value b'{KEY}'"),
    ],
)
def test_F041_no_answer_is_a_record_that_says_why_in_one_word(failure: Exception) -> None:
    handle, _ = answering(failure, failure)
    with client(handle, attempts=2) as api:
        taken = api.fetch_usage(MINUTE)
    assert [exchange.error for exchange in taken] == [f"no answer: {type(failure).__name__}"] * 2
    assert {(exchange.status, exchange.body, exchange.sha256) for exchange in taken} == {(None, None, None)}


def test_F040_a_429_is_a_record_and_is_not_asked_again_at_once() -> None:
    handle, seen = answering(answer(429, b"slow down"))
    with client(handle) as api:
        (exchange,) = api.fetch_usage(MINUTE)
    assert exchange.status == 429
    assert len(seen) == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_F056_a_refused_key_or_question_is_one_request(status: int) -> None:
    handle, seen = answering(answer(status))
    with client(handle) as api:
        (exchange,) = api.fetch_usage(MINUTE)
    assert exchange.status == status
    assert len(seen) == 1


def test_F057_the_key_is_in_no_exchange_no_error_and_no_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    handle, _ = answering(httpx.ConnectError(KEY), answer(500), answer(302, location="/x"), answer(200, b"{}"))
    with client(handle, attempts=2) as api:
        taken = api.fetch_usage(MINUTE) + api.fetch_credit(MINUTE) + api.fetch_price_book(MINUTE)
        with pytest.raises(HyperstackError) as caught:
            api.fetch(MINUTE, "/core/virtual-machines/1/stop", {})
    assert len(taken) == 4
    written = b"".join(raw.encode_exchange(exchange) for exchange in taken).decode()
    assert KEY not in written + str(caught.value) + repr(caught.value) + caplog.text + repr(taken)


@pytest.mark.parametrize("location", ["https://elsewhere.test/", "http://hyperstack.test/v1/pricebook"])
def test_F058_a_redirect_is_a_record_and_is_not_followed(location: str) -> None:
    handle, seen = answering(answer(302, location=location))
    with client(handle) as api:
        (exchange,) = api.fetch_price_book(MINUTE)
    assert exchange.status == 302
    assert [request.url.host for request in seen] == ["hyperstack.test"]


def test_a_compressed_answer_is_refused_unread() -> None:
    packed = gzip.compress(b"{}")
    handle, _ = answering(*(answer(200, packed, **{"content-encoding": "gzip"}) for _ in range(2)))
    with client(handle, attempts=2) as api:
        for exchange in api.fetch_usage(MINUTE):
            assert exchange.status is None
            assert exchange.body_bytes() is None
            assert exchange.error == "body: expected no content-encoding, found 'gzip'"


def test_an_endless_body_is_refused_at_the_limit() -> None:
    class Endless(httpx.AsyncByteStream):
        given = 0

        async def __aiter__(self) -> AsyncIterator[bytes]:
            while True:
                self.given += 2**23
                yield bytes(2**23)

    body = Endless()
    with client(lambda _: httpx.Response(200, stream=body), attempts=1) as api:
        (exchange,) = api.fetch_usage(MINUTE)
    assert exchange.error == f"body: expected at most {http_get.BODY_LIMIT_BYTES} bytes, found more"
    assert body.given == http_get.BODY_LIMIT_BYTES + 2**23


def test_F043_a_body_that_is_no_text_or_cut_short_is_kept_and_asked_for_once_more() -> None:
    handle, _ = answering(answer(200, b"\xff\x00"), answer(200, b'{"data":['), answer(200, b'{"data":[]}'))
    with client(handle) as api:
        binary, cut, whole = api.fetch_usage(MINUTE)
    assert binary.body is None
    assert binary.body_bytes() == b"\xff\x00"
    assert (cut.body, whole.body) == ('{"data":[', '{"data":[]}')


def test_what_is_no_failure_of_the_call_is_not_swallowed() -> None:
    def broken(_: httpx.Request) -> httpx.Response:
        raise ZeroDivisionError

    with client(broken) as api, pytest.raises(ZeroDivisionError):
        api.fetch_usage(MINUTE)


def test_the_minute_of_an_instant_has_no_seconds() -> None:
    assert hyperstack.minute_of(datetime(2026, 11, 22, 10, 59, 59, 999_999, tzinfo=UTC)) == datetime(
        2026, 11, 22, 10, 59, tzinfo=UTC
    )


def test_every_endpoint_that_is_read_may_be_asked() -> None:
    for endpoint in (answers.USAGE, answers.HISTORY, answers.CREDIT, answers.VIRTUAL_MACHINES, answers.VOLUMES):
        assert hyperstack.READS.fullmatch(endpoint)


class Stopwatch:
    """Elapsed seconds that a test moves."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_F042_a_snapshot_whose_time_is_used_up_asks_nothing_more_and_says_so() -> None:
    watch = Stopwatch()
    handle, seen = answering(answer(200, b"{}"))
    with client(handle, elapsed=watch) as api:
        api.fetch_usage(MINUTE)
        watch.seconds = hyperstack.BUDGET_SECONDS + 0.1
        (unasked,) = api.fetch_virtual_machines(MINUTE)
    assert len(seen) == 1
    assert (unasked.status, unasked.body, unasked.endpoint) == (None, None, answers.VIRTUAL_MACHINES)
    assert unasked.error == "not asked: the time of this snapshot was used up"
    assert hyperstack.BUDGET_SECONDS + http_get.ANSWER_SECONDS <= 50


@contextmanager
def server(serve: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server on loopback that treats each connection as told, until the client has gone."""

    def run() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection, suppress(OSError):
                    connection.recv(65_536)
                    serve(connection)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


def hang(connection: socket.socket) -> None:
    connection.recv(1)


def drip(start: bytes) -> Callable[[socket.socket], None]:
    def dripping(connection: socket.socket) -> None:
        connection.sendall(start)
        connection.settimeout(0.02)
        while True:
            connection.sendall(b"a")
            try:
                if not connection.recv(1):
                    return
            except TimeoutError:
                continue

    return dripping


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


UNFINISHED = "answer: expected within 0.25 s, found it unfinished"


@pytest.mark.parametrize(
    ("serve", "why"),
    [
        (hang, "no answer: ReadTimeout"),
        (drip(b"HTTP/1.1 200 OK\r\nx: "), UNFINISHED),
        (drip(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n"), UNFINISHED),
        (reset, "no answer: ReadError"),
        (lambda connection: None, "no answer: RemoteProtocolError"),
    ],
    ids=["hang", "dripping head", "dripping body", "reset", "closed"],
)
def test_F042_an_answer_that_does_not_end_is_given_up_in_time(serve: Callable[[socket.socket], None], why: str) -> None:
    with server(serve) as url, Hyperstack(url, KEY, Ticking(), attempts=1, answer_seconds=0.25) as api:
        began = time.monotonic()
        (exchange,) = api.fetch_usage(MINUTE)
        assert time.monotonic() - began < 2
    assert exchange.status is None
    assert exchange.error in {why, UNFINISHED}


def test_F042_no_second_try_begins_after_the_time_of_the_snapshot() -> None:
    watch = Stopwatch()

    def hangs(_: httpx.Request) -> httpx.Response:
        watch.seconds += http_get.ANSWER_SECONDS
        raise httpx.ReadTimeout("")

    with client(hangs, elapsed=watch) as api:
        taken = [api.fetch_usage(MINUTE), api.fetch_virtual_machines(MINUTE), api.fetch_credit(MINUTE)]
    assert [len(exchanges) for exchanges in taken] == [2, 1, 1]
    assert [exchange.error for exchange in taken[1] + taken[2]] == [
        "not asked: the time of this snapshot was used up"
    ] * 2
    assert watch.seconds <= 50


def test_F040_the_word_of_a_429_is_kept_and_nothing_is_asked_after_it() -> None:
    handle, seen = answering(answer(429, b"", **{"retry-after": "120"}))
    with client(handle) as api:
        (limited,) = api.fetch_usage(MINUTE)
        (left_out,) = api.fetch_virtual_machines(MINUTE)
    assert limited.retry_after == "120"
    assert len(seen) == 1
    assert str(left_out.error).startswith(
        "not asked: Hyperstack asked for fewer requests (429): asked again from 2026-"
    )
    assert left_out.pause is not None
    assert left_out.pause.ends_at - limited.finished_at >= timedelta(seconds=120)


def test_F040_more_than_the_limit_of_a_minute_is_never_asked() -> None:
    handle, seen = answering(*(answer(200, b"{}") for _ in range(10)))
    now = MINUTE
    transport = httpx.MockTransport(handle)
    with Hyperstack("https://h.test/v1", KEY, lambda: now, transport=transport) as api:
        errors = [api.fetch_credit(MINUTE)[0].error for _ in range(12)]
    assert errors == [None] * 10 + ["not asked: enough was asked in the last 60 s"] * 2
    assert len(seen) == 10


def test_a_reader_of_the_books_waits_for_its_turn_as_long_as_it_has_patience() -> None:
    handle, seen = answering(*(answer(200, b"{}") for _ in range(6)), answer(429, b"", **{"retry-after": "3000"}))
    now, slept = [MINUTE], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += timedelta(seconds=seconds)

    options = {"pace": Pace(most_per_minute=3), "patience_seconds": 90.0, "budget_seconds": 1e9, "sleep": sleep}
    transport = httpx.MockTransport(handle)
    with Hyperstack("https://h.test/v1", KEY, lambda: now[0], transport=transport, **options) as api:
        for _ in range(7):
            (exchange,) = api.fetch_payments(MINUTE)
        assert (exchange.status, len(seen)) == (429, 7)
        assert slept == [60.0, 60.0]
        (left_out,) = api.fetch_payments(MINUTE)
    assert str(left_out.error).startswith("not asked: Hyperstack asked for fewer requests")
    assert slept == [60.0, 60.0], "more than its patience"
