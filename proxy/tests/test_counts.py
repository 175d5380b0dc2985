import pytest
from msgspec import Raw
from msgspec.json import encode
from spotinference_proxy.counts import Tally, Usage, parse_usage
from spotinference_proxy.strip import Choice

BASE = {"prompt_tokens": 5, "completion_tokens": 1}
ABSURD = [
    {"prompt_tokens": 5},
    {"prompt_tokens": None, "completion_tokens": 1},
    {"prompt_tokens": True, "completion_tokens": 1},
    {"prompt_tokens": 5.0, "completion_tokens": 1},
    {"prompt_tokens": "5", "completion_tokens": 1},
    {"prompt_tokens": -1, "completion_tokens": 1},
    {"prompt_tokens": 5, "completion_tokens": -1},
    {"prompt_tokens": 2**63, "completion_tokens": 1},
    {"prompt_tokens": 9, "total_tokens": 4},
    {"prompt_tokens": 9, "total_tokens": 12, "completion_tokens": None},
    {"input_tokens": 9},
    {"input_tokens": 9, "output_tokens": 1, "cache_read_input_tokens": -4},
    {"input_tokens": 2**62, "output_tokens": 1, "cache_read_input_tokens": 2**62},
]
NO_COUNTS = [None, 3, [], {}, {"type": "duration", "seconds": 3}]


def tally(*usages: object, choices: int = 1, limit: int | None = None) -> Tally:
    found = Tally(choices, limit)
    for usage in usages:
        found.note_whole(Raw(encode(usage)))
    return found


@pytest.mark.parametrize("found", ABSURD + NO_COUNTS)
def test_F023_what_is_absurd_or_missing_is_unknown_not_zero(found: object) -> None:
    assert parse_usage(found) is None
    assert tally(found).usage is None
    assert not tally(found).is_final


@pytest.mark.parametrize("found", ABSURD)
def test_F023_what_is_absurd_is_flagged_and_what_was_known_stays(found: object) -> None:
    assert tally(found).is_implausible
    assert (tally(BASE, found).usage, tally(BASE, found).is_implausible) == (Usage(5, 1), True)
    running = Tally(1, None)
    for usage in (BASE, found):
        running.note_running(Raw(encode(usage)), [Choice(0)])
    assert (running.usage, running.is_implausible) == (Usage(5, 1), True)


@pytest.mark.parametrize("found", NO_COUNTS)
def test_F023_control_where_nothing_is_said_nothing_is_flagged(found: object) -> None:
    assert not tally(found).is_implausible
    assert not tally(BASE, found).is_implausible


@pytest.mark.parametrize(
    ("usages", "limit"),
    [
        ([{"prompt_tokens": 0, "completion_tokens": 1}], None),
        ([{"prompt_tokens": 5, "completion_tokens": 9}], 8),
        ([{"prompt_tokens": 5, "completion_tokens": 9}, {"prompt_tokens": 5, "completion_tokens": 8}], None),
        ([{"prompt_tokens": 5, "completion_tokens": 9}, {"prompt_tokens": 4, "completion_tokens": 9}], None),
        ([BASE | {"prompt_tokens_details": {"cached_tokens": 6}}], None),
        ([BASE | {"completion_tokens_details": {"reasoning_tokens": 2}}], None),
    ],
)
def test_F023_a_lie_is_kept_as_said_and_flagged(usages: list[dict], limit: int | None) -> None:
    found = tally(*usages, limit=limit)
    assert found.usage == parse_usage(usages[-1])
    assert found.is_final
    assert found.is_implausible


def test_F023_control_what_can_be_true_is_not_flagged() -> None:
    details = {
        "prompt_tokens_details": {"cached_tokens": 5},
        "completion_tokens_details": {"reasoning_tokens": 1},
    }
    assert not tally(BASE, BASE | details, limit=1).is_implausible
    assert not tally({"prompt_tokens": 7, "total_tokens": 7}).is_implausible
    assert not Tally(1, 1).is_implausible


def test_details_may_be_absent_null_or_odd() -> None:
    for details in (None, 7, {}, {"cached_tokens": None}, {"cached_tokens": -1}):
        assert parse_usage(BASE | {"prompt_tokens_details": details}) == Usage(5, 1)
    cached = {"cached_tokens": 0, "created_cache_tokens": 5}
    assert parse_usage(BASE | {"prompt_tokens_details": cached}) == Usage(5, 1, 0)


def test_anthropics_input_is_without_what_came_from_the_cache() -> None:
    found = {"input_tokens": 6, "output_tokens": 4, "cache_read_input_tokens": 64, "cache_creation_input_tokens": 16}
    assert parse_usage(found) == Usage(86, 4, 64)
    assert parse_usage({"input_tokens": 6, "output_tokens": 4, "cache_read_input_tokens": None}) == Usage(6, 4)


def test_running_usage_is_the_sum_over_choices_with_each_prompt_once() -> None:
    found = Tally(2, None)
    for index, prompt, completion in ((0, 5, 1), (1, 5, 2), (2, 3, 4), (2, 3, 6), (-1, 9, 9)):
        found.note_running(Raw(encode({"prompt_tokens": prompt, "completion_tokens": completion})), [Choice(index)])
    assert (found.usage, found.is_final, found.is_implausible) == (Usage(8, 9), False, False)
    found.note_running(Raw(encode({"prompt_tokens": 3, "completion_tokens": 5})), [Choice(2)])
    assert (found.usage, found.is_implausible) == (Usage(8, 8), True)


def test_a_running_usage_may_have_another_shape() -> None:
    found = Tally(1, None)
    found.note_running(Raw(b'{"input_tokens":5,"output_tokens":2,"x":NaN}'), [Choice(0)])
    assert (found.usage, found.is_implausible) == (Usage(5, 2), False)


def test_a_sum_beyond_a_bigint_is_unknown() -> None:
    found = Tally(1, None)
    for index in range(2):
        found.note_running(Raw(encode({"prompt_tokens": 1, "completion_tokens": 2**63 - 1})), [Choice(index)])
    assert found.usage is None
