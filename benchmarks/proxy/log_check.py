"""Proof that our proxy did the work it was measured for: its request log against what the clients saw.

Owns the comparison. Reads segments with the proxy's own parser, which checks every line's CRC.
"""

from collections import Counter
from dataclasses import dataclass

from benchmarks.proxy.measure import Server


@dataclass(frozen=True)
class LogCheck:
    """What clients saw and what the log holds; `is_equal` when every answer has exactly one record."""

    answers: int
    ends: int
    tokens: int
    logged_tokens: int
    problems: tuple[str, ...]

    @property
    def is_equal(self) -> bool:
        """Whether nothing is missing, doubled or counted wrong."""
        return not self.problems and self.answers == self.ends and self.tokens == self.logged_tokens

    def describe(self) -> str:
        """Say it in one line."""
        text = (
            f"{self.answers:,} answers, {self.ends:,} end rows; {self.tokens:,} tokens, {self.logged_tokens:,} logged"
        )
        return "; ".join([text, *self.problems])


def check_log(server: Server) -> LogCheck | None:
    """Compare the log of a stopped server with its answers; None when it keeps none."""
    folder = server.setup.log_dir
    if folder is None:
        return None
    from spotinference_proxy.errors import RecordError  # noqa: PLC0415 - peers can be measured without our proxy
    from spotinference_proxy.record import parse_line  # noqa: PLC0415

    begins: Counter[str] = Counter()
    ends: Counter[str] = Counter()
    sources: Counter[str] = Counter()
    tokens, problems = 0, []
    for path in sorted(folder.rglob("*")):
        if path.suffix in {".open", ".torn"}:
            problems.append(f"{path.suffix[1:]} file left: {path.name}")
        if path.suffix not in {".open", ".jsonl"}:
            continue
        for line in path.read_bytes().splitlines(keepends=True):
            try:
                row = parse_line(line)
            except RecordError as error:
                problems.append(f"{path.name}: {error}")
                continue
            if row["k"] == "begin":
                begins[row["request_id"]] += 1
            elif row["k"] == "end" and row["status"] == 200:
                ends[row["request_id"]] += 1
                sources[f"{row['end_reason']}, usage {row['usage_source']}"] += 1
                tokens += row["completion_tokens"] or 0
    doubled = sum(count > 1 for count in ends.values())
    without = sum(request_id not in begins for request_id in ends)
    problems += [f"{doubled} requests have several end rows"] if doubled else []
    problems += [f"{without} end rows have no begin row"] if without else []
    problems += [f"ends are of several kinds: {dict(sources)}"] if len(sources) > 1 else []
    return LogCheck(server.answers, sum(ends.values()), server.tokens, tokens, tuple(problems[:5]))
