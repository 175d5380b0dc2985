"""Read requests to /v1/chat/completions, its batch and /v1/completions.

Owns their members and what is refused. Does not own what is made of them (`vllm_ask`).

Source: vLLM 0.32.0; OpenAI's parameters, truthiness and limits as measured.
"""

import re
from dataclasses import replace
from typing import Any

from spotinference_sim.vllm_ask import (
    END_OF_TURN,
    PROMPT_TOKENS,
    VOCABULARY,
    WORDS,
    Ask,
    Tool,
    Wish,
    check_length,
    count_chat,
    count_words,
    made_up_tool,
    plan_choices,
    seed_of,
)
from spotinference_sim.vllm_errors import AskError, invalid
from spotinference_sim.vllm_fields import read_flag, read_object, read_stops, read_whole
from spotinference_sim.vllm_options import Options

CHAT = "/v1/chat/completions"
BATCH = "/v1/chat/completions/batch"
TEXT = "/v1/completions"

Json = dict[str, Any]


def parse_chat(body: Json, options: Options) -> Ask:
    """Read one conversation. Raises: AskError."""
    messages = _read_messages(body.get("messages"))
    limit = read_whole(body.get("max_completion_tokens"), "max_completion_tokens")
    limit = limit or read_whole(body.get("max_tokens"), "max_tokens")
    wish = Wish(
        read_whole(body.get("n"), "n") or 1,
        limit,
        read_stops(body.get("stop")),
        options.reasoning_parser,
        _read_tool(body),
        _ends_at_once(body),
    )
    prompt = (count_chat(messages, body.get("tools")), seed_of(messages))
    return _finish(body, options, CHAT, [prompt], wish)


def parse_batch(body: Json, options: Options) -> Ask:
    """Read a list of conversations; `stream` is ignored. Raises: AskError."""
    given = body.get("messages")
    if not isinstance(given, list) or not given:
        raise invalid("messages", "Field required")
    prompts = [(count_chat(_read_messages(one)), seed_of(one)) for one in given]
    limit = read_whole(body.get("max_tokens"), "max_tokens")
    wish = Wish(read_whole(body.get("n"), "n") or 1, limit, read_stops(body.get("stop")), options.reasoning_parser)
    return _finish({**body, "stream": None, "stream_options": None}, options, BATCH, prompts, wish)


def parse_text(body: Json, options: Options) -> Ask:
    """Read one prompt or several. Raises: AskError."""
    prompts = read_prompts(body)
    limit = read_whole(body.get("max_tokens"), "max_tokens", least=0)
    echo = read_flag(body.get("echo"), "echo")
    if limit == 0 and not echo:
        raise AskError(400, "max_tokens must be at least 1, got 0.", param="max_tokens")
    if body.get("suffix"):
        raise AskError(400, "suffix is not currently supported")
    wish = Wish(
        read_whole(body.get("n"), "n") or 1,
        1 if limit == 0 else limit,
        read_stops(body.get("stop")),
        ends_at_once=_ends_at_once(body),
    )
    counts = [(count_prompt(prompt), seed_of(prompt)) for prompt in prompts]
    ask = _finish(body, options, TEXT, counts, wish)
    if limit == 0:
        return replace(ask, choices=tuple(replace(choice, hidden=1) for choice in ask.choices))
    return ask


def read_prompts(body: Json) -> list[Any]:
    """List the prompts of a completion: texts or lists of token ids. Raises: AskError."""
    given = body.get("prompt")
    prompts = given if isinstance(given, list) and given and not isinstance(given[0], int) else [given]
    for prompt in prompts:
        is_ids = isinstance(prompt, list) and prompt and all(isinstance(part, int) for part in prompt)
        if not (isinstance(prompt, str) or is_ids):
            raise invalid("prompt", "Field required")
    return prompts


def count_prompt(prompt: Any) -> int:
    """Count the tokens of a completion's prompt."""
    return count_words(prompt) + PROMPT_TOKENS if isinstance(prompt, str) else len(prompt)


def echo_text(prompt: Any) -> str:
    """Spell a prompt as `echo` shows it."""
    return prompt if isinstance(prompt, str) else "".join(" " + WORDS[one % VOCABULARY % len(WORDS)] for one in prompt)


def check_model(body: Json, options: Options) -> None:
    """Refuse a model that is not served here. Raises: AskError."""
    model = body.get("model")
    if not options.knows(model):
        names = ", ".join((options.model, *options.aliases))
        raise AskError(404, f"The model `{model}` does not exist. Valid aliases: {names}.", "NotFoundError", "model")


def _finish(body: Json, options: Options, endpoint: str, prompts: list[tuple[int, int]], wish: Wish) -> Ask:
    stream, include, continuous = _read_stream(body)
    check_model(body, options)
    for tokens, _ in prompts:
        check_length(tokens, wish.limit, options.max_model_len)
    if options.force_include_usage:
        include = continuous = stream
    choices = plan_choices(prompts, wish)
    return Ask(endpoint, body, choices, wish.n, stream, include, include and continuous, _find_fault(body))


def _read_stream(body: Json) -> tuple[bool, bool, bool]:
    stream = read_flag(body.get("stream"), "stream")
    options = read_object(body.get("stream_options"), "stream_options")
    if body.get("stream_options") is not None and not stream:
        raise AskError(400, "Stream options can only be defined when `stream=True`.")
    include = read_flag(options.get("include_usage"), "stream_options.include_usage")
    return stream, include, read_flag(options.get("continuous_usage_stats"), "stream_options")


def _read_messages(given: object) -> list[object]:
    if not isinstance(given, list) or not given:
        raise invalid("messages", "Field required")
    return given


def _read_tool(body: Json) -> Tool | None:
    """Choose the tool that will be called: the named one, else the first; None when none may be."""
    tools, chosen = body.get("tools"), body.get("tool_choice")
    if not isinstance(tools, list) or not tools or chosen == "none":
        return None
    functions = [read_object(tool.get("function"), "tools") for tool in tools if isinstance(tool, dict)]
    wanted = read_object(chosen.get("function"), "tool_choice").get("name") if isinstance(chosen, dict) else None
    for function in functions:
        if wanted in (None, function.get("name")):
            return made_up_tool(str(function.get("name")), read_object(function.get("parameters"), "tools"))
    raise AskError(400, f"tool_choice names {wanted}, which is not among the tools.")


def _ends_at_once(body: Json) -> bool:
    bias = body.get("logit_bias")
    return isinstance(bias, dict) and (bias.get(END_OF_TURN) or 0) >= 100


def _find_fault(body: Json) -> AskError | None:
    """Find what vLLM finds late: a grammar that does not compile."""
    pattern = read_object(body.get("structured_outputs"), "structured_outputs").get("regex")
    try:
        re.compile(pattern or "")
    except re.error as error:
        return AskError(400, f"Grammar error: invalid regex {pattern!r}:\n    {error}")
    return None
