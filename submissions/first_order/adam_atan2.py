"""Adam-atan2: AdamW with the arc tangent of its two moments in place of their quotient; no eps.

Everett et al., "Scaling Exponents Across Parameterizations and Optimizers", arXiv 2407.05872,
Section 4.3.

    p ← p(1 − lr·wd) − lr·a·atan2(m̂, b·√v̂)

The step is at most lr·a·π/2, and does not change if the gradients are scaled.
State: m and v, two words per parameter; the step.
Departures from the paper: a = 1.27 and b = 1, the values that give Adam's step where |m̂| = √v̂, as
in public code; the paper's listing has a = b = 1.
"""

import math

import torch

from harness import ops
from harness.schedules import warmup_cosine

ELEMENTWISE = True
SPACE = {
    "lr": {"log": [1e-3, 2e-2]},
    "wd": {"log": [1e-2, 1.0]},
    "beta1": 0.9,
    "beta2": {"choice": [0.95, 0.99, 0.999]},
    "a": 1.27,
    "b": 1.0,
    "warmup": 0.05,
}


def init(params, hp):
    return {"m": ops.zeros(params), "v": ops.zeros(params), "step": 0}


def update(params, grads, state, hp, progress):
    state["step"] += 1
    lr, t, m, v = hp.lr * warmup_cosine(progress, hp.warmup), state["step"], state["m"], state["v"]
    torch._foreach_lerp_(m, grads, 1.0 - hp.beta1)
    torch._foreach_mul_(v, hp.beta2)
    torch._foreach_addcmul_(v, grads, grads, value=1.0 - hp.beta2)
    scale = torch._foreach_sqrt(v)
    torch._foreach_mul_(scale, hp.b * (1.0 - hp.beta1**t) / math.sqrt(1.0 - hp.beta2**t))
    angles = [torch.atan2(mean, root, out=root) for mean, root in zip(m, scale, strict=True)]
    ops.sgd_(params, angles, lr * hp.a, hp.wd / hp.a)
