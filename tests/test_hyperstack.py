"""The client of Hyperstack's API, against a transport that is written here."""

import gzip
import logging
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
import stamina

from spotinference_pipeline import answers, hyperstack, raw
from spotinference_pipeline.errors import HyperstackError
from spotinference_pipeline.hyperstack import Hyperstack

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


@pytest.fixture(autouse=True)
def no_waiting() -> Iterator[None]:
    """Retries without pause, as many as the code asks for."""
    with stamina.set_testing(True, attempts=100, cap=True):
        yield


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
    assert (exchange.started_at, exchange.finished_at) == (
        MINUTE + timedelta(seconds=1),
        MINUTE + timedelta(seconds=2),
    )
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
    with client(handle) as api:
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
    with client(handle) as api:
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
    with client(handle) as api:
        for exchange in api.fetch_usage(MINUTE):
            assert exchange.status is None
            assert exchange.body_bytes() is None
            assert exchange.error == "body: expected no content-encoding, found 'gzip'"


def test_an_endless_body_is_refused_at_the_limit() -> None:
    class Endless(httpx.SyncByteStream):
        given = 0

        def __iter__(self) -> Iterator[bytes]:
            while True:
                self.given += 2**23
                yield bytes(2**23)

    body = Endless()
    with client(lambda _: httpx.Response(200, stream=body), attempts=1) as api:
        (exchange,) = api.fetch_usage(MINUTE)
    assert exchange.error == f"body: expected at most {hyperstack.BODY_LIMIT_BYTES} bytes, found more"
    assert body.given == hyperstack.BODY_LIMIT_BYTES + 2**23


def test_a_body_that_is_no_text_is_kept() -> None:
    handle, _ = answering(answer(200, b"\xff\x00"))
    with client(handle) as api:
        (exchange,) = api.fetch_usage(MINUTE)
    assert exchange.body is None
    assert exchange.body_bytes() == b"\xff\x00"


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
    assert hyperstack.BUDGET_SECONDS + hyperstack.ANSWER_SECONDS <= 50


def test_F042_an_answer_that_drips_in_without_end_is_given_up() -> None:
    watch = Stopwatch()

    class Dripping(httpx.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            while True:
                watch.seconds += 1
                yield b" "

    handle, _ = answering(httpx.Response(200, stream=Dripping()))
    with client(handle, attempts=1, elapsed=watch) as api:
        (exchange,) = api.fetch_usage(MINUTE)
    assert exchange.status is None
    assert exchange.error == "body: expected within 20 s, found it unfinished"
