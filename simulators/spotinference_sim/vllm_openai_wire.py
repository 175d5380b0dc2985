"""Spell chats and completions byte for byte as vLLM formats them, plain and as streams.

Owns OpenAI's two shapes. The usage event moves `system_fingerprint` to itself; a running usage is that of
the choice in its event alone; one role event per choice stands for no token.

Source: vLLM 0.32.0 as recorded.
"""

from typing import Any

from spotinference_sim.vllm_ask import Choice, prompt_ids, seed_of
from spotinference_sim.vllm_fields import read_flag
from spotinference_sim.vllm_logprobs import chat_logprobs, text_logprobs
from spotinference_sim.vllm_openai_ask import BATCH, echo_text, read_prompts
from spotinference_sim.vllm_totals import Tally
from spotinference_sim.vllm_wire import DONE, FINGERPRINT, Outcome, Wire, dump, final_usage, plain_usage

Json = dict[str, Any]


class OpenAiWire(Wire):
    """What both have in common."""

    has_comments = True
    is_chat = True
    kind = ""

    def end(self, tally: Tally) -> list[bytes]:
        """Close with the usage, if the client asked for it."""
        if not self.ask.include_usage:
            return [DONE]
        return [self._event([], final_usage(tally, self.is_chat), {"system_fingerprint": FINGERPRINT}), DONE]

    def _opening(self, kind: str) -> Json:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.options.model}

    def _event(self, choices: list[Json], usage: Json | None, tail: Json) -> bytes:
        body = self._opening(self.kind) | {"choices": choices}
        return b"data: " + dump(body | ({"usage": usage} if usage else {}) | tail) + b"\n\n"

    def _tail(self, ended: str | None) -> Json:
        return {"system_fingerprint": FINGERPRINT} if ended and not self.ask.include_usage else {}

    def _running(self, choice: Choice, made: int) -> Json | None:
        """Make the running usage of one choice, when the client asked for it: its own tokens only."""
        if not self.ask.continuous_usage:
            return None
        return {"prompt_tokens": choice.prompt, "total_tokens": choice.prompt + made, "completion_tokens": made}

    def _ids(self, choice: Choice, first: int, end: int) -> list[int] | None:
        return choice.ids(first, end) if self._shows_ids else None

    @property
    def _shows_ids(self) -> bool:
        return read_flag(self.ask.body.get("return_token_ids"), "return_token_ids")

    def _prompt_ids(self, index: int) -> list[int] | None:
        return prompt_ids(self.ask.choices[index].prompt, self.ask.choices[index].start) if self._shows_ids else None


def _stop_reason(choice: Choice, ended: str | None) -> str | None:
    return choice.stop_reason if ended == "stop" else None


class ChatWire(OpenAiWire):
    """A chat, or a batch of them."""

    prefix = "chatcmpl-"
    kind = "chat.completion.chunk"
    _is_open = False

    def engine_ids(self) -> tuple[str, ...]:
        """Name a chat; the parts of a batch have no id that a client could know."""
        return () if self.ask.endpoint == BATCH else (self.id,)

    def tokens(self, index: int, first: int, end: int, ended: str | None) -> list[bytes]:
        """Make the role events with the first token, then as many events as there are kinds of text."""
        events = [] if self._is_open else [self._role_event(place) for place in range(len(self.ask.choices))]
        self._is_open = True
        choice = self.ask.choices[index]
        deltas = self._deltas(choice, first, end, ended)
        if not deltas and (ended or self._top is not None or self._shows_ids):
            deltas = [{"content": ""} if ended == "abort" else {}]
        for place, delta in enumerate(deltas):
            is_last = place == len(deltas) - 1
            row: Json = {"index": index, "delta": delta, "logprobs": self._logprobs(choice, first, end, is_last)}
            row["finish_reason"] = ended if is_last else None
            row |= {"stop_reason": _stop_reason(choice, ended)} if ended and is_last else {}
            row["token_ids"] = self._ids(choice, first, end) if is_last else None
            events.append(self._event([row], self._running(choice, end), self._tail(ended if is_last else None)))
        return events

    def _role_event(self, index: int) -> bytes:
        row = {"index": index, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
        tail = {"prompt_token_ids": self._prompt_ids(index), "prompt_text": None}
        return self._event([row], self._running(self.ask.choices[index], 0), tail)

    def _deltas(self, choice: Choice, first: int, end: int, ended: str | None) -> list[Json]:
        since, until = choice.settled(first), end if ended else choice.settled(end)
        deltas: list[Json] = []
        if choice.tool:
            is_named, arguments = choice.tool.said(first, end)
            call: Json = {"id": self._tool_id, "type": "function"} if is_named else {}
            function = {"name": choice.tool.name} if is_named else {}
            function |= {"arguments": arguments} if arguments else {}
            if function:
                deltas.append({"content": None, "tool_calls": [call | {"index": 0, "function": function}]})
                deltas += [{}] if ended else []
        thought = choice.thought(since, until)
        if thought and self._shows_reasoning:
            deltas.append({"reasoning": thought})
        text = choice.text(since, until)
        return deltas + ([{"content": text}] if text else [])

    def _running(self, choice: Choice, made: int) -> Json | None:
        usage = super()._running(choice, made)
        if usage is not None:
            reasoning = {"reasoning_tokens": min(made, choice.reasoning)} if self.options.reasoning_parser else None
            usage["completion_tokens_details"] = reasoning
        return usage

    @property
    def _tool_id(self) -> str:
        return f"chatcmpl-tool-{seed_of(self.name):08x}{seed_of(self.id):08x}"

    @property
    def _top(self) -> int | None:
        is_asked = read_flag(self.ask.body.get("logprobs"), "logprobs")
        return int(self.ask.body.get("top_logprobs") or 0) if is_asked else None

    @property
    def _shows_reasoning(self) -> bool:
        return read_flag(self.ask.body.get("include_reasoning", True), "include_reasoning")

    def _logprobs(self, choice: Choice, first: int, end: int, is_last: bool) -> Json | None:
        return chat_logprobs(choice, first, end, self._top) if self._top is not None and is_last else None

    def body(self, outcome: Outcome) -> bytes:
        """Spell a plain chat."""
        rows, made, ended = [], outcome.made, outcome.ended
        for index, choice in enumerate(self.ask.choices):
            row: Json = {"index": index, "message": self._message(choice, made[index])}
            row["logprobs"] = self._logprobs(choice, 0, made[index], is_last=True)
            row |= {"finish_reason": ended[index], "stop_reason": _stop_reason(choice, ended[index])}
            rows.append(row | {"token_ids": self._ids(choice, 0, made[index]), "routed_experts": None})
        rest: Json = {
            "service_tier": None,
            "system_fingerprint": FINGERPRINT,
            "usage": plain_usage(outcome.tally, chat=True),
        }
        rest |= {"prompt_logprobs": None, "prompt_token_ids": self._prompt_ids(0), "prompt_text": None}
        rest |= {"kv_transfer_params": None, "ec_transfer_params": None, "metrics": None}
        return dump(self._opening("chat.completion") | {"choices": rows} | rest)

    def _message(self, choice: Choice, made: int) -> Json:
        said: Json = {"role": "assistant", "content": choice.text(0, made), "refusal": None}
        said |= {"annotations": None, "audio": None, "function_call": None}
        if choice.tool:
            function = {"name": choice.tool.name, "arguments": choice.tool.said(0, made)[1]}
            said |= {
                "content": None,
                "tool_calls": [{"id": self._tool_id, "type": "function", "function": function}],
            }
        thought = choice.thought(0, made) if self._shows_reasoning else ""
        return said | {"reasoning": thought or None}


class TextWire(OpenAiWire):
    """A completion of one prompt or several."""

    prefix = "cmpl-"
    kind = "text_completion"
    is_chat = False

    def engine_ids(self) -> tuple[str, ...]:
        """Name every prompt."""
        return tuple(f"{self.id}-{place}" for place in range(len(self.ask.prompts)))

    def tokens(self, index: int, first: int, end: int, ended: str | None) -> list[bytes]:
        """Make one event, also where the token ends inside a character."""
        choice = self.ask.choices[index]
        text = choice.text(choice.settled(first), end if ended else choice.settled(end))
        row: Json = {"index": index, "text": (self._echo(index) if first == 0 else "") + text}
        row |= {"logprobs": self._logprobs(choice, first, end), "finish_reason": ended}
        row["stop_reason"] = _stop_reason(choice, ended)
        row["prompt_token_ids"] = self._prompt_ids(index) if first == 0 else None
        row["token_ids"] = self._ids(choice, first, end)
        return [self._event([row], self._running(choice, end), self._tail(ended))]

    def _echo(self, index: int) -> str:
        if not read_flag(self.ask.body.get("echo"), "echo"):
            return ""
        return echo_text(read_prompts(self.ask.body)[index // self.ask.n])

    def _logprobs(self, choice: Choice, first: int, end: int) -> Json | None:
        top = self.ask.body.get("logprobs")
        return None if top is None else text_logprobs(choice, first, end, int(top))

    def body(self, outcome: Outcome) -> bytes:
        """Spell a plain completion."""
        rows, made, ended = [], outcome.made, outcome.ended
        for index, choice in enumerate(self.ask.choices):
            row: Json = {"index": index, "text": self._echo(index) + choice.text(0, made[index])}
            row |= {"logprobs": self._logprobs(choice, 0, made[index]), "finish_reason": ended[index]}
            row |= {"stop_reason": _stop_reason(choice, ended[index])}
            row |= {"token_ids": self._ids(choice, 0, made[index]), "prompt_logprobs": None}
            rows.append(row | {"prompt_token_ids": self._prompt_ids(index), "routed_experts": None})
        rest: Json = {
            "service_tier": None,
            "system_fingerprint": FINGERPRINT,
            "usage": plain_usage(outcome.tally, chat=False),
        }
        rest |= {"kv_transfer_params": None, "ec_transfer_params": None, "metrics": None}
        return dump(self._opening("text_completion") | {"choices": rows} | rest)
