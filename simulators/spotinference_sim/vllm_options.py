"""How a simulated vLLM was started: its flags, and how fast its engine is.

Owns defaults. Flags bear the names of vLLM's own; what each changes is told where it is used.

Source: vLLM 0.32.0, flags that change what a client sees.
"""

from dataclasses import dataclass

GENERATE, POOLING, SPEECH = "generate", "pooling", "speech"


@dataclass(frozen=True)
class Pace:
    """How long things take in the engine, in microseconds; `tokens_per_second` is for each sequence."""

    tokens_per_second: int = 30
    prefill_us: int = 150_000
    prefill_us_per_token: int = 60
    register_us: int = 5_000
    """An abort call that comes earlier than this after the request does not find it."""


@dataclass(frozen=True)
class Options:
    """The command line of one server. A real one has a single task; here one may have all of them."""

    model: str
    aliases: tuple[str, ...] = ()
    """More --served-model-name; answers always bear the first one."""
    tasks: frozenset[str] = frozenset({GENERATE})
    pace: Pace = Pace()
    max_model_len: int = 262_144
    max_num_seqs: int = 4_096
    """Requests that run at a time; later ones wait for their turn."""
    max_num_queued_reqs: int | None = None
    scale_out: bool = True
    stream_interval: int = 1
    prompt_tokens_details: bool = False
    reasoning_parser: bool = False
    force_include_usage: bool = False
    request_id_headers: bool = False
    sse_keep_alive_us: int | None = None
    api_keys: tuple[str, ...] = ()

    def knows(self, model: str | None) -> bool:
        """Tell whether a request may name this model; none and an empty one pass."""
        return not model or model in (self.model, *self.aliases)
