"""Times between two evaluations: exact on closed forms, monotone, unmoved by bystanders."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.records.judging import conditions_hold, crossing, interpolated_time
from tests.support import records

GOAL = {"loss": {"at_most": 1.0}}


def rows(curves: dict, goal: dict, width: float = 2.5) -> list[dict]:
    """Return evaluations every `width` seconds of metrics given as lists."""
    points = [
        dict(zip(curves, values, strict=True)) for values in zip(*curves.values(), strict=True)
    ]
    return [
        {"step": 50 * i, "seconds": width * i, "metrics": m, "goal": conditions_hold(goal, m)}
        for i, m in enumerate(points)
    ]


def time(curves: dict, goal: dict) -> float:
    evaluated = rows(curves, goal)
    at = crossing(evaluated)
    return math.inf if at is None else interpolated_time(evaluated, goal, at)


@given(st.floats(0.02, 0.3), st.floats(2.0, 50.0))
def test_exact_on_an_exponential_decay(rate, start):
    curve = [start * math.exp(-rate * 2.5 * i) for i in range(400)]
    assert time({"loss": curve}, GOAL) == pytest.approx(math.log(start) / rate, rel=1e-6, abs=1e-9)


@given(st.floats(0.001, 0.02), st.floats(0.0, 0.4))
def test_exact_on_a_line_of_a_quality(rate, start):
    curve = [start + rate * 2.5 * i for i in range(500)]
    goal = {"accuracy": {"at_least": 0.8}}
    assert time({"accuracy": curve}, goal) == pytest.approx((0.8 - start) / rate, rel=1e-6)


def test_a_bound_of_zero_and_a_negative_metric_are_linear():
    for bound, curve in ((0.0, [3.0, 1.0, -1.0, -2.0]), (-1.0, [2.0, 0.0, -2.0, -3.0])):
        assert time({"x": curve}, {"x": {"at_most": bound}}) == pytest.approx(3.75)


noisy = st.lists(st.floats(0.1, 10.0), min_size=4, max_size=20)


@given(noisy, st.floats(0.2, 5.0), st.floats(1.0, 2.0))
def test_an_easier_target_is_not_reached_later(values, bound, factor):
    curve = {"loss": [20.0, *values]}
    hard, easy = (time(curve, {"loss": {"at_most": b}}) for b in (bound, bound * factor))
    assert easy <= hard + 1e-9


@given(noisy, st.floats(0.2, 9.0))
def test_within_the_two_evaluations(values, bound):
    goal = {"loss": {"at_most": bound}}
    evaluated = rows({"loss": [20.0, *values]}, goal)
    at = crossing(evaluated)
    if at is not None:
        result = interpolated_time(evaluated, goal, at)
        assert evaluated[at - 1]["seconds"] <= result <= evaluated[at]["seconds"]


@given(noisy, st.lists(st.floats(-5.0, 5.0), min_size=21, max_size=21))
def test_a_metric_that_is_not_in_the_goal_changes_nothing(values, bystander):
    values = [20.0, *values]
    alone = time({"loss": values}, GOAL)
    assert time({"loss": values, "x": bystander[: len(values)]}, GOAL) == alone


def test_the_last_of_several_conditions_decides():
    goal = GOAL | {"sparsity": {"at_least": 0.8}}
    curve = [4.0, 2.0, 0.5, 0.4]
    assert time({"loss": curve, "sparsity": [0.8] * 4}, goal) == pytest.approx(3.75)
    assert time({"loss": curve, "sparsity": [0.0, 0.0, 0.8, 0.8]}, goal) == pytest.approx(5.0)
    assert time({"loss": curve, "sparsity": [0.0, 0.72, 0.88, 0.9]}, goal) == pytest.approx(3.75)


@pytest.mark.parametrize("before", [None, math.nan, math.inf])
def test_nothing_is_interpolated_from_a_value_that_is_missing(before):
    assert time({"loss": [4.0, before, 0.5, 0.4]}, GOAL) == 5.0


def test_a_goal_that_held_before_training_is_reached_at_the_first_evaluation():
    assert time({"loss": [0.9, 0.8, 0.7]}, GOAL) == 2.5


def test_a_record_has_its_interpolated_time(tmp_path):
    run = records.read_folder(records.folder(tmp_path, *records.record(crossing=12)))
    before, after = (run.curve[i][2] for i in (11, 12))
    share = math.log(before / 3.0) / math.log(before / after)
    assert run.interpolated == pytest.approx(2.5 * (11 + share), rel=1e-6)
    assert 27.5 < run.interpolated < run.time == 30.0
    missed = records.read_folder(records.folder(tmp_path, *records.record(crossing=None, seed=2)))
    assert missed.interpolated == math.inf
