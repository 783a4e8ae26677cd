"""PSGD Kron: gradients whitened by two triangular factors, fitted on a Lie group.

Li, "Preconditioned Stochastic Gradient Descent", arXiv 1512.04202; "Stochastic Hessian Fittings
with Lie Groups", arXiv 2402.11858 (whitening, triangular Kronecker factors).

    m ← β·m + (1 − β)g;  with a random normal matrix z
    A = U·m̂·Wᵀ;  B = U⁻ᵀ·z·W⁻¹
    U ← U − μ·triu(AAᵀ − BBᵀ)U/‖AAᵀ + BBᵀ‖;  W ← W − μ·triu(AᵀA − BᵀB)W/‖AᵀA + BᵀB‖
    u = UᵀU·m̂·WᵀW, at most 1.1 in root mean square;  p ← p − lr·(u + wd·p)

It updates the hidden matrices. AdamW updates the rest.
State: m, U and W; for n x n matrices 3 words per parameter.
Departures from the paper: ‖·‖ is a lower bound of the spectral norm (two power steps); the factors
are fitted to the momentum, with a frequency that falls from 1 to 0.03; u is clipped. All
three are as in the common kron_torch. The two factors are not rebalanced.
"""

import math

import torch

from harness import ops
from harness.schedules import warmup_cosine

HANDLES = ["hidden"]
FALLBACK = "adamw"
SPACE = {
    "lr": {"log": [1e-4, 3e-3]},
    "wd": {"log": [1e-2, 1.0]},
    "momentum": 0.9,
    "fit_lr": 0.1,
    "flat": {"choice": [250, 500]},
    "decay": 1e-2,
    "warmup": 0.05,
    "fallback_lr": {"log": [1e-3, 2e-2]},
    "fallback_wd": 0.1,
}
TINY = torch.finfo(torch.bfloat16).tiny


def init(params, hp):
    sides = [[torch.eye(p.shape[i]).to(p) for p in params] for i in (0, 1)]
    return {"m": ops.zeros(params), "left": sides[0], "right": sides[1], "step": 0, "wait": 0}


def spectral(a):
    """Return a lower bound of a symmetric matrix's spectral norm, by two power steps."""
    largest = a.abs().max().clamp(min=TINY)
    a = a / largest
    x = a[a.square().sum(dim=0).argmax()] @ a
    return largest * torch.linalg.vector_norm(a @ (x / torch.linalg.vector_norm(x).clamp(min=TINY)))


def fit_(u, w, g, z, rate):
    """Move the factors towards uᵀu ⊗ wᵀw = (E ggᵀ)^(−1/2)."""
    a = u @ g @ w.mT
    b = torch.linalg.solve_triangular(w, z, upper=True, left=False)
    b = torch.linalg.solve_triangular(u.mT, b, upper=False)
    for q, x, y in ((u, a @ a.mT, b @ b.mT), (w, a.mT @ a, b.mT @ b)):
        q.sub_((x - y).mul_(rate / (spectral(x + y) + TINY)).triu_() @ q)


def update(params, grads, state, hp, progress):
    lr = hp.lr * warmup_cosine(progress, hp.warmup)
    probability = max(0.03, math.exp(min(0.0, hp.decay * (hp.flat - state["step"]))))
    state["step"] += 1
    due = state["wait"] + 1 >= 1 / probability
    state["wait"] = 0 if due else state["wait"] + 1
    torch._foreach_lerp_(state["m"], grads, 1.0 - hp.momentum)
    for p, m, u, w in zip(params, state["m"], state["left"], state["right"]):
        g = m / (1.0 - hp.momentum ** state["step"])
        if due:
            fit_(u, w, g, torch.randn_like(g), hp.fit_lr)
        step = u.mT @ (u @ g @ w.mT) @ w
        step.mul_((1.1 / (step.square().mean().sqrt() + 1e-6)).clamp(max=1.0))
        p.mul_(1.0 - lr * hp.wd).sub_(step, alpha=lr)
