"""Simulated Hyperstack and vLLM which play one seeded scenario, and the true cost per token of that scenario.

Rings, each of which may import the ones before it: `instants`, `clock`, `chances`, `kinds`, `prices` -> `resources`,
`request`, `faults` -> `fleet`, `features`, `long_fleet`, `traffic`, `scenario` -> `truth`, `books`, `fault_scenes`,
`hyperstack_*`, `vllm_*`, `lay_down`, `request_log` -> `simulators`, `player`, `__main__`. The truth imports no fault.
Shares no code with the pipeline and the proxy: they meet at files and at HTTP.
"""
