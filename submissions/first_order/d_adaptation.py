"""D-Adaptation: Adam that estimates its step size from a lower bound on the distance to the answer.

Defazio and Mishchenko, "Learning-Rate-Free Learning by D-Adaptation", arXiv 2301.07733,
Algorithm 5 (Adam); order and placement of eps agree with the authors' package.

    λ = d·lr·c, with c = √(1 − β2ᵗ)/(1 − β1ᵗ) (bias_correction) or 1;  β3 = √β2
    r ← β3·r + (1 − β3)·λ·⟨g, s/(√v + eps)⟩;  m ← β1·m + (1 − β1)λ·g;  v ← β2·v + (1 − β2)g²
    s ← β3·s + (1 − β3)λ·g;  d' = max(d, r/((1 − β3)‖s‖₁));  p ← p(1 − λ·wd) − m/(√v + eps);  d ← d'

State: s, m and v, three words per parameter; d, r and the step.
Departures from the paper: none. lr is 1, times its schedule; d may grow at any rate.
"""

import math

import torch

from harness import ops
from harness.schedules import warmup_cosine
from submissions.first_order import prodigy

ELEMENTWISE = True
SPACE = {
    "lr": {"choice": [1.0, 0.5, 2.0]},
    "d0": 1e-6,
    "wd": {"log": [1e-3, 0.3]},
    "beta1": 0.9,
    "beta2": {"choice": [0.99, 0.999]},
    "bias_correction": {"choice": [False, True]},
    "eps": 1e-8,
    "warmup": 0.05,
}


def init(params, hp):
    return {key: ops.zeros(params) for key in ("s", "m", "v")} | {"d": hp.d0, "r": 0.0, "step": 0}


def update(params, grads, state, hp, progress):
    state["step"] += 1
    rate, beta3 = hp.lr * warmup_cosine(progress, hp.warmup), math.sqrt(hp.beta2)
    if hp.bias_correction:
        t = state["step"]
        rate *= math.sqrt(1.0 - hp.beta2**t) / (1.0 - hp.beta1**t)
    step, s, m, v = state["d"] * rate, state["s"], state["m"], state["v"]
    scale = torch._foreach_sqrt(v)
    torch._foreach_add_(scale, hp.eps)
    scaled = zip(grads, torch._foreach_div(s, scale), strict=True)
    gain = step * prodigy.total(torch.dot(g.flatten(), w.flatten()) for g, w in scaled)
    torch._foreach_mul_(m, hp.beta1)
    torch._foreach_add_(m, grads, alpha=step * (1.0 - hp.beta1))
    torch._foreach_mul_(v, hp.beta2)
    torch._foreach_addcmul_(v, grads, grads, value=1.0 - hp.beta2)
    torch._foreach_mul_(s, beta3)
    torch._foreach_add_(s, grads, alpha=step * (1.0 - beta3))
    state["r"] = beta3 * state["r"] + (1.0 - beta3) * gain
    size = prodigy.total(torch._foreach_norm(s, 1))
    if size == 0.0:
        return
    state["d"] = max(state["d"], state["r"] / ((1.0 - beta3) * size))
    scale = torch._foreach_sqrt(v)
    torch._foreach_add_(scale, hp.eps)
    torch._foreach_mul_(params, 1.0 - step * hp.wd)
    torch._foreach_addcdiv_(params, m, scale, value=-1.0)
