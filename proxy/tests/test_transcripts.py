"""Every recorded answer, cut at every byte, gives the usage that is known to be true.

The recordings in fixtures/ always run. A folder of recordings from a real vLLM, with a manifest.json of true
counts, runs too where there is one.
"""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
from spotinference_proxy.strip import UsageStripper
from spotinference_proxy.usage import Usage, UsageReader

FIXTURES = Path(__file__).parent / "fixtures"
REPOSITORY = Path(__file__).parents[2]
RECORDED = Path(os.environ.get("SPOTINFERENCE_VLLM_TRANSCRIPTS", REPOSITORY.parent / "shared" / "vllm-transcripts"))
MAX_SPLITS = 700  # of a long recording; the short ones are cut at every byte


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

    def read(self, *chunks: bytes) -> tuple:
        reader = UsageReader(self.endpoint, self.status, self.content_type, self.choices)
        for chunk in chunks:
            reader.feed(chunk)
        reader.finish()
        return reader.usage, reader.is_final, reader.outcome, reader.model, reader.response_id


def own_cases() -> list[Case]:
    cases = []
    for one in json.loads((FIXTURES / "cases.json").read_text()):
        usage = Usage(*one.pop("usage")) if one["usage"] else one.pop("usage")
        one.pop("model")
        cases.append(Case(**one, body=(FIXTURES / f"{one['name']}.body").read_bytes(), usage=usage))
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


@pytest.mark.parametrize("case", named(own_cases() + recorded_cases()))
def test_F022_the_true_usage_is_read_at_every_cut(case: Case) -> None:
    usage, is_final, outcome, *_ = whole = case.read(case.body)
    if usage is not None and case.name.startswith("recorded-"):
        usage = Usage(usage.prompt_tokens, usage.completion_tokens)  # the manifest has no more
    assert (usage, is_final, outcome) == (case.usage, case.is_final, case.outcome)
    assert case.read(*(bytes([byte]) for byte in case.body)) == whole
    step = max(1, len(case.body) // MAX_SPLITS) if case.name.startswith("recorded-") else 1
    for at in range(1, len(case.body), step):
        assert case.read(case.body[:at], case.body[at:]) == whole, at


def stripped(body: bytes, *, final: bool = True, running: bool = True, size: int = 0) -> bytes:
    stripper = UsageStripper(hides_final=final, hides_running=running)
    chunks = [body[i : i + size] for i in range(0, len(body), size)] if size else [body]
    return b"".join(stripper.feed(chunk) for chunk in chunks) + stripper.finish()


@pytest.mark.parametrize("case", named([c for c in own_cases() if "event-stream" in c.content_type]))
def test_a_stripped_stream_does_not_depend_on_the_reads(case: Case) -> None:
    whole = stripped(case.body)
    assert all(stripped(case.body, size=size) == whole for size in (1, 2, 3, 7, 64, 1000))
    assert stripped(case.body, final=False, running=False) == case.body


def test_usage_taken_out_again_leaves_the_stream_as_it_was_without() -> None:
    plain = (FIXTURES / "chat_stream_no_usage.body").read_bytes()
    assert stripped((FIXTURES / "chat_stream_continuous.body").read_bytes()) == plain
    assert stripped((FIXTURES / "chat_stream_final_usage.body").read_bytes()) == plain


def test_what_the_client_asked_for_stays() -> None:
    final = (FIXTURES / "chat_stream_final_usage.body").read_bytes()
    assert stripped(final, final=False) == final
    tool = (FIXTURES / "chat_stream_tool_call.body").read_bytes()
    assert rb"\",\\\"usage\\\":{}\"" in stripped(tool)
    assert b'"usage":{"prompt' not in stripped(tool)


@pytest.mark.skipif(not RECORDED.is_dir(), reason="no recordings of a real vLLM on this machine")
@pytest.mark.parametrize("name", ["chat-stream-continuous-usage", "chat-stream-include-usage"])
def test_a_recorded_stream_stripped_is_the_recorded_stream_without_usage(name: str) -> None:
    def neutral(body: bytes) -> bytes:
        body = re.sub(rb'"id":"[^"]*"|"created":\d+', b"", body)
        return re.sub(rb',"system_fingerprint":"[^"]*"', b"", body)  # vLLM moves it to the usage event

    plain = (RECORDED / "chat-stream-no-usage" / "response.body").read_bytes()
    assert neutral(stripped((RECORDED / name / "response.body").read_bytes())) == neutral(plain)
