"""Laws of early ending: nothing ends that earlier trials say may still arrive; it is measured."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benches.hopeless import measure
from harness.cli import main
from harness.records import hopeless
from tests.support import racing

GOAL = {"loss": {"at_most": 3.0}}
RISING = {"accuracy": {"at_least": 0.9}}


def curve(
    end: float, speed: float = 3.0, start: float = 6.0, until: float = 1.0, points: int = 20
) -> list:
    """A loss that falls from `start` to `end` at the end of the budget."""
    shares = [i / points for i in range(points + 1) if i / points <= until + 1e-9]
    rest = math.exp(-speed)
    return [(p, end + (start - end) * (math.exp(-speed * p) - rest) / (1 - rest)) for p in shares]


EARLIER = [curve(2.9 + 0.05 * i) for i in range(12)]


def ended_at(rule, trial):
    return next((trial[i][0] for i in range(1, len(trial)) if rule.reason(trial[: i + 1])), None)


def test_a_trial_far_above_the_others_is_ended_and_one_among_them_is_not():
    rule = hopeless.bound(EARLIER, GOAL)
    assert ended_at(rule, curve(5.5)) is not None
    assert all(ended_at(rule, trial) is None for trial in EARLIER[:3])


def test_nothing_ends_before_a_quarter_of_the_budget_or_on_one_evaluation():
    rule = hopeless.bound(EARLIER, GOAL)
    flat = [(i / 20, 50.0) for i in range(21)]
    assert ended_at(rule, flat) == pytest.approx(hopeless.EARLIEST + 1 / 20)
    assert rule.reason([(0.9, 50.0)]) is None


def test_few_earlier_trials_end_nothing():
    assert hopeless.bound(EARLIER[: hopeless.LEAST - 1], GOAL) is None


def test_a_metric_that_must_rise_is_judged_by_its_rises():
    up = [[(p, 1 - v / 8) for p, v in trial] for trial in EARLIER]
    rule = hopeless.bound(up, {"accuracy": {"at_least": 1 - 3 / 8}})
    assert ended_at(rule, [(p, 1 - v / 8) for p, v in curve(5.5)]) is not None
    assert ended_at(rule, up[0]) is None


def test_values_that_are_not_finite_neither_end_a_trial_nor_enter_a_bound():
    rule = hopeless.bound([*EARLIER, [(0.5, math.nan), (1.0, math.inf)]], GOAL)
    assert rule == hopeless.bound(EARLIER, GOAL)
    assert rule.reason([(0.0, 6.0), (0.5, 3.01), (0.9, math.nan), (0.95, math.nan)]) is None


curves = st.lists(
    st.lists(st.floats(1, 9), min_size=5, max_size=9), min_size=hopeless.LEAST, max_size=16
)


@given(curves)
def test_no_trial_that_is_known_and_arrived_would_be_ended(values):
    trials = [[(i / (len(v) - 1), x) for i, x in enumerate(v)] for v in values]
    rule = hopeless.bound(trials, GOAL)
    assert all(ended_at(rule, t) is None for t in trials if min(v for _, v in t) <= 3.0)


def test_the_measure_counts_false_endings_and_savings():
    trials = [(f"s{i % 4}", True, curve(2.8, 3 + 0.1 * i, until=0.95)) for i in range(12)]
    trials += [(f"s{i % 4}", False, curve(5.0 + 0.1 * i)) for i in range(12)]
    found = measure(trials, GOAL)
    assert (found.reached, found.false, found.missed, found.rate) == (12, 0, 12, 0.0)
    assert found.ended >= 10
    assert 0.15 < found.saved < 0.45
    assert found.upper == pytest.approx(1 - 0.05 ** (1 / 12), rel=1e-6)
    late = [(p, 6.0 if p < 0.8 else 2.9) for p, _ in curve(3.0)]
    wrong = measure([*trials, ("late", True, late)], GOAL)
    assert (wrong.false, wrong.reached) == (1, 13)


def test_a_race_ends_a_hopeless_trial_only_when_asked(tmp_path, monkeypatch):
    """The first evaluations of a short race are far from its goal; earlier trials never fell."""
    import dataclasses

    flat = hopeless.Bound(((0.0, 1e-9),), 1.0, 1.0, 12)
    monkeypatch.setattr(hopeless, "bound_for", lambda definition, results: flat)
    trial = racing.trial("adamw", tmp_path, numbers={"goal": {"loss": {"at_most": 1.0}}})
    told = racing.race(dataclasses.replace(trial, hopeless=True)).record
    assert (told["outcome"], told["time"], told["step"]) == ("hopeless", None, 6)
    assert "none of 12 earlier trials" in told["reason"]
    again = racing.trial("adamw", tmp_path / "off", numbers={"goal": {"loss": {"at_most": 1.0}}})
    assert racing.race(again).record["outcome"] == "out_of_budget"


def test_the_setting_is_off_by_default_and_a_word_is_refused(capfd):
    assert main.main(["workload=gpt2", "submission=adamw", "hopeless=maybe", "dry=true"]) == 2
    assert (
        main.main(
            ["workload=gpt2", "submission=adamw", "tracker=none", "hopeless=true", "dry=true"]
        )
        == 0
    )
    capfd.readouterr()


def test_goals_of_several_conditions_are_left_alone():
    curves = [[(i / 10, 5.0 - 0.1 * i) for i in range(11)]] * 20
    goal = {"loss": {"at_most": 3.0}}
    assert hopeless.bound(curves, goal).reason([(0.3, 9.0), (0.4, 9.0)])
    assert hopeless.bound(curves, goal | {"sparsity": {"at_least": 0.8}}) is None
