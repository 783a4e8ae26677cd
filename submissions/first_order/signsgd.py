"""signSGD with momentum (Signum): every element moves by lr.

Bernstein et al., "signSGD: Compressed Optimisation for Non-Convex Problems", arXiv 1802.04434,
Algorithm 2.

    m ← momentum·m + (1 − momentum)g;  p ← p − lr·(sign(m) + wd·p)

State: m, one word per parameter.
Departures from the paper: decoupled decay (λ of Algorithm 2), as in the code of its experiments.
"""

import torch

from harness import ops
from harness.schedules import warmup_cosine

ELEMENTWISE = True
SPACE = {
    "lr": {"log": [1e-4, 5e-3]},
    "wd": {"log": [0.1, 3.0]},
    "momentum": {"choice": [0.9, 0.95, 0.0]},
    "warmup": 0.05,
}


def init(params, hp):
    return {"m": ops.zeros(params)}


def update(params, grads, state, hp, progress):
    for m, g in zip(state["m"], grads, strict=True):
        m.lerp_(g, 1.0 - hp.momentum)
    u = [torch.sign(m) for m in state["m"]]
    ops.sgd_(params, u, hp.lr * warmup_cosine(progress, hp.warmup), hp.wd)
