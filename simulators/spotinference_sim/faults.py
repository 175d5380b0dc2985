"""What the simulated Hyperstack does wrong, each fault a switch: the right column of the reference's section 9.

Owns the switches with three values each: honest (nothing wrong), default (what the real service is believed to
do) and worst. Does not own what they do (`hyperstack_*`, `fault_scenes`). The truth never depends on them.
Price changes, failed wakes that cost money, other types and late corrections change the truth, so they are
features of a scenario (`features`). Shares are of calls and draws are seeded: equal calls at equal instants err alike.
"""

from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, Literal, get_type_hints

import msgspec

Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Count = Annotated[int, msgspec.Meta(ge=0)]
Percent = Annotated[int, msgspec.Meta(ge=0, le=90)]
Stretch = tuple[int, int] | None
"""Seconds since the scenario's first midnight, half-open; None is never."""
SIX_HOURS = (43_200, 64_800)
A_DAY = (43_200, 129_600)


_HONEST: dict[str, Any] = {
    "refresh_s": 0,
    "out_of_step": False,
    "history_lag_s": 0,
    "odd_state_times": False,
    "cluster_remainder": "off",
    "wrong_counters": False,
    "page_drift": 0.0,
    "flaky_share": 0.0,
    "rate_limit": 0,
    "latency_s": (0.0, 0.0),
}
"""Where an honest service differs from the defaults."""
_WORST: dict[str, dict[str, Any]] = {
    "revoked_s": {"revoked_s": SIX_HOURS},
    "dates_optional": {"dates_optional": True},
    "schema_keys": {"schema_keys": True},
    "refresh_s": {"refresh_s": 300},
    "out_of_step": {"out_of_step": True, "refresh_s": 60},
    "stuck_counter": {"stuck_counter": True},
    "negative_step": {"negative_step": True},
    "history_lag_s": {"history_lag_s": 240},
    "never_settle": {"never_settle": True, "history_lag_s": 240},
    "month_boundary": {"month_boundary": True},
    "usage_hours": {"usage_hours": True},
    "odd_state_times": {"odd_state_times": True},
    "cluster_remainder": {"cluster_remainder": "list"},
    "wrong_counters": {"wrong_counters": True},
    "page_drift": {"page_drift": 1.0},
    "empty_lists": {"empty_lists": "404"},
    "flaky_share": {"flaky_share": 1.0},
    "flaky_html": {"flaky_html": True, "flaky_share": 1.0},
    "rate_limit": {"rate_limit": 10},
    "retry_after": {"retry_after": True, "rate_limit": 10},
    "outage_s": {"outage_s": A_DAY},
    "outage_status": {"outage_status": 429, "outage_s": A_DAY},
    "coarse_graphs": {"coarse_graphs": True},
    "empty_events": {"empty_events": True},
    "offsets": {"offsets": True},
    "latency_s": {"latency_s": (5.0, 10.0)},
    "slow_share": {"slow_share": 0.5},
    "hang_share": {"hang_share": 0.5},
    "reset_share": {"reset_share": 0.5},
    "failing_restore": {"failing_restore": True},
    "exclude_billing": {"exclude_billing": True},
    "discount_percent": {"discount_percent": 20},
    "unknown_status": {"unknown_status": True},
    "unknown_type": {"unknown_type": True},
    "extra_fields": {"extra_fields": True},
    "empty_usage_share": {"empty_usage_share": 0.5},
}
"""The worst of each fault, with what it needs to show."""


@dataclass(frozen=True, slots=True)
class Faults:
    """All switches. `Faults()` is the reference's default column, `Faults.none()` an honest service."""

    revoked_s: Stretch = None
    """Stretch in which the key is refused with 401."""
    dates_optional: bool = False
    """History without dates is answered: the month so far."""
    schema_keys: bool = False
    """Envelopes and wrapper keys of the published schemas instead of the real ones."""
    refresh_s: Count = 60
    """Counters of usage move once in so many seconds, each resource at a second of its own; 0: always."""
    out_of_step: bool = True
    """`total_up_time` moves at another second than `total_bill`."""
    stuck_counter: bool = False
    """On some days `total_bill` of some resources stands still for one to six hours, then catches up."""
    negative_step: bool = False
    """`total_bill` of one resource falls once by up to 5 cents and stays that much too low; history does not."""
    history_lag_s: Count = 240
    """The counters of a history row lag by 0 to so many seconds, each by its own, until 2 h after the window's end."""
    never_settle: bool = False
    """They stay off by that for ever."""
    month_boundary: bool = False
    """A bill of a window of a week or more is up to a minute's cost off the sum of its days, each line by its own."""
    usage_hours: bool = False
    """`usage_time` and its like are in hours, as documented; they are in seconds."""
    odd_state_times: bool = True
    """The times per state of a machine may be negative or missing."""
    cluster_remainder: Literal["off", "category", "list"] = "category"
    """off: the total has `cluster_cost`; category: it has not, so its parts fall short; list: no history line either."""
    wrong_counters: bool = True
    """`total_count` and `pages` of history lists are wrong."""
    page_drift: Share = 0.05
    """Share of pages after the first that begin a row too early or too late: a row comes twice or not at all."""
    empty_lists: Literal["real", "404", "empty"] = "real"
    """History lists without rows; real: 404 for clusters, contracts and AI, an empty list for the others."""
    flaky_share: Share = 0.05
    """Share of calls to the five flaky endpoints that get 500, in two shapes."""
    flaky_html: bool = False
    """Those answers are pages of HTML."""
    rate_limit: Count = 500
    """429 after so many calls in one minute, until it ends; 0: no limit."""
    retry_after: bool = False
    """429 carries `Retry-After`."""
    outage_s: Stretch = None
    """Stretch in which every call is answered with `outage_status`."""
    outage_status: Literal[500, 502, 503, 429] = 500
    """500 in two shapes, 502 and 503 as HTML, 429 as the rate limit's."""
    coarse_graphs: bool = False
    """`granularity` is always 86400."""
    empty_events: bool = False
    """Billing events are an empty list."""
    offsets: bool = False
    """Instants come with the offset +02:00 instead of with `Z` or without zone."""
    latency_s: tuple[float, float] = (0.2, 2.0)
    """Shortest and longest time that an answer takes."""
    slow_share: Share = 0.0
    """Share of calls that take 40 s."""
    hang_share: Share = 0.0
    """Share of calls that are never answered."""
    reset_share: Share = 0.0
    """Share of calls whose connection is reset."""
    failing_restore: bool = False
    """Hibernated machines try to wake by themselves, fail for lack of capacity and stay HIBERNATED."""
    exclude_billing: bool = False
    """One more volume with `exclude_billing`: its counter runs, nobody pays for it."""
    discount_percent: Percent = 0
    """List prices are such that what is paid is so many percent less: `non_discounted_*` are larger."""
    unknown_status: bool = False
    """For ten minutes of each hour a machine's status is a word that nobody documents."""
    unknown_type: bool = False
    """One more resource of an undocumented type in usage, free of charge."""
    extra_fields: bool = False
    """Every object of every answer has members that nobody documents."""
    empty_usage_share: Share = 0.0
    """Share of calls to usage whose `data` is empty although resources exist."""

    @classmethod
    def none(cls) -> "Faults":
        """Make an honest service."""
        return cls(**_HONEST)

    @classmethod
    def lag(cls) -> "Faults":
        """Make an honest service whose counters of usage move once a minute, and that takes its time."""
        return replace(cls.none(), refresh_s=60, out_of_step=True, latency_s=(0.2, 2.0))

    @classmethod
    def worst(cls, name: str, base: "Faults | None" = None) -> "Faults":
        """Set one fault to its worst, and what it needs to show; the others are as in `base`, else honest.

        Raises: ValueError when there is no such fault.
        """
        if name not in _WORST:
            raise ValueError(f"no fault {name!r}; there are: {', '.join(_WORST)}")
        return replace(base or cls.none(), **_WORST[name])

    def with_text(self, text: str) -> "Faults":
        """Set one fault from `NAME` (its worst) or `NAME=VALUE`, the value as JSON or as plain text.

        Raises: ValueError when there is no such fault or the value does not fit it.
        """
        name, has_value, value = text.partition("=")
        if not has_value:
            return Faults.worst(name, self)
        if name not in NAMES:
            raise ValueError(f"no fault {name!r}; there are: {', '.join(NAMES)}")
        try:
            read = msgspec.json.decode(value)
        except msgspec.DecodeError:
            read = value
        kind = get_type_hints(Faults, include_extras=True)[name]
        if name == "empty_lists":
            read = value  # a word, though 404 reads as a number
        try:
            return replace(self, **{name: msgspec.convert(read, kind)})
        except msgspec.ValidationError as error:
            raise ValueError(f"fault {name}: {error}, found {value!r}") from None


NAMES = tuple(each.name for each in fields(Faults))
"""All faults, for tests that try each."""
