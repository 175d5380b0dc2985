"""The runbook's walk-through, played against a simulated Hyperstack: each command that it shows, with what it prints there.

Under a heading of the section "Walk-through" a line `# 2026-11-22 10:14` is the time, `$ ...` a command, `[exit code 3]` how it
ends when not with 0. The other lines are printed by the command in this order; `...` stands for anything, alone for any lines.
"""

import asyncio
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import stamina
from spotinference_sim.faults import Faults
from spotinference_sim.instants import day_start_s
from spotinference_sim.resources import Revision
from spotinference_sim.scenario import Scenario
from spotinference_sim.simulators import API_KEY, Simulators
from typer.testing import CliRunner

from spotinference_pipeline import cli
from spotinference_pipeline.windows import days_between

pytestmark = pytest.mark.no_cover  # whole simulated days: tracing would double their time

RUNBOOK = Path(__file__).parents[1] / "docs" / "runbook.md"
HOUR = 3600


@dataclass
class Step:
    """A command as the document shows it."""

    at: datetime
    command: str
    shown: list[str] = field(default_factory=list)
    code: int = 0


def read_section(text: str) -> str:
    """Read the walk-through as a whole."""
    section = re.search(r"^## Walk-through\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    assert section, "the runbook has lost its walk-through"
    return section[1]


def read_steps(text: str, heading: str) -> list[Step]:
    """Read the commands under a heading of the walk-through."""
    part = re.search(rf"^### {re.escape(heading)}\n(.*?)(?=^### |\Z)", read_section(text), re.DOTALL | re.MULTILINE)
    assert part, f"the walk-through has no part {heading!r}"
    steps: list[Step] = []
    at: datetime | None = None
    for block in re.findall(r"^```console\n(.*?)^```", part[1], re.DOTALL | re.MULTILINE):
        for line in block.splitlines():
            if line.startswith("# "):
                at = datetime.strptime(line, "# %Y-%m-%d %H:%M").replace(tzinfo=UTC)
            elif line.startswith("$ "):
                assert at, f"no time before {line}"
                steps.append(Step(at, line[2:]))
            elif code := re.fullmatch(r"\[exit code (\d)\]", line):
                steps[-1].code = int(code[1])
            else:
                steps[-1].shown.append(line)
    return steps


def agrees(shown: list[str], printed: list[str]) -> bool:
    """Tell whether what was printed is what is shown, with its gaps."""
    pattern = ""
    for line in shown:
        words = ".*".join(map(re.escape, line.split("...")))
        pattern += r"(?:.*\n)*" if line == "..." else f"{words}\n"
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in printed)) is not None


class Shift:
    """An operator with a data folder, a clock, a key in a file, and a Hyperstack to ask."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.at = datetime(2026, 1, 1, tzinfo=UTC)
        self.environment = {
            "SPOTINFERENCE_DATA_DIR": str(folder / "data"),
            "SPOTINFERENCE_HYPERSTACK_URL": url,
            "SPOTINFERENCE_HYPERSTACK_API_KEY_FILE": str(folder / "key"),
            "SPOTINFERENCE_RECONCILE_REQUESTS_PER_MINUTE": "450",
            "NEW_KEY": API_KEY,
            "PATH": os.environ["PATH"],
        }
        (folder / "key").write_text("revoked")
        (folder / "data").mkdir()

    def _stamp_key(self) -> None:
        """Let the file of the key be as old as the operator's clock says."""
        os.utime(self.folder / "key", (self.at.timestamp(), self.at.timestamp()))

    def run(self, command: str, at: datetime) -> tuple[int, list[str]]:
        """Run a command at an instant; give its exit code and the lines that it printed."""
        self.at = at
        words = shlex.split(command)
        if words[0] == "spotinference":
            return self._spotinference(words[1:])
        done = subprocess.run(
            ["bash", "-c", command], cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False
        )
        self._stamp_key()
        return done.returncode, (done.stdout + done.stderr).splitlines()

    def _spotinference(self, words: list[str]) -> tuple[int, list[str]]:
        handler, here = signal.getsignal(signal.SIGTERM), Path.cwd()
        now = {"SPOTINFERENCE_NOW": self.at.isoformat()}
        try:
            os.chdir(self.folder)
            with CliRunner().isolation(env=self.environment | now) as streams:
                with pytest.raises(SystemExit) as ended:
                    cli.main(words)
                sys.stdout.flush()
                sys.stderr.flush()
                printed = "".join(stream.getvalue().decode() for stream in streams[:2])
        finally:
            os.chdir(here)
            signal.signal(signal.SIGTERM, handler)
        code = ended.value.code
        assert isinstance(code, int)
        return code, printed.splitlines()

    def play(self, heading: str) -> None:
        """Do what the document says under a heading."""
        steps = read_steps(RUNBOOK.read_text(), heading)
        assert steps
        for step in steps:
            if step.command.startswith("cat "):  # the document is where the file is from
                (self.folder / step.command.removeprefix("cat ")).write_text("\n".join([*step.shown, ""]))
            code, printed = self.run(step.command, step.at)
            said = "\n".join(printed)
            assert (code, agrees(step.shown, printed)) == (step.code, True), f"$ {step.command}\n{said}\n[{code}]"


def assert_a_rebuild_changes_no_published_byte(shift: Shift) -> None:
    """Raw files alone, books, corrections and invoices among them, give the published tree once more."""
    published = shift.folder / "data" / "published"
    before = {path: path.read_bytes() for path in published.rglob("*") if path.is_file()}
    assert published / "economics" / "manifest.json" in before
    for command in ("rebuild", "publish"):
        assert shift.run(f"spotinference {command}", shift.at + timedelta(hours=1))[0] == 0
    after = {path: path.read_bytes() for path in published.rglob("*") if path.is_file()}
    assert [path for path in {*before, *after} if before.get(path) != after.get(path)] == []


class Clock:
    """The operator's clock for the simulated Hyperstack, which answers at once."""

    def __init__(self) -> None:
        self.shift: Shift | None = None

    def now(self) -> datetime:
        assert self.shift
        return self.shift.at

    async def wait_until(self, instant: datetime) -> None:
        raise AssertionError(f"nobody moves the clock to {instant}")


@contextmanager
def serve(scenario: Scenario, clock: Clock, faults: Faults) -> Iterator[str]:
    """Serve a simulated Hyperstack; give its address."""
    simulators = Simulators(scenario, clock, faults=faults)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(simulators.start(), loop).result(30)
        yield simulators.hyperstack_url
    finally:
        asyncio.run_coroutine_threadsafe(simulators.stop(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture
def open_shift(ram_path: Path) -> Iterator[Callable[..., Any]]:
    @contextmanager
    def opened(scenario: Scenario, **faults: Any) -> Iterator[Shift]:
        clock = Clock()
        with serve(scenario, clock, replace(Faults.none(), **faults)) as url:
            clock.shift = Shift(ram_path, url)
            yield clock.shift

    with stamina.set_testing(True, attempts=3, cap=True):  # no real waits
        yield opened


PLAYED = (
    "The key was revoked",
    "The API was dark for six hours",
    "A month ended",
    "An invoice arrived",
    "A credit appeared",
)


def test_every_part_of_the_walk_through_is_played() -> None:
    assert tuple(re.findall(r"^### (.*)$", read_section(RUNBOOK.read_text()), re.MULTILINE)) == PLAYED


def small_fleet(first: date, days: int, *revisions: Revision) -> Scenario:
    """Make one machine and one volume; what the revisions say is the machine's."""
    scenario = Scenario.long(3, first, days, (1, 1))
    return replace(scenario, vms=(replace(scenario.vms[0], credits=(), revisions=revisions),))


def lay_log(shift: Shift, lines: Any, days: Iterable[date]) -> None:
    """Lay down a request on each of the days."""
    folder = shift.folder / "data" / "request_log"
    folder.mkdir()
    ends = [lines.end(number, f"{day}T10:00", f"{day}T10:01", prompt_tokens=900_000) for number, day in enumerate(days)]
    (folder / lines.name(0)).write_bytes(lines.segment(*ends))


def test_the_key_was_revoked(open_shift: Any) -> None:
    """The simulated Hyperstack takes the new key only, and the old one never."""
    with open_shift(small_fleet(date(2026, 11, 22), 1)) as shift:
        shift.play(PLAYED[0])


def test_the_api_was_dark_for_six_hours(open_shift: Any, lines: Any) -> None:
    dark = (6 * 24 + 3) * HOUR, (6 * 24 + 9) * HOUR
    days = days_between(date(2026, 11, 16), date(2026, 11, 22))
    with open_shift(small_fleet(date(2026, 11, 16), 8), outage_s=dark, outage_status=502) as shift:
        (shift.folder / "key").write_text(API_KEY)
        lay_log(shift, lines, days)
        for minute in (57, 58, 59):
            assert shift.run("spotinference snapshot", datetime(2026, 11, 22, 1, minute, tzinfo=UTC))[0] == 0
        assert shift.run("spotinference ingest", datetime(2026, 11, 22, 1, 59, tzinfo=UTC))[0] == 0  # copies prices
        before = "spotinference reconcile 2026-11-16..2026-11-21"
        assert shift.run(before, datetime(2026, 11, 22, 2, tzinfo=UTC))[0] == 0
        shift.play(PLAYED[1])
        assert_a_rebuild_changes_no_published_byte(shift)


def test_a_month_ended_an_invoice_arrived_and_a_credit_appeared(open_shift: Any, lines: Any) -> None:
    """One story: the account began on the 19th, and $5 of the 20th were credited on 5 November."""
    first, charged, known = date(2026, 10, 19), date(2026, 10, 20), date(2026, 11, 5)
    credit = Revision(day_start_s(charged) + 12 * HOUR, day_start_s(known), -5 * 10**9)
    with open_shift(small_fleet(first, 22, credit)) as shift:
        (shift.folder / "key").write_text(API_KEY)
        lay_log(shift, lines, days_between(first, date(2026, 10, 31)))
        for heading in PLAYED[2:]:
            shift.play(heading)
        assert_a_rebuild_changes_no_published_byte(shift)


def test_build_fetches_the_books_of_days_that_nobody_watched_and_asks_once(open_shift: Any, lines: Any) -> None:
    days = list(days_between(date(2026, 11, 16), date(2026, 11, 18)))
    with open_shift(small_fleet(days[0], 4)) as shift:
        (shift.folder / "key").write_text(API_KEY)
        lay_log(shift, lines, days)
        raw_files = shift.folder / "data" / "raw" / "hyperstack"
        command = "spotinference build 2026-11-16..2026-11-17"
        code, printed = shift.run(command, datetime(2026, 11, 18, 2, 10, tzinfo=UTC))
        built = ["2026-11-16 rolled up", "2026-11-17 rolled up"]
        books = [f"{day} bill ... own 0.000000 residual ...: unseen ..." for day in days[:2]]
        windows = "2 windows built, from 2026-11-16 to 2026-11-17"
        assert (code, agrees([*built, *books, windows], printed)) == (0, True), printed
        asked = len(list(raw_files.rglob("*.jsonl")))
        again = shift.run(command, datetime(2026, 11, 18, 2, 20, tzinfo=UTC))
        assert again == (0, [*built, windows])
        code, printed = shift.run("spotinference build 2026-11-18", datetime(2026, 11, 19, 1, 59, tzinfo=UTC))
        assert code == 3, "its bills still move, and it is said what to do"
        assert any("run `spotinference reconcile 2026-11-18..2026-11-18`" in line for line in printed)
        assert len(list(raw_files.rglob("*.jsonl"))) == asked == 2


@pytest.mark.parametrize(
    ("shown", "printed", "agree"),
    [
        (["a ... c"], ["a b c"], True),
        (["a ... c"], ["a b d"], False),
        (["a", "...", "z"], ["a", "m", "n", "z"], True),
        (["a", "...", "z"], ["a", "m"], False),
        (["a"], ["a", "b"], False),
        ([], ["a"], False),
    ],
)
def test_what_is_shown_agrees_only_with_what_is_printed(shown: list[str], printed: list[str], agree: bool) -> None:
    assert agrees(shown, printed) is agree
