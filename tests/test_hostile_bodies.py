"""Thousands of damaged answers of every endpoint that is read: no crash, no NaN, nothing lost, nothing negative unnamed.

The good bodies are the simulator's. `make soak` tries 10,000 damages, the gate 600; the seed is printed.
"""

import copy
import json
import math
import os
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from spotinference_sim.hyperstack_answers import HyperstackAnswers
from spotinference_sim.scenario import Scenario

from spotinference_pipeline import answers, checks, contracts, ledger, raw, transform
from spotinference_pipeline.warehouse import read_checks

pytestmark = pytest.mark.no_cover  # whole simulated days: tracing would double their time

DAY = date(2026, 11, 22)
NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
DAMAGES = 10_000 if os.environ.get("HYPOTHESIS_PROFILE") == "soak" else 600
WINDOW = {"start_date": "2026-11-22T00:00:00", "end_date": "2026-11-22T12:00:00"}
SIGNED = {
    ("billing_snapshots", "total_bill_usd"),  # a counter that a credit took below zero
    ("billing_history", "amount_usd"),  # seen in the vendor's own examples
    ("billing_graphs", "amount_usd"),
    ("credit_balances", "balance_usd"),  # a prepaid account that is overdrawn
    ("exchanges", "clock_skew_seconds"),
}
"""The only columns in which something may be below zero, and why."""
LITERALS = (
    *(
        "NaN",
        "Infinity",
        "-Infinity",
        "1e999",
        "-1e999",
        "1e-999",
        "-0.0",
        "-0.000161290333",
        "-1",
        "0.30000000000000004",
    ),
    *(
        "1.4799118041992184e-11",
        str(10**40),
        str(-(10**40)),
        str(2**63),
        str(-(2**63)),
        str(2**64),
        "1e18",
        "-1e18",
        "1E400",
    ),
    *(
        "true",
        "null",
        "[]",
        "{}",
        "[[]]",
        '[{"value": -1}]',
        '""',
        '"NaN"',
        '"sNaN"',
        '"-Infinity"',
        '"1e999"',
        '"0E-9"',
        '"-5"',
    ),
    *(
        '"\\ud800"',
        '"\\u0000"',
        '"' + "x" * 20_000 + '"',
        "[" * 300 + "]" * 300,
        '"0001-01-01T00:00:00+14:00"',
        "01",
        "+1",
        "0x1",
    ),
    *(
        '"9999-12-31T23:59:59-14:00"',
        '"2026-02-30T00:00:00"',
        '"2014-12-31T00:00:00Z"',
        '"2026-11-22T24:00:00"',
        "1795000000",
    ),
)
"""What a value becomes: written as it stands, JSON or not."""
TELLING = (
    "bill",
    "cost",
    "value",
    "credit",
    "minute",
    "hour",
    "time",
    "start",
    "status",
    "id",
    "count",
    "ip",
    "amount",
)
"""Ends of the names of members that are read: they are hit more often than the others."""
PAGES = (
    b"",
    b"null",
    b"[]",
    b"{}",
    b"<html><body>502 Bad Gateway</body></html>",
    b"\xff\xfe\x00",
    b"\x1f\x8b\x08\x00",
    b"upstream",
)


def good_bodies() -> list[tuple[str, dict[str, str], bytes]]:
    """Every endpoint that a snapshot or the books read, with the answer of a simulated day."""
    scenario = Scenario.generate(7, date(2026, 11, 21), 2)
    simulator, now_us = HyperstackAnswers(scenario), int(NOON.timestamp()) * 1_000_000
    vm_id = scenario.vms[0].id
    kinds = ("virtual-machine", "volume", "snapshot", "bucket")
    questions: list[tuple[str, dict[str, str]]] = [
        (answers.USAGE, {"deleted": "false"}),
        (answers.USAGE, {"deleted": "true"}),
        (answers.HISTORY, WINDOW),
        (answers.CREDIT, {}),
        (answers.VIRTUAL_MACHINES, {}),
        (answers.VM_EVENTS.format(vm_id=vm_id), {}),
        (answers.PRICE_BOOK, {}),
        (answers.VOLUMES, {}),
        (answers.SNAPSHOTS, {}),
        (answers.PAYMENTS, {}),
        *((f"{answers.HISTORY}/{kind}", WINDOW | {"page": "1", "per_page": "100"}) for kind in kinds),
        (f"{answers.HISTORY}/virtual-machine/{vm_id}", WINDOW),
        (f"{answers.HISTORY}/virtual-machine/{vm_id}/graph", WINDOW),
        (f"/billing/billing/virtual-machine/{vm_id}/billing-events", WINDOW),
        (f"/billing/billing/virtual-machine/{vm_id}/sub-resource", WINDOW),
    ]
    found = [(path, query, simulator.answer(path, query, now_us)) for path, query in questions]
    return [(path, query, answer.body) for path, query, answer in found if answer.status == 200]


def places(document: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to each value of a document."""
    members = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for name, value in members:
        yield (*above, name)
        yield from places(value, (*above, name))


def change(document: Any, draw: random.Random, how: Callable[[Any, Any], None]) -> Any:
    """Change a document at one of its values."""
    found = list(places(document))
    if not found:
        return document
    telling = [place for place in found if str(place[-1]).endswith(TELLING)]
    *above, last = draw.choice(telling if telling and draw.random() < 0.6 else found)
    holder = document
    for name in above:
        holder = holder[name]
    how(holder, last)
    return document


def write(document: Any) -> bytes:
    """Write JSON in which strings that begin with \x01 stand as they are, without quotes."""
    text = json.dumps(document)
    return re.sub(r'"\\u0001(.*?)\\u0001"', lambda found: json.loads(f'"{found[1]}"'), text).encode(
        "utf-8", "surrogatepass"
    )


def damage(body: bytes, draw: random.Random) -> bytes:
    """Damage a body in one of many ways."""

    def delete(holder: Any, name: Any) -> None:
        del holder[name]

    def rename(holder: Any, name: Any) -> None:
        if isinstance(holder, dict):
            holder[f"{name}_v2"] = holder.pop(name)

    def swap(holder: Any, name: Any) -> None:
        holder[name] = f"\x01{draw.choice(LITERALS)}\x01"

    def double(holder: Any, name: Any) -> None:
        if isinstance(holder, list):
            again = copy.deepcopy(holder[name])
            holder.insert(draw.randrange(len(holder) + 1), change(again, draw, swap) if draw.random() < 0.5 else again)
        else:
            holder[f"new_{name}"] = holder[name]

    way = draw.random()
    if way < 0.62:
        document = json.loads(body)
        for _ in range(draw.choice([1, 1, 1, 2, 5])):
            change(document, draw, draw.choice([delete, rename, swap, swap, swap, double]))
        return write(document)
    if way < 0.75:
        return body[: draw.randrange(len(body))]
    if way < 0.85:
        place = draw.randrange(len(body))
        return body[:place] + draw.randbytes(draw.randrange(1, 9)) + body[place + draw.randrange(9) :]
    if way < 0.92:
        place = draw.randrange(len(body))
        return body[:place] + bytes([body[place] ^ 1 << draw.randrange(8)]) + body[place + 1 :]
    if way < 0.96:
        return b"[" * 100_000 + body if draw.random() < 0.3 else b"\xef\xbb\xbf" + body
    return draw.choice(PAGES)


def hostile_exchanges(seed: int, count: int) -> Iterator[raw.Exchange]:
    """Damaged answers, a second apart, in each of the endpoints in turn; some with a head that is damaged as well."""
    draw, bodies = random.Random(seed), good_bodies()
    for number in range(count):
        endpoint, query, body = bodies[number % len(bodies)]
        at = NOON - timedelta(seconds=4 * (number % 10_000))
        content = damage(body, draw)
        yield raw.Exchange(
            scheduled_at=at,
            started_at=at,
            finished_at=at + timedelta(seconds=1),
            endpoint=endpoint,
            query={} if draw.random() < 0.03 else query,
            status=draw.choice([404, 500, 302]) if draw.random() < 0.05 else 200,
            date=draw.choice(
                [None, "Sun, 22 Nov 2026 12:00:00 GMT", "soon", "Fri, 31 Dec 9999 23:59:59 +1400", "\x00"]
            ),
            **raw.body_members(content),
        )


def numbers(desk: Any) -> list[tuple[str, str, str]]:
    return desk.rows(
        "select table_schema || '.' || table_name, column_name, data_type from information_schema.columns "
        "where table_schema in ('validated', 'rollup') "
        "and (data_type like 'DECIMAL%' or data_type like '%INT%' or data_type in ('FLOAT', 'DOUBLE'))"
    )


def assert_nothing_is_negative_but_what_may_be(desk: Any) -> None:
    for table, column, kind in numbers(desk):
        assert kind not in {"FLOAT", "DOUBLE"}, f"{table}.{column} could hold NaN"
        name = table.removeprefix("validated.")
        if table.startswith("validated.") and (name, column) not in SIGNED:
            assert desk.rows(f"select {column} from {table} where {column} < 0 limit 3") == [], f"{table}.{column}"


def assert_every_file_adds_up_and_is_kept(desk: Any) -> None:
    broken = [row for name, sql in read_checks() if name == "every_row_is_accounted_for" for row in desk.rows(sql)]
    assert broken == []
    for file, reason, position, content in desk.rows(
        "select source_file, reason, position, content from validated.quarantine"
    ):
        kept = (desk.raw_dir / file.removeprefix("hyperstack/")).read_bytes()
        (line,) = [line for _, line in raw.read_exchanges(kept)]
        assert reason
        if position != "row" and reason != "value out of range":
            text = (line.body_bytes() or b"").decode(errors="replace")
            assert "out of range" in reason or content[:2000] in text or "graph" in line.endpoint, (file, position)


def test_F043_F044_F045_F046_F047_damaged_answers_break_nothing_and_are_kept(desk: Any) -> None:
    seed = 1 if "CI" in os.environ else int.from_bytes(os.urandom(4))
    print(f"seed {seed}, {DAMAGES} damages")
    for exchange in hostile_exchanges(seed, DAMAGES):
        desk.land(exchange)
    done = desk.ingest()
    assert done.files == desk.count("exchanges") == DAMAGES
    assert done.rows_read == done.rows_accepted + done.rows_quarantined + done.rows_repeated
    assert_every_file_adds_up_and_is_kept(desk)
    assert_nothing_is_negative_but_what_may_be(desk)
    shown = Counter(position.split()[0] for (position,) in desk.rows("select position from validated.quarantine"))
    (drifted,) = desk.rows("select count(*) from validated.exchanges where schema_drift is not null")[0]
    print(f"{done}, quarantined by place: {dict(shown)}, with new fields: {drifted}")
    assert min(shown["body"], shown["item"], drifted, shown["row"] or DAMAGES == 600) > 0, "each way is exercised"


def test_F044_a_day_built_of_damaged_answers_names_everything_that_is_negative(desk: Any) -> None:
    for exchange in hostile_exchanges(7, min(DAMAGES, 600)):
        desk.land(exchange)
    desk.ingest()
    ledger.build_day(desk.warehouse, DAY)
    for table in transform.ROLLUPS:
        desk.warehouse.build_day(table, DAY)
    (finding,) = checks.run(desk.warehouse, DAY, ["only_credits_are_negative"])
    assert finding.passed, finding.broken
    assert desk.rows("select count(*) from rollup.resource_days where cost_usd is null") == [(0,)]


def test_a_reader_of_binary_floats_does_not_survive_the_same_answers() -> None:
    """Negative control: the corpus has teeth."""
    crashed = poisoned = negative = 0
    for exchange in hostile_exchanges(1, 3000):
        if exchange.endpoint != answers.USAGE:
            continue
        try:
            totals = [float(item["total_bill"]) for item in json.loads(exchange.body_bytes() or b"")["data"]]
        except (ValueError, LookupError, TypeError, RecursionError):
            crashed += 1
        else:
            poisoned += any(not math.isfinite(total) for total in totals)
            negative += any(total < 0 for total in totals)
    assert min(crashed, poisoned, negative) > 0


def test_a_table_without_its_contract_would_let_a_negative_price_in(desk: Any, words: Any) -> None:
    """Negative control: it is the contracts that hold the line, and the assertion above sees it."""
    body = words.encode([{"name": "RAM", "value": "-5"}])
    desk.land(words.exchange(answers.PRICE_BOOK, body))
    desk.ingest()
    assert desk.count("prices") == 0
    rows = desk.rows(
        "select source_file, source_line from validated.quarantine where target_table = 'validated.prices'"
    )
    desk.warehouse.execute(
        "insert into validated.prices (observed_at, price_name, usd_per_hour, source_file, source_line) "
        "values ('2026-11-22T10:00:00Z', 'RAM', -5, $file, $line)",
        dict(zip(("file", "line"), rows[0], strict=True)),
    )
    with pytest.raises(AssertionError, match=r"prices\.usd_per_hour"):
        assert_nothing_is_negative_but_what_may_be(desk)


def test_every_validated_table_of_hyperstack_is_reached_by_good_answers(desk: Any) -> None:
    """What is damaged above is read when it is whole: nothing of it is refused, and no field of it is new."""
    for number, (endpoint, query, body) in enumerate(good_bodies()):
        at = NOON + timedelta(seconds=10 * number)
        members = raw.body_members(body)
        desk.land(
            raw.Exchange(
                scheduled_at=at, started_at=at, finished_at=at, endpoint=endpoint, query=query, status=200, **members
            )
        )
    assert desk.ingest().rows_quarantined == 0
    assert desk.rows("select endpoint, schema_drift from validated.exchanges where schema_drift is not null") == []
    reached = {"billing_snapshots", "billing_history", "credit_balances", "prices", "vm_states", "billing_graphs"}
    assert {table for table in reached if desk.count(table) > 0} == reached
    assert {f"validated.{table}" for table in reached} <= contracts.CONTRACTS.keys()
