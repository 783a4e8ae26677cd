"""Shampoo: matrix gradients times the inverse fourth root of the statistics of each side.

Gupta, Koren, Singer, "Shampoo: Preconditioned Stochastic Tensor Optimization", arXiv 1802.09568,
Algorithm 1; averages, grafting and delayed roots: Shi et al., arXiv 2309.06497.

    L ← β2·L + (1 − β2)ggᵀ,  R ← β2·R + (1 − β2)gᵀg  (β2 = 1: plain sums)
    every `every` steps: A = (L̂ + ε·I)^(−1/4), B = (R̂ + ε·I)^(−1/4), bias-corrected
    m ← β1·m + (1 − β1)g;  u = A·m̂·B;  with grafting u ← u·‖a‖/‖u‖, a Adam's step on g
    p ← p(1 − lr·wd) − lr·u

It updates the hidden matrices. AdamW updates the rest.
State: m, L, R, A and B, with grafting v; for n x n matrices 5 to 6 words per parameter.
Departures from the paper: with grafting ε is relative to the largest diagonal entry.
"""

import torch

from harness import ops
from harness.schedules import warmup_cosine

HANDLES = ["hidden"]
FALLBACK = "adamw"
SPACE = {
    "lr": {"log": [1e-3, 2e-2]},
    "wd": {"log": [1e-2, 1.0]},
    "beta1": 0.9,
    "beta2": {"choice": [0.99, 0.999, 1.0]},
    "graft": {"choice": [True, False]},
    "every": {"choice": [20, 10, 50]},
    "eps": 1e-6,
    "warmup": 0.05,
    "fallback_lr": {"log": [1e-3, 2e-2]},
    "fallback_wd": 0.1,
}


def init(params, hp):
    sides = [[p.new_zeros(p.shape[i], p.shape[i]) for p in params] for i in (0, 1)]
    state = {"m": ops.zeros(params), "left": sides[0], "right": sides[1], "step": 0}
    state |= {"left_root": ops.zeros(sides[0]), "right_root": ops.zeros(sides[1])}
    return state | ({"v": ops.zeros(params)} if hp.graft else {})


def inverse_root(statistics, scale, eps, relative):
    """Return (scale·S + ε·I)^(−1/4) in float64; ε is times the largest diagonal if relative."""
    s = statistics.double() * scale
    ridge = eps * float(s.diagonal().max()) + 1e-30 if relative else eps
    values, vectors = torch.linalg.eigh(s)
    root = (values.clamp_(min=0.0) + ridge) ** -0.25
    return ((vectors * root) @ vectors.mT).to(statistics)


def update(params, grads, state, hp, progress):
    t = state["step"] = state["step"] + 1
    lr = hp.lr * warmup_cosine(progress, hp.warmup)
    fresh = 1.0 if hp.beta2 == 1.0 else 1.0 - hp.beta2
    scale = 1.0 if hp.beta2 == 1.0 else 1.0 / (1.0 - hp.beta2**t)
    for g, left, right in zip(grads, state["left"], state["right"]):
        left.addmm_(g, g.mT, beta=hp.beta2, alpha=fresh)
        right.addmm_(g.mT, g, beta=hp.beta2, alpha=fresh)
    if (t - 1) % hp.every == 0:
        for side in ("left", "right"):
            for s, root in zip(state[side], state[f"{side}_root"]):
                root.copy_(inverse_root(s, scale, hp.eps, hp.graft))
    torch._foreach_lerp_(state["m"], grads, 1.0 - hp.beta1)
    if hp.graft:
        torch._foreach_mul_(state["v"], hp.beta2)
        torch._foreach_addcmul_(state["v"], grads, grads, fresh)
    for i, p in enumerate(params):
        m = state["m"][i] / (1.0 - hp.beta1**t)
        u = state["left_root"][i] @ m @ state["right_root"][i]
        if hp.graft:
            adam = m / ((state["v"][i] * scale).sqrt_().add_(1e-8))
            u.mul_(adam.norm() / (u.norm() + 1e-30))
        p.mul_(1.0 - lr * hp.wd).sub_(u, alpha=lr)
