"""Lion: the sign of an interpolation between momentum and gradient.

Chen et al., "Symbolic Discovery of Optimization Algorithms", arXiv 2302.06675, Program 1.

    u = sign(β1·m + (1 − β1)g);  p ← p − lr·(u + wd·p);  m ← β2·m + (1 − β2)g

State: m, one word per parameter.
Departures from the paper: none.
"""

import torch

from harness import ops
from harness.schedules import warmup_cosine

ELEMENTWISE = True
SPACE = {
    "lr": {"log": [1e-4, 5e-3]},
    "wd": {"log": [0.1, 3.0]},
    "beta1": {"choice": [0.9, 0.95]},
    "beta2": {"choice": [0.99, 0.98]},
    "warmup": 0.05,
}


def init(params, hp):
    return {"m": ops.zeros(params)}


def update(params, grads, state, hp, progress):
    lr = hp.lr * warmup_cosine(progress, hp.warmup)
    u = [torch.lerp(g, m, hp.beta1).sign_() for g, m in zip(grads, state["m"], strict=True)]
    ops.sgd_(params, u, lr, hp.wd)
    for m, g in zip(state["m"], grads, strict=True):
        m.lerp_(g, 1.0 - hp.beta2)
