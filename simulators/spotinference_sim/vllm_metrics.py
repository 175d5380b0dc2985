"""The page `/metrics` of the simulated vLLM, in Prometheus' text format.

Source: vLLM 0.32.0, names and labels as measured.
"""

from spotinference_sim.vllm_engine import Engine, EngineProcess

FINISHED_REASONS = ("stop", "length", "abort", "error", "repetition")


def render_metrics(engine: Engine, process: EngineProcess, now_us: int) -> str:
    """Spell an engine's counters; every number is a float, as Prometheus' client prints it."""
    prompt, generation = engine.counters(process, now_us)
    labels = f'engine="0",model_name="{engine.model}"'
    lines = [
        "# TYPE process_start_time_seconds gauge",
        f"process_start_time_seconds {float(process.started_s)}",
        "# TYPE vllm:num_requests_running gauge",
        f"vllm:num_requests_running{{{labels}}} {float(len(process.running))}",
        "# TYPE vllm:num_requests_waiting gauge",
        f"vllm:num_requests_waiting{{{labels}}} 0.0",
        "# TYPE vllm:prompt_tokens_total counter",
        f"vllm:prompt_tokens_total{{{labels}}} {float(prompt)}",
        "# TYPE vllm:generation_tokens_total counter",
        f"vllm:generation_tokens_total{{{labels}}} {float(generation)}",
        "# TYPE vllm:request_success_total counter",
    ]
    for reason in FINISHED_REASONS:
        count = float(process.finished[reason])
        lines.append(f'vllm:request_success_total{{{labels},finished_reason="{reason}"}} {count}')
    return "\n".join(lines) + "\n"
