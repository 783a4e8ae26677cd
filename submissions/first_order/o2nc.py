"""Exponentiated O2NC: momentum SGD with a random factor on every step, evaluated at an average.

Zhang and Cutkosky, "Random Scaling and Momentum for Non-smooth Non-convex Optimization", arXiv
2405.09742, Algorithm 2 with online gradient descent; online-to-nonconvex conversion: arXiv
2302.03775.

    Δ ← β·(Δ − lr·g)/(1 + lr·μ);  p ← p + s·Δ,  s ~ Exp(1), one number for all parameters
    x ← average·x + (1 − average)p is evaluated

With s = 1 and μ = 0 it is heavy-ball momentum.
State: Δ and x, two words per parameter; the number of steps in x.
Departures from the paper: a schedule of lr; x begins as a plain mean of the points.
"""

import torch

from harness import ops
from harness.schedules import warmup_cosine

ELEMENTWISE = True
SPACE = {
    "lr": {"log": [0.03, 1.0]},
    "beta": {"choice": [0.9, 0.95, 0.99]},
    "mu": {"log": [1e-4, 1.0]},
    "scaling": {"choice": ["exponential", "none"]},
    "average": {"choice": [0.9, 0.99]},
    "warmup": 0.05,
}


def init(params, hp):
    return {"way": ops.zeros(params), "x": ops.copies(params), "taken": 0}


def drawn(scaling):
    """Return the factor of this step."""
    if scaling == "none":
        return 1.0
    return float(torch.empty((), dtype=torch.float64).exponential_())


def average_(params, state, average):
    """Take the parameters into the average x."""
    state["taken"] += 1
    torch._foreach_lerp_(state["x"], params, max(1.0 - average, 1.0 / state["taken"]))


def update(params, grads, state, hp, progress):
    lr = hp.lr * warmup_cosine(progress, hp.warmup)
    torch._foreach_add_(state["way"], grads, alpha=-lr)
    torch._foreach_mul_(state["way"], hp.beta / (1.0 + lr * hp.mu))
    torch._foreach_add_(params, state["way"], alpha=drawn(hp.scaling))
    average_(params, state, hp.average)


def evaluate_view(params, state):
    return list(state["x"])
