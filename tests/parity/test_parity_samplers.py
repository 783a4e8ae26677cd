"""Samplers of collocation points choose them as a second implementation does, round by round.

The submission trains on the convection workload; the points it moves to are compared with numpy
code written from the papers, given the residuals where they were needed. What is drawn at random is
drawn again from an equal generator. (The training itself is AdamW's, whose parity is its own.)
"""

import math

import numpy as np
import pytest
import torch

from harness.seeds import derive
from tests.parity.test_parity import Row
from tests.workloads.test_pinn import at_work, task_of

BATCH, ROUNDS, STEPS = 40, 25, 100


def small():
    return task_of("convection", steps=STEPS, batch=BATCH, model={"width": 8})


class Replay:
    """The task's box and a generator equal to the submission's, to draw points again."""

    def __init__(self, task):
        self.low, self.high = task.box.numpy()
        self.generator = torch.Generator().manual_seed(derive(0, "submission"))

    def uniform(self, count):
        u = torch.rand(count, len(self.low), generator=self.generator).numpy()
        return self.low + (self.high - self.low) * u


def fixed(replay, points, residuals, t, again):
    return points


def uniform(replay, points, residuals, t, again):
    return replay.uniform(len(points))


def r3(replay, points, residuals, t, again, gate=1.0):
    """Points with a residual above the mean stay, others are drawn anew (arXiv 2207.02338)."""
    fitness = np.abs(residuals) * gate
    new = replay.uniform(len(points))
    return np.where((fitness > fitness.mean())[:, None], points, new)


class Causal:
    """R3 behind a gate that opens in time."""

    def __init__(self, speed, tolerance):
        self.c, self.speed, self.tolerance = -0.5, speed, tolerance

    def __call__(self, replay, points, residuals, t, again):
        tau = (points[:, -1] - replay.low[-1]) / (replay.high[-1] - replay.low[-1])
        gate = (1 - np.tanh(5 * (tau - self.c))) / 2
        chosen = r3(replay, points, residuals, t, again, gate)
        risen = min(math.exp(-self.tolerance * ((gate * residuals) ** 2).mean()), 0.1)
        self.c += 2 * self.speed / STEPS * risen / 0.1
        return chosen


def drawn(replay, count, k, c, again):
    """Points of a dense set by p ∝ |r|^k/mean + c, without repetition (arXiv 2207.10289)."""
    dense = replay.uniform(20 * BATCH)
    power = np.abs(again(dense)).astype(np.float64) ** k
    p = torch.from_numpy(power / power.mean() + c)
    return dense[torch.multinomial(p, count, generator=replay.generator).numpy()]


def rad(replay, points, residuals, t, again):
    return drawn(replay, len(points), 1.0, 1.0, again) if t % 100 == 99 else points


def rar_d(replay, points, residuals, t, again):
    """A twentieth of the points gives way, the oldest of the second half first."""
    if t % 100 != 99:
        return points
    new = drawn(replay, round(0.05 * BATCH), 2.0, 0.0, again)
    return np.concatenate([points[: BATCH // 2], points[BATCH // 2 + len(new) :], new])


ROWS = [
    Row("fixed", fixed, package=""),
    Row("uniform", uniform, package=""),
    Row("r3", r3, package=""),
    Row("causal_r3", Causal(4.0, 20.0), {"speed": 4.0, "tolerance": 20.0}, package=""),
    Row("rad", rad, {"k": 1.0, "c": 1.0}, package=""),
    Row("rar_d", rar_d, {"k": 2.0, "c": 0.0, "share": 0.05}, package=""),
]


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_sampler_equals_its_formula(row):
    task = small()
    replay, submission = Replay(task), at_work(task, row.submission, **row.hp)
    points = replay.uniform(BATCH)
    task.step = STEPS - ROUNDS + 10  # rad and rar_d choose at step 99
    moved = 0
    for _ in range(ROUNDS):
        state = submission.algorithm.state["points"]
        np.testing.assert_allclose(state.numpy(), points, rtol=0, atol=1e-6)
        frozen = {n: v.clone() for n, v in task.model.state_dict().items()}

        def again(dense, frozen=frozen):
            """Residuals at points, by the weights before the step, from a task of its own."""
            other = small()
            other.model.load_state_dict(frozen)
            batch = other.batch_at(torch.from_numpy(dense.astype(np.float32)))
            return other.terms(batch)["residual"].numpy()

        submission.step()
        residuals = task.last_terms["residual"].numpy()
        before, points = points, row.second(replay, points, residuals, task.step, again)
        moved += not np.array_equal(before, points)
        task.step += 1
    assert bool(moved) == (row.submission != "fixed")
