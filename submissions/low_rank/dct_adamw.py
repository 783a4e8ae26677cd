"""DCT-AdamW: AdamW on those columns of a fixed cosine basis where the gradient is largest.

Modoranu et al., "SVD-Free Low-Rank Adaptive Gradient Optimization for Large Language Models",
arXiv 2505.17967.

    Q = orthonormal cosine basis of the short side;  A = g + e
    every `gap` steps: C ← the r columns with the largest 1-norm of AQ; m ← mR, v ← |vR|,
        R = Q_oldᵀQ_new, which moves the moments to the new columns
    a = AQ_C;  e ← A − aQ_Cᵀ (with feedback);  m, v of a as in Adam
    p ← p(1 − lr·wd) − lr·m̂/(√v̂ + eps)·Q_Cᵀ

It updates the hidden matrices. AdamW updates the rest.
State: m and v on r columns; the column numbers; with feedback e, one word per parameter.
Departures from the paper: the error e is not quantised. Q's columns are the basis vectors (DCT-II).
"""

import math

import torch

from harness import ops
from harness.schedules import warmup_cosine
from submissions.low_rank import galore

HANDLES = ["hidden"]
FALLBACK = "adamw"
SPACE = {
    "lr": {"log": [1e-3, 3e-2]},
    "wd": {"log": [1e-2, 1.0]},
    "rank": {"choice": [16, 8, 32]},
    "gap": {"choice": [1, 10, 100]},
    "feedback": {"choice": [True, False]},
    "beta1": 0.9,
    "beta2": {"choice": [0.99, 0.999]},
    "eps": 1e-8,
    "warmup": 0.05,
    "fallback_lr": {"log": [1e-3, 2e-2]},
    "fallback_wd": 0.1,
}


def cosines(n, like):
    """Return the orthonormal DCT-II basis [n, n], one vector per column."""
    i = torch.arange(n, dtype=torch.float64)
    q = torch.cos(math.pi / n * (i[:, None] + 0.5) * i) * math.sqrt(2 / n)
    q[:, 0] = math.sqrt(1 / n)
    return q.to(like)


def init(params, hp):
    state = galore.init(params, hp)
    columns = [torch.arange(b.shape[1], device=b.device) for b in state.pop("basis")]
    error = ops.zeros(params) if hp.feedback else [p.new_zeros(0) for p in params]
    return state | {"columns": columns, "error": error}


def turn_(x, rotation):
    """Move moments, with r numbers along their short side, to other columns."""
    x.copy_(x @ rotation if galore.tall(x) else rotation.mT @ x)


def update(params, grads, state, hp, progress):
    step = state["step"] = state["step"] + 1
    lr = hp.lr * warmup_cosine(progress, hp.warmup)
    whole = {n: cosines(n, params[0]) for n in {min(p.shape) for p in params}}
    lists = zip(grads, state["m"], state["v"], state["columns"], state["error"])
    bases, small = [], []
    for g, m, v, columns, error in lists:
        q = whole[min(g.shape)]
        a = g + error if hp.feedback else g
        if (step - 1) % hp.gap == 0:
            size = galore.project(a, q).abs().sum(dim=0 if galore.tall(g) else 1)
            new = size.topk(len(columns)).indices.sort().values
            if step > 1:
                # Q_oldᵀQ_new of an orthonormal basis.
                kept = (columns[:, None] == new).to(m)
                turn_(m, kept)
                turn_(v, kept)
            columns.copy_(new)
        bases.append(q[:, columns])
        small.append(galore.project(a, bases[-1]))
        if hp.feedback:
            error.copy_(a - galore.expand(small[-1], bases[-1], g))
    steps = ops.zeros(small)
    ops.adam_(steps, small, state["m"], state["v"], step, -lr, (hp.beta1, hp.beta2), hp.eps)
    for p, u, basis in zip(params, steps, bases):
        p.mul_(1.0 - lr * hp.wd).sub_(galore.expand(u, basis, p))
