"""What a request makes the simulated engine do: how many tokens its prompts have, what each choice will say.

Owns the "tokenizer" (a token is a whitespace-separated word; a chat message costs MESSAGE_TOKENS more and the
answer's opening REPLY_TOKENS, a plain prompt one) and the made-up answers, which follow from the prompt alone.
Does not own an endpoint's members (`vllm_openai`, `vllm_responses`, ...), time or counters.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from zlib import crc32

from spotinference_sim.vllm_errors import AskError

MESSAGE_TOKENS = 4
REPLY_TOKENS = 3
PROMPT_TOKENS = 1
TOOL_TOKENS = 20
"""What the description of a tool adds to a prompt."""
WORDS = ("a", "token", "for", "every", "größe", "and", "one", "more", "日本", "stop", "five", "six", "naïve")
HELD = 8
"""Place of the word that ends inside a character: its text comes with the next token."""
END_OF_TURN = "2"
"""The id of the end-of-turn token, as `logit_bias` names it."""
VOCABULARY = 32_000
TOOL_NAME_AT, TOOL_ARGUMENTS_AT, TOOL_END = 17, 28, 4
"""Tokens up to a tool's name, up to the first piece of its arguments, and after the last."""

Json = dict[str, Any]


@dataclass(frozen=True)
class Tool:
    """A call of a tool, spelled by tokens that a parser swallows in part."""

    name: str
    arguments: str

    @property
    def tokens(self) -> int:
        """How many tokens the whole call takes."""
        return TOOL_ARGUMENTS_AT + len(self.arguments) - 2 + TOOL_END

    def said(self, first: int, end: int) -> tuple[bool, str]:
        """Tell whether the tokens [first, end) tell the name, and which part of the arguments."""
        places = [max(0, min(count - TOOL_ARGUMENTS_AT + 2, len(self.arguments))) for count in (first, end)]
        since, until = (0 if place < 2 else place for place in places)
        return first < TOOL_NAME_AT <= end, self.arguments[since:until]


@dataclass(frozen=True)
class Choice:
    """What one sequence will say."""

    prompt: int
    start: int
    """Place in WORDS of the first token."""
    tokens: int
    finish_reason: str
    stop_reason: str | None = None
    hidden: int = 0
    """Last tokens that are not shown: those of a stop string, or of the end of the turn."""
    reasoning: int = 0
    """First tokens that are reasoning."""
    tool: Tool | None = None

    def words(self, first: int, end: int) -> list[str]:
        """Spell the tokens [first, end), one text each, shown or not."""
        return [" " + WORDS[(self.start + place) % len(WORDS)] for place in range(first, end)]

    def ids(self, first: int, end: int) -> list[int]:
        """Number the tokens [first, end)."""
        return [crc32(word.encode()) % VOCABULARY for word in self.words(first, end)]

    def text(self, first: int, end: int) -> str:
        """Spell what of the tokens [first, end) is content."""
        if self.tool:
            return ""
        return "".join(self.words(max(first, self.reasoning), min(end, self.tokens - self.hidden)))

    def thought(self, first: int, end: int) -> str:
        """Spell what of the tokens [first, end) is reasoning."""
        return "".join(self.words(first, min(end, self.reasoning)))

    def settled(self, made: int) -> int:
        """Count how many of the tokens made so far have whole characters."""
        return made - 1 if 0 < made < self.tokens and (self.start + made - 1) % len(WORDS) == HELD else made


@dataclass(frozen=True)
class Ask:
    """A valid request. Choice number = prompt number times `n` plus place, as vLLM numbers them."""

    endpoint: str
    body: Json
    choices: tuple[Choice, ...]
    n: int = 1
    stream: bool = False
    include_usage: bool = False
    continuous_usage: bool = False
    fault: AskError | None = None
    """What vLLM only finds once it has answered a stream with status 200."""

    @property
    def requested_model(self) -> str | None:
        """What the client wrote."""
        return self.body.get("model") or None

    @property
    def prompts(self) -> tuple[int, ...]:
        """Tokens of each prompt."""
        return tuple(choice.prompt for choice in self.choices[:: self.n])


@dataclass(frozen=True)
class Wish:
    """What a client says of its answers, in any endpoint's words."""

    n: int = 1
    limit: int | None = None
    stops: Sequence[str] = ()
    reasoning: bool = False
    tool: Tool | None = None
    ends_at_once: bool = False
    """The first token is the end of the turn."""


def count_words(content: object) -> int:
    """Count the tokens of a text or of the texts in a list of content parts."""
    if isinstance(content, str):
        return len(content.split())
    if isinstance(content, list):
        return sum(count_words(part.get("text")) for part in content if isinstance(part, dict))
    return 0


def count_chat(messages: Sequence[object], tools: object = None) -> int:
    """Count the tokens of a conversation with the tools that are offered."""
    counts = (count_words(m.get("content")) + MESSAGE_TOKENS for m in messages if isinstance(m, dict))
    offered = len(tools) if isinstance(tools, list) else 0
    return sum(counts) + REPLY_TOKENS + TOOL_TOKENS * offered


def seed_of(prompt: object) -> int:
    """Turn a prompt into the number from which its answers follow."""
    return crc32(json.dumps(prompt).encode())


def prompt_ids(tokens: int, seed: int) -> list[int]:
    """Number a prompt's tokens."""
    return [(seed + 7 * place) % VOCABULARY for place in range(tokens)]


def check_length(prompt: int, limit: int | None, longest: int) -> None:
    """Refuse what does not fit the model. Raises: AskError."""
    if prompt + (limit or 0) > longest:
        message = f"This model's maximum context length is {longest} tokens."
        raise AskError(400, message, param="input_tokens")


def plan_choices(prompts: Sequence[tuple[int, int]], wish: Wish) -> tuple[Choice, ...]:
    """Make up the answers to prompts, each a number of tokens and a seed."""
    return tuple(_plan(tokens, seed, place, wish) for tokens, seed in prompts for place in range(wish.n))


def _plan(prompt: int, seed: int, place: int, wish: Wish) -> Choice:
    start = seed + 5 * place
    if wish.ends_at_once:
        return Choice(prompt, start, 1, "stop", hidden=1)
    if wish.tool and wish.tool.tokens <= (wish.limit or wish.tool.tokens):
        return Choice(prompt, start, wish.tool.tokens, "tool_calls", tool=wish.tool)
    tokens, reason, hidden = wish.limit or 24 + (seed + 97 * place) % 400, "stop", 1
    if wish.limit:
        reason, hidden = "length", 0
    stopped = _stop_at(wish.stops, start, tokens)
    if stopped:
        tokens, reason, hidden = stopped[0], "stop", len(stopped[1].split())
    reasoning = tokens // 2 if wish.reasoning else 0
    return Choice(prompt, start, tokens, reason, stopped[1] if stopped else None, hidden, reasoning)


def _stop_at(stops: Sequence[str], start: int, tokens: int) -> tuple[int, str] | None:
    """Find the token with which the first stop string is complete; stop strings are whole words here."""
    words = [WORDS[(start + place) % len(WORDS)] for place in range(min(tokens, 2 * len(WORDS)))]
    for end in range(1, len(words) + 1):
        for stop in stops:
            parts = stop.split()
            if parts and words[max(0, end - len(parts)) : end] == parts:
                return end, stop
    return None


def made_up_tool(name: str, schema: Json) -> Tool:
    """Make up a call that fits a tool's JSON schema, as far as its properties are texts and numbers."""
    return Tool(name, json.dumps(dict(_arguments(schema))))


def _arguments(schema: Json) -> Iterator[tuple[str, Any]]:
    for name, about in (schema.get("properties") or {}).items():
        allowed = about.get("enum") or ([7] if about.get("type") in ("integer", "number") else ["Oslo"])
        yield name, allowed[0]
