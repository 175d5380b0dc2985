"""Simulated Hyperstack and vLLM which play one seeded scenario, and the true cost per token of that scenario.

Rings, each of which may import the ones before it: `instants`, `clock`, `prices` -> `resources`, `request`
-> `fleet`, `traffic`, `scenario` -> `truth`, `hyperstack_*`, `vllm_*`, `lay_down`, `request_log` ->
`simulators`, `player`, `__main__`. Shares no code with the pipeline and the proxy: they meet at files and
at HTTP.
"""
