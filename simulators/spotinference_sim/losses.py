"""What the request log does not have although it happened: lost lines, lost and late segments, traffic past the proxy.

Owns which requests and lines that are, drawn by the scenario's seed. What was really served stays what `truth` says of a
scenario: of the first one where rows were lost, of the one given back where clients went past the proxy.
"""

from dataclasses import dataclass, replace

from spotinference_sim.chances import chance
from spotinference_sim.instants import FOREVER_S
from spotinference_sim.request import Request
from spotinference_sim.scenario import Scenario


@dataclass(frozen=True, slots=True)
class LogLosses:
    """Shares from 0 to 1 of what was sealed and cannot be read. A second laying down without `late` brings what was late."""

    lines: float = 0.0
    """Lines cut out of sealed segments, heads and seals aside: numbers and seals tell of them."""
    segments: float = 0.0
    """Segments that are gone for good: the next one still names them."""
    late: float = 0.0
    """Segments that have not come yet."""
    late_from_s: int = FOREVER_S
    """Instant in seconds from which on no segment has come yet."""

    def keeps_line(self, seed: int, hour_s: int, place: int) -> bool:
        """Tell whether a line of a segment is there."""
        return chance(seed, "lost line", hour_s, place) >= self.lines

    def keeps_segment(self, seed: int, hour_s: int) -> bool:
        """Tell whether a segment is there by now."""
        is_late = hour_s >= self.late_from_s or chance(seed, "late segment", hour_s) < self.late
        return not is_late and chance(seed, "lost segment", hour_s) >= self.segments


def past_the_proxy(scenario: Scenario, share: float) -> Scenario:
    """Send a share of the requests past the proxy: engines count them, the log never hears of them."""
    seed = scenario.seed
    gone = {r.request_id for r in scenario.requests if chance(seed, "past the proxy", r.request_id) < share}
    kept = tuple(request for request in scenario.requests if request.request_id not in gone)
    past = tuple(request for request in scenario.requests if request.request_id in gone)
    return replace(scenario, requests=kept, past_the_proxy=(*scenario.past_the_proxy, *past))


def without_usage(scenario: Scenario, share: float) -> Scenario:
    """Let a share of the answered requests lose their clients in a way that leaves the log without any usage."""
    seed = scenario.seed
    return replace(
        scenario,
        requests=tuple(
            _unmeasured(request)
            if request.usage_source != "none" and chance(seed, "no usage", request.request_id) < share
            else request
            for request in scenario.requests
        ),
    )


def _unmeasured(request: Request) -> Request:
    unknown = dict.fromkeys(("prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens"))
    return replace(request, model=None, end_reason="client_gone", usage_source="none", **unknown)  # type: ignore[arg-type]
