"""AdaBelief: AdamW that divides by the spread of the gradient around its average.

Zhuang et al., "AdaBelief Optimizer: Adapting Stepsizes by the Belief in Observed Gradients", arXiv
2010.07468, Algorithm 2.

    m ← β1·m + (1 − β1)g;  s ← β2·s + (1 − β2)(g − m)² + eps
    p ← p(1 − lr·wd) − lr·m̂/(√ŝ + eps)

State: m and s, two words per parameter; the step.
Departures from the paper: decoupled decay. The rectification of the authors' later releases is off.
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
    "beta2": {"choice": [0.99, 0.999]},
    "eps": {"choice": [1e-12, 1e-16, 1e-8]},
    "warmup": 0.05,
}


def init(params, hp):
    return {"m": ops.zeros(params), "s": ops.zeros(params), "step": 0}


def update(params, grads, state, hp, progress):
    state["step"] += 1
    lr, t, m, s = hp.lr * warmup_cosine(progress, hp.warmup), state["step"], state["m"], state["s"]
    torch._foreach_lerp_(m, grads, 1.0 - hp.beta1)
    far = torch._foreach_sub(grads, m)
    torch._foreach_mul_(s, hp.beta2)
    torch._foreach_addcmul_(s, far, far, value=1.0 - hp.beta2)
    torch._foreach_add_(s, hp.eps)
    scale = torch._foreach_sqrt(s)
    torch._foreach_div_(scale, math.sqrt(1.0 - hp.beta2**t))
    torch._foreach_add_(scale, hp.eps)
    torch._foreach_mul_(params, 1.0 - lr * hp.wd)
    torch._foreach_addcdiv_(params, m, scale, value=-lr / (1.0 - hp.beta1**t))
