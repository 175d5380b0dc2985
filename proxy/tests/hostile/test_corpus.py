"""Row 31: every case of the corpus, alone, behind a good request, in its packet, and in pieces."""

import pytest

MODES = ["alone", "kept", "pipelined", "pieces"]


@pytest.fixture(scope="module")
def front(open_front):
    return open_front()


@pytest.fixture(scope="module")
def judge(corpus, make_wire):
    """The rules themselves, so that the naive relay can be held to them too."""
    return Judge(corpus, make_wire)


class Judge:
    """Sends a case to a front and compares what the client and the upstream saw with what is allowed."""

    def __init__(self, corpus, make_wire) -> None:
        self._corpus = corpus
        self._make_wire = make_wire

    def refused(self, front, case, mode: str) -> None:
        """One answer of those allowed, or none; then the end. The upstream got no byte of it."""
        mark = front.upstream.mark()
        with self._make_wire(front.address, patience=front.patience) as wire:
            good = self._send(wire, case.raw, mode)
            if case.ends:
                wire.end()
            if case.keeps:
                self._kept(wire, case)
            else:
                self._closed(wire, case)
        seen = self._seen(front, mark)
        assert [one.target for one in seen] == ["/v1/completions"] * (good + case.keeps * self._was_kept)

    def passed(self, front, case, mode: str) -> None:
        """As many answers as requests, in their order, and exactly these requests at the upstream."""
        mark = front.upstream.mark()
        with self._make_wire(front.address, patience=front.patience) as wire:
            good = self._send(wire, case.raw, mode)
            answers = [wire.read() for _ in case.seen]
        echoes = [f'"{method} {target}"'.encode() for method, target, _ in case.seen]
        assert [one and one.status for one in answers] == [200] * len(case.seen)
        assert all(echo in one.body for echo, one in zip(echoes, answers, strict=True))
        seen = self._seen(front, mark)[good:]
        assert [(one.method, one.target, one.body) for one in seen] == list(case.seen)

    def doubtful(self, front, case, mode: str) -> None:
        """Refused with no byte passed on, or passed once and exactly."""
        mark = front.upstream.mark()
        with self._make_wire(front.address, patience=front.patience) as wire:
            good = self._send(wire, case.raw, mode)
            answer = wire.read()
            assert answer is not None
            if answer.status == 100:
                answer = wire.read()
        seen = [(one.method, one.target, one.body) for one in self._seen(front, mark)[good:]]
        if answer.status == 200:
            assert seen in (list(case.seen), [(method, target, b"") for method, target, _ in case.seen])
        else:
            assert answer.status in case.statuses
            assert seen == []

    def _send(self, wire, raw: bytes, mode: str) -> int:
        """Send it; return how many good requests came before and were answered."""
        if mode in ("alone", "pieces"):
            wire.send(raw, piece=None if mode == "alone" else max(7, len(raw) // 50))
            return 0
        wire.send(self._corpus.GOOD if mode == "kept" else self._corpus.GOOD + raw)
        answer = wire.read()
        assert answer is not None
        assert answer.status == 200
        if mode == "kept":
            wire.send(raw)
        return 1

    def _closed(self, wire, case) -> None:
        answers = wire.read_all()
        assert wire.ending in ("closed", "reset")
        assert len(answers) == 1 or (case.silent and not answers), f"{len(answers)} answers to one request"
        for answer in answers:
            assert answer.status in case.statuses
            assert answer.closes
            self._fixed(answer)

    def _kept(self, wire, case) -> None:
        answer = wire.read()
        assert answer is not None
        assert answer.status in case.statuses
        self._fixed(answer)
        self._was_kept = not answer.closes
        if answer.closes:
            assert wire.read_all() == []
            assert wire.ending == "closed"
        else:
            wire.send(self._corpus.GOOD)
            following = wire.read()
            assert following is not None
            assert following.status == 200

    def _fixed(self, answer) -> None:
        """Refusals repeat nothing of the request."""
        assert answer.is_whole
        assert b"canary" not in answer.raw.lower()
        assert b"smuggled" not in answer.raw

    def _seen(self, front, mark) -> list:
        """Return what the upstream got, once whatever is on its way has arrived."""
        with self._make_wire(front.address, patience=front.patience) as wire:
            wire.send(self._corpus.get(line=b"GET /v1/models?barrier HTTP/1.1"))
            assert wire.read().status == 200, "the proxy does not serve any more"
        *seen, barrier = front.upstream.since(mark)
        assert barrier.target == "/v1/models?barrier"
        return seen

    _was_kept = False


@pytest.mark.parametrize("mode", MODES)
def test_F031_refused_with_no_byte_passed_on(front, judge, refused, mode) -> None:
    judge.refused(front, refused, mode)


@pytest.mark.parametrize("mode", MODES)
def test_F031_passed_once_and_exactly(front, judge, passed, mode) -> None:
    judge.passed(front, passed, mode)


@pytest.mark.parametrize("mode", MODES)
def test_F031_refused_or_passed_once_and_exactly(front, judge, doubtful, mode) -> None:
    judge.doubtful(front, doubtful, mode)


def test_F031_the_corpus_is_as_large_as_promised(corpus) -> None:
    cases = (*corpus.REFUSED, *corpus.PASSED, *corpus.DOUBTFUL)
    assert len(corpus.REFUSED) >= 37
    assert len({case.name for case in cases}) == len(cases)
    assert len({case.raw for case in cases}) == len(cases)


def test_F031_control_a_relay_that_forwards_everything_fails_every_case(open_front, judge, corpus) -> None:
    for case in corpus.REFUSED[:: len(corpus.REFUSED) // 12]:
        with pytest.raises(AssertionError):
            judge.refused(open_front(is_naive=True), case, "alone")


def test_F031_continue_is_said_before_a_body_is_sent(front, corpus, make_wire) -> None:
    mark = front.upstream.mark()
    head = corpus.post(f"Expect: 100-continue\r\nContent-Length: {len(corpus.BODY)}\r\n")
    with make_wire(front.address) as wire:
        wire.send(head)
        assert wire.read().status == 100
        wire.send(corpus.BODY)
        assert wire.read().status == 200
    assert [one.body for one in front.upstream.since(mark)] == [corpus.BODY]


@pytest.mark.parametrize("line", ["POST /v1/completions HTTP/1.0", "POST /v1/completions HTTP/1.1"])
def test_F031_nothing_behind_the_last_request_of_a_connection_is_served(front, corpus, make_wire, line) -> None:
    mark = front.upstream.mark()
    fields = f"Connection: close\r\nContent-Length: {len(corpus.BODY)}\r\n"
    with make_wire(front.address) as wire:
        wire.send(corpus.post(fields, corpus.BODY + corpus.SMUGGLED, line=line))
        answers = wire.read_all()
    assert [one.status for one in answers] == [200]
    assert wire.ending in ("closed", "reset")
    assert [one.body for one in front.upstream.since(mark)] == [corpus.BODY]


@pytest.mark.parametrize("path", ["/v1/models", "/v1/completions", "/nowhere"])
def test_F031_an_answer_to_head_has_no_body_that_could_pass_for_the_next_answer(front, corpus, make_wire, path) -> None:
    """RFC 9110, 9.3.2: an edge that shares connections between clients would hand it to somebody else."""
    with make_wire(front.address) as wire:
        wire.send(corpus.get(line=f"HEAD {path} HTTP/1.1".encode()))
        head = wire.read_head()
        wire.forget(len(head) + 4)
        if b"connection: close" not in head.lower():
            wire.send(corpus.get())
            assert wire.read_head().startswith(b"HTTP/1.1 200 ")


def test_F031_requests_in_one_packet_are_answered_in_order_whatever_the_upstream_takes(
    front, corpus, make_wire
) -> None:
    targets = [f"/v1/completions?n={i}" for i in range(20)]
    with make_wire(front.address) as wire:
        wire.send(b"".join(corpus.plain(target=target) for target in targets))
        bodies = [wire.read().body for _ in targets]
    assert [f'"POST {target}"'.encode() in body for target, body in zip(targets, bodies, strict=True)] == [True] * 20


def test_F031_one_record_for_every_request_that_was_passed_on_and_none_besides(front, corpus, make_wire) -> None:
    """Runs last, so it judges every case above; alone it judges one."""
    with make_wire(front.address) as wire:
        wire.send(corpus.plain())
        assert wire.read().status == 200
    ends = front.rows("end")
    passed_on = [one.request_id for one in front.upstream.requests if one.method == "POST"]
    assert sorted(row["request_id"] for row in ends) == sorted(passed_on)
    assert {row["end_reason"] for row in ends} == {"complete"}
