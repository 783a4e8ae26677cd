"""LaProp: Adam that normalises the gradient first and averages afterwards.

Ziyin, Wang and Ueda, "LaProp: Separating Momentum and Adaptivity in Adam", arXiv 2002.04839,
Algorithm 1.

    v ← β2·v + (1 − β2)g²;  m ← β1·m + (1 − β1)·lr·g/(√v̂ + eps)
    p ← (p − m/(1 − β1ᵗ))(1 − lr·wd)

State: m and v, two words per parameter; the step.
Departures from the paper: decoupled decay after the step, times lr, where the authors' code leaves
lr out. That code divides m by the average of lr over lr, which is 1 − β1ᵗ for a constant lr.
"""

import torch

from harness import ops
from harness.schedules import warmup_cosine

ELEMENTWISE = True
SPACE = {
    "lr": {"log": [1e-3, 2e-2]},
    "wd": {"log": [1e-2, 1.0]},
    "beta1": {"choice": [0.9, 0.95]},
    "beta2": {"choice": [0.99, 0.999]},
    "eps": 1e-15,
    "warmup": 0.05,
}


def init(params, hp):
    return {"m": ops.zeros(params), "v": ops.zeros(params), "step": 0}


def update(params, grads, state, hp, progress):
    state["step"] += 1
    lr, t = hp.lr * warmup_cosine(progress, hp.warmup), state["step"]
    # Adam with β1 = 0, applied to zeros, gives −lr times the normalised gradient.
    us, scratch = ops.zeros(params), ops.zeros(params)
    ops.adam_(us, grads, scratch, state["v"], t, lr, (0.0, hp.beta2), hp.eps)
    torch._foreach_lerp_(state["m"], us, 1.0 - hp.beta1)
    torch._foreach_add_(params, state["m"], alpha=1.0 / (1.0 - hp.beta1**t))
    torch._foreach_mul_(params, 1.0 - lr * hp.wd)
