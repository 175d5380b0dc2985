"""The same raw files give the same bytes, whatever the threads, the machine's zone, and the order in which files came.

Each build is a process of its own in another zone. Files come in batches, in an order drawn from a seed; the first batch
is built as if there were no more, then everything is built again. `make soak` draws 100 orders.
"""

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from spotinference_sim import variants
from spotinference_sim.instants import DAY_S, HOUR_S
from spotinference_sim.lay_down import lay_down_raw, now_and_then
from spotinference_sim.request_log import lay_down_log

ORDERS = 100 if os.environ.get("HYPOTHESIS_PROFILE") == "soak" else 3
THREADS = (1, 2, 8)
ZONES = ("UTC", "Asia/Kolkata", "America/St_Johns")
DAYS = 2
"""Of the week, all that is laid down."""
PROBED_EVERY_S = 600
_BUILD = """
import hashlib, os, random, sys
from datetime import date
from pathlib import Path
from spotinference_pipeline import backfill, ledger, publication, served_models, transform, validated, wakes
from spotinference_pipeline.settings import Settings
from spotinference_pipeline.storage import Storage
from spotinference_pipeline.warehouse import open_scratch
from spotinference_pipeline.windows import days_between

laid, work, seed, threads, first, last = Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:]
files = sorted(path for path in laid.rglob("*") if path.is_file())
drawn = random.Random(int(seed))
batches = [[] for _ in range(drawn.randint(2, 5))]
for file in files:
    drawn.choice(batches).append(file)
days = list(days_between(date.fromisoformat(first), date.fromisoformat(last)))
settings = Settings.model_validate({"data_dir": work, "now": f"{last}T23:59:59Z", "min_snapshot_coverage": 0})
(work / "request_log").mkdir(parents=True)
with open_scratch(int(threads)) as warehouse:
    served_models.record(warehouse, {"llama-3.3-70b-instruct": [700101, 700103], "qwen3-8b": [700103]})
    for batch in batches:
        for file in batch:
            target = work / file.relative_to(laid)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(file, target)
        validated.ingest(warehouse, settings.raw_dir, Storage(settings.request_log))
        if batch is batches[0]:
            backfill.build(warehouse, days)
    backfill.build(warehouse, days)
    publication.publish(warehouse, Storage(settings.published), settings)
    for table in sorted({*ledger.TABLES, *wakes.TABLES, *transform.ROLLUPS, *transform.METRICS}):
        content = warehouse.query(f"from {table} order by all").write_csv().encode()
        print(table, content.count(b"\\n"), hashlib.sha256(content).hexdigest())
for file in sorted(Path(settings.published).rglob("*")):
    if file.is_file():
        print(file.relative_to(settings.published), hashlib.sha256(file.read_bytes()).hexdigest())
"""


def test_the_same_files_give_the_same_bytes_in_any_order_zone_and_number_of_threads(tmp_path: Path) -> None:
    scenario = variants.week("plain")
    until_s = scenario.start_s + DAYS * DAY_S + 900
    lay_down_raw(scenario, tmp_path / "laid", until_s, watches=now_and_then(scenario, HOUR_S))
    lay_down_log(scenario, tmp_path / "laid" / "request_log", until_s, every_s=PROBED_EVERY_S)
    days = (scenario.start_day, scenario.start_day + timedelta(days=DAYS - 1))
    printed = [build(tmp_path, seed, *map(str, days)) for seed in range(ORDERS)]
    lines = printed[0].splitlines()
    assert sum(line.startswith("metric.") for line in lines) > 8
    assert sum(line.startswith("economics/") for line in lines) > 10
    assert not [line for line in lines if line.startswith("metric.cost_per_mtok 1 ")], "nothing was built"
    assert [seed for seed, each in enumerate(printed) if each != printed[0]] == []


def build(folder: Path, seed: int, first: str, last: str) -> str:
    threads, zone = THREADS[seed % 3], ZONES[seed // 3 % 3] if ORDERS > 3 else ZONES[seed]
    done = subprocess.run(
        [sys.executable, "-c", _BUILD, folder / "laid", folder / str(seed), str(seed), str(threads), first, last],
        env=os.environ | {"TZ": zone},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.fail(f"seed {seed}: {done.stderr[-2000:]}")
    return done.stdout
