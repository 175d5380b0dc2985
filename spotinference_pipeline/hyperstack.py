"""Read-only client of Hyperstack's API: raw bytes and their arrival time, never a parsed value.

Owns the requests: key header, time-outs, retries, size limit, and the list of paths that may be asked at all. In this
API some GETs change state (start, stop, hibernate), so anything that is not known to be a read is refused here. What
the answers mean is in `answers`; where they are kept, in `raw`.

Source: the vendor's API description; its rate limit is 500 requests a minute and address, without any header.
"""

import re
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from types import TracebackType
from typing import Self

import httpx
import stamina

from spotinference_pipeline.answers import (
    CREDIT,
    HISTORY,
    PAYMENTS,
    PRICE_BOOK,
    SNAPSHOTS,
    USAGE,
    VIRTUAL_MACHINES,
    VM_EVENTS,
    VOLUMES,
)
from spotinference_pipeline.errors import HyperstackError
from spotinference_pipeline.history_lists import UNPAGED, identities, is_full
from spotinference_pipeline.raw import Exchange, body_members

READS = re.compile(
    r"/billing/alive|/billing/billing/(usage|history(/[a-z_-]+(/\d+(/graph)?)?)?|last-day-cost"
    r"|(virtual-machine|volume)/\d+/(billing-events|sub-resource(/graph)?))"
    r"|/billing/(user-credit/credit|payment/payment-details)"
    r"|/pricebook(/contracts(/\d+)?|/calculate/resource/[a-z-]+/\d+)?"
    r"|/core/(virtual-machines(/\d+(/events)?)?|volumes(/\d+)?|snapshots|flavors|environments|regions)"
)
CONNECT_SECONDS = 5.0
READ_SECONDS = 20.0
ANSWER_SECONDS = 20.0
"""Longest time for one whole answer, however it drips in."""
BUDGET_SECONDS = 28.0
"""After this time a snapshot asks nothing more: with the last answer's time it stays within 50 seconds."""
BODY_LIMIT_BYTES = 64 * 2**20
RETRYABLE_STATUSES = frozenset({500, 502, 503, 504})
ROWS_PER_PAGE = 100
MOST_PAGES = 100
"""Most pages of one pass through a list: 10,000 resources."""
MOST_PASSES = 3
"""A list of several pages moves while it is read; it is read again until two passes name the same rows."""


stamina.instrumentation.set_on_retry_hooks([])
"""Every try is an exchange in the raw file; nothing is logged beside it."""


class _TryAgainError(Exception):
    """Carries nothing: the failed exchange is recorded already."""


class Hyperstack:
    """One method per endpoint; each returns every exchange that it took, failed ones included, oldest first.

    One client is one snapshot: what it is asked after `budget_seconds` it answers itself, with an exchange that says
    so. Readers of the books, who are not on the minute path, give it more.
    `attempts`: tries of one call within the same snapshot. A 429 is never tried again at once: the limit is by minute.
    """

    def __init__(
        self,
        url: str,
        api_key: str,
        clock: Callable[[], datetime],
        *,
        attempts: int = 2,
        budget_seconds: float = BUDGET_SECONDS,
        elapsed: Callable[[], float] = time.monotonic,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._clock = clock
        self._attempts = attempts
        self._budget_seconds = budget_seconds
        self._elapsed = elapsed
        self._began = elapsed()
        self._client = httpx.Client(
            base_url=url.rstrip("/"),
            headers={"api_key": api_key, "accept": "application/json", "accept-encoding": "identity"},
            timeout=httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS),
            follow_redirects=False,
            transport=transport,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def fetch_usage(self, scheduled_at: datetime, *, deleted: bool = False) -> list[Exchange]:
        """Ask for the running counters of the active resources, or of the terminated ones."""
        return self.fetch(scheduled_at, USAGE, {"deleted": "true" if deleted else "false"})

    def fetch_history(self, scheduled_at: datetime, start: datetime, end: datetime) -> list[Exchange]:
        """Ask for the organisation's totals of [start, end)."""
        return self.fetch(scheduled_at, HISTORY, _window(start, end))

    def fetch_credit(self, scheduled_at: datetime) -> list[Exchange]:
        """Ask for the prepaid balance."""
        return self.fetch(scheduled_at, CREDIT, {})

    def fetch_virtual_machines(self, scheduled_at: datetime) -> list[Exchange]:
        """Ask for the fleet."""
        return self.fetch(scheduled_at, VIRTUAL_MACHINES, {})

    def fetch_vm_events(self, scheduled_at: datetime, vm_id: int) -> list[Exchange]:
        """Ask for everything that ever happened to one machine."""
        return self.fetch(scheduled_at, VM_EVENTS.format(vm_id=vm_id), {})

    def fetch_volumes(self, scheduled_at: datetime) -> list[Exchange]:
        """Ask for the volumes."""
        return self.fetch(scheduled_at, VOLUMES, {})

    def fetch_price_book(self, scheduled_at: datetime) -> list[Exchange]:
        """Ask for the price book."""
        return self.fetch(scheduled_at, PRICE_BOOK, {})

    def fetch_snapshots(self, scheduled_at: datetime) -> list[Exchange]:
        """Ask for the snapshots of machines: disks that cost money, not to be mixed up with ours."""
        return self.fetch(scheduled_at, SNAPSHOTS, {})

    def fetch_history_list(self, scheduled_at: datetime, kind: str, start: datetime, end: datetime) -> list[Exchange]:
        """Ask for all pages of one kind's history of [start, end), such as "virtual-machine".

        The answer's own counters are not trusted: a page that is not full, or that brings no row unseen in this pass,
        is the last. What the exchanges say together is read by `history_lists.read_history_list`.
        """
        if kind in UNPAGED:
            return self.fetch(scheduled_at, f"{HISTORY}/{kind}", _window(start, end))
        taken: list[Exchange] = []
        before: frozenset[str] | None = None
        for _ in range(MOST_PASSES):
            pages, rows = self._fetch_pages(scheduled_at, f"{HISTORY}/{kind}", _window(start, end))
            taken += pages
            if pages[-1].query["page"] == "1" or pages[-1].status != 200 or rows == before:
                break
            before = rows
        return taken

    def fetch_history_detail(
        self, scheduled_at: datetime, kind: str, resource_id: int, start: datetime, end: datetime
    ) -> list[Exchange]:
        """Ask for one resource's history of [start, end), with the time per state. Known to give 500 now and then."""
        return self.fetch(scheduled_at, f"{HISTORY}/{kind}/{resource_id}", _window(start, end))

    def fetch_graph(
        self, scheduled_at: datetime, kind: str, resource_id: int, start: datetime, end: datetime
    ) -> list[Exchange]:
        """Ask for one resource's money by buckets; their size is in the answer's `granularity`, in seconds."""
        return self.fetch(scheduled_at, f"{HISTORY}/{kind}/{resource_id}/graph", _window(start, end))

    def fetch_billing_events(
        self, scheduled_at: datetime, kind: str, resource_id: int, start: datetime, end: datetime
    ) -> list[Exchange]:
        """Ask for the billed stretches of a "virtual-machine" or "volume"; may be empty although money was spent."""
        return self.fetch(scheduled_at, f"/billing/billing/{kind}/{resource_id}/billing-events", _window(start, end))

    def fetch_sub_resources(self, scheduled_at: datetime, vm_id: int, start: datetime, end: datetime) -> list[Exchange]:
        """Ask for a machine's money by GPU, processor, memory, disks and public address."""
        return self.fetch(scheduled_at, f"/billing/billing/virtual-machine/{vm_id}/sub-resource", _window(start, end))

    def fetch_payments(self, scheduled_at: datetime) -> list[Exchange]:
        """Ask for all payments with their tax."""
        return self.fetch(scheduled_at, PAYMENTS, {})

    def _fetch_pages(
        self, scheduled_at: datetime, endpoint: str, window: dict[str, str]
    ) -> tuple[list[Exchange], frozenset[str]]:
        """Go through a list once; give each page's last exchange with the tries before it, and the rows' identities."""
        taken: list[Exchange] = []
        seen: frozenset[str] = frozenset()
        for page in range(1, MOST_PAGES + 1):
            taken += self.fetch(scheduled_at, endpoint, window | {"per_page": str(ROWS_PER_PAGE), "page": str(page)})
            rows = identities(taken[-1])
            is_last = not is_full(taken[-1], ROWS_PER_PAGE) or rows <= seen
            seen |= rows
            if is_last:
                break
        return taken, seen

    def fetch(self, scheduled_at: datetime, endpoint: str, query: dict[str, str]) -> list[Exchange]:
        """Ask for one path that is known to be a read.

        Raises: HyperstackError for any other path, before anything is sent.
        """
        if not READS.fullmatch(endpoint):
            raise HyperstackError(
                f"path {endpoint}: expected a known read, found another; GET changes state in this API"
            )
        taken: list[Exchange] = []
        if self._elapsed() - self._began > self._budget_seconds:
            return [self._unasked(scheduled_at, endpoint, query)]
        try:
            for attempt in stamina.retry_context(
                on=_TryAgainError, attempts=self._attempts, wait_initial=1.0, timeout=45.0
            ):
                with attempt:
                    taken.append(self._exchange(scheduled_at, endpoint, query))
                    if taken[-1].status is None or taken[-1].status in RETRYABLE_STATUSES:
                        raise _TryAgainError  # noqa: TRY301
        except _TryAgainError:
            pass
        return taken

    def _exchange(self, scheduled_at: datetime, endpoint: str, query: dict[str, str]) -> Exchange:
        started_at = self._clock()
        status: int | None = None
        date: str | None = None
        content: bytes | None = None
        failure: str | None = None
        try:
            with self._client.stream("GET", endpoint, params=query) as response:
                status, date = response.status_code, response.headers.get("date")
                content = self._read_body(response)
        except httpx.HTTPError as error:
            # Only the kind: an exception's text may quote the request.
            status, failure = None, f"no answer: {type(error).__name__}"
        except HyperstackError as error:
            status, failure = None, str(error)
        return Exchange(
            scheduled_at=scheduled_at,
            started_at=started_at,
            finished_at=self._clock(),
            endpoint=endpoint,
            query=query,
            status=status,
            date=date,
            error=failure,
            **body_members(content),  # type: ignore[arg-type]
        )

    def _unasked(self, scheduled_at: datetime, endpoint: str, query: dict[str, str]) -> Exchange:
        now = self._clock()
        return Exchange(
            scheduled_at=scheduled_at,
            started_at=now,
            finished_at=now,
            endpoint=endpoint,
            query=query,
            status=None,
            error="not asked: the time of this snapshot was used up",
        )

    def _read_body(self, response: httpx.Response) -> bytes:
        began = self._elapsed()
        if encoding := response.headers.get("content-encoding"):
            raise HyperstackError(f"body: expected no content-encoding, found {encoding!r}")
        content = bytearray()
        for piece in response.iter_raw():
            content += piece
            if self._elapsed() - began > ANSWER_SECONDS:
                raise HyperstackError(f"body: expected within {ANSWER_SECONDS:.0f} s, found it unfinished")
            if len(content) > BODY_LIMIT_BYTES:
                raise HyperstackError(f"body: expected at most {BODY_LIMIT_BYTES} bytes, found more")
        return bytes(content)


def minute_of(instant: datetime) -> datetime:
    """Give the minute that an instant lies in."""
    return instant - timedelta(seconds=instant.second, microseconds=instant.microsecond)


def _window(start: datetime, end: datetime) -> dict[str, str]:
    """Give a window as this API wants it: whole seconds of UTC, no zone written."""
    return {name: instant.strftime("%Y-%m-%dT%H:%M:%S") for name, instant in (("start_date", start), ("end_date", end))}
