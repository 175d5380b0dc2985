import dataclasses
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from spotinference_proxy.log import COMMIT_SECONDS, LogStats
from spotinference_proxy.metrics import MAX_MODELS, Metrics
from spotinference_proxy.record import RequestRecord
from spotinference_proxy.settings import UpstreamSettings
from spotinference_proxy.usage import Usage

START = datetime(2026, 11, 22, tzinfo=UTC)
NAMES = {
    "spotinference_proxy_build_info",
    "spotinference_proxy_ready",
    "spotinference_proxy_requests_total",
    "spotinference_proxy_refused_total",
    "spotinference_proxy_usage_total",
    "spotinference_tokens_total",
    "spotinference_proxy_in_flight",
    "spotinference_proxy_upstream_ready",
    "spotinference_proxy_engine_counter_missing",
    "spotinference_log_commit_seconds_bucket",
    "spotinference_log_commit_seconds_count",
    "spotinference_log_commit_seconds_sum",
    "spotinference_log_waiting",
    "spotinference_open_requests",
    "spotinference_log_free_bytes",
    "spotinference_log_errors_total",
    "spotinference_log_dropped_rows_total",
    "spotinference_log_torn_bytes_total",
    "spotinference_log_shipped_segments_total",
    "spotinference_log_ship_pending",
    "spotinference_log_ship_errors_total",
    "process_resident_memory_bytes",
    "process_cpu_seconds_total",
    "process_open_fds",
}


@dataclass
class Numbers:
    url: str = "http://a:1"
    in_flight: int = 0
    is_ready: bool | None = None
    shipped_total: int = 0
    pending: int = 0
    errors_total: int = 0


def record(requested: str | None = "otter", status: int = 200, **changes: object) -> RequestRecord:
    return RequestRecord("id", START, "/v1/chat/completions", requested_model=requested, status=status, **changes)


def metrics(*upstreams: Numbers, stats: LogStats | None = None, shipper: Numbers | None = None) -> Metrics:
    found = Metrics(lambda: stats or LogStats(), lambda: upstreams, is_ready=lambda: True, shipper=shipper)
    found.know_models([UpstreamSettings("http://a:1", models=("otter", "seal"))])
    return found


def samples(found: Metrics) -> dict[tuple[str, ...], float]:
    content, content_type = found.render()
    assert content_type.startswith("text/plain")
    families = text_string_to_metric_families(content.decode())
    return {
        (sample.name, *(f"{name}={text}" for name, text in sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def total(found: Metrics, name: str) -> float:
    return sum(value for key, value in samples(found).items() if key[0] == name)


def test_the_names_are_those_that_dashboards_rely_on() -> None:
    found = metrics(Numbers(is_ready=True), stats=LogStats(free_bytes=1), shipper=Numbers())
    found.request_ended(record(usage=Usage(1, 1)), "complete")
    found.refused(401)
    found.engine_read("http://a:1", [])
    assert {key[0] for key in samples(found)} >= NAMES
    page = found.render()[0].decode()
    assert all(f"# HELP {name} " in page for name in NAMES if "commit_seconds_" not in name)
    assert "python_gc" not in page


def test_a_request_is_counted_by_its_labels_with_the_tokens_the_engine_stated() -> None:
    found = metrics()
    found.request_ended(record(usage=Usage(10, 5, 4, 2), stream=True), "complete")
    found.request_ended(record(usage=Usage(1, None), stream=True), "complete")
    found.request_ended(record("seal", 503), "refused")
    found.request_ended(record(None, 499), "client_gone")
    seen = samples(found)
    name = "spotinference_proxy_requests_total"
    assert {key[1:]: value for key, value in seen.items() if key[0] == name} == {
        ("end_reason=complete", "model=otter", "status_class=2xx", "stream=true"): 2,
        ("end_reason=refused", "model=seal", "status_class=5xx", "stream=false"): 1,
        ("end_reason=client_gone", "model=other", "status_class=4xx", "stream=false"): 1,
    }
    tokens = {
        key[1]: value for key, value in seen.items() if key[0] == "spotinference_tokens_total" and "model=otter" in key
    }
    assert tokens == {"kind=prompt": 11, "kind=completion": 5, "kind=cached": 4, "kind=reasoning": 2}
    assert all(key[3] == "source=upstream" for key in seen if key[0] == "spotinference_tokens_total")


def test_requests_are_counted_by_the_source_of_their_usage_and_unknown_tokens_are_absent() -> None:
    found = metrics()
    found.request_ended(record(), "complete")
    assert total(found, "spotinference_tokens_total") == 0
    assert "spotinference_tokens_total{" not in found.render()[0].decode()
    found.request_ended(record(usage=Usage(1, 1)), "client_gone")
    found.request_ended(record(usage=Usage(1, 1), is_usage_final=True), "complete")
    name = "spotinference_proxy_usage_total"
    seen = {key[2]: value for key, value in samples(found).items() if key[0] == name}
    assert seen == {"usage_source=none": 1, "usage_source=engine_partial": 1, "usage_source=engine_final": 1}


def test_F023_an_absurd_count_does_not_turn_a_counter_back() -> None:
    found = metrics()
    found.request_ended(record(usage=Usage(10, 5)), "complete")
    found.request_ended(record(usage=Usage(-7, -1)), "complete")
    assert total(found, "spotinference_tokens_total") == 15


def test_F073_no_client_makes_series_by_inventing_models() -> None:
    found = metrics()
    for i in range(1000):
        found.request_ended(record(f"invented-{i}\"\n'; drop table x", 404), "upstream_error")
    page = found.render()[0].decode()
    assert "invented" not in page
    assert total(found, "spotinference_proxy_requests_total") == 1000
    assert sum("requests_total{" in line for line in page.splitlines()) == 1


def test_a_name_that_the_engine_answers_with_is_known_up_to_a_bound() -> None:
    found = metrics()
    for i in range(1000):
        found.request_ended(record("alias", model=f"real-{i}" + "x" * 500), "complete")
    found.request_ended(record("alias", 404, model="wrong"), "upstream_error")
    models = {key[2] for key in samples(found) if key[0] == "spotinference_proxy_requests_total"}
    assert len(models) == MAX_MODELS - 2 + 1
    assert all(len(model) <= len("model=") + 128 for model in models)
    assert "model=other" in models
    found.know_models([UpstreamSettings("http://b", models=("late",))])
    found.request_ended(record("late"), "complete")
    assert any("model=late" in key for key in samples(found))


def test_upstreams_are_told_as_they_are_now_and_unknown_is_absent() -> None:
    first, second = Numbers(in_flight=3), Numbers("http://b:2", is_ready=False)
    found = metrics(first, second)
    seen = samples(found)
    assert seen["spotinference_proxy_in_flight", "upstream=http://a:1"] == 3
    assert ("spotinference_proxy_upstream_ready", "upstream=http://a:1") not in seen
    assert seen["spotinference_proxy_upstream_ready", "upstream=http://b:2"] == 0
    first.is_ready = True
    assert samples(found)["spotinference_proxy_upstream_ready", "upstream=http://a:1"] == 1


def test_a_missing_engine_counter_is_a_series_and_news_once() -> None:
    found = metrics(Numbers())
    assert not [key for key in samples(found) if "missing" in key[0]]
    assert not found.engine_read("http://a:1", [])
    assert found.engine_read("http://a:1", ["prompt_tokens_total"])
    assert not found.engine_read("http://a:1", ["prompt_tokens_total"])
    name = "spotinference_proxy_engine_counter_missing"
    seen = samples(found)
    assert seen[name, "counter=prompt_tokens_total", "upstream=http://a:1"] == 1
    assert seen[name, "counter=generation_tokens_total", "upstream=http://a:1"] == 0
    assert found.engine_read("http://a:1", [])
    assert samples(found)[name, "counter=prompt_tokens_total", "upstream=http://a:1"] == 0


def test_waits_for_the_log_are_a_histogram() -> None:
    stats = LogStats(waiting=4, open_requests=2, errors_total=1, torn_bytes_total=9, commits_total=6)
    stats.commit_seconds_counts[0], stats.commit_seconds_counts[3], stats.commit_seconds_counts[-1] = 3, 2, 1
    stats.commit_seconds_sum = 11.5
    seen = samples(metrics(stats=stats))
    name = "spotinference_log_commit_seconds"
    buckets = {key[1]: value for key, value in seen.items() if key[0] == f"{name}_bucket"}
    assert len(buckets) == len(COMMIT_SECONDS) + 1
    assert (buckets["le=0.0005"], buckets["le=0.005"], buckets["le=10.0"], buckets["le=+Inf"]) == (3, 5, 5, 6)
    assert (seen[f"{name}_count",], seen[f"{name}_sum",]) == (6, 11.5)
    assert seen["spotinference_log_waiting",] == 4
    assert seen["spotinference_open_requests",] == 2
    assert (seen["spotinference_log_errors_total",], seen["spotinference_log_torn_bytes_total",]) == (1, 9)
    assert ("spotinference_log_free_bytes",) not in seen


def test_shipping_is_told_only_where_there_is_any() -> None:
    assert not [key for key in samples(metrics()) if "ship" in key[0]]
    seen = samples(metrics(shipper=Numbers(shipped_total=3, pending=2, errors_total=1)))
    assert seen["spotinference_log_shipped_segments_total",] == 3
    assert seen["spotinference_log_ship_pending",] == 2
    assert seen["spotinference_log_ship_errors_total",] == 1


def test_two_proxies_in_one_process_have_pages_of_their_own() -> None:
    one, other = metrics(), metrics()
    one.refused("stopping")
    assert total(one, "spotinference_proxy_refused_total") == 1
    assert total(other, "spotinference_proxy_refused_total") == 0


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["otter", "seal", "x", None]),
            st.sampled_from([200, 404, 499, 503]),
            st.booleans(),
            st.sampled_from(["complete", "client_gone", "upstream_error"]),
            st.none() | st.tuples(*[st.none() | st.integers(0, 10**6)] * 4),
        ),
        max_size=40,
    )
)
def test_whatever_ends_the_sums_are_those_of_the_records(ended: list) -> None:
    found = metrics()
    for model, status, is_stream, reason, usage in ended:
        made = record(model, status, stream=is_stream)
        found.request_ended(dataclasses.replace(made, usage=Usage(*usage) if usage else None), reason)
    assert total(found, "spotinference_proxy_requests_total") == len(ended)
    stated = sum(count or 0 for *_, usage in ended for count in usage or ())
    assert total(found, "spotinference_tokens_total") == pytest.approx(stated)
