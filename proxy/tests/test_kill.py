"""Kill -9 the writer again and again: what was acknowledged is in the log exactly once."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

FAULTS = Path(__file__).parent / "faults"
IS_SOAK = os.environ.get("HYPOTHESIS_PROFILE") == "soak"


def kill(folder: Path, mode: str, kills: int) -> dict[str, int]:
    """Run the harness with a seed that is printed if it fails."""
    seed = int.from_bytes(os.urandom(4)) if "CI" not in os.environ else 1
    command = [sys.executable, FAULTS / "killing.py", FAULTS / "log_program.py", folder / "log", mode, kills, seed]
    found = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    print(" ".join(map(str, command)), found.stdout, found.stderr)
    assert found.returncode == 0
    return json.loads(found.stdout)


def assert_nothing_is_lost(tally: dict[str, int]) -> None:
    assert tally["acknowledged"] > tally["kills"]
    unharmed = ("missing", "twice", "forgotten", "bad_segments", "left_over")
    assert [tally[name] for name in unharmed] == [0] * len(unharmed)


@pytest.mark.timeout(3600)
def test_F003_no_acknowledged_row_is_lost_by_kills_at_random(tmp_path: Path) -> None:
    tally = kill(tmp_path, "random:durable", 10_000 if IS_SOAK else 150)
    assert_nothing_is_lost(tally)
    assert tally["died_alone"] == 0
    assert tally["never_ended"] > 0  # F001: begun requests of dead writers are named as such


@pytest.mark.timeout(3600)
def test_F003_no_acknowledged_row_is_lost_by_a_kill_around_any_system_call(tmp_path: Path) -> None:
    tally = kill(tmp_path, "calls", 400 if IS_SOAK else 100)
    assert_nothing_is_lost(tally)
    assert tally["outlived"] == 0


def test_F003_control_who_acknowledges_before_the_row_is_written_loses_rows(tmp_path: Path) -> None:
    assert kill(tmp_path, "random:eager", 20)["missing"] > 0
