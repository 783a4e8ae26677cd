"""GaLore: AdamW on gradients projected to a few directions, which are recomputed at times.

Zhao et al., "GaLore: Memory-Efficient LLM Training by Gradient Low-Rank Projection",
arXiv 2403.03507, Algorithm 2.

    every `gap` steps: P ← the first r right (rows ≥ columns) or left singular vectors of g
    R = gP or Pᵀg;  m ← β1·m + (1 − β1)R;  v ← β2·v + (1 − β2)R²;  N = m̂/(√v̂ + eps)
    p ← p − lr·α·NPᵀ (or PN);  p ← p(1 − lr·wd)

It updates the hidden matrices. AdamW updates the rest.
State: m and v on the short side's r directions; P; the step. For n x n matrices 3r/n words.
Departures from the paper: eps is not divided by the bias correction, and decay comes last, both as
in the authors' code. The moments keep their values when P changes, as in the paper.
"""

import math

import torch

from harness import ops
from harness.schedules import warmup_cosine

HANDLES = ["hidden"]
FALLBACK = "adamw"
SPACE = {
    "lr": {"log": [3e-3, 1e-1]},
    "wd": {"log": [1e-3, 1e-1]},
    "rank": {"choice": [16, 8, 32]},
    "gap": {"choice": [100, 50, 200]},
    "scale": 0.25,
    "beta1": 0.9,
    "beta2": {"choice": [0.99, 0.999]},
    "eps": 1e-8,
    "warmup": 0.05,
    "fallback_lr": {"log": [1e-3, 2e-2]},
    "fallback_wd": 0.1,
}


def tall(p):
    return p.shape[0] >= p.shape[1]


def init(params, hp):
    ranks = [min(hp.rank, *p.shape) for p in params]
    small = [
        p.new_zeros((p.shape[0], r) if tall(p) else (r, p.shape[1])) for p, r in zip(params, ranks)
    ]
    basis = [p.new_zeros(min(p.shape), r) for p, r in zip(params, ranks)]
    return {"m": ops.zeros(small), "v": small, "basis": basis, "step": 0}


def top_(basis, g):
    """Set the columns of `basis` to the leading singular vectors of the short side of g."""
    u, _, vt = torch.linalg.svd(g, full_matrices=False)
    basis.copy_((vt.mT if tall(g) else u)[:, : basis.shape[1]])


def project(g, basis):
    return g @ basis if tall(g) else basis.mT @ g


def expand(small, basis, like):
    return small @ basis.mT if tall(like) else basis @ small


def begin(grads, state, hp, progress):
    """Count the step, refresh due bases; return the learning rate, bias correction and all gP."""
    if state["step"] % hp.gap == 0:
        for basis, g in zip(state["basis"], grads):
            top_(basis, g)
    state["step"] += 1
    correction = math.sqrt(1.0 - hp.beta2 ** state["step"]) / (1.0 - hp.beta1 ** state["step"])
    lr = hp.lr * warmup_cosine(progress, hp.warmup)
    return lr, correction, [project(g, basis) for g, basis in zip(grads, state["basis"])]


def adam(small, state, hp):
    """Return m/(√v + eps) after an update by the small gradients, without bias correction."""
    steps = ops.zeros(small)
    ops.adam_(steps, small, state["m"], state["v"], math.inf, -1.0, (hp.beta1, hp.beta2), hp.eps)
    return steps


def update(params, grads, state, hp, progress):
    lr, correction, small = begin(grads, state, hp, progress)
    for p, u, basis in zip(params, adam(small, state, hp), state["basis"]):
        p.add_(expand(u, basis, p), alpha=-lr * correction * hp.scale).mul_(1.0 - lr * hp.wd)
