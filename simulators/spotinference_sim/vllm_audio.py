"""Read and spell transcriptions and translations of audio, plain and as a stream.

Owns the form's fields and their peculiar usage: seconds in plain JSON, nothing in other formats; in a stream
that asks for it tokens, with audio tokens in the prompt that no counter has. A second is so many bytes here.

Source: vLLM 0.32.0; usage as measured, events after OpenAI's documentation.
"""

from typing import Any

from aiohttp import web

from spotinference_sim.vllm_ask import Ask, Wish, plan_choices, seed_of
from spotinference_sim.vllm_errors import AskError, invalid
from spotinference_sim.vllm_fields import read_flag
from spotinference_sim.vllm_openai_ask import check_model
from spotinference_sim.vllm_options import Options
from spotinference_sim.vllm_totals import Tally
from spotinference_sim.vllm_wire import DONE, Outcome, Wire, dump, final_usage

TRANSCRIPTIONS = "/v1/audio/transcriptions"
TRANSLATIONS = "/v1/audio/translations"
BYTES_PER_SECOND = 32_000
PROMPT_TOKENS = 4
AUDIO_TOKENS = 100
TOKENS_PER_SECOND = 5

Json = dict[str, Any]


async def read_form(request: web.Request) -> Json:
    """Read the form's fields; of the file its length in seconds, rounded up. Raises: AskError."""
    if not request.content_type.startswith("multipart/"):
        raise invalid("file", "Field required")
    body: Json = {}
    for name, found in (await request.post()).items():
        if isinstance(found, web.FileField):
            with found.file as file:
                body["seconds"] = -(-len(file.read()) // BYTES_PER_SECOND)
        else:
            body[name] = found
    if "seconds" not in body:
        raise invalid("file", "Field required")
    return body


def _parse(body: Json, options: Options, endpoint: str) -> Ask:
    stream = read_flag(body.get("stream"), "stream")
    include = read_flag(body.get("stream_include_usage"), "stream_include_usage")
    check_model(body, options)
    if body["seconds"] == 0:
        raise AskError(400, "Audio is empty.", param="file")
    wish = Wish(limit=body["seconds"] * TOKENS_PER_SECOND)
    choices = plan_choices([(PROMPT_TOKENS, seed_of(body["seconds"]))], wish)
    return Ask(endpoint, body, choices, stream=stream, include_usage=include)


def parse_transcription(body: Json, options: Options) -> Ask:
    """Read a request for the text. Raises: AskError."""
    return _parse(body, options, TRANSCRIPTIONS)


def parse_translation(body: Json, options: Options) -> Ask:
    """Read a request for the text in English. Raises: AskError."""
    return _parse(body, options, TRANSLATIONS)


class AudioWire(Wire):
    """The text of what was heard."""

    prefix = "trsc-"

    def engine_ids(self) -> tuple[str, ...]:
        """Name nothing: no abort call is known for it."""
        return ()

    def tokens(self, index: int, first: int, end: int, ended: str | None) -> list[bytes]:
        """Tell the words."""
        choice = self.ask.choices[index]
        text = choice.text(choice.settled(first), end if ended else choice.settled(end))
        return [self._event([{"delta": {"content": text}, "finish_reason": ended, "stop_reason": None}], {})]

    def end(self, tally: Tally) -> list[bytes]:
        """Close with the usage, if the client asked for it."""
        if not self.ask.include_usage:
            return [DONE]
        heard = Tally(tally.prompt + AUDIO_TOKENS * self.ask.body["seconds"], tally.completion)
        return [self._event([], {"usage": final_usage(heard, chat=False)}), DONE]

    def _event(self, choices: list[Json], tail: Json) -> bytes:
        opening = {"id": self.id, "object": "transcription.chunk", "created": self.created}
        return b"data: " + dump(opening | {"model": self.options.model, "choices": choices} | tail) + b"\n\n"

    def body(self, outcome: Outcome) -> bytes:
        """Spell the text."""
        text, seconds = self.ask.choices[0].text(0, outcome.made[0]), self.ask.body["seconds"]
        if self.ask.body.get("response_format") == "verbose_json":
            return dump({"duration": str(seconds), "language": "en", "text": text, "segments": [], "words": None})
        is_told = self.ask.endpoint == TRANSCRIPTIONS
        return dump({"text": text} | ({"usage": {"type": "duration", "seconds": seconds}} if is_told else {}))
