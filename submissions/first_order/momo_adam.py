"""MoMo-Adam: Adam whose rate is capped by the gap between a model of the loss and its bound.

Schaipp, Ohana, Eickenberg, Defazio and Gower, "MoMo: Momentum Models for Adaptive Learning Rates",
arXiv 2305.07583, Algorithm 3. f is the batch's loss, f* a lower bound of the loss.

    m, f̄, γ ← averages (β1, from 0) of g, f and ⟨g, p⟩;  D = √v̂ + eps;  ρ = 1 − β1ᵗ
    τ = min(lr/ρ, max(0, (1 + lr·wd)(f̄ − ρ·f* − γ) + ⟨m, p⟩)/⟨m, m/D⟩)
    p ← (p − τ·m/D)/(1 + lr·wd)

State: m and v, two words per parameter; f̄, γ and the step.
Departures from the paper: warm-up and decay of lr.
"""

import torch

from harness import ops
from harness.schedules import warmup_cosine
from submissions.first_order import momo

SPACE = {
    "lr": {"log": [3e-3, 1e-1]},
    "wd": {"log": [1e-3, 1e-1]},
    "beta1": 0.9,
    "beta2": {"choice": [0.999, 0.99]},
    "lower": 0.0,
    "eps": 1e-8,
    "warmup": 0.05,
}


class Algorithm(momo.Algorithm):
    def __init__(self, task, hp):
        super().__init__(task, hp)
        self.state["v"] = ops.zeros(task.params)

    def update(self, loss):
        """Return an update that knows the loss of its batch."""

        def update(params, grads, state, hp, progress):
            state["step"] += 1
            momo.average(grads, params, loss, state, 1.0 - hp.beta1)
            torch._foreach_mul_(state["v"], hp.beta2)
            torch._foreach_addcmul_(state["v"], grads, grads, value=1.0 - hp.beta2)
            scale = torch._foreach_div(state["v"], 1.0 - hp.beta2 ** state["step"])
            torch._foreach_sqrt_(scale)
            torch._foreach_add_(scale, hp.eps)
            lr, rho = hp.lr * warmup_cosine(progress, hp.warmup), 1.0 - hp.beta1 ** state["step"]
            u = torch._foreach_div(state["m"], scale)
            momo.move_(params, u, state, lr, hp.wd, rho, hp.lower)

        return update
