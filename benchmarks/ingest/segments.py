"""Lay down one day of sealed segments as a busy proxy would have: one a minute, each chained to the one before.

Owns the traffic: requests spread evenly over the day, most of them streams, with a running usage every 4 s. Lines come from
templates, because millions are wanted in seconds; the spelling is docs/request-log.md's. The same rows give the same bytes.
"""

import hashlib
import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

import google_crc32c

DAY = date(2026, 11, 22)
MINUTES = 1440
VMS = (700123, 700124, 700125, 700126)
MODELS = ("Qwen/Qwen3-32B", "meta-llama/Llama-3.3-70B-Instruct", "openai/gpt-oss-120b")
_SECOND = 1_000_000
_MINUTE = 60 * _SECOND
_USAGE_EVERY = 4 * _SECOND
_ROWS_OF_A_REQUEST = 2.4
"""A begin, an end, and the usages of streams longer than 4 s."""
_START = int(datetime(DAY.year, DAY.month, DAY.day, tzinfo=UTC).timestamp()) * _SECOND

Entry = tuple[int, int, bytes]
"""Microsecond of the day, order within it, and the line from after its number on."""


@dataclass(frozen=True)
class Day:
    """What was laid down; `served_tokens` and `requests` are the truth that the rollup must find."""

    rows: int
    size_bytes: int
    segments: int
    requests: int
    served_tokens: int


def lay_down(folder: Path, rows: int) -> Day:
    """Write segments with about so many records, heads and seals included."""
    written, size, requests, tokens = 0, 0, 0, 0
    previous = b"null", b"null"
    waiting: dict[int, list[Entry]] = defaultdict(list)
    running: dict[str, int] = {}
    traffic = _Traffic(max(1, int((rows - 4 * MINUTES) / _ROWS_OF_A_REQUEST)))
    for minute in range(MINUTES):
        for request_id, ends_at, served, entries in traffic.of_minute(minute):
            requests, tokens, running[request_id] = requests + 1, tokens + served, ends_at
            for entry in entries:
                waiting[entry[0] // _MINUTE].append(entry)
        waiting[minute] += _pulse(minute)
        end = (minute + 1) * _MINUTE
        running = {request_id: ends_at for request_id, ends_at in running.items() if ends_at >= end}
        lines = sorted(waiting.pop(minute))
        content = _segment(minute, previous, [line for _, _, line in lines], running)
        name = f"bench.00000001.{DAY:%Y%m%d}T{minute // 60:02d}{minute % 60:02d}00Z.{minute:06d}.{minute:08x}"
        (folder / f"{name}.jsonl").write_bytes(content)
        previous = b'"%s"' % name.encode(), b'"%s"' % hashlib.sha256(content).hexdigest().encode()
        written, size = written + len(lines) + 2, size + len(content)
    return Day(written, size, MINUTES, requests, tokens)


class _Traffic:
    """Requests in order of their start; the last minutes have none, so that each ends within the day."""

    def __init__(self, requests: int) -> None:
        self._random = random.Random(7)  # noqa: S311
        self._per_minute = requests / (MINUTES - 2)
        self._made = 0

    def of_minute(self, minute: int) -> Iterator[tuple[str, int, int, list[Entry]]]:
        """Give each request that starts in the minute: id, its end, its tokens, its lines."""
        if minute >= MINUTES - 2:
            return
        count = int((minute + 1) * self._per_minute) - self._made
        for place in range(count):
            yield self._request(minute * _MINUTE + place * _MINUTE // count)
        self._made += count

    def _request(self, at: int) -> tuple[str, int, int, list[Entry]]:
        noise = self._random.getrandbits(96)
        milliseconds = (_START + at) // 1000
        request_id = (
            f"{milliseconds >> 16:08x}-{milliseconds & 65535:04x}-7{noise & 4095:03x}"
            f"-{32768 + (noise >> 12 & 16383):04x}-{noise >> 26 & 2**48 - 1:012x}"
        )
        vm_id, model = VMS[noise >> 74 & 3], MODELS[(noise >> 76 & 15) % 3]
        prompt, completion = 40 + (noise >> 70 & 4095), 1 + (noise >> 82 & 1023)
        is_stream = noise >> 80 & 3 > 0
        ends_at = at + 300_000 + completion * 6_000
        first = at + 90_000 + (noise & 65535)
        common = (
            f'"request_id":"{request_id}","started_at":"{_instant(at)}","endpoint":"/v1/chat/completions",'
            f'"requested_model":"{model}","stream":{"true" if is_stream else "false"},"vm_id":{vm_id},'
            f'"key_id":"3f1c9a04b7d{vm_id & 7}","canary":false'
        )
        end = (
            f'{common},"model":"{model}","finished_at":"{_instant(ends_at)}","first_byte_at":"{_instant(first)}",'
            f'"status":200,"upstream_status":200,"end_reason":"complete","usage_source":"engine_final",'
            f'"prompt_tokens":{prompt},"completion_tokens":{completion},"cached_tokens":{prompt // 32 * 16},'
            f'"reasoning_tokens":null,"choices":1'
        )
        entries: list[Entry] = [(at, 5, b'"begin"|' + common.encode()), (ends_at, 7, b'"end"|' + end.encode())]
        for now in range(first + _USAGE_EVERY, ends_at, _USAGE_EVERY) if is_stream else ():
            so_far = completion * (now - first) // (ends_at - first)
            usage = f'"request_id":"{request_id}","at":"{_instant(now)}","prompt_tokens":{prompt},"completion_tokens":{so_far}'
            entries.append((now, 6, b'"usage"|' + usage.encode()))
        return request_id, ends_at, prompt + completion, entries


def _pulse(minute: int) -> Iterator[Entry]:
    """Give the lines that come with no request."""
    at = minute * _MINUTE
    text = _instant(at)
    for vm_id in VMS:
        upstream = f'"at":"{text}","vm_id":{vm_id},"upstream":"http://10.0.0.{vm_id & 7}:8000"'
        yield at, 0, b'"health"|' + f'{upstream},"ready":true'.encode()
        totals = f'"prompt_tokens_total":{minute * 1000},"generation_tokens_total":{minute * 500}'
        yield at, 1, b'"engine"|' + f'{upstream},"process_started_at":"2026-11-21T08:00:00.000000Z",{totals}'.encode()
    yield at, 2, b'"beat"|' + f'"at":"{text}"'.encode()


def _segment(minute: int, previous: tuple[bytes, bytes], lines: list[bytes], running: dict[str, int]) -> bytes:
    head = b'"head"|"writer":"bench","started_at":"%s","prev":%s,"prev_sha256":%s'
    rows = []
    for number, line in enumerate([head % (_instant(minute * _MINUTE).encode(), *previous), *lines]):
        kind, _, rest = line.partition(b"|")
        rows.append(_framed(b'{"v":1,"k":%b,"n":%d,%b' % (kind, number, rest)))
    body = b"".join(rows)
    unended = ",".join(f'"{request_id}"' for request_id in list(running)[:400])
    seal = (
        f'{{"v":1,"k":"seal","n":{len(rows)},"rows":{len(rows)},"bytes":{len(body)}'
        f',"sha256":"{hashlib.sha256(body).hexdigest()}","open":[{unended}],"torn":0,"by":"writer"'
    )
    return body + _framed(seal.encode())


def _framed(line: bytes) -> bytes:
    return b'%b,"c":"%08x"}\n' % (line, google_crc32c.value(line))


def _instant(at: int) -> str:
    seconds, micros = divmod(at, _SECOND)
    return f"{DAY}T{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}.{micros:06d}Z"
