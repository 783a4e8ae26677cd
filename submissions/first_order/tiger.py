"""Tiger: Lion with one beta, the sign of the momentum.

J. Su, "Tiger: A Tight-fisted Optimizer", 2023 (blog and code bojone/tiger).

    m ← β·m + (1 − β)g;  p ← p − lr·(sign(m) + wd·p)

State: m, one word per parameter.
Departures from the paper: one learning rate for all tensors.
"""

import torch

from harness import ops
from harness.schedules import warmup_cosine

ELEMENTWISE = True
SPACE = {
    "lr": {"log": [1e-4, 5e-3]},
    "wd": {"log": [0.1, 3.0]},
    "beta": {"choice": [0.965, 0.945, 0.98]},
    "warmup": 0.05,
}


def init(params, hp):
    return {"m": ops.zeros(params)}


def update(params, grads, state, hp, progress):
    torch._foreach_lerp_(state["m"], grads, 1.0 - hp.beta)
    u = torch._foreach_sign(state["m"])
    ops.sgd_(params, u, hp.lr * warmup_cosine(progress, hp.warmup), hp.wd)
