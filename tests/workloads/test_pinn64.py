"""Physics in float64: nothing that the relative error rests on is rounded to float32."""

import math

import numpy as np
import pytest
import torch

from harness.catalog.definition import define, load_workload, tree_of
from harness.train.task import Task
from workloads.pde import collocation

NAMES = ("pinn_poisson64", "pinn_burgers64")


def made(name):
    definition = define(name, tree_of(name), "mini", None)
    definition.block["data"]["points"] = 500
    return load_workload(definition), definition.config


def task_of(name, seed=0):
    module, config = made(name)
    torch.manual_seed(seed)
    data = module.data(config, "train", seed)
    return Task(module, config, data, module.model(config), seed, 10)


class Exact(torch.nn.Module):
    """The solution of Poisson's equation, with its exact derivatives."""

    def __init__(self, amplitude):
        super().__init__()
        self.amplitude = amplitude

    def forward(self, points):
        return self.amplitude * (math.pi * points).sin().prod(1)

    def curvatures(self, points, axes):
        u = self(points)
        return u, None, [-(math.pi**2) * u for _ in axes]


def test_the_exact_solution_solves_the_problem_to_double_precision():
    module, config = made("pinn_poisson64")
    for seed in (0, 1):
        amplitude, _ = collocation.draw(config, seed, 1.0)
        data = module.data(config, "train", seed)
        batch = module.batch(data, torch.arange(100), config)
        assert float(module.loss(Exact(amplitude), batch)) < 1e-26
        val = module.data(config, "val", seed)
        sums = module.metric(Exact(amplitude), module.batch(val, torch.arange(50), config))
        assert module.score({k: float(v) for k, v in sums.items()})["relative_error"] < 1e-14


@pytest.mark.parametrize("name", NAMES)
def test_points_weights_and_values_are_float64(name):
    task = task_of(name)
    low, high = task.box
    points = low + (high - low) * torch.rand(7, 2)  # as the samplers draw them, in float32
    for batch in (task.next_batch(), task.batch_at(points)):
        kinds = {k: v.dtype for k, v in batch.items() if v.is_floating_point() and v.ndim}
        assert set(kinds.values()) == {torch.float64}
    assert all(p.dtype == torch.float64 for p in task.params)
    assert task.forward_backward(task.next_batch()).dtype == torch.float64
    module, config = made(name)
    val = module.data(config, "val", 0)
    assert {t.dtype for t in val.values()} == {torch.float64}


@pytest.mark.parametrize("name", NAMES)
def test_it_is_the_problem_of_the_float32_workload(name):
    module, config = made(name)
    base = load_workload(define(name[:-2], tree_of(name[:-2]), "mini", None))
    for split in ("train", "val"):
        ours, theirs = module.data(config, split, 3), base.data(config, split, 3)
        assert ours.keys() == theirs.keys()
        for key, value in theirs.items():
            np.testing.assert_allclose(ours[key], value, rtol=3e-7, atol=1e-7, err_msg=key)


def test_initial_values_are_not_rounded():
    module, config = made("pinn_burgers64")
    data = module.data(config, "train", 0)
    expected = -np.sin(np.pi * data["initial"][:, 0].numpy())
    np.testing.assert_allclose(data["initial_values"], expected, rtol=0, atol=1e-15)
    coefficient, _ = collocation.draw(config, 0, config.data.viscosity)
    assert float(data["coefficient"]) == coefficient


@pytest.mark.slow
@pytest.mark.parametrize("submission", ["levenberg_marquardt", "ssbroyden"])
def test_second_order_methods_go_below_what_float32_allows(submission):
    from harness.catalog import discover, space
    from harness.train.submission import Submission

    task = task_of("pinn_poisson64")
    card = discover.read(discover.find(submission))
    at_work = Submission(card, space.default(card.literals["SPACE"]), task)
    first = float(task.forward(task.next_batch()))
    task.horizon = 150
    for _ in range(150):
        at_work.step()
        task.step += 1
    assert float(task.forward(task.next_batch())) < 1e-5 * first
