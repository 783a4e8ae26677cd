"""Dion: orthogonal updates of low rank by one power iteration, with error feedback in the momentum.

Ahn et al., "Dion: Distributed Orthonormalized Updates", arXiv 2504.05295, Algorithm 1.

    B = m + g;  P = orthonormal columns of B·Q (QR);  R = BᵀP;  m ← B − (1 − μ)PRᵀ
    Q ← R with columns of norm 1;  p ← p(1 − lr·wd) − lr·√(rows/columns)·P·Qᵀ

What the rank leaves out stays in m and comes later. It updates the hidden matrices; AdamW the rest.
State: m, one word per parameter, and Q [columns, rank]; Q starts at random.
Departures from the paper: a wide matrix is treated transposed, so that Q has its longer side, as
in the authors' later code.
"""

from collections import defaultdict

import torch

from harness import ops
from harness.schedules import warmup_cosine

HANDLES = ["hidden"]
FALLBACK = "adamw"
SPACE = {
    "lr": {"log": [5e-3, 8e-2]},
    "wd": {"log": [1e-3, 1e-1]},
    "momentum": 0.95,
    "share": {"choice": [0.25, 0.5, 1.0]},
    "warmup": 0.05,
    "fallback_lr": {"log": [1e-3, 2e-2]},
    "fallback_wd": 0.1,
}


def init(params, hp):
    basis = []
    for p in params:
        short = min(p.shape)
        rank = max(1, min(short, round(hp.share * short)))
        basis.append(torch.randn(short, rank, device=p.device).to(p.dtype))
    return {"m": ops.zeros(params), "basis": basis}


def update(params, grads, state, hp, progress):
    lr, shapes = hp.lr * warmup_cosine(progress, hp.warmup), defaultdict(list)
    torch._foreach_add_(state["m"], grads)
    for i, g in enumerate(grads):
        shapes[g.shape].append(i)
    for (rows, columns), members in shapes.items():
        b = torch.stack([state["m"][i] for i in members])
        b = b if rows >= columns else b.mT
        q = torch.stack([state["basis"][i] for i in members])
        left = torch.linalg.qr(b @ q).Q
        right = b.mT @ left
        error = (1.0 - hp.momentum) * (left @ right.mT)
        q = right / (torch.linalg.vector_norm(right, dim=1, keepdim=True) + 1e-8)
        step = left @ q.mT
        if rows < columns:
            error, step = error.mT, step.mT
        torch._foreach_sub_([state["m"][i] for i in members], error.unbind())
        torch._foreach_copy_([state["basis"][i] for i in members], q.unbind())
        stretch = (rows / max(1, columns)) ** 0.5
        ops.sgd_([params[i] for i in members], step.unbind(), lr * stretch, hp.wd / stretch)
