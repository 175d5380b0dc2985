"""The proxy's own numbers, for Prometheus.

Owns the counters of requests, tokens and refusals, the names of all series, and their rendering. Does not own the
other numbers: log, upstreams and shipper are asked when somebody scrapes. Counting a request is one look-up in a
dict and a few additions. Label values are bounded: a model is one of the configured names, or one that an engine
itself answered with, else `other`; nothing that only a client wrote becomes a label. Each of several workers has a
page of its own, to be added up by whoever reads them. Base units in names, `_total` on counters
(https://prometheus.io/docs/practices/naming/).
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from itertools import accumulate
from typing import Protocol

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from spotinference_proxy.engine_metrics import NEEDED
from spotinference_proxy.log import COMMIT_SECONDS, LogStats
from spotinference_proxy.record import RequestRecord
from spotinference_proxy.settings import UpstreamSettings

OTHER = "other"
MAX_MODELS = 64
_MAX_NAME = 128
_KINDS = ("prompt", "completion", "cached", "reasoning")


class UpstreamNumbers(Protocol):
    """What is asked of an upstream."""

    url: str
    in_flight: int
    is_ready: bool | None


class ShipNumbers(Protocol):
    """What is asked of the shipper."""

    shipped_total: int
    pending: int
    errors_total: int


class Metrics(Collector):
    """Counters that the core bumps, and the page they are rendered to."""

    def __init__(
        self,
        log: Callable[[], LogStats],
        upstreams: Callable[[], Iterable[UpstreamNumbers]],
        *,
        is_ready: Callable[[], bool],
        shipper: ShipNumbers | None = None,
    ) -> None:
        self._log = log
        self._upstreams = upstreams
        self._is_ready = is_ready
        self._shipper = shipper
        self._names: dict[str, str] = {}
        self._requests: dict[tuple[str, int, bool, str, str], list[int]] = {}  # requests, then tokens of _KINDS
        self._refusals: dict[str, int] = {}
        self._missing: dict[str, Sequence[str]] = {}
        self._version = version("spotinference-proxy")
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def know_models(self, upstreams: Iterable[UpstreamSettings]) -> None:
        """Take the configured names, at the start and at a reload; what is counted already stays counted."""
        for upstream in upstreams:
            for model in upstream.models:
                self._names.setdefault(model, model[:_MAX_NAME])

    def request_ended(self, record: RequestRecord, reason: str) -> None:
        """Count a request that has its end record, with the tokens the engine stated."""
        usage = record.usage
        key = (self._label_of(record), record.status // 100, record.stream, reason, record.usage_source)
        counts = self._requests.get(key)
        if counts is None:
            counts = self._requests[key] = [0] * (1 + len(_KINDS))
        counts[0] += 1
        if usage is not None:
            stated = (usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens, usage.reasoning_tokens)
            for i, tokens in enumerate(stated, 1):
                if tokens is not None and tokens > 0:  # an engine's absurd number must not turn a counter back
                    counts[i] += tokens

    def refused(self, reason: str | int) -> None:
        """Count a request that was answered without being taken in; `reason` is one of a few words or statuses."""
        name = str(reason)
        self._refusals[name] = self._refusals.get(name, 0) + 1

    def engine_read(self, upstream: str, missing: Sequence[str]) -> bool:
        """Note which needed counters an engine's page lacks; return whether that is news, worth a line in the log."""
        is_news = list(self._missing.get(upstream, ())) != list(missing)
        self._missing[upstream] = missing
        return is_news

    def render(self) -> tuple[bytes, str]:
        """Return the page and its content type."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST

    def collect(self) -> Iterator[Metric]:
        """Give all series; prometheus_client calls it for each page."""
        info = GaugeMetricFamily("spotinference_proxy_build_info", "Version of the proxy.", labels=("version",))
        info.add_metric((self._version,), 1)
        yield info
        yield GaugeMetricFamily("spotinference_proxy_ready", "1 while /readyz says so.", value=float(self._is_ready()))
        yield from self._collect_requests()
        yield from self._collect_upstreams()
        yield from self._collect_log(self._log())
        if self._shipper is not None:
            yield from _collect_shipping(self._shipper)

    def _label_of(self, record: RequestRecord) -> str:
        name = self._names.get(record.requested_model or "") or self._names.get(record.model or "")
        if name is not None:
            return name
        if record.model and record.status == 200 and len(self._names) < MAX_MODELS:
            self._names[record.model] = record.model[:_MAX_NAME]
            return self._names[record.model]
        return OTHER

    def _collect_requests(self) -> Iterator[Metric]:
        requests: Counter[tuple[str, ...]] = Counter()
        sources: Counter[tuple[str, ...]] = Counter()
        tokens: Counter[tuple[str, ...]] = Counter()
        for (model, status, is_stream, reason, source), (count, *stated) in self._requests.items():
            requests[model, f"{status}xx", "true" if is_stream else "false", reason] += count
            sources[model, source] += count
            for kind, number in zip(_KINDS, stated, strict=True):
                if number:  # what no engine has stated is absent, not 0
                    tokens[model, kind, "upstream"] += number
        yield _counter(
            "spotinference_proxy_requests",
            "Requests with an end record, by the status that was sent; 499 if the client left before one could be.",
            ("model", "status_class", "stream", "end_reason"),
            requests,
        )
        yield _counter(
            "spotinference_proxy_usage",
            "The same requests by the source of their usage.",
            ("model", "usage_source"),
            sources,
        )
        yield _counter(
            "spotinference_tokens",
            "Tokens as the engine stated them in its answers; of n choices the prompt counts once.",
            ("model", "kind", "source"),
            tokens,
        )
        yield _counter(
            "spotinference_proxy_refused",
            "Requests answered by the proxy without being taken in.",
            ("reason",),
            {(reason,): count for reason, count in self._refusals.items()},
        )

    def _collect_upstreams(self) -> Iterator[Metric]:
        in_flight = GaugeMetricFamily(
            "spotinference_proxy_in_flight", "Requests now at an upstream.", labels=("upstream",)
        )
        ready = GaugeMetricFamily(
            "spotinference_proxy_upstream_ready",
            "1 if the last probe found it ready; absent before.",
            labels=("upstream",),
        )
        missing = GaugeMetricFamily(
            "spotinference_proxy_engine_counter_missing",
            "1 if a needed counter is not on the engine's metrics page as last read.",
            labels=("upstream", "counter"),
        )
        for upstream in self._upstreams():
            in_flight.add_metric((upstream.url,), upstream.in_flight)
            if upstream.is_ready is not None:
                ready.add_metric((upstream.url,), float(upstream.is_ready))
            if upstream.url in self._missing:
                for counter in NEEDED:
                    missing.add_metric((upstream.url, counter), float(counter in self._missing[upstream.url]))
        yield from (in_flight, ready, missing)

    def _collect_log(self, stats: LogStats) -> Iterator[Metric]:
        bounds = [*(str(bound) for bound in COMMIT_SECONDS), "+Inf"]
        yield HistogramMetricFamily(
            "spotinference_log_commit_seconds",
            "Wait of an answer's end until its record was on disk.",
            buckets=list(zip(bounds, map(float, accumulate(stats.commit_seconds_counts)), strict=True)),
            sum_value=stats.commit_seconds_sum,
        )
        yield GaugeMetricFamily("spotinference_log_waiting", "Rows not yet known to be on disk.", value=stats.waiting)
        yield GaugeMetricFamily(
            "spotinference_open_requests", "Requests begun in the log and not ended.", value=stats.open_requests
        )
        if stats.free_bytes is not None:
            yield GaugeMetricFamily(
                "spotinference_log_free_bytes", "Free space of the log's disk.", value=stats.free_bytes
            )
        for name, text, count in (
            ("spotinference_log_errors", "Failed writes of the log.", stats.errors_total),
            (
                "spotinference_log_dropped_rows",
                "Rows that could not be written and were given up.",
                stats.dropped_rows_total,
            ),
            ("spotinference_log_torn_bytes", "Bytes cut off as torn.", stats.torn_bytes_total),
        ):
            yield CounterMetricFamily(name, text, value=count)


def _collect_shipping(shipper: ShipNumbers) -> Iterator[Metric]:
    text = "Sealed segments shipped, or found at their target, by this process."
    yield CounterMetricFamily("spotinference_log_shipped_segments", text, value=shipper.shipped_total)
    yield GaugeMetricFamily("spotinference_log_ship_pending", "Sealed segments not shipped yet.", value=shipper.pending)
    yield CounterMetricFamily("spotinference_log_ship_errors", "Failed tries to ship.", value=shipper.errors_total)


def _counter(name: str, text: str, labels: Sequence[str], counts: Mapping[tuple[str, ...], int]) -> Metric:
    family = CounterMetricFamily(name, text, labels=labels)
    for values, count in counts.items():
        family.add_metric(values, count)
    return family
