"""Make up the log-probabilities of the simulated vLLM's tokens; each is exact in binary and follows from its place.

Owns both shapes of OpenAI's API. Every token generated has an entry, shown or not.

Source: vLLM 0.32.0 as recorded.
"""

from typing import Any

from spotinference_sim.vllm_ask import WORDS, Choice

Json = dict[str, Any]


def _logprob(choice: Choice, place: int, rank: int = 0) -> float:
    return -(1 + (choice.start + place) * 37 % 160 + 8 * rank) / 32


def _others(choice: Choice, place: int, top: int) -> list[tuple[str, float]]:
    words = [" " + WORDS[(choice.start + place + rank) % len(WORDS)] for rank in range(top)]
    return [(word, _logprob(choice, place, rank)) for rank, word in enumerate(words)]


def chat_logprobs(choice: Choice, first: int, end: int, top: int) -> Json:
    """Make the object of a chat for the tokens [first, end)."""
    content = []
    for place, word in enumerate(choice.words(first, end), first):
        others = [_entry(other, logprob) for other, logprob in _others(choice, place, top)]
        content.append(_entry(word, _logprob(choice, place)) | {"top_logprobs": others})
    return {"content": content}


def _entry(word: str, logprob: float) -> Json:
    return {"token": word, "logprob": logprob, "bytes": list(word.encode())}


def text_logprobs(choice: Choice, first: int, end: int, top: int) -> Json:
    """Make the object of a completion for the tokens [first, end)."""
    words = choice.words(first, end)
    offset = sum(len(word) for word in choice.words(0, first))
    offsets = []
    for word in words:
        offsets.append(offset)
        offset += len(word)
    places = range(first, end)
    return {
        "text_offset": offsets,
        "token_logprobs": [_logprob(choice, place) for place in places],
        "tokens": words,
        "top_logprobs": [dict(_others(choice, place, max(1, top))) for place in places],
    }
