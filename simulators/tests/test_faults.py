"""Every fault: it shows when it is on, not when it is off, and never touches the truth; and how faults are set.

What each of them does is in `test_hyperstack_faults`.
"""

from dataclasses import fields, replace
from datetime import date, timedelta

import pytest
from spotinference_sim.books import organisation_truth
from spotinference_sim.fault_scenes import as_seen
from spotinference_sim.faults import NAMES, Faults
from spotinference_sim.features import Features
from spotinference_sim.hyperstack_answers import HyperstackAnswers
from spotinference_sim.hyperstack_gate import HyperstackGate, Passage
from spotinference_sim.instants import DAY_S, HOUR_S, MINUTE_S, SECOND_US
from spotinference_sim.long_fleet import FIRST_VM_ID
from spotinference_sim.scenario import Scenario

FIRST = date(2026, 11, 20)
DAYS = 4
HISTORY = "/billing/billing/history"
USAGE = "/billing/billing/usage"
VMS = f"{HISTORY}/virtual-machine"
VM = f"{VMS}/{FIRST_VM_ID}"
EVENTS = f"/billing/billing/virtual-machine/{FIRST_VM_ID}/billing-events"
SECOND_DAY = {"start_date": "2026-11-21T00:00:00", "end_date": "2026-11-22T00:00:00"}
EVERY_S = 2 * HOUR_S + 11 * MINUTE_S


@pytest.fixture(scope="module")
def scenario() -> Scenario:
    return Scenario.long(5, FIRST, DAYS, (9, 5), Features.all())


def witness(scenario: Scenario, faults: Faults) -> list[Passage]:
    """Ask everything that any fault changes, often enough to see it."""
    questions: list[tuple[str, dict[str, str]]] = [(USAGE, {"deleted": "false"}), ("/core/virtual-machines", {})]
    questions += [("/pricebook", {}), (f"/core/virtual-machines/{FIRST_VM_ID + 1}/events", {}), (VMS, {})]
    for path in (HISTORY, VM, f"{VM}/graph", f"{HISTORY}/snapshot/52001", EVENTS, f"{HISTORY}/fine_tuning"):
        questions.append((path, SECOND_DAY))
    for kind in ("virtual-machine", "volume", "bucket", "cluster"):
        questions.append((f"{HISTORY}/{kind}", SECOND_DAY))
    never = {"start_date": "2026-01-01T00:00:00", "end_date": "2026-01-02T00:00:00"}
    month = {"start_date": "2026-11-01T00:00:00", "end_date": "2026-12-01T00:00:00"}
    questions += [(VMS, never), (VMS, month), (VMS, SECOND_DAY | {"per_page": "4", "page": "2"})]
    gate = HyperstackGate(HyperstackAnswers(scenario, faults=faults))
    instants = range(scenario.start_s + 7 * HOUR_S, scenario.start_s + 4 * DAY_S, EVERY_S)
    return [gate.passage(path, query, at_s * SECOND_US) for at_s in instants for path, query in questions]


@pytest.fixture(scope="module")
def honest(scenario: Scenario) -> list[Passage]:
    return witness(scenario, Faults.none())


@pytest.mark.parametrize("name", NAMES)
def test_a_fault_shows_and_leaves_the_truth_alone(name: str, scenario: Scenario, honest: list[Passage]) -> None:
    worst = Faults.worst(name)
    off = replace(worst, **{name: getattr(Faults.none(), name)})
    before = honest if off == Faults.none() else witness(scenario, off)
    shown = witness(scenario, worst)
    assert shown != before
    assert shown == witness(scenario, worst)
    for number in range(DAYS):
        day = FIRST + timedelta(days=number)
        seen = organisation_truth(as_seen(scenario, worst), day)
        assert replace(seen, excluded_femtos=0) == replace(organisation_truth(scenario, day), excluded_femtos=0)


def test_the_three_columns() -> None:
    assert Faults.worst("outage_status").outage_s is not None
    assert Faults.worst("refresh_s", Faults()).history_lag_s == 240
    assert {each.name for each in fields(Faults)} == set(NAMES)
    assert Faults.lag().refresh_s == 60
    with pytest.raises(ValueError, match="no fault 'nothing'; there are: revoked_s"):
        Faults.worst("nothing")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("refresh_s=12", 12),
        ("empty_lists=404", "404"),
        ("empty_lists=empty", "empty"),
        ("outage_s=[60,120]", (60, 120)),
        ("revoked_s=null", None),
        ("offsets", True),
        ("latency_s=[1,2]", (1.0, 2.0)),
        ("cluster_remainder=list", "list"),
    ],
)
def test_a_fault_is_set_by_text(text: str, value: object) -> None:
    assert getattr(Faults.none().with_text(text), text.partition("=")[0]) == value


@pytest.mark.parametrize("text", ["nothing", "nothing=1", "refresh_s=-1", "page_drift=1.5", "offsets=maybe"])
def test_a_fault_that_does_not_fit_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="fault"):
        Faults.none().with_text(text)
