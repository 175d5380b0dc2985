"""What a published day says: shape, rounding, status, bounds, caveats, and the reason for a new revision."""

import json
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spotinference_pipeline import revision, shipped
from spotinference_pipeline.revision import Facts, Gates, Terms

DAY = date(2026, 11, 22)
AT = datetime(2026, 11, 23, 2, 10, 30, 999_999, tzinfo=UTC)
SCHEMA = json.loads((shipped.path("site") / "schema" / "revision.json").read_text())
GATES = Gates(Decimal("0.95"), Decimal("0.95"), Decimal("0.95"), Decimal("0.05"))
TERMS = Terms(GATES, "https://infrahub-api.nexgencloud.com/v1", "a" * 64, "b" * 64, "c" * 64, "0.1.0")
COST = {
    "usd_per_million_tokens": Decimal("1.934512345678"),
    "paid_usd": Decimal("412.345678901000000"),
    "served_tokens": 213_151_234,
    "requests": 345_678,
    "prompt_tokens": 200_000_000,
    "completion_tokens": 13_151_234,
    "cached_tokens": None,
    "reasoning_tokens": 7,
}
FIGURES = {
    "snapshot_coverage_ratio": Decimal("0.999800"),
    "exact_usage_ratio": Decimal("0.999100"),
    "days_reconciled": 0,
    "days_final": 0,
    "residual_usd": None,
    "unattributed_usd": None,
    "unmeasured_requests": 0,
    "unplaced_tokens": 0,
    "duty_cycle_ratio": Decimal("0.410000"),
    "powered_ratio": Decimal("0.700000"),
    "cold_starts": 9,
    "cold_start_seconds": Decimal("3120.000000"),
    "cold_start_usd": Decimal("2.500000000000000"),
    "failed_cold_starts": 1,
    "failed_cold_start_seconds": Decimal("600.000000"),
    "failed_cold_start_usd": Decimal("0.500000000000000"),
    "cache_hit_ratio": None,
    "cache_hit_known_ratio": Decimal("0.000000"),
    "reasoning_ratio": None,
    "reasoning_known_ratio": Decimal("0.000000"),
    "output_input_ratio": Decimal("0.250000"),
    "tokens_per_busy_second": Decimal("900.100000"),
    "usd_per_million_prompt_tokens": Decimal("2.061728394505"),
    "usd_per_million_completion_tokens": Decimal("31.354141555160"),
    "usd_per_million_visible_tokens": None,
    "usd_per_request": Decimal("0.001192856519"),
    "answered_requests": 345_677,
}
PERCENTILES = {
    "latency_p50_microseconds": 12_345_678,
    "latency_p90_microseconds": 20_000_000,
    "latency_p99_microseconds": 1,
    "first_token_p50_microseconds": None,
    "first_token_p90_microseconds": None,
    "first_token_p99_microseconds": None,
    "output_input_p10_ratio": Decimal("0.100000"),
    "output_input_p50_ratio": Decimal("0.250000"),
    "output_input_p90_ratio": None,
}
MODELS = [
    {
        "model": "alpha",
        "served_tokens": 2,
        "usd_per_million_tokens": Decimal("3.000000000000"),
        "cost_usd": Decimal("9.5"),
    },
    {"model": "zeta", "served_tokens": 1, "usd_per_million_tokens": None, "cost_usd": None},
]
COVERAGE = {
    "engine_lives": 9,
    "engine_tokens": 214_000_000,
    "unexplained_tokens": 0,
    "token_coverage_ratio": Decimal("0.998700"),
    "witnessed_ratio": Decimal("1.000000"),
    "lost_segments": 0,
    "rows_missing": 0,
}
BOUNDS = {
    "inside_usd": Decimal("411.845678901000000"),
    "most_usd": Decimal("412.345678901000000"),
    "exact_tokens": 213_151_234,
    "largest_tokens": 213_151_234,
}
PARTS = dict.fromkeys(revision.KINDS, Decimal("0")) | {"busy": Decimal("1.934512345678")}
FACTS = Facts(COST, PARTS, FIGURES, PERCENTILES, COVERAGE, BOUNDS, MODELS)


def build(
    cost: dict[str, Any] | None = None,
    figures: dict[str, Any] | None = None,
    terms: Terms = TERMS,
    last_good_day: str | None = None,
    coverage: dict[str, Any] | None = None,
    bounds: dict[str, Any] | None = None,
) -> revision.Document:
    facts = replace(
        FACTS,
        cost=COST | (cost or {}),
        figures=FIGURES | (figures or {}),
        coverage=COVERAGE | (coverage or {}),
        bounds=BOUNDS | (bounds or {}),
    )
    return revision.build_document(DAY, facts, terms, last_good_day)


def first(**changed: Any) -> revision.Document:
    revised = revision.revise(build(**changed), None, AT)
    assert revised is not None
    return revised


def test_a_good_day_has_the_form_of_the_schema_and_every_digit_as_text() -> None:
    document = first()
    jsonschema_rs.validate(SCHEMA, document)
    assert document["usd_per_million_tokens"] == "1.934512345678"
    assert document["display"] == "$1.93"
    assert document["paid_usd"] == "412.345678901000000"
    assert document["window"] == {"start": "2026-11-16T00:00:00Z", "end": "2026-11-23T00:00:00Z", "days": 7}
    assert document["tokens"] == {"prompt": 200_000_000, "completion": 13_151_234, "cached": None, "reasoning": 7}
    assert document["usd_per_million_by_part"]["busy"] == "1.934512345678"
    assert document["published_at"] == "2026-11-23T02:10:30Z"
    assert (document["status"], document["status_reason"]) == ("provisional", None)
    assert (document["revision"], document["reason"], document["previous"]) == (1, "first", None)


def test_models_have_their_tokens_and_their_cost_or_null() -> None:
    assert build()["by_model"] == [
        {"model": "alpha", "served_tokens": 2, "usd_per_million_tokens": "3.000000000000", "paid_usd": "9.5"},
        {"model": "zeta", "served_tokens": 1, "usd_per_million_tokens": None, "paid_usd": None},
    ]


def test_percentiles_are_seconds_to_the_microsecond_and_null_where_nothing_was_timed() -> None:
    found = build()["figures"]
    assert found["latency_seconds"] == {"p50": "12.345678", "p90": "20.000000", "p99": "0.000001"}
    assert found["time_to_first_token_seconds"] == {"p50": None, "p90": None, "p99": None}
    assert found["output_input_percentiles"] == {"p10": "0.100000", "p50": "0.250000", "p90": None}


def test_a_withheld_day_has_no_figure_by_any_denominator() -> None:
    document = build(figures={"snapshot_coverage_ratio": Decimal("0.5")})
    assert document["status"] == "withheld"
    assert {document["figures"][name] for name in revision.OTHER_DENOMINATORS} == {None}
    assert {entry["usd_per_million_tokens"] for entry in document["by_model"]} == {None}


def test_the_schema_asks_for_every_member_that_is_written_at_every_depth() -> None:
    def required(schema: dict[str, Any], document: Any) -> None:
        if isinstance(document, dict):
            assert set(schema["required"]) == set(document)
            for name, member in document.items():
                required(schema["properties"][name], member)

    required(SCHEMA, first())


def test_numbers_are_never_written_with_an_exponent() -> None:
    document = build({"usd_per_million_tokens": Decimal("1E-12"), "paid_usd": Decimal("0E-15")})
    assert document["usd_per_million_tokens"] == "0.000000000001"
    assert document["paid_usd"] == "0.000000000000000"


@pytest.mark.parametrize(
    ("cost", "figures", "reason"),
    [
        (
            {},
            {"exact_usage_ratio": Decimal("0.949999")},
            "0.9499 of the requests have vLLM's final usage, 0.95 are needed",
        ),
        (
            {},
            {"unattributed_usd": Decimal("20.62")},
            "$20.62 of what was billed are on no resource, at most 0.05 of $412.35",
        ),
        ({}, {"unattributed_usd": Decimal("-20.62")}, "$20.62 of what was billed are on no resource"),
        ({"served_tokens": 0, "usd_per_million_tokens": None}, {}, "no tokens were served in the window"),
        ({"paid_usd": None, "usd_per_million_tokens": None}, {}, "no billed resource is known in the window"),
        ({}, {"snapshot_coverage_ratio": Decimal("0.949999")}, "snapshots cover 0.9499 of the window's minutes, 0.95"),
        ({"served_tokens": 0}, {"snapshot_coverage_ratio": Decimal("0")}, "snapshots cover 0.0000 of the window's"),
    ],
)
def test_a_gate_that_fails_withholds_every_figure_and_says_why(
    cost: dict[str, Any], figures: dict[str, Any], reason: str
) -> None:
    document = first(cost=cost, figures=figures)
    jsonschema_rs.validate(SCHEMA, document)
    assert document["status"] == "withheld"
    assert document["status_reason"].startswith(reason)
    assert document["status_reason"].endswith("; there is no good day yet")
    assert document["usd_per_million_tokens"] is None
    assert document["display"] == "withheld"
    assert document["bounds"] == {"low": None, "high": None}
    assert set(document["usd_per_million_by_part"].values()) == {None}


def test_a_withheld_day_names_the_last_good_one() -> None:
    document = build({"served_tokens": 0}, last_good_day="2026-11-20")
    assert document["status_reason"].endswith("; the last good day is 2026-11-20")


def test_coverage_at_the_gate_is_enough() -> None:
    assert build(figures={"snapshot_coverage_ratio": Decimal("0.95")})["status"] == "provisional"


BOOKED = {"days_reconciled": 7, "residual_usd": Decimal("0.25"), "unattributed_usd": Decimal("0.5")}


@pytest.mark.parametrize(
    ("figures", "status"),
    [
        (BOOKED | {"days_reconciled": 6}, "provisional"),
        (BOOKED | {"days_final": 6}, "reconciled"),
        (BOOKED | {"days_final": 7}, "final"),
        (BOOKED | {"snapshot_coverage_ratio": Decimal("0")}, "reconciled"),
        (BOOKED | {"days_reconciled": 6, "snapshot_coverage_ratio": Decimal("0")}, "withheld"),
    ],
)
def test_a_window_is_reconciled_when_all_its_days_are_and_then_needs_no_snapshots(
    figures: dict[str, Any], status: str
) -> None:
    document = first(figures=figures)
    jsonschema_rs.validate(SCHEMA, document)
    assert document["status"] == status
    shown = document["reconciliation"]
    assert (shown["residual_usd"], shown["unattributed_usd"]) == ("0.25", "0.5")
    is_reconciled = status in ("reconciled", "final")
    assert is_reconciled != any(caveat.startswith("Not yet reconciled") for caveat in document["caveats"])


def test_a_revision_that_becomes_reconciled_or_final_says_so() -> None:
    newest = first()
    reasons = []
    for figures in (BOOKED, BOOKED | {"days_final": 7}, BOOKED | {"days_final": 7, "residual_usd": Decimal("1")}):
        revised = revision.revise(build({"paid_usd": Decimal("500")}, figures), newest, AT)
        assert revised is not None
        reasons.append(revised["reason"])
        newest = revised
    assert reasons == ["reconciled", "reconciled", "correction"]


def test_a_log_that_lacks_too_many_of_the_engines_tokens_withholds_the_day() -> None:
    document = first(coverage={"token_coverage_ratio": Decimal("0.949999")})
    jsonschema_rs.validate(SCHEMA, document)
    assert (document["status"], document["coverage"]["token"]) == ("withheld", "0.949999")
    needed = "the log and vLLM's own counters have 0.9499 of their tokens in common, 0.95 are needed; there is no good day yet"
    assert document["status_reason"] == needed


def test_what_is_not_known_withholds_nothing() -> None:
    unknown = {"exact_usage_ratio": None, "unattributed_usd": None}
    none = {"engine_lives": 0, "token_coverage_ratio": None, "witnessed_ratio": None}
    document = build(figures=unknown, coverage=none)
    assert (document["status"], document["coverage"]["token"]) == ("provisional", None)
    assert document["caveats"][-1] == "The log of requests was not held against vLLM's own counters: none are known."


def test_engines_that_made_nothing_are_known_all_the_same() -> None:
    idle = {"engine_tokens": 0, "token_coverage_ratio": None, "witnessed_ratio": None}
    assert not any("none are known" in caveat for caveat in build(coverage=idle)["caveats"])


def test_coverages_at_their_gates_are_enough() -> None:
    at_gate = {"exact_usage_ratio": Decimal("0.95"), "unattributed_usd": Decimal("20.617283945050000")}
    assert build(figures=at_gate, coverage={"token_coverage_ratio": Decimal("0.95")})["status"] == "provisional"


@pytest.mark.parametrize(
    ("coverage", "said"),
    [
        ({"unexplained_tokens": 428_000}, None),
        ({"unexplained_tokens": 428_001}, "differ by 428,001 of 214,000,000 tokens that no known cause explains"),
        ({"witnessed_ratio": Decimal("0.989999")}, "vLLM's own counters are known for 0.9899 of the tokens only."),
    ],
)
def test_caveats_say_what_the_engines_counters_do_not_confirm(coverage: dict[str, Any], said: str | None) -> None:
    caveats = [caveat for caveat in build(coverage=coverage)["caveats"] if "vLLM's own counters" in caveat]
    assert [said in caveat for caveat in caveats if said] == ([True] if said else [])
    assert bool(caveats) == bool(said)


def test_a_part_that_only_requests_tell_apart_is_null_where_the_log_names_no_machine() -> None:
    unknown = {"unplaced_tokens": 7_000, "duty_cycle_ratio": None, "cold_starts": None}
    document = build(figures=unknown)
    parts = document["usd_per_million_by_part"]
    assert (parts["busy"], parts["cold_start"], parts["parked"]) == ("1.934512345678", None, "0")
    assert sum(Decimal(part) for part in parts.values() if part) == Decimal(document["usd_per_million_tokens"])
    assert any("names no machine for 7,000 of 213,151,234 tokens" in caveat for caveat in document["caveats"])
    named = build()
    assert named["usd_per_million_by_part"]["cold_start"] == "0"
    assert not any("no machine" in caveat for caveat in named["caveats"])


@pytest.mark.parametrize("engine_lives", [0, 9])
def test_a_caveat_says_what_the_log_itself_tells_is_missing(engine_lives: int) -> None:
    for segments, rows in ((0, 1_288), (3, 0)):
        lost = {"engine_lives": engine_lives, "lost_segments": segments, "rows_missing": rows}
        told = f"tells of its own losses: {segments} segments and {rows:,} rows are missing in it"
        assert any(told in caveat for caveat in build(coverage=lost)["caveats"])
    assert not any("its own losses" in caveat for caveat in build(coverage={"engine_lives": engine_lives})["caveats"])


def bounds_of(inside: str, most: str | None, exact: int, largest: int | None) -> dict[str, str | None]:
    names = ("inside_usd", "most_usd", "exact_tokens", "largest_tokens")
    sums = (Decimal(inside), None if most is None else Decimal(most), exact, largest)
    shown: dict[str, str | None] = build(bounds=dict(zip(names, sums, strict=True)))["bounds"]
    return shown


def test_bounds_are_the_sure_spend_over_all_tokens_and_all_possible_spend_over_exact_tokens() -> None:
    assert bounds_of("9", "12", 2_999_999, 3_000_000) == {"low": "3.000000", "high": "4.000002"}


def test_bounds_are_rounded_outwards() -> None:
    assert bounds_of("2", "2", 3_000_000, 3_000_000) == {"low": "0.666666", "high": "0.666667"}


def test_credits_that_outweigh_the_spend_turn_the_tokens_round() -> None:
    assert bounds_of("-2", "-1", 1_000_000, 2_000_000) == {"low": "-2.000000", "high": "-0.500000"}


def test_a_bound_of_which_a_part_is_unknown_is_null() -> None:
    assert bounds_of("9", "12", 2_999_999, None) == {"low": None, "high": "4.000002"}
    assert bounds_of("9", None, 2_999_999, 3_000_000) == {"low": "3.000000", "high": None}
    assert bounds_of("9", "12", 0, 3_000_000) == {"low": "3.000000", "high": None}


def test_requests_without_final_usage_are_told_of() -> None:
    caveats = build(figures={"unmeasured_requests": 1_234, "answered_requests": 345_600})["caveats"]
    assert any(c.startswith("1,234 of 345,600 answered requests ended without vLLM's final usage") for c in caveats)


@pytest.mark.parametrize("host", ["http://127.0.0.1:8090/v1", "http://localhost:1/v1", "http://[::1]:8090/v1"])
def test_simulated_billing_is_said_first(host: str) -> None:
    caveats = build(terms=replace(TERMS, hyperstack_url=host))["caveats"]
    assert caveats[0].startswith("Simulated:")
    assert not build()["caveats"][0].startswith("Simulated:")


@pytest.mark.parametrize(
    ("figure", "shown"),
    [
        ("1.934512345678", "$1.93"),
        ("1.925", "$1.92"),
        ("1.935", "$1.94"),
        ("0", "$0.00"),
        ("0.004", "$0.00"),
        ("-0.004", "$0.00"),
        ("-0.0051", "-$0.01"),
        ("-1234.5", "-$1,234.50"),
        ("1234567.891", "$1,234,567.89"),
    ],
)
def test_amounts_for_people_have_cents_and_one_sign(figure: str, shown: str) -> None:
    assert revision.format_usd(Decimal(figure)) == shown


def test_the_same_day_again_is_no_revision() -> None:
    assert revision.revise(build(), first(), datetime(2027, 1, 1, tzinfo=UTC)) is None


def test_another_version_of_the_code_alone_is_no_revision() -> None:
    assert revision.revise(build(terms=replace(TERMS, code_version="9.9")), first(), AT) is None


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"cost": {"requests": 345_679}}, "late_logs"),
        ({"cost": {"prompt_tokens": 200_000_001}}, "late_logs"),
        ({"cost": {"cached_tokens": 5}}, "late_logs"),
        ({"cost": {"requests": 1, "paid_usd": Decimal("1")}}, "late_logs"),
        ({"cost": {"paid_usd": Decimal("500")}}, "late_billing"),
        ({"figures": {"snapshot_coverage_ratio": Decimal("0.999900")}}, "late_billing"),
        ({"figures": {"cold_starts": 10}}, "correction"),
        ({"terms": replace(TERMS, gates=replace(GATES, min_snapshot_coverage=Decimal("0.9999")))}, "correction"),
        ({"terms": replace(TERMS, inputs_sha256="d" * 64)}, "correction"),
        ({"terms": replace(TERMS, paid_sql_sha256="d" * 64)}, "method_change"),
        ({"terms": replace(TERMS, served_sql_sha256="d" * 64), "cost": {"requests": 1}}, "method_change"),
    ],
)
def test_a_change_is_a_new_revision_with_its_reason_and_the_figure_before(changed: dict[str, Any], reason: str) -> None:
    newest = first()
    revised = revision.revise(build(**changed), newest, AT)
    assert revised is not None
    jsonschema_rs.validate(SCHEMA, revised)
    assert (revised["revision"], revised["reason"]) == (2, reason)
    assert revised["previous"] == {"revision": 1, "usd_per_million_tokens": "1.934512345678"}


def test_a_document_is_written_as_it_is_with_a_newline_and_without_binary_numbers() -> None:
    text = revision.encode({"name": "é", "n": 1}).decode()
    assert text == '{\n "name": "é",\n "n": 1\n}\n'
    with pytest.raises(ValueError, match="Out of range"):
        revision.encode({"n": float("nan")})


@given(
    st.decimals("-1000000", "1000000", places=15, allow_nan=False, allow_infinity=False),
    st.integers(1, 10**12),
    st.tuples(*[st.decimals("0", "1000", places=15, allow_nan=False, allow_infinity=False)] * 2),
    st.tuples(*[st.integers(0, 10**9)] * 2),
)
def test_every_figure_within_what_is_unsure_lies_within_its_bounds(
    paid: Decimal, served: int, unsure: tuple[Decimal, Decimal], tokens: tuple[int, int]
) -> None:
    exact, largest = max(served - tokens[0], 1), served + tokens[1]
    bounds = bounds_of(f"{paid - unsure[0]:f}", f"{paid + unsure[1]:f}", exact, largest)
    for usd in (paid - unsure[0], paid, paid + unsure[1]):
        for count in (exact, served, largest):
            low, high = Decimal(bounds["low"] or "nan"), Decimal(bounds["high"] or "nan")
            assert low * count <= usd * 10**6 <= high * count


def test_building_twice_gives_the_same_bytes() -> None:
    assert revision.encode(first()) == revision.encode(first())
