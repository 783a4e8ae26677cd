"""MoMo: momentum whose step size is capped by the gap between a model of the loss and its bound.

Schaipp, Ohana, Eickenberg, Defazio and Gower, "MoMo: Momentum Models for Adaptive Learning Rates",
arXiv 2305.07583, Algorithm 1. f is the batch's loss, f* a lower bound of the loss.

    m, f̄, γ ← averages (β) of g, f and ⟨g, p⟩, at first g, f, ⟨g, p⟩ themselves
    τ = min(lr, max(0, (1 + lr·wd)(f̄ − f* − γ) + ⟨m, p⟩)/‖m‖²);  p ← (p − τ·m)/(1 + lr·wd)

State: m, one word per parameter; f̄, γ and the step.
Departures from the paper: warm-up and decay of lr.
"""

import torch

from harness import ops
from harness.schedules import warmup_cosine
from submissions.first_order import prodigy

SPACE = {
    "lr": {"log": [0.1, 10.0]},
    "wd": {"log": [1e-5, 1e-2]},
    "beta": 0.9,
    "lower": 0.0,
    "warmup": 0.05,
}


def dot(a, b):
    return prodigy.total(torch.dot(x.flatten(), y.flatten()) for x, y in zip(a, b, strict=True))


def average(grads, params, loss, state, share):
    """Update the averages of g, of the loss and of ⟨g, p⟩."""
    state["mean"] += share * (loss - state["mean"])
    state["gamma"] += share * (dot(grads, params) - state["gamma"])
    torch._foreach_lerp_(state["m"], grads, share)


def move_(params, u, state, lr, wd, rho, lower):
    """Make the capped step along u, which is m over its scale; ρ is the averages' weight."""
    shrink, square = 1.0 + lr * wd, dot(state["m"], u)
    gap = shrink * (state["mean"] - rho * lower - state["gamma"]) + dot(state["m"], params)
    length = min(lr / rho, max(gap, 0.0) / square) if square else 0.0
    torch._foreach_add_(params, u, alpha=-length)
    torch._foreach_mul_(params, 1.0 / shrink)


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.state = {"m": ops.zeros(task.params), "mean": 0.0, "gamma": 0.0, "step": 0}

    def step(self):
        loss = self.task.forward_backward(self.task.next_batch())
        update = self.update(float(loss))
        ops.apply(update, self.task.params, self.state, self.hp, self.task.progress)
        return loss

    def update(self, loss):
        """Return an update that knows the loss of its batch."""

        def update(params, grads, state, hp, progress):
            average(grads, params, loss, state, 1.0 - hp.beta if state["step"] else 1.0)
            state["step"] += 1
            lr = hp.lr * warmup_cosine(progress, hp.warmup)
            move_(params, state["m"], state, lr, hp.wd, 1.0, hp.lower)

        return update

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state
