"""The requests of the scenario: how many, when, to which machine, how long, and how each ended.

Owns the workload. Does not own when machines are ready (`fleet`); it only sends requests to engines that
are ready and stay so until the request has ended. Sizes are log-normal: about 5,400 prompt and 490
completion tokens.
"""

from collections.abc import Iterable
from dataclasses import replace
from random import Random

from spotinference_sim.fleet import LLAMA, QWEN_8B, QWEN_30B, is_weekend
from spotinference_sim.instants import DAY_S, HOUR_S, SECOND_US
from spotinference_sim.request import Request
from spotinference_sim.resources import Vm, Wake

REQUESTS_A_DAY = (4_650, 3_550)
"""On weekdays, at weekends."""
HOUR_WEIGHTS = (2, 1, 0, 0, 0, 1, 2, 5, 8, 10, 11, 10, 8, 9, 11, 11, 10, 9, 7, 6, 6, 5, 4, 3)
"""Quiet nights, with hours in which nobody asks anything, and two busy stretches a day."""
MODEL_WEIGHTS = {LLAMA: 46, QWEN_30B: 30, QWEN_8B: 24}
TOKENS_PER_SECOND = {LLAMA: 18, QWEN_30B: 34, QWEN_8B: 26}
DETAILS_SHOWN = (LLAMA, QWEN_30B)
"""Engines that run with --enable-prompt-tokens-details; the others leave cached_tokens unknown."""
REASONING_SHOWN = (QWEN_30B,)
QUIET_BEFORE_SLEEP_S = 150
"""Nothing is sent so shortly before an engine goes away: the last scrape of its counters sees everything."""
KEYS = ("3f1c9a04b7de", "a2d05e8c1147", "90be7712cc3a")


def request_uuid(rng: Random, at_us: int) -> str:
    """Make a UUIDv7 of an instant."""
    bits = (at_us // 1000) << 80 | 0x7 << 76 | rng.getrandbits(12) << 64 | 0b10 << 62 | rng.getrandbits(62)
    text = f"{bits:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def build_requests(rng: Random, day_starts: Iterable[int], vms: tuple[Vm, ...]) -> tuple[Request, ...]:
    """Make all requests, in the order in which they start."""
    serving: dict[str, list[Vm]] = {}
    for vm in vms:
        if vm.model:
            serving.setdefault(vm.model, []).append(vm)
    requests: list[Request] = []
    for number, day_s in enumerate(day_starts):
        weekend = is_weekend(day_s)
        for _ in range(round(REQUESTS_A_DAY[weekend] * rng.uniform(0.96, 1.04))):
            hour = rng.choices(range(24), HOUR_WEIGHTS)[0]
            at_us = (day_s + hour * HOUR_S) * SECOND_US + rng.randrange(HOUR_S * SECOND_US)
            model = rng.choices(tuple(MODEL_WEIGHTS), tuple(MODEL_WEIGHTS.values()))[0]
            requests.extend(_send(rng, at_us, model, serving[model], _ordinary(rng)))
        requests.extend(_special(rng, number, day_s, serving))
    return tuple(sorted(requests, key=lambda request: request.started_us))


def _special(rng: Random, number: int, day_s: int, serving: dict[str, list[Vm]]) -> Iterable[Request]:
    """Add the day's rarities: canaries, and every second day one across midnight and one for 35 minutes."""
    for hour in range(7, 22, 3):
        at_us = (day_s + hour * HOUR_S) * SECOND_US + rng.randrange(60 * SECOND_US)
        yield from _send(rng, at_us, QWEN_8B, serving[QWEN_8B], (12, 8), canary=True)
    if number % 2 == 1:
        late_us = (day_s + DAY_S - 20) * SECOND_US + rng.randrange(SECOND_US)
        yield from _send(rng, late_us, QWEN_8B, serving[QWEN_8B][:1], (6_100, 1_800))
        long_us = (day_s + 10 * HOUR_S + 2_700) * SECOND_US + rng.randrange(SECOND_US)
        yield from _send(rng, long_us, QWEN_30B, serving[QWEN_30B], (30_000, 34 * 2_100), plain=True)


def _ordinary(rng: Random) -> tuple[int, int]:
    prompt = 16 + min(60_000, int(rng.lognormvariate(8.45, 0.55)))
    return prompt, 1 + min(8_000, int(rng.lognormvariate(6.05, 0.55)))


def _send(
    rng: Random,
    at_us: int,
    model: str,
    vms: list[Vm],
    sizes: tuple[int, int],
    *,
    canary: bool = False,
    plain: bool = False,
) -> Iterable[Request]:
    """Send one request to a ready machine; none is ready: mostly nobody asks, sometimes it is refused."""
    ready = [(vm, wake) for vm in vms if (wake := vm.wake_at(at_us // SECOND_US))]
    if not ready:
        if rng.random() < 0.02:
            yield _refused(rng, at_us, model)
        return
    vm, wake = rng.choice(ready)
    request = _served(rng, at_us, vm, sizes)
    if canary:
        request = replace(request, canary=True, endpoint="/v1/completions", stream=False)
    elif not plain:
        request = _mishap(rng, request)
    if _fits(request, wake):
        yield request


def _fits(request: Request, wake: Wake) -> bool:
    return request.finished_us < (wake.until_s - QUIET_BEFORE_SLEEP_S) * SECOND_US


def _served(rng: Random, at_us: int, vm: Vm, sizes: tuple[int, int]) -> Request:
    model = vm.model or ""
    prompt, completion = sizes
    chat = rng.random() < 0.85
    choices = 2 if rng.random() < 0.03 else 1
    first_us = at_us + 150_000 + prompt * 60 + rng.randrange(200_000)
    finished_us = first_us + completion * SECOND_US // TOKENS_PER_SECOND[model] + rng.randrange(3_000)
    cached = min(prompt - 1, int(prompt * rng.random())) // 16 * 16 if rng.random() < 0.7 else 0
    reasons = model in REASONING_SHOWN and chat
    total = completion * choices
    return Request(
        request_uuid(rng, at_us),
        vm.id,
        model,
        at_us,
        finished_us,
        prompt,
        total,
        cached_tokens=cached if model in DETAILS_SHOWN else None,
        reasoning_tokens=int(total * rng.uniform(0.2, 0.8)) if reasons else None,
        first_byte_us=first_us,
        endpoint="/v1/chat/completions" if chat else "/v1/completions",
        requested_model=model,
        stream=rng.random() < 0.7,
        key_id=rng.choice(KEYS),
        choices=choices,
        engine_prompt_tokens=prompt * choices,
        engine_completion_tokens=total,
    )


def _mishap(rng: Random, request: Request) -> Request:
    """Let a few clients leave and a few requests be refused by the engine."""
    draw = rng.random()
    if draw < 0.02:
        return _left(rng, request, exact=draw < 0.017)
    if draw < 0.024:
        ended_us = request.started_us + 4_000 + rng.randrange(9_000)
        return replace(
            request,
            model=None,
            finished_us=ended_us,
            first_byte_us=ended_us - 500,
            status=400,
            upstream_status=400,
            end_reason="upstream_error",
            usage_source="none",
            prompt_tokens=None,
            completion_tokens=None,
            cached_tokens=None,
            reasoning_tokens=None,
            engine_prompt_tokens=0,
            engine_completion_tokens=0,
        )
    return request


def _left(rng: Random, request: Request, exact: bool) -> Request:
    """Let the client leave after a part of the answer; without the abort call the log knows a lower bound."""
    first_us = request.first_byte_us or request.started_us
    made = max(1, int((request.completion_tokens or 1) * rng.uniform(0.1, 0.9)))
    ended_us = first_us + (request.finished_us - first_us) * made // (request.completion_tokens or 1)
    known = made if exact else max(1, made - rng.randint(0, 2))
    return replace(
        request,
        stream=True,
        finished_us=ended_us + 15_000,
        end_reason="client_gone",
        usage_source="engine_final" if exact else "engine_partial",
        completion_tokens=known,
        cached_tokens=request.cached_tokens if exact else None,
        reasoning_tokens=None,
        engine_completion_tokens=made,
    )


def _refused(rng: Random, at_us: int, model: str) -> Request:
    return Request(
        request_uuid(rng, at_us),
        None,
        None,
        at_us,
        at_us + 300 + rng.randrange(900),
        None,
        None,
        requested_model=model,
        stream=rng.random() < 0.7,
        key_id=rng.choice(KEYS),
        status=503,
        upstream_status=None,
        end_reason="refused",
        usage_source="none",
    )
