"""RAD: every 100 steps, all points are drawn anew from a density that follows the residual.

Wu, Zhu, Tan, Kartha, Lu, "A comprehensive study of non-adaptive and residual-based adaptive
sampling for physics-informed neural networks", arXiv 2207.10289.

    every 100 steps  S = 20 batches of uniform points;  p(x) ∝ |r(x)|^k / mean |r|^k + c on S
    points ← as many of S as a batch has, drawn by p without repetition

State: AdamW's m and v, two words per parameter; the step; the points.
Departures from the paper: AdamW with warm-up and cosine decay, without the L-BFGS of later rounds.
"""

import torch

from submissions.samplers import uniform

PASSES = {"forward_backward": 1, "forward@batch=20": 0.01}
SPACE = {**uniform.SPACE, "k": 1.0, "c": 1.0}


def density(residuals, k, c):
    """Return the unnormalised probability of each point of a dense set."""
    power = residuals.abs().double() ** k
    return power / power.mean() + c


def dense(task):
    """Return twenty batches of uniform points, and their residuals."""
    points = uniform.draw(task, 20 * task.batch_size)
    return points, task.terms(task.batch_at(points))["residual"]


def choose(task, count, k, c):
    """Return `count` different points of a new dense set, drawn by the density."""
    points, residuals = dense(task)
    drawn = torch.multinomial(density(residuals, k, c).cpu(), count, generator=task.rng)
    return points[drawn.to(points.device)]


class Algorithm(uniform.Algorithm):
    def observe(self, points, residuals):
        if self.task.step % 100 == 99:
            self.state["points"] = choose(self.task, len(points), self.hp.k, self.hp.c)
