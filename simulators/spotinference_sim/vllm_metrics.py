"""The page `/metrics` of the simulated vLLM, in Prometheus' text format.

Owns names, labels and the spelling of numbers. Does not own what is counted (`vllm_totals`).

Source: vLLM 0.32.0, names, labels and order as recorded; the histograms' buckets are left out.
"""

from collections.abc import Iterator, Mapping

from spotinference_sim.instants import SECOND_US
from spotinference_sim.vllm_engine import Engine, EngineProcess

FINISHED_REASONS = ("stop", "length", "abort", "error", "repetition")
MEDIA_TYPE = "text/plain; version=1.0.0; charset=utf-8"
SHORT = 1e6
"""Larger numbers are spelled with an exponent."""


def render_metrics(engine: Engine, process: EngineProcess, now_us: int) -> str:
    """Spell an engine's counters; every number is a float, as Prometheus' client prints it."""
    return "\n".join(_lines(engine, process, now_us)) + "\n"


def _lines(engine: Engine, process: EngineProcess, now_us: int) -> Iterator[str]:
    totals = engine.totals(process, now_us)
    waiting = sum(running.is_waiting for running in process.running)
    shown = _Labels(engine.options.model)
    yield from _family("process_start_time_seconds", "gauge", {"": process.started_us / SECOND_US})
    yield from _family("vllm:num_requests_running", "gauge", {shown(): len(process.running) - waiting})
    yield from _family("vllm:num_requests_waiting", "gauge", {shown(): waiting})
    yield from _family("vllm:prompt_tokens_total", "counter", {shown(): totals.prompt})
    sources = {"local_compute": totals.prompt - totals.cached, "local_cache_hit": totals.cached}
    by_source = {shown(source=name): number for name, number in (sources | {"external_kv_transfer": 0}).items()}
    yield from _family("vllm:prompt_tokens_by_source_total", "counter", by_source)
    yield from _family("vllm:prompt_tokens_cached_total", "counter", {shown(): totals.cached})
    yield from _family("vllm:generation_tokens_total", "counter", {shown(): totals.generation})
    by_reason = {shown(finished_reason=reason): totals.finished[reason] for reason in FINISHED_REASONS}
    yield from _family("vllm:request_success_total", "counter", by_reason)
    rejected = f'{{model_name="{engine.options.model}",reason="max_num_queued_reqs"}}'
    yield from _family("vllm:admission_rejections_total", "counter", {rejected: process.rejections})
    finished = sum(totals.finished.values())
    steps = totals.prompt - totals.cached + totals.generation
    for name, count, total in (
        ("request_prompt_tokens", finished, totals.finished_prompt),
        ("request_generation_tokens", finished, totals.finished_generation),
        ("iteration_tokens_total", totals.generation, steps),
        ("request_params_n", totals.n_count, totals.n_sum),
    ):
        yield f"# TYPE vllm:{name} histogram"
        yield f"vllm:{name}_count{shown()} {_number(count)}"
        yield f"vllm:{name}_sum{shown()} {_number(total)}"
    answers = {
        f'{{handler="{handler}",method="{method}",status="{status}"}}': count
        for (handler, method, status), count in sorted(process.http.items())
    }
    yield from _family("http_requests_total", "counter", answers)


class _Labels:
    """Spell the labels that all of the engine's series have, others among them in alphabetical order."""

    def __init__(self, model: str) -> None:
        self._common = {"engine": "0", "model_name": model}

    def __call__(self, **more: str) -> str:
        pairs = sorted((self._common | more).items())
        return "{" + ",".join(f'{name}="{said}"' for name, said in pairs) + "}"


def _family(name: str, kind: str, series: Mapping[str, float]) -> Iterator[str]:
    yield f"# HELP {name} Simulated."
    yield f"# TYPE {name} {kind}"
    for labels, number in series.items():
        yield f"{name}{labels} {_number(number)}"


def _number(given: float) -> str:
    if abs(given) < SHORT:
        return repr(float(given))
    digits, exponent = f"{given:.15e}".split("e")
    return f"{digits.rstrip('0').rstrip('.')}e+{int(exponent):02d}"
