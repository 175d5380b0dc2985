"""Cut the power under the writer (faults/power_cuts.py): needs root and a loop device, else it is skipped, loudly."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

FAULTS = Path(__file__).parent / "faults"
IS_SOAK = os.environ.get("HYPOTHESIS_PROFILE") == "soak"
CANNOT = 77


def cut(folder: Path, kind: str, cuts: int) -> dict[str, int]:
    """Run the harness with a seed that is printed if it fails."""
    seed = int.from_bytes(os.urandom(4)) if "CI" not in os.environ else 1
    command = [sys.executable, FAULTS / "power_cuts.py", folder / "disk", kind, cuts, seed]
    found = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    if found.returncode == CANNOT:
        pytest.skip(f"F004 NOT TESTED, no power was cut: {found.stdout.strip()}")
    print(" ".join(map(str, command)), found.stdout, found.stderr)
    assert found.returncode == 0
    return json.loads(found.stdout)


@pytest.mark.timeout(3600)
def test_F004_no_acknowledged_row_is_lost_by_a_power_cut(tmp_path: Path) -> None:
    tally = cut(tmp_path, "durable", 200 if IS_SOAK else 10)
    assert tally["acknowledged"] > 0
    unharmed = ("missing", "twice", "bad_segments", "left_over")
    assert [tally[name] for name in unharmed] == [0] * len(unharmed)


def test_F004_control_who_only_flushes_loses_rows(tmp_path: Path) -> None:
    tally = cut(tmp_path, "unsynced", 2)
    assert tally["acknowledged"] > 0
    assert tally["missing"] > 0
