"""RAdam: AdamW whose steps are shortened while the second moment is still uncertain.

Liu et al., "On the Variance of the Adaptive Learning Rate and Beyond", arXiv 1908.03265,
Algorithm 2.

    ρ∞ = 2/(1 − β2) − 1;  ρ = ρ∞ − 2t·β2ᵗ/(1 − β2ᵗ)
    ρ > 5:  p ← p(1 − lr·wd) − lr·r·m̂/√v̂,  r² = (ρ − 4)(ρ − 2)ρ∞/((ρ∞ − 4)(ρ∞ − 2)ρ)
    else:   p ← p(1 − lr·wd) − lr·m̂

State: m and v, two words per parameter; the step.
Departures from the paper: 5 in place of 4 as the threshold, and eps added to √v before the bias
correction, both as in torch.
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
    "eps": 1e-8,
    "warmup": 0.0,
}


def init(params, hp):
    return {"m": ops.zeros(params), "v": ops.zeros(params), "step": 0}


def length(beta2, t):
    """Return ρ and ρ∞: the number of gradients that v averages after t steps, and in the end."""
    largest = 2.0 / (1.0 - beta2) - 1.0
    return largest - 2.0 * t * beta2**t / (1.0 - beta2**t), largest


def rectifier(rho, largest):
    """Return r for ρ > 4."""
    gain = (rho - 4.0) * (rho - 2.0) * largest / ((largest - 4.0) * (largest - 2.0) * rho)
    return math.sqrt(gain)


def update(params, grads, state, hp, progress):
    state["step"] += 1
    t, m, v, lr = state["step"], state["m"], state["v"], hp.lr * warmup_cosine(progress, hp.warmup)
    rho, largest = length(hp.beta2, t)
    step = lr / (1.0 - hp.beta1**t)
    if rho > 5.0:
        step *= rectifier(rho, largest) * math.sqrt(1.0 - hp.beta2**t)
        wd = hp.wd * lr / step if step else 0.0
        ops.adam_(params, grads, m, v, math.inf, step, (hp.beta1, hp.beta2), hp.eps, wd)
        return
    torch._foreach_lerp_(m, grads, 1.0 - hp.beta1)
    torch._foreach_mul_(v, hp.beta2)
    torch._foreach_addcmul_(v, grads, grads, value=1.0 - hp.beta2)
    torch._foreach_mul_(params, 1.0 - lr * hp.wd)
    torch._foreach_add_(params, m, alpha=-step)
