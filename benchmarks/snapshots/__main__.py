"""Take a simulated day of snapshots, each a client of its own, and print what it cost beside what the same bytes must cost.

Hyperstack is the simulator, asked in this process without a socket; its own time is taken out. The limits are measured in the
same run: the same bytes written and synced in as many files, and compressed by gzip.
"""

import argparse
import gzip
import os
import tempfile
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import httpx
from spotinference_sim.hyperstack_answers import HyperstackAnswers
from spotinference_sim.scenario import Scenario

from spotinference_pipeline import raw, snapshot
from spotinference_pipeline.hyperstack import Hyperstack

DAY = date(2026, 11, 22)
MINUTES = 1440


class Service:
    """The simulator behind a transport; it counts what it is asked, and the processor time that it takes itself."""

    def __init__(self) -> None:
        self._answers = HyperstackAnswers(Scenario.generate(7, DAY, 1))
        self.now = datetime(DAY.year, DAY.month, DAY.day, tzinfo=UTC)
        self.asked: list[datetime] = []
        self.own_seconds = 0.0

    def answer(self, request: httpx.Request) -> httpx.Response:
        began = time.process_time()
        path = request.url.path.removeprefix("/v1")
        answer = self._answers.answer(path, dict(request.url.params), int(self.now.timestamp() * 1e6))
        response = httpx.Response(answer.status, stream=httpx.ByteStream(answer.body))
        self.asked.append(self.now)
        self.now += timedelta(seconds=0.5)
        self.own_seconds += time.process_time() - began
        return response

    def take(self, folder: Path) -> snapshot.Snapshot:
        transport = httpx.MockTransport(self.answer)
        with Hyperstack("https://hyperstack.test/v1", "key", lambda: self.now, transport=transport) as api:
            return snapshot.take(api, folder, lambda: self.now)


def write_again(contents: list[bytes], folder: Path) -> float:
    """Write and sync the same bytes in as many files; give the processor time."""
    began = time.process_time()
    for number, content in enumerate(contents):
        with (folder / str(number)).open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.snapshots", description=__doc__)
    parser.add_argument(
        "--minutes", type=int, default=MINUTES, help="of the day (1440); figures of fewer are scaled to a day"
    )
    minutes = parser.parse_args().minutes
    service = Service()
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as aside:
        start, failed, longest = service.now, 0, 0.0
        began, began_wall = time.process_time(), time.monotonic()
        for minute in range(minutes):
            service.now = start + minute * timedelta(minutes=1)
            once = time.monotonic()
            failed += service.take(Path(folder)).failed
            longest = max(longest, time.monotonic() - once)
        seconds, wall = time.process_time() - began - service.own_seconds, time.monotonic() - began_wall
        contents = [file.read_bytes() for file in raw.list_files(Path(folder))]
        floor = write_again(contents, Path(aside))
    size = sum(map(len, contents))
    packed = len(gzip.compress(b"".join(contents), 6))
    per_minute = [
        sum(at < asked + timedelta(minutes=1) for at in service.asked[place : place + 20])
        for place, asked in enumerate(service.asked)
    ]
    days = minutes / MINUTES
    print(f"minutes                        {minutes}, {failed} calls failed")
    print(f"requests a snapshot minute     {len(service.asked) / minutes:.2f}, at most {max(per_minute)} in any 60 s")
    each = f"{1000 * seconds / minutes:.1f} ms a snapshot"
    print(f"CPU seconds a day              {seconds / days:.1f} ({each}); {wall:.1f} s of the clock")
    print(f"  the same bytes, written      {floor / days:.1f}")
    print(f"longest snapshot               {1000 * longest:.0f} ms beside Hyperstack's own time")
    print(f"bytes stored a day             {size / days:,.0f} in {len(contents)} files ({size // minutes:,} a minute)")
    print(f"  the same bytes, gzip -6      {packed / days:,.0f} ({size / packed:.0f} times fewer)")


if __name__ == "__main__":
    main()
