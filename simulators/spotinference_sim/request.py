"""One request as the truth knows it: who served it, when, and what the engine made of it.

The field names are those of the request log's `end` line (docs/request-log.md); instants are microseconds.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Request:
    """A request that the scenario plays, or that the vLLM simulator served.

    Tokens are what the log says (null = unknown); `engine_*` are what the engine's own counters moved by:
    the prompt once per choice, and also the tokens that nobody read.
    """

    request_id: str
    vm_id: int | None
    model: str | None
    started_us: int
    finished_us: int
    prompt_tokens: int | None
    completion_tokens: int | None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    first_byte_us: int | None = None
    endpoint: str = "/v1/chat/completions"
    requested_model: str | None = None
    stream: bool = False
    key_id: str | None = None
    canary: bool = False
    status: int = 200
    upstream_status: int | None = 200
    end_reason: str = "complete"
    usage_source: str = "engine_final"
    choices: int = 1
    engine_prompt_tokens: int = 0
    engine_completion_tokens: int = 0
