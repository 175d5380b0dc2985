"""The proxy as a whole: its parts, how it starts, reloads and stops.

The only place where listeners, gate, relays and log meet. Does not decide about requests (gate.py), pass bytes
(relay.py) nor write files (log.py). Instants in the log come from the injected clock; waiting is measured by a
monotonic one.
"""

import asyncio
import contextlib
import dataclasses
import resource
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from spotinference_proxy.aborts import WITHIN_SECONDS
from spotinference_proxy.admin import AdminPages
from spotinference_proxy.client_connection import Limits
from spotinference_proxy.engine_metrics import missing_counters
from spotinference_proxy.gate import Gate
from spotinference_proxy.listener import Listener
from spotinference_proxy.log import RequestLog
from spotinference_proxy.logs import Logs
from spotinference_proxy.metrics import Metrics
from spotinference_proxy.pacing import Pacer
from spotinference_proxy.record import Row
from spotinference_proxy.relay import Relay, Surroundings
from spotinference_proxy.settings import Settings, check_exposure
from spotinference_proxy.shipping import Shipper
from spotinference_proxy.tasks import Periodic
from spotinference_proxy.upstreams import Upstream, UpstreamPool
from spotinference_proxy.writer import SegmentWriter

_OWN_DESCRIPTORS = 256  # log, listeners, probes, kept connections
FIRST_PROBE_SECONDS = 0.25  # a sleeping VM does not answer at all: do not wait for it before listening


def utc_now() -> datetime:
    """Return the machine's clock."""
    return datetime.now(UTC)


class Proxy:
    """One proxy process: `start`, serve, `stop`. `address` and `admin_address` are known after `start`."""

    def __init__(
        self,
        settings: Settings,
        clock: Callable[[], datetime] = utc_now,
        *,
        periodic: bool = True,
        writer: SegmentWriter | None = None,
        limits: Limits | None = None,
        logs: Logs | None = None,
    ) -> None:
        check_exposure(settings)
        self.settings = settings
        self.address = settings.listen
        self.admin_address = settings.admin_listen
        self.log = RequestLog(writer or _make_writer(settings, clock))
        self.pool = UpstreamPool(settings.upstreams)
        self._logs = logs or Logs()
        self._shipper = Shipper.of(settings, self._logs)
        self.metrics = Metrics(
            lambda: self.log.stats, lambda: self.pool.upstreams, is_ready=lambda: self.is_ready, shipper=self._shipper
        )
        self.metrics.know_models(settings.upstreams)
        stopwatch = time.monotonic if clock is utc_now else lambda: None
        around = Surroundings(self.pool, self.log, clock, Pacer(), self._health_changed, stopwatch)
        limits = limits or Limits()
        self._gate = gate = Gate(settings, around, self.metrics, self._logs, limits.held_bytes)
        held = max(limits.buffered_bytes, 2 * settings.max_body_bytes)
        limits = dataclasses.replace(
            limits,
            body_bytes=settings.max_body_bytes,
            buffered_bytes=held,
            connections=min(limits.connections, _count_places()),
        )
        self._listener = Listener(gate.refuse, gate.serve, gate.broke_off, limits)
        pages = AdminPages(self._readiness, self.metrics.render)
        self._admin = Listener(pages.refuse, pages.serve)
        self._periodic = Periodic(
            around,
            gate.relays,
            (self._listener.check, self._admin.check, self.pool.prune),
            self._engine_read,
            lambda error: self._logs.failure("background_work", error),
            reports_fleet=not settings.worker,
        )
        self._is_background_on = periodic
        self._is_started = False

    @property
    def relays(self) -> set[Relay]:
        """The requests that run now."""
        return self._gate.relays

    @property
    def is_ready(self) -> bool:
        """Whether requests are taken, as far as it is up to the proxy."""
        return self.log.is_writable and self.log.is_admitting and not self._gate.is_stopping

    async def start(self) -> None:
        """Recover and open the log, probe the upstreams, listen. Raises: LogError, OSError."""
        self._is_started = True
        try:
            await self.log.start()
            await asyncio.wait([self._gate.run(self.probe())], timeout=FIRST_PROBE_SECONDS)
            shares_port = self.settings.worker is not None
            self.address = await self._listener.open(self.settings.listen, shares_port=shares_port)
            self.admin_address = await self._admin.open(self.settings.admin_listen)
        except BaseException:
            await self.stop_now()
            raise
        if self._is_background_on:
            self._periodic.start()
            if self._shipper is not None:
                self._shipper.start()

    def reload(self, settings: Settings) -> None:
        """Take new upstreams and keys; running requests go on. Raises: SettingsError; then all is as before."""
        self._gate.configure(settings)
        self.settings = settings
        self.pool.configure(settings.upstreams)
        self.metrics.know_models(settings.upstreams)
        self._gate.run(self.probe())

    async def stop(self, seconds: float | None = None) -> None:
        """Accept nothing new, let running requests end, then end them by vLLM's abort call; seal the log."""
        self._stop_accepting()
        await self._wait(self.settings.stop_seconds if seconds is None else seconds)
        for relay in list(self.relays):
            relay.end_early("proxy_stopped")
        await self._wait(WITHIN_SECONDS + 0.5)
        await self.stop_now()

    async def stop_now(self) -> None:
        """Cut what runs, seal the log, close everything. Twice is once."""
        self._stop_accepting()
        if not self._is_started:
            return
        self._is_started = False
        for relay in list(self.relays):
            relay.cut("proxy_stopped")
        await self._wait(WITHIN_SECONDS)
        await self._listener.flush()
        await self._periodic.stop()
        self._gate.close()
        self._listener.close()
        self._admin.stop()
        self._admin.close()
        self.pool.close()
        await self.log.close()
        if self._shipper is not None:
            await self._shipper.stop()

    async def probe(self) -> None:
        """Probe every upstream now; write a `health` row for each that changed."""
        await self._periodic.probe()

    async def minute(self) -> None:
        """Write the rows of a minute: health and counters of every upstream, and the beat."""
        await self._periodic.minute()

    def progress(self) -> None:
        """Write a `usage` row for every running stream that has stated any."""
        self._periodic.progress()

    def _stop_accepting(self) -> None:
        self._gate.is_stopping = True
        self._listener.stop()

    async def _wait(self, seconds: float) -> None:
        """Wait until no request runs, at most so long."""
        self._gate.is_quiet.clear()
        if self.relays:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._gate.is_quiet.wait(), seconds)

    def _readiness(self) -> dict[str, Any]:
        return {
            "ready": self.is_ready,
            "stopping": self._gate.is_stopping,
            "log_writable": self.log.is_writable,
            "log_trouble": self.log.why_not_admitting,
            "upstreams": len(self.pool.upstreams),
            "upstreams_ready": sum(bool(one.is_ready) for one in self.pool.upstreams),
        }

    def _health_changed(self, upstream: Upstream) -> None:
        if upstream.is_ready:
            self._logs.info("upstream_ready", upstream=upstream.url, vm_id=upstream.settings.vm_id)
        else:
            self._logs.warning(
                "upstream_not_ready", upstream=upstream.url, vm_id=upstream.settings.vm_id, problem=upstream.problem
            )

    def _engine_read(self, row: Row) -> None:
        missing = missing_counters(row)
        if self.metrics.engine_read(str(row["upstream"]), missing) and missing:
            self._logs.warning("engine_counters_missing", upstream=row["upstream"], counters=missing)


def _count_places() -> int:
    """Count the clients for whom there are descriptors: each request in flight has another one, to vLLM."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else max((soft - _OWN_DESCRIPTORS) // 2, 1)


def _make_writer(settings: Settings, clock: Callable[[], datetime]) -> SegmentWriter:
    least = settings.min_free_bytes
    if least is None:
        return SegmentWriter(settings.log_dir, settings.writer, clock)
    return SegmentWriter(settings.log_dir, settings.writer, clock, min_free_bytes=least, min_free_ratio=0.0)
