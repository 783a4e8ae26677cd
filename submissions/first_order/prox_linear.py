"""Prox-linear: damped Gauss-Newton steps, on a batch's residuals linearised around p.

Davis and Drusvyatskiy, "Stochastic Model-Based Minimization of Weakly Convex Functions", arXiv
1803.06523, the prox-linear model for f = ‖r(p)‖².

    d = argmin ‖r + Jd‖² + ‖d‖²/(2·lr);  p ← p + d

d solves (JᵀJ + I/(2·lr))d = −Jᵀr, by `ROUNDS` conjugate gradients of a Jacobian product each way.
It trains where the loss is a sum of squared residuals (physics-informed networks).
State: none.
Departures from the paper: d is inexact; lr falls as half a cosine.
"""

import torch

from harness.schedules import warmup_cosine
from submissions.first_order.momo import dot

TRACKS = ["train"]
# PASSES follows from it.
ROUNDS = 8
PASSES = {"forward": 1, "vjp": 9, "jvp": 8}
SPACE = {"lr": {"log": [1e-2, 1e3]}, "warmup": 0.0}


def conjugate_gradients(product, right, rounds):
    """Return an approximate x with product(x) = right, from 0; vectors are lists of tensors."""
    x, rest = [torch.zeros_like(b) for b in right], [b.clone() for b in right]
    way, size = [b.clone() for b in right], dot(right, right)
    for _ in range(rounds):
        image = product(way)
        curve = dot(way, image)
        length = size / curve if curve else 0.0
        torch._foreach_add_(x, way, alpha=length)
        torch._foreach_add_(rest, image, alpha=-length)
        size, last = dot(rest, rest), size
        torch._foreach_mul_(way, size / last if last else 0.0)
        torch._foreach_add_(way, rest)
    return x


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp

    def step(self):
        task, batch = self.task, self.task.next_batch()
        damping = 0.5 / (self.hp.lr * warmup_cosine(task.progress, self.hp.warmup))

        def product(way):
            image = task.vjp(batch, task.jvp(batch, way))
            torch._foreach_add_(image, way, alpha=damping)
            return image

        r = task.residuals(batch)
        slope = task.vjp(batch, r)
        with torch.no_grad():
            torch._foreach_neg_(slope)
        d = conjugate_gradients(product, slope, ROUNDS)
        with torch.no_grad():
            torch._foreach_add_([p.data for p in task.params], d)
        return r.square().sum()

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass
