"""Read-only client of Hyperstack's API: raw bytes and their arrival time, never a parsed value.

Owns which paths may be asked at all, tries, the time of a whole snapshot, and that every request keeps the pace. In this
API some GETs change state (start, stop, hibernate), so anything that is not known to be a read is refused here. One request
is `http_get`'s, how often one may be made `pacing`'s. What the answers mean is in `answers`; where they are kept, in `raw`.
"""

import re
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Self

import stamina

from spotinference_pipeline.answers import (
    CREDIT,
    GRAPH,
    HISTORY,
    PAYMENTS,
    PRICE_BOOK,
    SNAPSHOTS,
    SUB_RESOURCES,
    USAGE,
    VIRTUAL_MACHINES,
    VM_EVENTS,
    VOLUMES,
)
from spotinference_pipeline.errors import HyperstackError
from spotinference_pipeline.history_lists import UNPAGED, fetch_pages
from spotinference_pipeline.http_get import ANSWER_SECONDS, HttpGet
from spotinference_pipeline.pacing import KEPT_FOR_RETRIES, LIMITED, Pace, describe, is_settled, was_asked
from spotinference_pipeline.raw import Exchange, Pause

READS = re.compile(
    r"/billing/alive|/billing/billing/(usage|history(/[a-z_-]+(/\d+(/graph)?)?)?|last-day-cost"
    r"|(virtual-machine|volume)/\d+/(billing-events|sub-resource(/graph)?))"
    r"|/billing/(user-credit/credit|payment/payment-details)"
    r"|/pricebook(/contracts(/\d+)?|/calculate/resource/[a-z-]+/\d+)?"
    r"|/core/(virtual-machines(/\d+(/events)?)?|volumes(/\d+)?|snapshots|flavors|environments|regions)"
)
BUDGET_SECONDS = 28.0
"""After this time a snapshot asks nothing more: with the last answer's time it stays within 50 seconds."""
RETRYABLE_STATUSES = frozenset({500, 502, 503, 504})


stamina.instrumentation.set_on_retry_hooks([])
"""Every try is an exchange in the raw file; nothing is logged beside it."""


class _TryAgainError(Exception):
    """Carries nothing: the failed exchange is recorded already."""


class Hyperstack:
    """One method per endpoint; each returns every exchange that it took, failed ones included, oldest first.

    One client is one snapshot: what it is asked after `budget_seconds`, or against the pace, it answers itself, with an
    exchange that says so. Readers of the books, who are not on the minute path, give it more time, a pace of their own, and
    `patience_seconds`: up to so long a call waits until the pace allows it.
    `attempts`: tries of one call within the same snapshot. A 429 is never tried again at once: the limit is by minute.
    """

    def __init__(
        self,
        url: str,
        api_key: str,
        clock: Callable[[], datetime],
        *,
        attempts: int = 3,
        pace: Pace | None = None,
        budget_seconds: float = BUDGET_SECONDS,
        answer_seconds: float = ANSWER_SECONDS,
        patience_seconds: float = 0.0,
        sleep: Callable[[float], None] = time.sleep,
        elapsed: Callable[[], float] = time.monotonic,
        transport: Any = None,
    ) -> None:
        self.pace = pace or Pace()
        self._clock = clock
        self._attempts = attempts
        self._budget_seconds = budget_seconds
        self._patience_seconds = patience_seconds
        self._sleep = sleep
        self._elapsed = elapsed
        self._began = elapsed()
        self._http = HttpGet(url, api_key, clock, answer_seconds=answer_seconds, transport=transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.__exit__(kind, value, trace)

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

        What the exchanges say together is read by `history_lists.read_history_list`.
        """
        endpoint, window = f"{HISTORY}/{kind}", _window(start, end)
        if kind in UNPAGED:
            return self.fetch(scheduled_at, endpoint, window)
        return fetch_pages(lambda page: self.fetch(scheduled_at, endpoint, window | page))

    def fetch_history_detail(
        self, scheduled_at: datetime, kind: str, resource_id: int, start: datetime, end: datetime
    ) -> list[Exchange]:
        """Ask for one resource's history of [start, end), with the time per state. Known to give 500 now and then."""
        return self.fetch(scheduled_at, f"{HISTORY}/{kind}/{resource_id}", _window(start, end))

    def fetch_graph(
        self, scheduled_at: datetime, kind: str, resource_id: int, start: datetime, end: datetime
    ) -> list[Exchange]:
        """Ask for one resource's money by buckets; their size is in the answer's `granularity`, in seconds."""
        return self.fetch(scheduled_at, GRAPH.format(kind=kind, resource_id=resource_id), _window(start, end))

    def fetch_billing_events(
        self, scheduled_at: datetime, kind: str, resource_id: int, start: datetime, end: datetime
    ) -> list[Exchange]:
        """Ask for the billed stretches of a "virtual-machine" or "volume"; may be empty although money was spent."""
        return self.fetch(scheduled_at, f"/billing/billing/{kind}/{resource_id}/billing-events", _window(start, end))

    def fetch_sub_resources(self, scheduled_at: datetime, vm_id: int, start: datetime, end: datetime) -> list[Exchange]:
        """Ask for a machine's money by GPU, processor, memory, disks and public address."""
        return self.fetch(scheduled_at, SUB_RESOURCES.format(vm_id=vm_id), _window(start, end))

    def fetch_payments(self, scheduled_at: datetime) -> list[Exchange]:
        """Ask for all payments with their tax."""
        return self.fetch(scheduled_at, PAYMENTS, {})

    def fetch(self, scheduled_at: datetime, endpoint: str, query: dict[str, str]) -> list[Exchange]:
        """Ask for one path that is known to be a read.

        Raises: HyperstackError for any other path, before anything is sent.
        """
        if not READS.fullmatch(endpoint):
            raise HyperstackError(
                f"path {endpoint}: expected a known read, found another; GET changes state in this API"
            )
        taken: list[Exchange] = []
        try:
            for attempt in stamina.retry_context(
                on=_TryAgainError, attempts=self._attempts, wait_initial=1.0, timeout=None
            ):
                with attempt:
                    if taken and not self._may_try_again():
                        break
                    taken.append(
                        self._unasked(scheduled_at, endpoint, query) or self._ask(scheduled_at, endpoint, query)
                    )
                    if _is_worth_another_try(taken[-1]):
                        raise _TryAgainError  # noqa: TRY301
        except _TryAgainError:
            pass
        return taken

    def leave_out(
        self, scheduled_at: datetime, endpoint: str, query: dict[str, str], why: str, pause: Pause | None = None
    ) -> Exchange:
        """Make the record of a call that is not asked."""
        now = self._clock()
        return Exchange(
            scheduled_at=scheduled_at,
            started_at=now,
            finished_at=now,
            endpoint=endpoint,
            query=query,
            status=None,
            error=f"not asked: {why}",
            pause=pause,
        )

    def _ask(self, scheduled_at: datetime, endpoint: str, query: dict[str, str]) -> Exchange:
        exchange = self._http.get(scheduled_at, endpoint, query)
        self.pace.learn(exchange)
        return exchange

    def _may_try_again(self) -> bool:
        now = self._clock()
        is_in_time = self._elapsed() - self._began <= self._budget_seconds
        return is_in_time and self.pace.pause_at(now) is None and self.pace.has_room(now, KEPT_FOR_RETRIES)

    def _unasked(self, scheduled_at: datetime, endpoint: str, query: dict[str, str]) -> Exchange | None:
        """Give the record of a call that time or pace forbid; wait for the pace where there is patience."""
        now = self._clock()
        wait, paused = (self.pace.allowed_from(now) - now).total_seconds(), self.pace.pause_at(now)
        if (paused is None or paused.why == LIMITED) and 0 < wait <= self._patience_seconds:
            self._sleep(wait)
            now = self._clock()
        if self._elapsed() - self._began > self._budget_seconds:
            return self.leave_out(scheduled_at, endpoint, query, "the time of this snapshot was used up")
        if pause := self.pace.pause_at(now):
            return self.leave_out(scheduled_at, endpoint, query, describe(pause), pause)
        if not self.pace.has_room(now):
            return self.leave_out(scheduled_at, endpoint, query, "enough was asked in the last 60 s")
        return None


def _is_worth_another_try(exchange: Exchange) -> bool:
    """Tell whether another try may do better: no answer, one that says so, or a page that is none of this API's."""
    if exchange.status == 200:
        return not is_settled(exchange)
    return exchange.status in RETRYABLE_STATUSES or (exchange.status is None and was_asked(exchange))


def minute_of(instant: datetime) -> datetime:
    """Give the minute that an instant lies in."""
    return instant - timedelta(seconds=instant.second, microseconds=instant.microsecond)


def _window(start: datetime, end: datetime) -> dict[str, str]:
    """Give a window as this API wants it: whole seconds of UTC, no zone written."""
    return {name: instant.strftime("%Y-%m-%dT%H:%M:%S") for name, instant in (("start_date", start), ("end_date", end))}
