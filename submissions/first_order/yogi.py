"""Yogi: AdamW whose second moment moves to g² by a share of g², not of their difference.

Zaheer et al., "Adaptive Methods for Nonconvex Optimization", NeurIPS 2018, Algorithm 2.

    m ← β1·m + (1 − β1)g;  v ← v − (1 − β2)·sign(v − g²)·g²;  p ← p(1 − lr·wd) − lr·m̂/(√v̂ + eps)

v starts at `start`; eps is large, 1e-3.
State: m and v, two words per parameter; the step.
Departures from the paper: bias corrections and decoupled decay, as in common implementations, where
m too starts at `start`.
"""

import math

import torch

from harness.schedules import warmup_cosine

ELEMENTWISE = True
SPACE = {
    "lr": {"log": [1e-3, 3e-2]},
    "wd": {"log": [1e-2, 1.0]},
    "beta1": 0.9,
    "beta2": {"choice": [0.99, 0.999]},
    "eps": {"choice": [1e-3, 1e-4, 1e-5]},
    "start": 1e-6,
    "warmup": 0.05,
}


def init(params, hp):
    full = lambda: [torch.full_like(p, hp.start) for p in params]  # noqa: E731
    return {"m": full(), "v": full(), "step": 0}


def update(params, grads, state, hp, progress):
    state["step"] += 1
    lr, t, m, v = hp.lr * warmup_cosine(progress, hp.warmup), state["step"], state["m"], state["v"]
    torch._foreach_lerp_(m, grads, 1.0 - hp.beta1)
    square = torch._foreach_mul(grads, grads)
    way = torch._foreach_sub(v, square)
    torch._foreach_sign_(way)
    torch._foreach_addcmul_(v, way, square, value=hp.beta2 - 1.0)
    scale = torch._foreach_sqrt(v)
    torch._foreach_div_(scale, math.sqrt(1.0 - hp.beta2**t))
    torch._foreach_add_(scale, hp.eps)
    torch._foreach_mul_(params, 1.0 - lr * hp.wd)
    torch._foreach_addcdiv_(params, m, scale, value=-lr / (1.0 - hp.beta1**t))
