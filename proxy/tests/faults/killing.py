"""Kill a program again and again and hold its request log against what it had acknowledged.

    python killing.py PROGRAM.py FOLDER random:KIND KILLS SEED     kill at random
    python killing.py PROGRAM.py FOLDER calls KILLS SEED           kill around its n-th system call, n = 1, 2 ...

prints the tally as JSON. PROGRAM.py has `start(folder, kind) -> (pid, descriptor)`: start the program on that log
folder and return the process to be killed, and where the ids of the requests whose client saw the end come, one a
line, until there will be no more. Programs are forked from this process, which has imported them: 150 kills take
seconds. A kill may hit a start, so recoveries are killed too. Each life begins in the folder the one before left.
"""

import hashlib
import importlib.util
import json
import os
import random
import select
import shutil
import signal
import sys
import time
from collections import Counter
from pathlib import Path

from spotinference_proxy.recovery import recover
from spotinference_proxy.segments import scan

LIVES_A_FOLDER = 50  # then it is checked and removed
LONGEST_SECONDS = 0.12


def kill_repeatedly(start, folder: Path, mode: str, kills: int, seed: int) -> dict[str, int]:
    """Kill as often as said; return the sums of what was found."""
    chance = random.Random(seed)
    tally: Counter[str] = Counter(kills=kills)
    acknowledged: list[str] = []
    for life in range(kills):
        if mode == "calls":
            pid, receiver = start(folder, f"{('before', 'after')[life % 2]}-{life // 2 + 1}")
            heard, is_killed = listen(pid, receiver, 20.0)
            tally["outlived"] += is_killed  # it made fewer calls than that
        else:
            pid, receiver = start(folder, mode.partition(":")[2])
            heard, is_killed = listen(pid, receiver, chance.uniform(0, LONGEST_SECONDS))
            tally["died_alone"] += not is_killed
        acknowledged += heard
        if (life + 1) % LIVES_A_FOLDER == 0 or life + 1 == kills:
            tally.update(compare(folder, acknowledged))
            acknowledged = []
            shutil.rmtree(folder)
    return dict(tally)


def listen(pid: int, receiver: int, seconds: float) -> tuple[list[str], bool]:
    """Return what is acknowledged until the end, and whether that came by our kill -9 after `seconds`."""
    heard = b""
    kill_at = time.monotonic() + seconds
    is_killed = False
    while True:
        left = max(kill_at - time.monotonic(), 0)
        if not is_killed and not left:
            os.kill(pid, signal.SIGKILL)
            is_killed = True
        if select.select([receiver], [], [], None if is_killed else left)[0]:
            chunk = os.read(receiver, 65536)
            if not chunk:
                break
            heard += chunk
    os.close(receiver)
    os.kill(pid, signal.SIGKILL)  # not reaped yet, so it is still this process
    os.waitpid(pid, 0)
    return heard.decode().split(), is_killed


def compare(folder: Path, acknowledged: list[str]) -> dict[str, int]:
    """Recover, then count what the log and the acknowledgements say of each other."""
    recover(folder)
    ends: Counter[str] = Counter()
    begun, dead, bad = set(), set(), 0
    for path in folder.glob("*.jsonl"):
        content = path.read_bytes()
        found = scan(content)
        before = content[: content.rindex(b"\n", 0, -1) + 1]
        bad += found.size != len(content) or (found.seal or {}).get("sha256") != hashlib.sha256(before).hexdigest()
        for row in map(json.loads, content.splitlines()):
            if row["k"] == "end":
                ends[row["request_id"]] += 1
            elif row["k"] == "begin":
                begun.add(row["request_id"])
            elif row["k"] == "seal" and row["by"] == "recovery":
                dead.update(row["open"])
    return {
        "acknowledged": len(acknowledged),
        "missing": sum(one not in ends for one in acknowledged),
        "twice": sum(count > 1 for count in ends.values()),
        "durable_unacknowledged": len(ends.keys() - set(acknowledged)),
        "never_ended": len(dead - ends.keys()),
        "forgotten": len(begun - ends.keys() - dead),
        "bad_segments": bad,
        "left_over": sum(len(list(folder.glob(f"*.{suffix}"))) for suffix in ("open", "new", "reserve")),
        "segments": len(list(folder.glob("*.jsonl"))),
    }


def load_program(path: Path):
    """Import the program to be killed."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    program, where, mode, kills, seed = sys.argv[1:]
    print(json.dumps(kill_repeatedly(load_program(Path(program)).start, Path(where), mode, int(kills), int(seed))))
