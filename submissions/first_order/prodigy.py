"""Prodigy: Adam that estimates its step size from the distance to the start.

Mishchenko and Defazio, "Prodigy: An Expeditiously Adaptive Parameter-Free Learner", arXiv
2306.06101, Algorithm 4.

    λ = d·lr·c, with c = √(1 − β2ᵗ)/(1 − β1ᵗ) (bias_correction) or 1;  β3 = √β2
    r ← β3·r + (d/d0)·λ·⟨g, p₀ − p⟩;  s ← β3·s + (d/d0)·λ·g;  d' = max(d, d_coef·r/‖s‖₁)
    m ← β1·m + (1 − β1)d·g;  v ← β2·v + (1 − β2)d²·g²;  p ← p(1 − λ·wd) − λ·m/(√v + d'·eps);  d ← d'

State: p₀, s, m and v, four words per parameter; d, r and the step.
Departures from the paper: none. lr is 1, times its schedule. Scaling by 1/d0 keeps r and s in
range, as in the authors' code.
"""

import math

import torch

from harness import ops
from harness.schedules import warmup_cosine

ELEMENTWISE = True
SPACE = {
    "lr": 1.0,
    "d_coef": {"log": [0.3, 3.0]},
    "d0": 1e-6,
    "wd": {"log": [1e-3, 0.3]},
    "beta1": 0.9,
    "beta2": {"choice": [0.99, 0.999]},
    "bias_correction": {"choice": [True, False]},
    "eps": 1e-8,
    "warmup": 0.05,
}


def init(params, hp):
    moments = {name: ops.zeros(params) for name in ("s", "m", "v")}
    return moments | {"start": ops.copies(params), "d": hp.d0, "r": 0.0, "step": 0}


def total(numbers):
    return float(torch.stack(list(numbers)).double().sum())


def update(params, grads, state, hp, progress):
    state["step"] += 1
    d, step, rate = state["d"], state["step"], hp.lr * warmup_cosine(progress, hp.warmup)
    if hp.bias_correction:
        rate *= math.sqrt(1.0 - hp.beta2**step) / (1.0 - hp.beta1**step)
    beta3, lr = math.sqrt(hp.beta2), d * rate
    way = torch._foreach_sub(state["start"], params)
    gain = total(torch.dot(g.flatten(), w.flatten()) for g, w in zip(grads, way, strict=True))
    state["r"] = beta3 * state["r"] + d / hp.d0 * lr * gain
    torch._foreach_mul_(state["s"], beta3)
    torch._foreach_add_(state["s"], grads, alpha=d / hp.d0 * lr)
    size = total(s.abs().sum() for s in state["s"])
    if size == 0.0:
        return
    state["d"] = max(d, hp.d_coef * state["r"] / size)
    scaled, betas, eps = torch._foreach_mul(grads, d), (hp.beta1, hp.beta2), state["d"] * hp.eps
    ops.adam_(params, scaled, state["m"], state["v"], math.inf, lr, betas, eps, hp.wd)
