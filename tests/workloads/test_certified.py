"""Intervals of scores: they hold every point of a box, and are exact where they can be."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from submissions.data import ibp
from tests.support import nets
from tests.support.nets import Adam, rate
from tests.workloads.test_labels import opened, raced


@pytest.fixture(scope="module")
def certified():
    return opened("certified")


def test_bounds_hold_every_point_of_the_box(certified):
    model, generator = certified.model(), torch.Generator().manual_seed(0)
    batch = certified.module.batch(certified.splits["val"], torch.arange(30), certified.config)
    low, high = certified.module.bounds(model, batch, batch["radius"])
    for _ in range(50):
        way = torch.rand(batch["inputs"].shape, generator=generator).mul(2).sub(1).sign()
        scores = model((batch["inputs"] + 0.1 * way).clamp(0, 1))
        assert bool((low - 1e-4 <= scores).all())
        assert bool((scores <= high + 1e-4).all())
    exact = certified.module.bounds(model, batch, torch.tensor(0.0))
    assert torch.allclose(exact[0], model(batch["inputs"]), atol=1e-4)
    assert torch.allclose(exact[0], exact[1], atol=1e-4)


def test_bounds_of_a_linear_model_are_reached(certified):
    from workloads.models.pixels import PixelNet

    config = certified.config.model
    config = type(config)(**{**vars(config), "depth": 0})
    model = PixelNet(config)
    batch = certified.module.batch(certified.splits["val"], torch.arange(10), certified.config)
    low, high = certified.module.bounds(model, batch, torch.tensor(0.1))
    weight = model.readout.weight
    for c in range(10):
        for bound, sign in ((high, 1), (low, -1)):
            x = (batch["inputs"] + 0.1 * sign * weight[c].sign()).clamp(0, 1)
            assert torch.allclose(model(x)[:, c], bound[:, c], atol=1e-3)


def test_certified_accuracy_is_at_most_accuracy_under_attack(certified):
    model = certified.model()
    metrics = certified.metrics(model)
    assert 0 <= metrics["certified_accuracy"] <= metrics["accuracy"]


def test_ibp_equals_its_second_loop():
    """A linear model, where the worst scores have a closed form: x moved against each margin."""
    hp = {"lr": 0.02, "wd": 0.1, "beta2": 0.95, "radius": 0.2, "clean": 0.3, "ramp": 0.5}

    def bounds(model, batch, radius):
        middle = model(batch["inputs"])
        half = radius * model.weight.abs().sum(dim=1)
        return middle - half, middle + half

    task = nets.task()
    torch.manual_seed(0)
    task.model = torch.nn.Linear(8, 3).double()
    start = {n: p.detach().numpy().copy() for n, p in task.model.named_parameters()}
    task._workload.bounds = bounds
    submission = nets.submitted("ibp", task, **hp, start="torch")
    stream, weights, optimizer = nets.task(), start, Adam(beta2=0.95)
    for t in range(nets.STEPS):
        share = min(1.0, (t + 0.5) / nets.STEPS / 0.5)
        radius, clean = share * 0.2, 1 - share * 0.7
        batch = stream.next_batch()
        x, y = batch["inputs"].numpy(), batch["targets"].numpy()
        grads = {n: np.zeros_like(w) for n, w in weights.items()}
        for row, label in zip(x, y):
            # Each class sees the input that is worst for it.
            sides = np.where(np.arange(3) == label, -1.0, 1.0)[:, None]
            moved = row + radius * sides * np.sign(weights["weight"])
            for inputs, part in ((np.tile(row, (3, 1)), clean), (moved, 1 - clean)):
                scores = (weights["weight"] * inputs).sum(1) + weights["bias"]
                p = np.exp(scores - scores.max())
                d = part * (p / p.sum() - np.eye(3)[label]) / len(y)
                grads["weight"] += d[:, None] * inputs
                grads["bias"] += d
        optimizer.step(weights, grads, hp["lr"] * rate(t), hp["wd"])
    ours = nets.run(submission)
    assert nets.difference(ours, weights) <= 1e-9


def test_ibp_starts_where_intervals_keep_their_width():
    """At N(0, 2π/fan-in²) the mean half width of a layer's intervals is that of its inputs."""
    generator, half = torch.Generator().manual_seed(0), torch.ones(1000)
    weight = torch.randn(1000, 1000, generator=generator) * (math.sqrt(2 * math.pi) / 1000)
    after = F.linear(half, weight.abs())
    # Half of it is left by a rectifier that is active for half of the units.
    assert float(after.mean()) == pytest.approx(2.0, rel=0.01)


def test_worst_scores_of_a_computed_example():
    low, high = torch.tensor([[0.0, 1.0]]), torch.tensor([[2.0, 3.0]])
    assert ibp.worst(low, high, torch.tensor([1])).tolist() == [[2.0, 1.0]]


@pytest.mark.slow
def test_certified_separates_intervals_from_plain_training(certified):
    goal = certified.definition.block["goal"]["certified_accuracy"]["at_least"]
    assert raced(certified, "adamw", 3000, lr=1e-3)["certified_accuracy"] < 0.1
    assert raced(certified, "ibp", 1000, lr=3e-3)["certified_accuracy"] >= goal
