"""MADGRAD: dual averaging with cube roots of summed squares, and momentum as iterate averaging.

Defazio and Jelassi, "Adaptivity without Compromise: A Momentumized, Adaptive, Dual Averaged
Gradient Method for Stochastic Optimization", arXiv 2101.11075, Algorithm 1.

    g ← g + wd·p;  λ = lr·√t;  s ← s + λ·g;  v ← v + λ·g²
    z = p₀ − s/(∛v + eps);  p ← momentum·p + (1 − momentum)z

State: p₀, s and v, three words per parameter; the step.
Departures from the paper: λ takes lr + eps, as in the authors' code.
"""

import torch

from harness import ops
from harness.schedules import warmup_cosine

ELEMENTWISE = True
SPACE = {
    "lr": {"log": [1e-3, 0.1]},
    "wd": {"log": [1e-7, 1e-4]},
    "momentum": {"choice": [0.9, 0.0]},
    "eps": 1e-6,
    "warmup": 0.05,
}


def init(params, hp):
    return {"start": ops.copies(params), "s": ops.zeros(params), "v": ops.zeros(params), "step": 0}


def update(params, grads, state, hp, progress):
    state["step"] += 1
    weight = (hp.lr * warmup_cosine(progress, hp.warmup) + hp.eps) * state["step"] ** 0.5
    g = torch._foreach_add(grads, params, alpha=hp.wd)
    torch._foreach_add_(state["s"], g, alpha=weight)
    torch._foreach_addcmul_(state["v"], g, g, value=weight)
    scale = torch._foreach_pow(state["v"], 1.0 / 3.0)
    torch._foreach_add_(scale, hp.eps)
    z = torch._foreach_addcdiv(state["start"], state["s"], scale, value=-1.0)
    torch._foreach_lerp_(params, z, 1.0 - hp.momentum)
