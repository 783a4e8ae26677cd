"""Normalised SGD: steps of a set length along the momentum.

Cutkosky and Mehta, "Momentum Improves Normalized SGD", arXiv 2002.03305, Algorithms 1 and 2; β-GD:
Chen et al., "Generalized-Smooth Nonconvex Optimization is As Efficient As Smooth Nonconvex
Optimization", arXiv 2303.02854.

    m ← momentum·m + (1 − momentum)g, at first g;  p ← p(1 − lr·wd) − lr·m/‖m‖^power, global norm
    nigt takes gradients ahead, at p + momentum/(1 − momentum)·(p − last p), evaluates p
    beta_gd has no momentum and power 2/3

State: m, one word per parameter, two with transport; whether m has begun.
Departures from the paper: decoupled decay; lr has a schedule, which shortens the look-ahead too.
"""

import torch

from harness import ops
from harness.schedules import warmup_cosine

ELEMENTWISE = True
SPACE = {
    "lr": {"log": [0.03, 3.0]},
    "wd": {"log": [1e-4, 1e-1]},
    "momentum": {"choice": [0.9, 0.95, 0.99, 0.0]},
    "power": 1.0,
    "transport": False,
    "warmup": 0.05,
}
VARIANTS = {"nigt": {"transport": True}, "beta_gd": {"momentum": 0.0, "power": 0.6666666666666666}}


def init(params, hp):
    ahead = {"base": ops.copies(params)} if hp.transport else {}
    return ahead | {"m": ops.zeros(params), "begun": 0}


def update(params, grads, state, hp, progress):
    torch._foreach_lerp_(state["m"], grads, 1.0 - hp.momentum if state["begun"] else 1.0)
    state["begun"] = 1
    lr, norm = hp.lr * warmup_cosine(progress, hp.warmup), ops.global_norm(state["m"])
    length = lr / norm**hp.power if norm else 0.0
    base = state.get("base", params)
    before = ops.copies(base) if hp.transport else []
    torch._foreach_mul_(base, 1.0 - lr * hp.wd)
    torch._foreach_add_(base, state["m"], alpha=-length)
    if hp.transport:
        way = torch._foreach_sub(base, before)
        torch._foreach_copy_(params, base)
        torch._foreach_add_(params, way, alpha=hp.momentum / (1.0 - hp.momentum))


def evaluate_view(params, state):
    return list(state.get("base", params))
