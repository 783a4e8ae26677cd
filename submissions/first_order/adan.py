"""Adan: Adam with a moment of the gradient's changes, as Nesterov momentum without a look-ahead.

Xie et al., "Adan: Adaptive Nesterov Momentum Algorithm for Faster Optimizing Deep Models", arXiv
2208.06677, Algorithm 1, with the betas written as decay rates.

    d = g − last g, 0 at first;  m ← β1·m + (1 − β1)g;  c ← β2·c + (1 − β2)d
    n ← β3·n + (1 − β3)(g + β2·d)²;  p ← (p − lr·(m̂ + β2·ĉ)/(√n̂ + eps))/(1 + lr·wd)

State: m, c, n and the last gradient, four words per parameter; the step.
Departures from the paper: no restarts, as in the authors' code.
"""

import math

import torch

from harness import ops
from harness.schedules import warmup_cosine

ELEMENTWISE = True
SPACE = {
    # The authors take 5 to 10 times Adam's: differences of gradients swell the second moment.
    "lr": {"log": [2e-3, 5e-2]},
    "wd": {"log": [1e-2, 1.0]},
    "beta1": 0.98,
    "beta2": 0.92,
    "beta3": {"choice": [0.99, 0.999]},
    "eps": 1e-8,
    "warmup": 0.05,
}


def init(params, hp):
    return {key: ops.zeros(params) for key in ("m", "change", "n", "last")} | {"step": 0}


def update(params, grads, state, hp, progress):
    if state["step"] == 0:
        torch._foreach_copy_(state["last"], grads)
    state["step"] += 1
    lr, t = hp.lr * warmup_cosine(progress, hp.warmup), state["step"]
    m, change, n, last = (state[key] for key in ("m", "change", "n", "last"))
    d = torch._foreach_sub(grads, last)
    torch._foreach_lerp_(m, grads, 1.0 - hp.beta1)
    torch._foreach_lerp_(change, d, 1.0 - hp.beta2)
    torch._foreach_mul_(d, hp.beta2)
    torch._foreach_add_(d, grads)
    torch._foreach_mul_(n, hp.beta3)
    torch._foreach_addcmul_(n, d, d, value=1.0 - hp.beta3)
    scale = torch._foreach_sqrt(n)
    torch._foreach_div_(scale, math.sqrt(1.0 - hp.beta3**t))
    torch._foreach_add_(scale, hp.eps)
    torch._foreach_addcdiv_(params, m, scale, value=-lr / (1.0 - hp.beta1**t))
    torch._foreach_addcdiv_(params, change, scale, value=-lr * hp.beta2 / (1.0 - hp.beta2**t))
    torch._foreach_mul_(params, 1.0 / (1.0 + lr * hp.wd))
    torch._foreach_copy_(last, grads)
