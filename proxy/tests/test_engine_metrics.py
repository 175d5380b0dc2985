from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spotinference_proxy.engine_metrics import COUNTERS, missing_counters, parse_counters

ALL_NAMES = [(member, name) for member, names in COUNTERS.items() for name in names]
LABEL_VALUES = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)


def test_counters_are_summed_over_labels_and_absent_is_null() -> None:
    page = (
        "# HELP vllm:prompt_tokens_total x\n"
        'vllm:prompt_tokens_total{engine="0",model_name="a}b"} 1414.0\n'
        'vllm:prompt_tokens_total{engine="1"} 1.5e+03 1700000000\n'
        "vllm:generation_tokens_total NaN\nvllm:x y z w\n"
        "process_start_time_seconds 1.79546854747e+09\n"
    )
    row = parse_counters(page)
    assert row == {
        "process_started_at": "2026-11-23T21:15:47.470000Z",
        "prompt_tokens_total": 2914,
        "generation_tokens_total": None,
    }
    assert missing_counters(row) == ["generation_tokens_total"]
    assert set(parse_counters("").values()) == {None}
    assert missing_counters(parse_counters("")) == ["process_started_at", *COUNTERS]


@pytest.mark.parametrize(("member", "name"), ALL_NAMES)
def test_every_name_that_a_version_has_used_is_read(member: str, name: str) -> None:
    row = parse_counters(f'{name}{{engine="0"}} 3\n{name}{{engine="1"}} 4\n')
    assert row.pop(member) == 7
    assert set(row.values()) == {None}


def test_two_names_of_one_counter_are_not_added_up() -> None:
    page = "vllm:prompt_tokens 5\nvllm:prompt_tokens_total 5\nvllm_prompt_tokens_total 5\n"
    assert parse_counters(page)["prompt_tokens_total"] == 5


@pytest.mark.parametrize(
    "series",
    [
        "vllm:prompt_tokens_by_source_total 9",
        "vllm:prompt_tokens_created 9",
        "vllm:request_prompt_tokens_sum 9",
        "vllm:prompt_tokens_total_ 9",
        "# vllm:prompt_tokens_total 9",
        "vllm:prompt_tokens_total",
        'vllm:prompt_tokens_total{engine="0" 9',
        "vllm:prompt_tokens_total9",
    ],
)
def test_nothing_else_is_taken_for_a_counter(series: str) -> None:
    assert parse_counters(series)["prompt_tokens_total"] is None


@pytest.mark.parametrize(
    "value", ["oops", "-1", "NaN", "+Inf", "1e999999", "9e99999999999999999999", "1.5", str(2**63)]
)
def test_a_series_that_states_no_whole_number_makes_the_sum_unknown(value: str) -> None:
    page = f'vllm:prompt_tokens_total{{engine="0"}} 5\nvllm:prompt_tokens_total{{engine="1"}} {value}\n'
    assert parse_counters(page)["prompt_tokens_total"] is None
    assert parse_counters(page.replace(value, "1"))["prompt_tokens_total"] == 6


def test_an_exemplar_is_not_the_value() -> None:
    page = 'vllm:prompt_tokens_total{engine="0"} 7 # {trace_id="x"} 1.0 1700000000\n# EOF\n'
    assert parse_counters(page)["prompt_tokens_total"] == 7


@pytest.mark.parametrize("value", ["0", "-3", "NaN", "1e30", "9e18", "x"])
def test_a_start_that_is_no_instant_is_unknown(value: str) -> None:
    assert parse_counters(f"process_start_time_seconds {value}")["process_started_at"] is None


def test_of_several_processes_the_latest_start_counts() -> None:
    page = 'process_start_time_seconds{pid="1"} 1700000000\nprocess_start_time_seconds{pid="2"} 1600000000\n'
    assert parse_counters(page)["process_started_at"] == "2023-11-14T22:13:20.000000Z"


@given(st.lists(st.tuples(LABEL_VALUES, st.integers(0, 2**40)), min_size=1, max_size=5))
def test_any_label_and_any_whole_numbers_are_read(series: list[tuple[str, int]]) -> None:
    quoted = [(label.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n"), value) for label, value in series]
    page = "".join(f'vllm:generation_tokens_total{{model_name="{label}",}} {Decimal(v)}\n' for label, v in quoted)
    assert parse_counters(page)["generation_tokens_total"] == sum(value for _, value in series)


@given(st.text(max_size=200), st.text(max_size=20))
def test_no_page_raises(page: str, value: str) -> None:
    found = parse_counters(f"{page}\nvllm:prompt_tokens_total{{{value}}} {value}\nprocess_start_time_seconds {value}")
    assert all(one is None or isinstance(one, int | str) for one in found.values())
