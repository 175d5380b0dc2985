"""Read and spell /v1/responses: text answers, plain and as a stream of named events.

Owns this endpoint's members and ids. Its id is its own, whatever X-Request-Id says; the usage comes with the
last event alone, which is `response.completed` also at the token limit; there is no `[DONE]`. Tools and
stored responses are not simulated.

Source: vLLM 0.32.0 as recorded.
"""

from typing import Any

from spotinference_sim.vllm_ask import Ask, Wish, check_length, count_chat, plan_choices, seed_of
from spotinference_sim.vllm_errors import invalid
from spotinference_sim.vllm_fields import read_flag, read_whole
from spotinference_sim.vllm_openai_ask import check_model
from spotinference_sim.vllm_options import Options
from spotinference_sim.vllm_totals import Tally, cached_tokens
from spotinference_sim.vllm_wire import Outcome, Wire, dump, named_event

RESPONSES = "/v1/responses"

Json = dict[str, Any]


def parse_responses(body: Json, options: Options) -> Ask:
    """Read a request. Raises: AskError."""
    given = body.get("input")
    messages = [{"content": given}] if isinstance(given, str) else given
    if not isinstance(messages, list) or not messages:
        raise invalid("input", "Field required")
    if isinstance(body.get("instructions"), str):
        messages = [{"content": body["instructions"]}, *messages]
    limit = read_whole(body.get("max_output_tokens"), "max_output_tokens")
    stream = read_flag(body.get("stream"), "stream")
    check_model(body, options)
    prompt = count_chat(messages)
    check_length(prompt, limit, options.max_model_len)
    return Ask(RESPONSES, body, plan_choices([(prompt, seed_of(given))], Wish(limit=limit)), stream=stream)


class ResponsesWire(Wire):
    """One response."""

    prefix = "resp_"
    tells_death = False

    def __init__(self, ask: Ask, name: str, options: Options, created: int) -> None:
        super().__init__(ask, name, options, created)
        self.id = str(ask.body.get("request_id") or f"{self.prefix}{seed_of(name):08x}{seed_of([name]):08x}")
        self._item = f"msg_{seed_of(self.id):08x}{seed_of(name):08x}"
        self._number = 0
        self._text = ""
        self._ended: str | None = None
        self._is_open = False

    def engine_ids(self) -> tuple[str, ...]:
        """Name the only turn."""
        return (f"{self.id}_0",)

    def begin(self) -> list[bytes]:
        """Say that it began, before any token."""
        about = self._response("in_progress", [], None)
        return [self._event(f"response.{kind}", response=about) for kind in ("created", "in_progress")]

    def tokens(self, index: int, first: int, end: int, ended: str | None) -> list[bytes]:
        """Open the one item with the first token, then tell text as it comes."""
        choice = self.ask.choices[index]
        text = choice.text(choice.settled(first), end if ended else choice.settled(end))
        self._ended = ended
        events = [] if self._is_open else self._open_item()
        if text:
            self._text += text
            events.append(self._event("response.output_text.delta", **self._place, delta=text, logprobs=[]))
        return events

    def _open_item(self) -> list[bytes]:
        self._is_open = True
        item = {"id": self._item, "content": [], "role": "assistant", "status": "in_progress"}
        part = {"annotations": [], "text": "", "type": "output_text", "logprobs": []}
        return [
            self._event("response.output_item.added", item=item | {"type": "message", "phase": None}, output_index=0),
            self._event("response.content_part.added", **self._place, part=part),
        ]

    def end(self, tally: Tally) -> list[bytes]:
        """Close the item, if one was opened, and tell the usage."""
        events = []
        if self._is_open:
            (item,) = self._output(self._text)
            events = [
                self._event("response.output_text.done", **self._place, logprobs=[], text=self._text),
                self._event("response.content_part.done", **self._place, part=item["content"][0]),
                self._event("response.output_item.done", item=item, output_index=0),
            ]
        output = self._output(self._text) if self._is_open else []
        return [*events, self._event("response.completed", response=self._response(self._ended, output, tally))]

    def body(self, outcome: Outcome) -> bytes:
        """Spell a plain response."""
        text = self.ask.choices[0].text(0, outcome.made[0])
        return dump(self._response(outcome.ended[0], self._output(text), outcome.tally))

    @property
    def _place(self) -> Json:
        return {"content_index": 0, "item_id": self._item, "output_index": 0}

    def _event(self, kind: str, **members: Any) -> bytes:
        body = dict(sorted({**members, "sequence_number": self._number, "type": kind}.items()))
        self._number += 1
        return named_event(kind, body)

    def _output(self, text: str) -> list[Json]:
        part: Json = {"annotations": [], "text": text, "type": "output_text", "logprobs": None}
        about = {"role": "assistant", "status": "completed", "type": "message", "phase": None}
        return [{"id": self._item, "content": [part]} | about]

    def _response(self, ended: str | None, output: list[Json], tally: Tally | None) -> Json:
        asked = self.ask.body
        is_cut = ended == "length"
        status = "incomplete" if is_cut else "in_progress" if tally is None else "completed"
        return {
            "id": self.id,
            "created_at": self.created,
            "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
            "instructions": asked.get("instructions"),
            "metadata": asked.get("metadata"),
            "model": self.options.model,
            "object": "response",
            "output": output,
            "parallel_tool_calls": True,
            "temperature": float(asked.get("temperature") or 0),
            "tool_choice": "none",
            "tools": [],
            "top_p": 1.0,
            "background": False,
            "max_output_tokens": asked.get("max_output_tokens"),
            "max_tool_calls": None,
            "previous_response_id": None,
            "prompt": None,
            "reasoning": None,
            "service_tier": "auto",
            "status": status,
            "text": None,
            "top_logprobs": None,
            "truncation": "disabled",
            "usage": None if tally is None else self._usage(tally),
            "user": None,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "kv_transfer_params": None,
            "ec_transfer_params": None,
            "input_messages": None,
            "output_messages": None,
        }

    def _usage(self, tally: Tally) -> Json:
        per_turn: Json = {"input_tokens_per_turn": [], "cached_tokens_per_turn": []}
        made: Json = {"reasoning_tokens": tally.reasoning or 0, "tool_output_tokens": 0}
        return {
            "input_tokens": tally.prompt,
            "input_tokens_details": {"cached_tokens": cached_tokens(tally.prompt), "cache_write_tokens": 0} | per_turn,
            "output_tokens": tally.completion,
            "output_tokens_details": made | {"output_tokens_per_turn": [], "tool_output_tokens_per_turn": []},
            "total_tokens": tally.prompt + tally.completion,
        }
