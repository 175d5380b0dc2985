"""Read and spell /v1/messages, Anthropic's API, plain and as a stream of named events.

Owns its members, `stop_reason`s and usage: `input_tokens` leaves out what the cache gave or took, except in
`message_start`. Errors found after the body was read have Anthropic's shape, earlier ones OpenAI's.

Source: vLLM 0.32.0 as recorded; tools after Anthropic's documentation.
"""

import json
from typing import Any

from spotinference_sim.vllm_ask import (
    Ask,
    Choice,
    Tool,
    Wish,
    check_length,
    count_chat,
    made_up_tool,
    plan_choices,
    seed_of,
)
from spotinference_sim.vllm_errors import INVALID, AskError, invalid
from spotinference_sim.vllm_fields import read_flag, read_object, read_stops, read_whole
from spotinference_sim.vllm_openai_ask import check_model
from spotinference_sim.vllm_options import Options
from spotinference_sim.vllm_totals import Tally
from spotinference_sim.vllm_wire import Outcome, Wire, dump, named_event

MESSAGES = "/v1/messages"
STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}

Json = dict[str, Any]


def count_messages(body: Json) -> int:
    """Count the prompt, its system text included. Raises: AskError."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise invalid("messages", "Field required")
    system = [{"content": body["system"]}] if body.get("system") else []
    return count_chat([*system, *messages], body.get("tools"))


def parse_messages(body: Json, options: Options) -> Ask:
    """Read a request. Raises: AskError."""
    prompt = count_messages(body)
    limit = read_whole(body.get("max_tokens"), "max_tokens")
    if limit is None:
        raise invalid("max_tokens", "Field required")
    stream = read_flag(body.get("stream"), "stream")
    check_model(body, options)
    check_length(prompt, limit, options.max_model_len)
    wish = Wish(limit=limit, stops=read_stops(body.get("stop_sequences")), tool=_read_tool(body))
    return Ask(MESSAGES, body, plan_choices([(prompt, seed_of(body["messages"]))], wish), stream=stream)


def _read_tool(body: Json) -> Tool | None:
    tools, chosen = body.get("tools"), read_object(body.get("tool_choice"), "tool_choice")
    if not isinstance(tools, list) or chosen.get("type") == "none":
        return None
    for tool in tools:
        if chosen.get("name") in (None, tool.get("name")):
            return made_up_tool(str(tool.get("name")), read_object(tool.get("input_schema"), "tools"))
    return None


class MessagesWire(Wire):
    """One message."""

    prefix = "chatcmpl-"

    def __init__(self, ask: Ask, name: str, options: Options, created: int) -> None:
        super().__init__(ask, name, options, created)
        self._is_started = False
        self._has_block = False
        self._ended: str | None = None

    @classmethod
    def refuse(cls, error: AskError) -> Json:
        """Spell an error in the shape that fits when it was found."""
        return error.body if error.kind == INVALID else error.anthropic_body

    def tokens(self, index: int, first: int, end: int, ended: str | None) -> list[bytes]:
        """Start the message and its one block with what is first shown, then tell deltas."""
        choice = self.ask.choices[index]
        self._ended = ended
        events = self._start()
        if choice.tool:
            is_named, arguments = choice.tool.said(first, end)
            if is_named:
                block = {"type": "tool_use", "id": self._tool_id, "name": choice.tool.name, "input": {}}
                events += self._open_block(block)
            return events + self._delta({"type": "input_json_delta", "partial_json": arguments}, arguments)
        text = choice.text(choice.settled(first), end if ended else choice.settled(end))
        if text:
            events += self._open_block({"type": "text", "text": ""})
        return events + self._delta({"type": "text_delta", "text": text}, text)

    def _start(self) -> list[bytes]:
        if self._is_started:
            return []
        self._is_started = True
        about = self._message([]) | {"stop_reason": None, "stop_sequence": None}
        usage = {"input_tokens": sum(self.ask.prompts), "output_tokens": 0}
        return [_event("message_start", message=about | {"usage": usage})]

    def _open_block(self, block: Json) -> list[bytes]:
        if self._has_block:
            return []
        self._has_block = True
        return [_event("content_block_start", content_block=block, index=0)]

    def _delta(self, delta: Json, told: str) -> list[bytes]:
        return [_event("content_block_delta", delta=delta, index=0)] if told else []

    def end(self, tally: Tally) -> list[bytes]:
        """Close the block and tell reason and usage; there is no [DONE]."""
        stopped = [_event("content_block_stop", index=0)] if self._has_block else []
        reason, text = self._stop(self.ask.choices[0], self._ended)
        delta = {"stop_reason": reason, "stop_sequence": text}
        last = [_event("message_delta", delta=delta, usage=self._usage(tally)), _event("message_stop")]
        return [*self._start(), *stopped, *last]

    def fail(self, error: AskError) -> list[bytes]:
        """Tell the error; there is no message_stop."""
        return [named_event("error", error.anthropic_body)]

    def body(self, outcome: Outcome) -> bytes:
        """Spell a plain message: what is null is absent."""
        choice = self.ask.choices[0]
        content: list[Json] = [{"type": "text", "text": choice.text(0, outcome.made[0])}]
        if choice.tool and outcome.ended[0] != "abort":
            said = json.loads(choice.tool.arguments)
            content = [{"type": "tool_use", "id": self._tool_id, "name": choice.tool.name, "input": said}]
        reason, text = self._stop(choice, outcome.ended[0])
        stop = {name: said for name, said in (("stop_reason", reason), ("stop_sequence", text)) if said is not None}
        return dump(self._message(content) | stop | {"usage": self._usage(outcome.tally)})

    @property
    def _tool_id(self) -> str:
        return f"chatcmpl-tool-{seed_of(self.name):08x}{seed_of(self.id):08x}"

    def _message(self, content: list[Json]) -> Json:
        about = {"id": self.id, "type": "message", "role": "assistant"}
        return about | {"content": content, "model": self.options.model}

    def _stop(self, choice: Choice, ended: str | None) -> tuple[str | None, str | None]:
        if ended == "stop" and choice.stop_reason:
            return "stop_sequence", choice.stop_reason
        return STOP_REASONS.get(ended or ""), None

    def _usage(self, tally: Tally) -> Json:
        if tally.cached is None or tally.created is None:
            return {"input_tokens": tally.prompt, "output_tokens": tally.completion}
        return {
            "input_tokens": tally.prompt - tally.cached - tally.created,
            "output_tokens": tally.completion,
            "cache_creation_input_tokens": tally.created,
            "cache_read_input_tokens": tally.cached,
        }


def _event(kind: str, **members: Any) -> bytes:
    return named_event(kind, {"type": kind, **members})
