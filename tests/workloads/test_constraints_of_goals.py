"""Goals of shipped variants are measured on the weights that training starts from."""

import pytest

from harness.catalog import data
from harness.catalog.definition import define, scales_of, tree_of
from harness.race.constraints import Constraints
from harness.race.evaluator import Evaluator
from harness.records.judging import conditions_hold

GOALS = [
    (name, variant, values["goal"])
    for name in ("compress_gpt2", "compress_vit", "ft_gpt2", "ft_vit")
    for variant, values in tree_of(name)["mini"]["variants"].items()
]


def measured(name, variant):
    """Return the goal and the metrics of the pretrained weights."""
    definition = define(name, tree_of(name), "mini", variant)
    start = data.prepare(definition, data.PRETRAINED)
    evaluator = Evaluator(definition, data.prepare(definition, "val"), "cpu", 0, start)
    weights = data.open_data(start)
    own = {k: v for k, v in evaluator._model.state_dict().items() if k not in weights}
    return definition.block["goal"], evaluator(weights | own, [True] * 4)


@pytest.mark.parametrize("variant", ["size_60", "w4a4", "family"])
def test_a_goal_of_compression_is_measured_and_not_met_at_the_start(variant):
    goal, metrics = measured("compress_gpt2", variant)
    assert goal.keys() <= metrics.keys()
    assert not conditions_hold(goal, metrics)
    dense = measured("compress_gpt2", None)[1]
    if variant == "w4a4":
        assert dense["loss"] < metrics["loss"] < dense["loss"] + 0.1
    else:
        assert metrics["loss"] == dense["loss"]
    if variant == "family":
        assert metrics["loss_first_50"] > dense["loss"]
    if variant == "size_60":
        assert metrics["size"] == 1.0


def test_what_is_retained_is_the_score_on_the_other_workload():
    goal, metrics = measured("ft_gpt2", "forget")
    assert metrics["retained"] == measured("compress_gpt2", None)[1]["loss"]
    assert metrics["loss"] > metrics["retained"]
    assert not conditions_hold(goal, metrics)


@pytest.mark.parametrize("name, variant, goal", GOALS, ids=lambda value: str(value)[:30])
def test_every_goal_of_the_family_can_be_read(name, variant, goal):
    Constraints(goal)
    assert scales_of(tree_of(name))[0] == "mini"
    assert next(iter(goal)) == "loss"
