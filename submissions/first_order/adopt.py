"""ADOPT: Adam that divides by the last second moment, so that any β2 converges.

Taniguchi et al., "ADOPT: Modified Adam Can Converge with Any β2 with the Optimal Rate", arXiv
2411.02853, Algorithm 2 (with clipping); order and clipping agree with the authors' code.

    first step: v = g², and nothing else;  afterwards, at step t
    u = clip(g/max(√v, eps), ±(t − 1)^¼);  m ← β1·m + (1 − β1)u;  p ← p(1 − lr·wd) − lr·m
    v ← β2·v + (1 − β2)g²

State: m and v, two words per parameter; the step.
Departures from the paper: decoupled decay, as in the authors' code.
"""

import torch

from harness import ops
from harness.schedules import warmup_cosine

ELEMENTWISE = True
SPACE = {
    "lr": {"log": [1e-3, 2e-2]},
    "wd": {"log": [1e-2, 1.0]},
    "beta1": 0.9,
    "beta2": {"choice": [0.9999, 0.999, 0.99]},
    "eps": 1e-6,
    "warmup": 0.05,
}


def init(params, hp):
    return {"m": ops.zeros(params), "v": ops.zeros(params), "step": 0}


def update(params, grads, state, hp, progress):
    t, state["step"] = state["step"], state["step"] + 1
    if t:
        u = torch._foreach_sqrt(state["v"])
        torch._foreach_clamp_min_(u, hp.eps)
        torch._foreach_reciprocal_(u)
        torch._foreach_mul_(u, grads)
        torch._foreach_clamp_max_(u, t**0.25)
        torch._foreach_clamp_min_(u, -(t**0.25))
        torch._foreach_lerp_(state["m"], u, 1.0 - hp.beta1)
        ops.sgd_(params, state["m"], hp.lr * warmup_cosine(progress, hp.warmup), hp.wd)
        torch._foreach_mul_(state["v"], hp.beta2)
    torch._foreach_addcmul_(state["v"], grads, grads, value=1.0 - hp.beta2 if t else 1.0)
