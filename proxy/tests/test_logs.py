import asyncio
import fcntl
import json
import logging
import os
import select
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spotinference_proxy.logs import Logs, StandardHandler
from spotinference_proxy.record import RequestRecord
from spotinference_proxy.usage import Usage

SECRETS = ("sk-spot-0123456789", "tell me a story", "192.0.2.77")


class Sink:
    """A pipe whose other end the test reads."""

    def __init__(self) -> None:
        self.source, self.fd = os.pipe()
        os.set_blocking(self.source, False)

    def text(self) -> str:
        found = b""
        while select.select([self.source], [], [], 0)[0] and (part := os.read(self.source, 1 << 20)):
            found += part
        return found.decode()

    def lines(self) -> list[dict]:
        return [json.loads(line) for line in self.text().splitlines()]

    def close(self) -> None:
        for fd in (self.source, self.fd):
            os.close(fd)


@pytest.fixture
def sink() -> Iterator[Sink]:
    sink = Sink()
    yield sink
    sink.close()


def test_a_line_is_one_object_with_instant_level_and_event(sink: Sink, clock) -> None:
    logs = Logs(sink.fd, clock)
    logs.info("listening", address="127.0.0.1:8080")
    logs.warning("keys_file", problem="line\nbreak \u2028 \x00 é")
    logs.error("log", path=Path("/x"), count=None)
    first, second, third = sink.lines()
    assert first == {
        "at": "2026-11-22T12:00:00.000000Z",
        "level": "info",
        "event": "listening",
        "address": "127.0.0.1:8080",
    }
    assert (second["level"], second["problem"]) == ("warning", "line\nbreak \u2028 \x00 é")
    assert (third["level"], third["path"], third["count"]) == ("error", "/x", None)


def test_an_instant_is_in_UTC_whatever_zone_the_clock_has(sink: Sink, clock) -> None:
    Logs(sink.fd, lambda: clock().astimezone(__import__("datetime").timezone(timedelta(hours=-8)))).info("x")
    assert sink.lines()[0]["at"] == "2026-11-22T12:00:00.000000Z"


def test_the_access_log_has_one_line_per_request_and_nothing_private(sink: Sink, clock) -> None:
    record = RequestRecord("id-1", clock(), "/v1/chat/completions", requested_model="otter", key_id="0123456789ab")
    clock.step(1.25)
    logs = Logs(sink.fd, clock)
    record.status = 200
    logs.access(record, "complete")
    record.usage = Usage(3, 2)
    logs.access(record, "complete", record.started_at - timedelta(seconds=1))
    unknown, known = sink.lines()
    assert unknown == {
        "at": "2026-11-22T12:00:01.250000Z",
        "level": "info",
        "event": "request",
        "request_id": "id-1",
        "endpoint": "/v1/chat/completions",
        "status": 200,
        "seconds": 1.25,
        "end_reason": "complete",
        "prompt_tokens": None,
        "completion_tokens": None,
    }
    assert (known["prompt_tokens"], known["completion_tokens"], known["seconds"]) == (3, 2, 0.0)


def test_an_exception_is_told_by_type_and_place_and_not_by_its_message(sink: Sink, clock) -> None:
    logs = Logs(sink.fd, clock)
    with pytest.raises(ValueError) as caught:
        int(" ".join(SECRETS))
    logs.failure("internal_error", caught.value, request_id="id-1")
    text = sink.text()
    assert not any(secret in text for secret in SECRETS)
    found = json.loads(text)
    assert (found["exception"], found["request_id"]) == ("ValueError", "id-1")
    assert found["where"].startswith("test_logs.py:")


async def test_what_the_event_loop_says_of_a_failed_callback_names_no_arguments(sink: Sink, clock) -> None:
    handler = StandardHandler(Logs(sink.fd, clock))
    logger = logging.getLogger("asyncio")
    logger.addHandler(handler)
    logger.propagate = False

    def fail(secrets: tuple[str, ...]) -> None:
        raise RuntimeError(secrets[0])

    try:
        asyncio.get_running_loop().call_soon(fail, SECRETS)
        await asyncio.sleep(0.01)
        logger.warning("slow callback with %s", SECRETS)
        logger.error("error with %s", SECRETS)
        logger.info("nothing")
    finally:
        logger.removeHandler(handler)
        logger.propagate = True
    text = sink.text()
    assert not any(secret in text for secret in SECRETS)
    failed, warned, erred = (json.loads(line) for line in text.splitlines())
    assert (failed["exception"], failed["logger"], "fail" in failed["where"]) == ("RuntimeError", "asyncio", True)
    assert (warned["level"], erred["level"]) == ("warning", "error")


def test_a_reader_that_is_stuck_costs_lines_and_no_time(sink: Sink, clock) -> None:
    fcntl.fcntl(sink.fd, fcntl.F_SETPIPE_SZ, 4096)
    logs = Logs(sink.fd, clock)
    for _ in range(200):
        logs.info("many", text="x" * 100)
    assert 0 < logs.dropped < 200
    dropped = logs.dropped
    written = sink.lines()
    assert len(written) + dropped == 200
    logs.info("after")
    assert sink.lines() == [{"at": written[0]["at"], "level": "info", "event": "after", "dropped": dropped}]
    assert logs.dropped == 0


def test_nobody_who_reads_is_no_reason_to_fail(clock) -> None:
    source, fd = os.pipe()
    os.close(source)
    logs = Logs(fd, clock)
    logs.info("one")
    os.close(fd)
    logs.info("two")
    assert logs.dropped == 2


@given(
    st.dictionaries(st.text(max_size=10), st.recursive(st.text(max_size=3000) | st.integers() | st.floats(), st.lists))
)
def test_any_fields_make_one_short_line(fields: dict) -> None:
    sink = Sink()
    try:
        names = {f"x_{name}": value for name, value in fields.items()}
        Logs(sink.fd).info("event", **names)
        text = sink.text()
        assert text.count("\n") == 1
        assert len(text.encode()) <= 4096
        assert json.loads(text)["event"] == "event"
    finally:
        sink.close()


def test_a_value_that_cannot_be_written_cuts_the_line_short(sink: Sink, clock) -> None:
    loop: list = []
    loop.append(loop)
    Logs(sink.fd, clock).info("event", loop=loop, many=["x" * 90] * 90)
    assert sink.lines()[0]["is_cut"] is True
