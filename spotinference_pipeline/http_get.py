"""One GET as an exchange: whatever happens to it ends in a record, within a fixed time. The only module that knows httpx.

Owns the key header, time-outs, the size limit, and that no redirect is followed and no compression accepted. The time is
that of the whole answer, from the first byte sent to the last one read: servers that drip keep every shorter limit.
Which paths may be asked, how often and again, is `hyperstack`'s.
"""

import asyncio
from collections.abc import Callable
from datetime import datetime
from types import TracebackType
from typing import Self

import httpx

from spotinference_pipeline.errors import HyperstackError
from spotinference_pipeline.raw import Exchange, body_members

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 20.0
"""Longest time for one whole answer, however it drips in."""
BODY_LIMIT_BYTES = 64 * 2**20
RETRY_AFTER_CHARACTERS = 64


class HttpGet:
    """A connection to one API. Synchronous outside; inside, asyncio alone can end a call at an instant."""

    def __init__(
        self,
        url: str,
        api_key: str,
        clock: Callable[[], datetime],
        *,
        answer_seconds: float = ANSWER_SECONDS,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._clock = clock
        self._answer_seconds = answer_seconds
        self._runner = asyncio.Runner()
        self._client = httpx.AsyncClient(
            base_url=url.rstrip("/"),
            headers={"api_key": api_key, "accept": "application/json", "accept-encoding": "identity"},
            timeout=httpx.Timeout(answer_seconds, connect=CONNECT_SECONDS),
            follow_redirects=False,
            transport=transport,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._runner:
            self._runner.run(self._client.aclose())

    def get(self, scheduled_at: datetime, endpoint: str, query: dict[str, str]) -> Exchange:
        """Ask once; a failure is an exchange without status that says why in one line."""
        started_at = self._clock()
        status: int | None = None
        date: str | None = None
        retry_after: str | None = None
        content: bytes | None = None
        failure: str | None = None
        try:
            status, headers, content = self._runner.run(self._read(endpoint, query))
            date, retry_after = headers.get("date"), headers.get("retry-after", "")[:RETRY_AFTER_CHARACTERS] or None
        except httpx.HTTPError as error:
            # Only the kind: an exception's text may quote the request.
            failure = f"no answer: {type(error).__name__}"
        except TimeoutError:
            failure = f"answer: expected within {self._answer_seconds:g} s, found it unfinished"
        except HyperstackError as error:
            failure = str(error)
        return Exchange(
            scheduled_at=scheduled_at,
            started_at=started_at,
            finished_at=self._clock(),
            endpoint=endpoint,
            query=query,
            status=status,
            date=date,
            retry_after=retry_after,
            error=failure,
            **body_members(content),  # type: ignore[arg-type]
        )

    async def _read(self, endpoint: str, query: dict[str, str]) -> tuple[int, httpx.Headers, bytes]:
        content = bytearray()
        async with asyncio.timeout(self._answer_seconds), self._client.stream("GET", endpoint, params=query) as answer:
            if encoding := answer.headers.get("content-encoding"):
                raise HyperstackError(f"body: expected no content-encoding, found {encoding!r}")
            async for piece in answer.aiter_raw():
                content += piece
                if len(content) > BODY_LIMIT_BYTES:
                    raise HyperstackError(f"body: expected at most {BODY_LIMIT_BYTES} bytes, found more")
        return answer.status_code, answer.headers, bytes(content)
