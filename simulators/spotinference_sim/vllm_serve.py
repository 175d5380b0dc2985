"""Answer one request that makes tokens: wait for its tokens by the clock and send what its spelling says.

Owns the order of things on one exchange: headers of a stream at once, events when their tokens are due, the
end of work when the client is gone, and what is sent when the engine dies. Does not own spelling
(`vllm_wire` and its kind) or tokens (`vllm_engine`).

Source: vLLM 0.32.0; one event to an HTTP chunk, aborts and deaths as measured.
"""

import asyncio
from collections.abc import Iterable
from typing import Any

from aiohttp import web

from spotinference_sim.clock import Clock
from spotinference_sim.instants import to_datetime, to_us
from spotinference_sim.vllm_engine import Engine, EngineProcess
from spotinference_sim.vllm_errors import AskError, EngineDeadError, EngineGoneError
from spotinference_sim.vllm_sequence import NEVER_US, Generation, Sequence
from spotinference_sim.vllm_totals import tally
from spotinference_sim.vllm_wire import Outcome, Wire

KEEP_ALIVE = b": keep-alive\n\n"


class Exchange:
    """One request in the engine and its answer; run once."""

    def __init__(self, engine: Engine, process: EngineProcess, clock: Clock, running: Generation, wire: Wire) -> None:
        self._engine = engine
        self._process = process
        self._clock = clock
        self._running = running
        self._wire = wire
        self._sent_us = running.started_us

    async def run(self, request: web.Request) -> web.StreamResponse:
        """Answer to the end, or as far as client and engine allow. Raises: EngineDeadError for a plain answer."""
        stream = self._running.ask.stream
        lost: str | None = "client_gone"
        try:
            answer = await (self._stream(request) if stream else self._plain())
            lost = "upstream_gone" if self._process.is_dead else None
        except (EngineGoneError, EngineDeadError) as error:
            lost = "upstream_gone"
            if isinstance(error, EngineDeadError) and not stream:
                raise
            if request.transport:
                request.transport.abort()
            return web.Response(status=500)
        except ConnectionError:
            return web.Response(status=499)
        finally:
            self._engine.end(self._process, self._running, self._now_us(), lost)
        return answer

    def _now_us(self) -> int:
        return to_us(self._clock.now())

    async def _plain(self) -> web.StreamResponse:
        sequences = self._running.sequences
        while left := [one for one in sequences if one.ended_as(self._now_us()) is None]:
            await self._wait_until(max(one.token_us(one.choice.tokens) for one in left))
        now_us = self._now_us()
        made = [one.made(now_us) for one in sequences]
        ended = [one.ended_as(now_us) or "abort" for one in sequences]
        counted = tally(self._running, self._engine.options, now_us)
        body = self._wire.body(Outcome(made, ended, counted))
        answer = web.Response(body=body, headers={"Content-Type": self._wire.media_type, **self._wire.headers})
        if self._wire.media_type != "application/json":
            answer.enable_chunked_encoding()
        return answer

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        answer = await open_stream(request)
        try:
            await self._send(answer, self._wire.begin())
            await self._send_sequences(answer)
            counted = tally(self._running, self._engine.options, self._now_us())
            await self._send(answer, self._wire.end(counted))
        except EngineDeadError as error:
            if not self._wire.tells_death:
                raise
            await self._send(answer, self._wire.fail(error))
        await answer.write_eof()
        return answer

    async def _send_sequences(self, answer: web.StreamResponse) -> None:
        """Send all tokens, sequence by sequence as they are due."""
        shown = dict.fromkeys(range(len(self._running.sequences)), 0)
        while shown:
            await self._await_event(answer, min(self._due_us(index, count) for index, count in shown.items()))
            for index, count in list(shown.items()):
                sequence = self._running.sequences[index]
                if sequence.ended_as(self._now_us()) == "abort":
                    del shown[index]
                    await self._send_rest(answer, index, count)
                elif self._due_us(index, count) <= self._now_us():
                    shown[index] = end = self._next(sequence, count)
                    ended = sequence.choice.finish_reason if end == sequence.choice.tokens else None
                    if ended:
                        del shown[index]
                    await self._send(answer, self._wire.tokens(index, count, end, ended))

    async def _send_rest(self, answer: web.StreamResponse, index: int, shown: int) -> None:
        """Send what an aborted sequence has made; one without a token has no last event."""
        made = self._running.sequences[index].made(self._now_us())
        if made:
            await self._send(answer, self._wire.tokens(index, shown, made, "abort"))

    def _next(self, sequence: Sequence, shown: int) -> int:
        """Tell up to which token the next event goes: the first one alone, then --stream-interval more."""
        return min(shown + self._engine.options.stream_interval if shown else 1, sequence.choice.tokens)

    def _due_us(self, index: int, shown: int) -> int:
        sequence = self._running.sequences[index]
        return sequence.token_us(self._next(sequence, shown)) if sequence.cut_us is None else sequence.cut_us

    async def _await_event(self, answer: web.StreamResponse, due_us: int) -> None:
        """Wait for the next tokens, telling the client meanwhile that the connection lives, if so configured."""
        pause_us = self._engine.options.sse_keep_alive_us if self._wire.has_comments else None
        while pause_us is not None and self._sent_us + pause_us < due_us:
            seen_us = self._sent_us + pause_us
            await self._wait_until(seen_us)
            if self._now_us() < seen_us:
                return
            await self._send(answer, [KEEP_ALIVE])
        await self._wait_until(due_us)

    async def _send(self, answer: web.StreamResponse, events: Iterable[bytes]) -> None:
        for event in events:
            await answer.write(event)
            self._sent_us = self._now_us()

    async def _wait_until(self, at_us: int) -> None:
        """Wait for an instant, or until something happened to the request.

        Raises: EngineDeadError, EngineGoneError when its process is no more.
        """
        self._check_life()
        if self._now_us() >= at_us:
            return
        self._running.woken.clear()
        waits: set[asyncio.Future[Any]] = {asyncio.ensure_future(self._running.woken.wait())}
        if at_us < NEVER_US:
            waits.add(asyncio.ensure_future(self._clock.wait_until(to_datetime(at_us))))
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        self._check_life()

    def _check_life(self) -> None:
        if self._process.is_dead:
            raise EngineDeadError
        if self._engine.process(self._now_us()) is not self._process:
            raise EngineGoneError


async def open_stream(request: web.Request) -> web.StreamResponse:
    """Send a stream's headers, before anything is known of its tokens."""
    answer = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
    if request.version >= (1, 1):
        answer.enable_chunked_encoding()
    await answer.prepare(request)
    return answer


async def tell_fault(request: web.Request, wire: Wire, fault: AskError) -> web.StreamResponse:
    """Answer a stream with an error that is found after its headers."""
    answer = await open_stream(request)
    for event in wire.fail(fault):
        await answer.write(event)
    await answer.write_eof()
    return answer


def open_exchange(engine: Engine, process: EngineProcess, clock: Clock, wire: Wire) -> Exchange:
    """Put a request into the engine. Raises: AskError when too many wait."""
    running = engine.begin(process, wire.ask, wire.name, wire.engine_ids(), to_us(clock.now()))
    return Exchange(engine, process, clock, running, wire)
