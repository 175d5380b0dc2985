"""Builders that several test files share. Rows say what a test is about; the rest is plausible."""

import asyncio
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pytest
import stamina
import uvloop
from spotinference_proxy.app import Proxy
from spotinference_proxy.record import parse_line
from spotinference_proxy.settings import Settings as ProxySettings
from spotinference_proxy.settings import UpstreamSettings
from spotinference_sim.clock import VirtualClock
from spotinference_sim.lay_down import lay_down_raw
from spotinference_sim.request_log import lay_down_log
from spotinference_sim.scenario import Scenario
from spotinference_sim.simulators import Simulators
from spotinference_sim.truth import truth
from spotinference_sim.vllm_alone import SimulatedVllm
from spotinference_sim.vllm_options import Options as VllmOptions

from spotinference_pipeline import contracts, hyperstack_rows, ledger, raw, transform, validated
from spotinference_pipeline.answers import HISTORY, HISTORY_LISTS, USAGE
from spotinference_pipeline.batch import to_frame
from spotinference_pipeline.processes import free_port
from spotinference_pipeline.settings import Settings
from spotinference_pipeline.storage import Storage
from spotinference_pipeline.warehouse import Warehouse, open_scratch

DAY = date(2026, 11, 22)
_PLAUSIBLE = {
    "DATE": DAY,
    "TIMESTAMP WITH TIME ZONE": datetime(2026, 11, 22, 12, tzinfo=UTC),
    "VARCHAR": "some",
    "BIGINT": 0,
    "INTEGER": 0,
    "BOOLEAN": False,
}
"""What a column that may not be null holds where a test does not say; decimals are 0."""


@pytest.fixture(autouse=True, scope="session")
def no_waiting() -> Iterator[None]:
    """Second tries without pause, as many as the code asks for."""
    with stamina.set_testing(True, attempts=100, cap=True):
        yield


@pytest.fixture(scope="session")
def insert() -> Callable[[Warehouse, str, Sequence[Mapping[str, Any]]], None]:
    """Insert rows that name only some columns: the others are null, or plausible where null is refused."""

    def insert_rows(warehouse: Warehouse, table: str, rows: Sequence[Mapping[str, Any]]) -> None:
        stage, _, name = table.partition(".")
        columns = warehouse.query(
            "select column_name, data_type, is_nullable from information_schema.columns "
            "where table_schema = $stage and table_name = $name",
            {"stage": stage, "name": name},
        ).rows()
        assert columns, f"no table {table}"
        needed = {column: _PLAUSIBLE.get(kind, Decimal(0)) for column, kind, null in columns if null == "NO"}
        for row in rows:
            full = needed | dict(row)
            unknown = full.keys() - {column for column, _, _ in columns}
            assert not unknown, f"{table} has no column {sorted(unknown)}"
            places = ", ".join(f"${column}" for column in full)
            warehouse.execute(f"insert into {table} ({', '.join(full)}) values ({places})", full)

    return insert_rows


@pytest.fixture
def scratch() -> Iterator[Warehouse]:
    """An empty warehouse in memory."""
    with open_scratch() as warehouse:
        yield warehouse


@pytest.fixture(scope="session")
def fill_week(insert: Callable[..., None]) -> Callable[..., None]:
    """Put seven days of rollups into a warehouse and build the metric of the last one, or of the given days.

    Each day costs $10: $6 busy, $3 idle, $1 storage. It serves 1,000,000 tokens in 100 requests.
    """

    def fill(warehouse: Warehouse, *, minutes: int = 1440, model: str | None = "llama", days: int = 1) -> None:
        first = DAY - timedelta(days=6 + days - 1)
        rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for utc_day in (first + timedelta(days=ahead) for ahead in range(7 + days - 1)):
            costs = {("vm", 11, "busy"): "6", ("vm", 12, "idle"): "3", ("volume", 21, "storage"): "1"}
            for (resource_type, resource_id, kind), usd in costs.items():
                line = {"utc_day": utc_day, "resource_type": resource_type, "resource_id": resource_id}
                line |= {"cost_usd": Decimal(usd)}
                rows["rollup.cost_days"].append(line | {"cost_kind": kind})
                rows["rollup.resource_days"].append(line | {"resource_name": f"name-{resource_id}"})
            served = {"prompt_tokens": 800_000, "completion_tokens": 200_000, "requests": 100}
            served |= {"utc_day": utc_day, "model": model, "usage_source": "engine_final"}
            rows["rollup.token_days"].append(served)
            rows["rollup.snapshot_days"].append({"utc_day": utc_day, "minutes_good": minutes})
            total = {"utc_day": utc_day, "short_usd": Decimal(0)} | dict.fromkeys(
                ("opening_usd", "closing_usd"), Decimal(0)
            )
            rows["rollup.organisation_days"].append(total)
            machine = {"alive_seconds": 86_400, "active_seconds": 3_600, "busy_seconds": 1_200}
            rows["rollup.vm_days"].append({"utc_day": utc_day, "vm_id": 11} | machine)
        for second, query in enumerate(("deleted=false", "deleted=true")):
            at = datetime(DAY.year, DAY.month, DAY.day + 1, second=second, tzinfo=UTC)
            lists = {"endpoint": USAGE, "query": query, "is_good": True, "scheduled_at": at, "observed_at": at}
            rows["validated.exchanges"].append(lists)
        for table, of_table in rows.items():
            insert(warehouse, table, of_table)
        for back in range(6 + days - 1, -1, -1):
            warehouse.build_day("metric.inputs", DAY - timedelta(days=back))
        for back in range(days - 1, -1, -1):
            transform.build_metrics(warehouse, DAY - timedelta(days=back))

    return fill


@pytest.fixture
def settings_in(tmp_path: Path) -> Callable[..., Settings]:
    """Settings of a folder of its own, on the morning after the day."""

    def make(**changed: Any) -> Settings:
        given = {"data_dir": tmp_path / "data", "now": "2026-11-23T02:10:00Z"} | changed
        return Settings.model_validate(given)

    return make


@pytest.fixture
def lay_raw_files() -> Callable[[Path], None]:
    """Lay down what Hyperstack and the proxy leave of one day: one machine at $1 a minute, one request."""

    def exchange(at: datetime, endpoint: str, query: dict[str, str], body: Any) -> raw.Exchange:
        content = msgspec.json.encode(body)
        return raw.Exchange(
            scheduled_at=at,
            started_at=at,
            finished_at=at,
            endpoint=endpoint,
            query=query,
            status=200,
            sha256=hashlib.sha256(content).hexdigest(),
            body=content.decode(),
        )

    def lay(data_dir: Path, utc_day: date = DAY) -> None:
        start = datetime(utc_day.year, utc_day.month, utc_day.day, tzinfo=UTC)
        created = datetime(2026, 11, 10, tzinfo=UTC)
        for hour in (0, 12, 24):
            at = start + timedelta(hours=hour)
            item = {
                "resource_id": 11,
                "resource_type": "vm",
                "name": "gpu",
                "total_bill": (at - created).total_seconds() // 60,
                "bill_per_minute": 1,
                "create_time": created.isoformat(),
                "active": True,
            }
            machine = {"id": 11, "status": "ACTIVE", "name": "gpu", "flavor": {"gpu": "H100", "gpu_count": 1}}
            usage = {"status": True, "message": "ok", "data": [item]}
            taken = [
                exchange(at, "/billing/billing/usage", {"deleted": "false"}, usage),
                exchange(at, "/core/virtual-machines", {}, {"status": True, "instances": [machine]}),
            ]
            raw.append_exchanges(data_dir / "raw" / "hyperstack", taken, f"{utc_day:%d}{hour:06x}")
        end = {
            "v": 1,
            "k": "end",
            "n": 0,
            "request_id": f"request-of-{utc_day}",
            "started_at": f"{utc_day}T06:00:00.000000Z",
            "endpoint": "/v1/chat/completions",
            "requested_model": "llama",
            "stream": False,
            "vm_id": 11,
            "key_id": None,
            "canary": False,
            "model": "llama",
            "finished_at": f"{utc_day}T06:30:00.000000Z",
            "first_byte_at": f"{utc_day}T06:10:00.000000Z",
            "status": 200,
            "upstream_status": 200,
            "end_reason": "complete",
            "usage_source": "engine_final",
            "prompt_tokens": 600_000,
            "completion_tokens": 400_000,
            "cached_tokens": None,
            "reasoning_tokens": None,
            "choices": 1,
        }
        log = data_dir / "request_log"
        log.mkdir(parents=True, exist_ok=True)
        name = f"proxy.00000001.{utc_day:%Y%m%d}T000000Z.000001.0000000a.jsonl"
        (log / name).write_bytes(raw.frame(msgspec.json.encode(end)))

    return lay


_ENCODER = msgspec.json.Encoder(decimal_format="number")


def _at(text: str) -> datetime:
    instant = datetime.fromisoformat(text if "T" in text else f"{DAY}T{text}")
    return instant.replace(tzinfo=UTC)


class Words:
    """Answers of Hyperstack and exchanges around them, all with plausible defaults."""

    day = DAY
    at = staticmethod(_at)

    def usage(self, total: str = "1.5", **changes: Any) -> dict[str, Any]:
        """One item of a counters answer."""
        return {
            "resource_id": 700123,
            "resource_type": "vm",
            "name": "otter",
            "bill_per_minute": Decimal("0.05"),
            "create_time": "2026-11-22T09:00:00",
            "terminate_time": None,
            "total_up_time": 60,
            "total_bill": Decimal(total),
            "active": True,
            "exclude_billing": False,
        } | changes

    def usages(self, *items: dict[str, Any]) -> bytes:
        """A whole counters answer."""
        return self.encode({"status": True, "message": "Success", "data": items})

    def machine(self, vm_id: int = 700123, status: str = "ACTIVE", **changes: Any) -> dict[str, Any]:
        """One machine of the fleet answer."""
        flavor = {"name": "n3-H100-SXM5x8", "gpu": "H100-80G-SXM5", "gpu_count": 8}
        return {
            "id": vm_id,
            "status": status,
            "name": "otter",
            "flavor": flavor,
            "floating_ip": None,
        } | changes

    def fleet(self, *machines: dict[str, Any]) -> bytes:
        """A whole fleet answer."""
        return self.encode({"status": True, "count": len(machines), "instances": machines})

    def events(self, *events: tuple[str, str], vm_id: int = 700123) -> bytes:
        """An answer with (instant, reason) of one machine."""
        rows = [{"instance_id": vm_id, "time": time, "reason": reason} for time, reason in events]
        return self.encode({"status": True, "instance_events": rows})

    def history(self, *rows: tuple[int, str], wrapper: str = "billing_history_vm") -> bytes:
        """A billing history answer with (resource id, incurred bill)."""
        lines = [
            {
                "attributes": {"infrahub_id": resource_id, "resource_name": "otter"},
                "metrics": {"incurred_bill": Decimal(bill), "usage_time": 86400},
            }
            for resource_id, bill in rows
        ]
        return self.encode({"success": True, wrapper: {"billing_history": lines, "total_count": len(rows)}})

    def exchange(self, endpoint: str, content: bytes | None, at: str = "10:00", **changes: Any) -> raw.Exchange:
        """An exchange that took one second, without an answer when `content` is None."""
        started_at = _at(at)
        values = {
            "scheduled_at": started_at.replace(second=0, microsecond=0),
            "started_at": started_at,
            "finished_at": started_at + timedelta(seconds=1),
            "endpoint": endpoint,
            "query": {},
            "status": None if content is None else 200,
            **raw.body_members(content),
        }
        return raw.Exchange(**(values | changes))

    @staticmethod
    def encode(document: Any) -> bytes:
        return _ENCODER.encode(document)


class LogLines:
    """Lines of the request log as plain objects, and whole segments of them."""

    def begin(self, number: int, at: str = "10:00", **changes: Any) -> dict[str, Any]:
        return {
            "k": "begin",
            "request_id": f"0198aaaa-0000-7000-8000-{number:012d}",
            "started_at": raw.format_instant(_at(at)),
            "endpoint": "/v1/chat/completions",
            "requested_model": "otter",
            "stream": True,
            "vm_id": 700123,
            "key_id": "3f1c9a04b7de",
            "canary": False,
        } | changes

    def end(self, number: int, at: str = "10:00", until: str = "10:01", **changes: Any) -> dict[str, Any]:
        return (
            self.begin(number, at)
            | {
                "k": "end",
                "model": "otter",
                "finished_at": raw.format_instant(_at(until)),
                "first_byte_at": None,
                "status": 200,
                "upstream_status": 200,
                "end_reason": "complete",
                "usage_source": "engine_final",
                "prompt_tokens": 100,
                "completion_tokens": 50,
                "cached_tokens": None,
                "reasoning_tokens": None,
                "choices": 1,
            }
            | changes
        )

    def usage(self, number: int, at: str, prompt: int | None = 100, completion: int | None = 7) -> dict[str, Any]:
        return {
            "k": "usage",
            "request_id": self.begin(number)["request_id"],
            "at": raw.format_instant(_at(at)),
            "prompt_tokens": prompt,
            "completion_tokens": completion,
        }

    def health(self, at: str, ready: bool = True, **changes: Any) -> dict[str, Any]:
        instant = raw.format_instant(_at(at))
        return {
            "k": "health",
            "at": instant,
            "vm_id": 700123,
            "upstream": "http://u",
            "ready": ready,
        } | changes

    def engine(self, at: str, prompt: int = 1000, generation: int = 500) -> dict[str, Any]:
        instant = raw.format_instant(_at(at))
        return {
            "k": "engine",
            "at": instant,
            "vm_id": 700123,
            "upstream": "http://u",
            "process_started_at": None,
            "prompt_tokens_total": prompt,
            "generation_tokens_total": generation,
        }

    def beat(self, at: str = "10:00") -> dict[str, Any]:
        return {"k": "beat", "at": raw.format_instant(_at(at))}

    def seal(self, *still_open: int, by: str = "writer") -> dict[str, Any]:
        ids = [self.begin(number)["request_id"] for number in still_open]
        return {"k": "seal", "rows": 1, "bytes": 1, "sha256": "0" * 64, "open": ids, "torn": 0, "by": by}

    def head(self) -> dict[str, Any]:
        instant = raw.format_instant(_at("10:00"))
        return {"k": "head", "writer": "test", "started_at": instant, "prev": None, "prev_sha256": None}

    def segment(self, *lines: dict[str, Any]) -> bytes:
        """A head, the lines numbered, their checksums, and a seal that fits; none is added where one is given."""
        last = lines[-1] if lines and lines[-1]["k"] == "seal" else self.seal()
        content = b""
        for n, line in enumerate((self.head(), *(line for line in lines if line is not last))):
            content += self._line(n, line)
        fitting = {"rows": content.count(b"\n"), "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        return content + self._line(fitting["rows"], last | fitting)

    def _line(self, n: int, line: dict[str, Any]) -> bytes:
        return raw.frame(json.dumps({"v": 1, "n": n} | line, separators=(",", ":")).encode())

    def name(self, sequence: int, writer: str = "test") -> str:
        return f"{writer}.00000000.20261122T100000Z.{sequence:06d}.00000000.jsonl"


class Desk:
    """A folder of raw files, a folder of log segments, and a warehouse that has read nothing yet."""

    def __init__(self, folder: Path, warehouse: Warehouse) -> None:
        self.folder = folder
        self.raw_dir = folder / "raw"
        self.log = Storage(str(folder / "log"))
        self.warehouse = warehouse
        self._landed = 0

    def land(self, *exchanges: raw.Exchange) -> Path:
        """Land exchanges as one raw file."""
        self._landed += 1
        return raw.append_exchanges(self.raw_dir, exchanges, f"{self._landed:08x}")

    def land_bytes(self, content: bytes) -> None:
        """Put bytes where a raw file of the day would be."""
        self._landed += 1
        path = self.raw_dir / f"{DAY}" / f"{DAY:%Y%m%d}T100000Z.{self._landed:08x}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def ingest(self) -> validated.Ingested:
        return validated.ingest(self.warehouse, self.raw_dir, self.log)

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        return self.warehouse.query(sql).rows()

    def count(self, table: str) -> int:
        return self.warehouse.query(f"select count(*) from validated.{table}").item()

    def table(self, table: str) -> list[tuple[Any, ...]]:
        """Every row of a validated table without its source, in an order of its own."""
        frame = self.warehouse.query(f"select * exclude (source_file, source_line) from validated.{table}")
        return sorted(frame.rows(), key=repr)


class Books:
    """Facts straight into the validated tables, and the ledger that comes of them."""

    def __init__(self, warehouse: Warehouse) -> None:
        self.warehouse = warehouse
        self._lines = 0
        self._created: dict[tuple[str, int], str] = {}

    def add(self, table: str, **values: Any) -> None:
        """Append one row, unnamed columns null."""
        self._lines += 1
        schema = contracts.polars_schema(f"validated.{table}")
        values |= {"source_file": "test", "source_line": self._lines}
        row = tuple(values.get(name) for name in schema)
        self.warehouse.append(f"validated.{table}", to_frame([row], schema))

    def reading(
        self,
        at: str,
        total: str,
        rate: str | None = "0.06",
        *,
        resource: tuple[str, int] = ("vm", 1),
        created: str | None = None,
        ended: str | None = None,
        excluded: bool = False,
    ) -> None:
        """One counter; a resource whose creation is not told was created at its first reading here."""
        created = created or self._created.setdefault(resource, at)
        self.add(
            "billing_snapshots",
            observed_at=_at(at),
            resource_type=resource[0],
            resource_id=resource[1],
            resource_name="otter",
            created_at=_at(created),
            terminated_at=None if ended is None else _at(ended),
            rate_usd_per_minute=None if rate is None else Decimal(rate),
            total_bill_usd=Decimal(total),
            is_active=ended is None,
            is_excluded=excluded,
        )

    def fleet(self, at: str, status: str = "ACTIVE", *, vm_id: int = 1, ip: bool = False, gpus: int = 8) -> None:
        self.add(
            "vm_states",
            observed_at=_at(at),
            vm_id=vm_id,
            source="fleet",
            vm_status=status,
            has_public_ip=ip,
            gpu_count=gpus,
        )

    def event(self, at: str, reason: str, vm_id: int = 1) -> None:
        status = hyperstack_rows.status_of_event(reason)
        self.add("vm_states", observed_at=_at(at), vm_id=vm_id, source="event", vm_status=status, reason=reason)

    def probe(self, at: str, ready: bool, vm_id: int = 1) -> None:
        self.add("vm_states", observed_at=_at(at), vm_id=vm_id, source="health", is_ready=ready)

    def request(self, start: str, end: str, first_byte: str | None = None, vm_id: int = 1) -> None:
        self._lines += 1
        self.add(
            "requests",
            request_id=f"request {self._lines}",
            started_at=_at(start),
            finished_at=_at(end),
            first_byte_at=None if first_byte is None else _at(first_byte),
            endpoint="/v1/completions",
            is_stream=False,
            is_canary=False,
            vm_id=vm_id,
            end_reason="complete",
            usage_source="none",
            is_recovered=False,
        )

    def book(
        self,
        bills: Mapping[tuple[str, int], str],
        total: str,
        at: str = "2026-11-23T02:00",
        listed: Mapping[tuple[str, int], str] | None = None,
    ) -> None:
        """Hyperstack's whole book of the day, in a file of its own; `listed` are bills at list prices."""
        file, observed_at, window = f"book of {at}", _at(at), (_at("00:00"), _at("2026-11-23T00:00"))
        dates = "&".join(
            f"{name}={instant:%Y-%m-%dT%H:%M:%S}"
            for name, instant in zip(("start_date", "end_date"), window, strict=True)
        )
        endpoints = [HISTORY, *(f"{HISTORY}/{kind}" for kind, is_needed in HISTORY_LISTS.items() if is_needed)]
        asked = [
            (observed_at, observed_at, endpoint, dates, 200, True, 0, None, None, None, file, place)
            for place, endpoint in enumerate(endpoints)
        ]
        self.warehouse.append("validated.exchanges", to_frame(asked, hyperstack_rows.EXCHANGE_SCHEMA))
        lines = [("organisation", None, "incurred_bill", total)]
        lines += [(*key, "incurred_bill", bill) for key, bill in bills.items()]
        lines += [(*key, "non_discounted_bill", bill) for key, bill in (listed or {}).items()]
        rows = [
            (observed_at, *window, kind, number, f"{kind}/{number}", None, figure, Decimal(bill), file, place)
            for place, (kind, number, figure, bill) in enumerate(lines)
        ]
        table = "validated.billing_history"
        self.warehouse.append(table, to_frame(rows, contracts.polars_schema(table)))

    def public_ip_price(self, at: str, usd_per_hour: str) -> None:
        self.add("prices", observed_at=_at(at), price_name="PublicIP", usd_per_hour=Decimal(usd_per_hour))

    def build(self, utc_day: date = DAY) -> dict[tuple[str, int], dict[str, Decimal]]:
        """Build a day's ledger; give each resource's cost by kind."""
        ledger.build_day(self.warehouse, utc_day)
        costs: dict[tuple[str, int], dict[str, Decimal]] = defaultdict(dict)
        day = {"utc_day": utc_day}
        for row in self.warehouse.query("from rollup.cost_days where utc_day = $utc_day", day).rows():
            costs[row[1], row[2]][row[3]] = row[4]
        return costs

    def resource(self, resource_id: int = 1, utc_day: date = DAY) -> dict[str, Any]:
        """The row of one resource and day that was built."""
        frame = self.warehouse.query("from rollup.resource_days").filter(utc_day=utc_day, resource_id=resource_id)
        return frame.row(0, named=True)

    def vm(self, vm_id: int = 1, utc_day: date = DAY) -> dict[str, Any]:
        """The row of one machine and day that was built."""
        return self.warehouse.query("from rollup.vm_days").filter(utc_day=utc_day, vm_id=vm_id).row(0, named=True)

    def tables(self) -> list[pl.DataFrame]:
        """All that the ledger has written."""
        return [self.warehouse.query(f"from {table} order by all") for table in ledger.TABLES]


@pytest.fixture(scope="session")
def words() -> Words:
    return Words()


@pytest.fixture(scope="session")
def lines() -> LogLines:
    return LogLines()


@pytest.fixture(scope="session")
def open_desk() -> Callable[[], AbstractContextManager[Desk]]:
    """Opens a desk of its own each time, for tests that need several or one per example."""

    @contextmanager
    def opened() -> Iterator[Desk]:
        with tempfile.TemporaryDirectory() as folder, open_scratch() as warehouse:
            yield Desk(Path(folder), warehouse)

    return opened


@pytest.fixture(scope="session")
def open_books() -> Callable[[], AbstractContextManager[Books]]:
    """Opens books of their own each time, for tests that need several or one per example."""

    @contextmanager
    def opened() -> Iterator[Books]:
        with open_scratch() as warehouse:
            yield Books(warehouse)

    return opened


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with open_scratch() as warehouse:
        yield Desk(tmp_path, warehouse)


@pytest.fixture
def books() -> Iterator[Books]:
    with open_scratch() as warehouse:
        yield Books(warehouse)


@pytest.fixture(scope="session")
def add_late_tokens(insert: Callable[..., None]) -> Callable[..., None]:
    """Add 1,000,000 tokens in 10 requests of another model to a day and build what rests on it again."""

    def add(warehouse: Warehouse, utc_day: date = DAY, metrics: Sequence[date] = (DAY,)) -> None:
        row = {"utc_day": utc_day, "model": "late", "usage_source": "engine_final", "requests": 10}
        insert(warehouse, "rollup.token_days", [row | {"prompt_tokens": 900_000, "completion_tokens": 100_000}])
        for day in sorted({utc_day, *metrics}):
            transform.build_metrics(warehouse, day)

    return add


class SimulatedDays:
    """Three days of the demo's scenario, laid down once as raw files; each test works on a copy of its own."""

    first, last = date(2026, 11, 14), date(2026, 11, 16)
    days = (date(2026, 11, 14), date(2026, 11, 15), date(2026, 11, 16))
    now = "2026-11-17T02:00:00Z"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.scenario = self._scenario = Scenario.generate(7, self.first, len(self.days))
        lay_down_raw(self._scenario, folder, self._scenario.end_s + 900)
        lay_down_log(self._scenario, folder / "request_log", self._scenario.end_s + 900)

    def copy_to(self, data_dir: Path) -> Path:
        """Put the raw files and the log where a pipeline finds them; they are immutable, so links do."""
        return shutil.copytree(self._folder, data_dir, copy_function=os.link)

    @contextmanager
    def served(self) -> Iterator[str]:
        """Serve the simulated Hyperstack over HTTP, at the instant `now`; gives its address."""
        simulators = Simulators(self._scenario, VirtualClock(datetime.fromisoformat(self.now)))
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        try:
            asyncio.run_coroutine_threadsafe(simulators.start(), loop).result(30)
            yield simulators.hyperstack_url
            asyncio.run_coroutine_threadsafe(simulators.stop(), loop).result(30)
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    def day_truth(self, utc_day: date) -> dict[str, Any]:
        """What the simulator knows to be true of one day."""
        figures: dict[str, Any] = truth(self._scenario, utc_day)["days"][utc_day.isoformat()]
        return figures

    def truth(self, utc_day: date) -> dict[str, Any]:
        """What the simulator knows to be true of the seven days that end with the day, as they are published."""
        figures = truth(self._scenario, utc_day)
        names = ("paid_usd", "served_tokens", "usd_per_million_tokens", "usd_per_million_by_part", "requests")
        return {name: figures[name] for name in names}


@pytest.fixture
def ram_path(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where the machine has one: for whole days of synced files, when their safety is not the question."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def simulated_days(tmp_path_factory: pytest.TempPathFactory) -> SimulatedDays:
    return SimulatedDays(tmp_path_factory.mktemp("simulated"))


class Served:
    """A running `spotinference serve`, seen from outside: its address, its GraphQL, its processes."""

    def __init__(self, process: subprocess.Popen[str], data_dir: Path) -> None:
        self.process = process
        self.data_dir = data_dir
        self.url = ""

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        """Send GraphQL as the UI does."""
        return self.fetch("/graphql", json.dumps({"query": query, "variables": variables}).encode())

    def fetch(self, path: str, body: bytes | None = None) -> dict[str, Any]:
        """GET a path, or POST JSON to it; an answer of 400 is an answer."""
        request = urllib.request.Request(self.url + path, body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return json.load(response)
        except urllib.error.HTTPError as refused:
            with refused:
                return json.load(refused)

    def wait_until(self, seen: Callable[[], bool], seconds: float) -> None:
        """Wait for something that the daemon does in its own time."""
        deadline = time.monotonic() + seconds
        while not seen():
            assert self.process.poll() is None, "the server ended"
            assert time.monotonic() < deadline, f"not seen within {seconds} s; {self.read_logs()[-4000:]}"
            time.sleep(0.5)

    def read_logs(self) -> str:
        return "\n".join(f"{log.name}: {log.read_text()}" for log in sorted((self.data_dir / "logs").glob("*.log")))

    def process_ids(self) -> list[int]:
        """Every process that was given this data folder, children of children too."""
        mark, found = f"SPOTINFERENCE_DATA_DIR={self.data_dir}".encode(), []
        for environment in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):
                if mark in environment.read_bytes().split(b"\0"):
                    found.append(int(environment.parent.name))
        return found

    def stop(self) -> int:
        """Stop it as systemd does; give its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@pytest.fixture(scope="session")
def serve() -> Callable[..., AbstractContextManager[Served]]:
    """Runs `spotinference serve` on a data folder and a free port, Hyperstack being out of reach."""

    @contextmanager
    def served(data_dir: Path, *flags: str, **changed: str) -> Iterator[Served]:
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(data_dir),
            "SPOTINFERENCE_DATA_DIR": str(data_dir),
            "SPOTINFERENCE_HYPERSTACK_URL": "http://127.0.0.1:1/v1",
            "SPOTINFERENCE_HYPERSTACK_API_KEY": "canary-of-the-server",
            "SPOTINFERENCE_NOW": SimulatedDays.now,
            "SPOTINFERENCE_MIN_SNAPSHOT_COVERAGE": "0.1",
        } | changed
        command = [str(Path(sys.executable).with_name("spotinference")), "serve", "--port", str(free_port(0)), *flags]
        with subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as process:
            server = Served(process, data_dir)
            try:
                assert process.stdout
                line = process.stdout.readline()
                assert line, f"the server did not start; {server.read_logs()[-4000:]}"
                server.url = line.split()[-1]
                yield server
            finally:
                if process.poll() is None:
                    server.stop()
                for process_id in server.process_ids():
                    os.kill(process_id, signal.SIGKILL)

    return served


def pytest_asyncio_loop_factories(item: pytest.Item) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loop that the proxy has in production, where time is real; virtual time turns asyncio's."""
    if item.path.stem in ("test_clients", "test_engine_reconciliation"):
        return {"uvloop": uvloop.new_event_loop}
    return {"asyncio": asyncio.new_event_loop}


class Front:
    """A vLLM, the simulated one or the real one at VLLM_URL, and the proxy in front of it; each has its address."""

    def __init__(self, log_dir: Path, vllm: SimulatedVllm | None, vllm_url: str, key: str, model: str) -> None:
        self.log_dir = log_dir
        self.vllm = vllm
        self.vllm_url = vllm_url.rstrip("/")
        self.key = key
        self.model = model
        self.url = ""
        self.proxy: Proxy | None = None

    async def start(self) -> None:
        upstream = UpstreamSettings(self.vllm_url, vm_id=700123, models=(self.model,))
        loopback = ("127.0.0.1", 0)
        settings = ProxySettings(
            (upstream,), listen=loopback, admin_listen=loopback, log_dir=self.log_dir, min_free_bytes=0
        )
        self.proxy = Proxy(settings, periodic=False)
        await self.proxy.start()
        await self.proxy.probe()
        host, port = self.proxy.address
        self.url = f"http://{host}:{port}"

    async def stop(self) -> None:
        if self.proxy:
            await self.proxy.stop()
        if self.vllm:
            await self.vllm.stop()

    def rows(self, kind: str) -> list[dict[str, Any]]:
        paths = sorted([*self.log_dir.glob("*.jsonl"), *self.log_dir.glob("*.open")])
        found = [parse_line(line) for path in paths for line in path.read_bytes().splitlines(keepends=True)]
        return [row for row in found if row["k"] == kind]

    async def ends(self) -> list[dict[str, Any]]:
        """The end rows, once every request that began has one."""
        async with asyncio.timeout(30):
            while len(self.rows("begin")) != len(ends := self.rows("end")) or (self.proxy and self.proxy.relays):
                await asyncio.sleep(0.02)
        assert sorted(row["request_id"] for row in self.rows("begin")) == sorted(row["request_id"] for row in ends)
        return ends


@pytest.fixture
async def open_front(tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[Front]]]:
    """Puts a proxy in front of a simulated vLLM with some flags, or of VLLM_URL (VLLM_MODEL, VLLM_API_KEY) if set."""
    fronts: list[Front] = []

    async def opened(**flags: Any) -> Front:
        url, key, model = (os.environ.get(name, "") for name in ("VLLM_URL", "VLLM_API_KEY", "VLLM_MODEL"))
        if url:
            ask = urllib.request.Request(f"{url.rstrip('/')}/v1/models", headers={"Authorization": f"Bearer {key}"})
            with await asyncio.to_thread(urllib.request.urlopen, ask, timeout=30) as answer:
                model = model or json.load(answer)["data"][0]["id"]
            front = Front(tmp_path / f"log{len(fronts)}", None, url, key or "none", model)
        else:
            vllm = SimulatedVllm(VllmOptions("tiny-model", **flags))
            await vllm.start()
            keys = vllm.options.api_keys or ("none",)
            front = Front(tmp_path / f"log{len(fronts)}", vllm, vllm.url, keys[0], "tiny-model")
        fronts.append(front)
        await front.start()
        return front

    yield opened
    for front in fronts:
        await front.stop()
