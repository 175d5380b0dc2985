"""Every recorded answer, cut at every byte, gives the usage that is known to be true and shows its client the same.

The recordings in fixtures/ always run. A folder of recordings from a real vLLM, with a manifest.json of true
counts, runs too where there is one.
"""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
from spotinference_proxy.usage import AnswerReader, Usage

FIXTURES = Path(__file__).parent / "fixtures"
REPOSITORY = Path(__file__).parents[2]
RECORDED = Path(os.environ.get("SPOTINFERENCE_VLLM_TRANSCRIPTS", REPOSITORY.parent / "shared" / "vllm-transcripts"))
MAX_SPLITS = 700  # of a long recording; the short ones are cut at every byte
FINGERPRINT = "vllm-0.0.0-aaaa"


@dataclass(frozen=True)
class Case:
    name: str
    endpoint: str
    status: int
    content_type: str
    choices: int
    body: bytes
    usage: Usage | None
    is_final: bool
    outcome: str
    model: str | None = None
    shows: str | None = None  # the body that a client sees who asked for no usage
    shows_if_known: str | None = None  # the same, where the fingerprint must be known before
    metadata: str | None = None
    max_completion_tokens: int | None = None
    is_implausible: bool = False

    @property
    def is_stream(self) -> bool:
        return "event-stream" in self.content_type

    def read(self, *chunks: bytes, hides: bool = False, fingerprint: str | None = None) -> tuple[AnswerReader, bytes]:
        reader = AnswerReader(
            self.endpoint,
            self.status,
            self.content_type,
            self.choices,
            hides_final=hides,
            hides_running=hides,
            metadata=self.metadata,
            fingerprint=fingerprint,
            max_completion_tokens=self.max_completion_tokens,
        )
        shown = b"".join([*map(reader.feed, chunks), reader.finish()])
        return reader, shown


def facts(reader: AnswerReader) -> tuple:
    names = ("usage", "is_final", "outcome", "model", "response_id", "is_implausible", "system_fingerprint")
    return tuple(getattr(reader, name) for name in names)


def own_cases() -> list[Case]:
    cases = []
    for one in json.loads((FIXTURES / "cases.json").read_text()):
        usage = one.pop("usage")
        body = (FIXTURES / f"{one['name']}.body").read_bytes()
        cases.append(Case(**one, body=body, usage=Usage(*usage) if usage else None))
    return cases


def recorded_cases() -> list[Case]:
    if not (RECORDED / "manifest.json").is_file():
        return []
    cases = []
    for one in json.loads((RECORDED / "manifest.json").read_text())["cases"]:
        if one["method"] != "POST" or one["endpoint"] == "/tokenize":
            continue
        visible, truth = one["usage_visible"], one["truth"]
        cases.append(
            Case(
                name=f"recorded-{one['name']}",
                endpoint=one["endpoint"],
                status=one["status"],
                content_type=one["content_type"],
                choices=one.get("n", 1),
                body=(RECORDED / one["name"] / one["files"]["response_body"]).read_bytes(),
                usage=None
                if visible in ("none", "token_ids")
                else Usage(truth["prompt_tokens"], truth["completion_tokens"]),
                is_final=truth["complete"] and visible not in ("none", "token_ids"),
                outcome="error" if "error" in one["name"] else "open" if one["closed_by"] == "client" else "done",
            )
        )
    return cases


def named(cases: list[Case]) -> list:
    return [pytest.param(case, id=case.name) for case in cases]


def body_of(name: str) -> bytes:
    return (FIXTURES / f"{name}.body").read_bytes()


OWN = own_cases()
STREAMS = [case for case in OWN if case.is_stream]


@pytest.mark.parametrize("case", named(OWN))
def test_F021_F023_the_true_usage_is_read_and_what_cannot_be_true_is_flagged(case: Case) -> None:
    reader, shown = case.read(case.body)
    assert (reader.usage, reader.is_final, reader.outcome) == (case.usage, case.is_final, case.outcome)
    assert (reader.model, reader.is_implausible) == (case.model, case.is_implausible)
    assert shown == case.body


@pytest.mark.parametrize("case", named(recorded_cases()))
def test_what_a_real_vllm_said_is_read(case: Case) -> None:
    reader, shown = case.read(case.body)
    usage = reader.usage and Usage(reader.usage.prompt_tokens, reader.usage.completion_tokens)  # all the manifest has
    assert (usage, reader.is_final, reader.outcome) == (case.usage, case.is_final, case.outcome)
    assert not reader.is_implausible
    assert shown == case.body


@pytest.mark.parametrize("hides", [False, True])
@pytest.mark.parametrize("case", named(OWN + recorded_cases()))
def test_F022_any_cut_gives_the_same(case: Case, hides: bool) -> None:
    whole, shown = case.read(case.body, hides=hides)
    step = max(1, len(case.body) // MAX_SPLITS) if case.name.startswith("recorded-") else 1
    cuts = [(case.body[:at], case.body[at:]) for at in range(1, len(case.body), step)]
    sizes = [tuple(case.body[i : i + size] for i in range(0, len(case.body), size)) for size in (1, 2, 7, 1000)]
    for chunks in cuts + sizes:
        reader, found = case.read(*chunks, hides=hides)
        assert (facts(reader), found) == (facts(whole), shown), [len(chunk) for chunk in chunks]


def test_F022_there_are_streams_enough() -> None:
    assert len(STREAMS) >= 30


def test_F022_control_a_reader_of_single_reads_is_wrong_at_most_cuts() -> None:
    def last_usage(*chunks: bytes) -> object:
        found = None
        for chunk in chunks:
            for line in chunk.split(b"\n\n"):
                try:
                    found = json.loads(line.removeprefix(b"data: "))["usage"]
                except (ValueError, KeyError):
                    continue
        return found

    body = body_of("chat_stream_final_usage")
    whole = last_usage(body)
    wrong = [at for at in range(1, len(body)) if last_usage(body[:at], body[at:]) != whole]
    assert whole
    assert len(wrong) > 100


@pytest.mark.parametrize("case", named([case for case in OWN if case.shows or case.shows_if_known]))
def test_the_client_that_did_not_ask_sees_what_it_would_have_seen(case: Case) -> None:
    plain = body_of(case.shows or case.shows_if_known or "")
    assert case.read(case.body, hides=True, fingerprint=FINGERPRINT)[1] == plain
    reader, shown = case.read(case.body, hides=True)
    assert (shown == plain) is bool(case.shows)
    assert reader.system_fingerprint == FINGERPRINT


def test_what_the_client_asked_for_stays() -> None:
    body = body_of("chat_stream_continuous")
    reader = AnswerReader("/v1/chat/completions", 200, "text/event-stream", hides_running=True)
    shown = reader.feed(body) + reader.finish()
    assert shown.count(b'"usage"') == 1
    assert b'"choices":[],"usage":{"prompt_tokens":11' in shown
    assert b'"finish_reason":"length"}]}' in shown  # its fingerprint stands in the usage event


def test_the_fingerprint_of_an_earlier_answer_is_not_waited_for() -> None:
    body = body_of("chat_stream_continuous")
    at = body.index(b"\n\n", body.index(b'"finish_reason":"length"')) + 2
    for fingerprint, is_shown in ((FINGERPRINT, True), (None, False)):
        reader = AnswerReader(
            "/v1/chat/completions",
            200,
            "text/event-stream",
            hides_final=True,
            hides_running=True,
            fingerprint=fingerprint,
        )
        assert (b'"length"' in reader.feed(body[:at])) is is_shown


def test_what_is_held_back_is_given_out_where_vllm_breaks_off() -> None:
    body = body_of("chat_stream_continuous")
    at = body.index(b"\n\n", body.index(b'"finish_reason":"length"')) + 2
    for extra in (b"", b'data: {"cho'):
        reader = AnswerReader("/v1/chat/completions", 200, "text/event-stream", hides_final=True, hides_running=True)
        shown = reader.feed(body[:at] + extra) + reader.rest()
        assert shown.endswith(b'"finish_reason":"length"}]}\n\n' + extra)
        assert reader.outcome == "open"


@pytest.mark.skipif(not RECORDED.is_dir(), reason="no recordings of a real vLLM on this machine")
@pytest.mark.parametrize("name", ["chat-stream-continuous-usage", "chat-stream-include-usage"])
@pytest.mark.parametrize("fingerprint", [None, "vllm-0.32.0-8497df40"])
def test_a_recorded_stream_shown_is_the_recorded_stream_without_usage(name: str, fingerprint: str | None) -> None:
    def neutral(body: bytes) -> bytes:
        return re.sub(rb'"id":"[^"]*"|"created":\d+', b"", body)

    plain = (RECORDED / "chat-stream-no-usage" / "response.body").read_bytes()
    body = (RECORDED / name / "response.body").read_bytes()
    case = Case(name, "/v1/chat/completions", 200, "text/event-stream", 1, body, None, True, "done")
    assert neutral(case.read(body, hides=True, fingerprint=fingerprint)[1]) == neutral(plain)
