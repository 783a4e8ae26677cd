"""NorMuon: Muon whose update is divided by a running root mean square of each of its rows.

Li et al., "NorMuon: Making Muon More Efficient and Scalable", arXiv 2510.05491, Algorithm 1.

    m ← μ·m + (1 − μ)g;  O = NewtonSchulz₅((1 − μ)g + μ·m)
    v ← β2·v + (1 − β2)·row mean(O²);  N = O/(√v + 1e-10)
    "paper": p ← p − lr·(0.2·√(rows·columns)·N/‖N‖ + wd·p)
    "code": p ← p − lr·(√max(1, rows/columns)·‖O‖·N/‖N‖ + wd·p)

It updates the hidden matrices; AdamW the rest.
State: m, one word per parameter, and one number for each row.
Departures from the paper: Nesterov momentum, as in the authors' code.
"""

import torch

from harness import ops
from harness.schedules import warmup_cosine
from submissions.first_order import moonlight

HANDLES = ["hidden"]
FALLBACK = "adamw"
SPACE = {
    "lr": {"log": [1e-3, 2e-2]},
    "wd": {"log": [1e-2, 1.0]},
    "momentum": 0.95,
    "beta2": 0.95,
    "scale": "paper",
    "warmup": 0.05,
    "fallback_lr": {"log": [1e-3, 2e-2]},
    "fallback_wd": 0.1,
}


def init(params, hp):
    return {"m": ops.zeros(params), "v": [p.new_zeros(p.shape[0], 1) for p in params]}


def update(params, grads, state, hp, progress):
    xs = moonlight.directions(grads, state["m"], hp.momentum)
    before = torch._foreach_norm(xs)
    rows = [x.square().mean(dim=1, keepdim=True) for x in xs]
    torch._foreach_lerp_(state["v"], rows, 1.0 - hp.beta2)
    scale = torch._foreach_sqrt(state["v"])
    torch._foreach_add_(scale, 1e-10)
    xs = [x / s for x, s in zip(xs, scale, strict=True)]
    sizes = torch.stack([*torch._foreach_norm(xs), *before]).tolist()
    factors = []
    for p, now, old in zip(params, sizes[: len(xs)], sizes[len(xs) :], strict=True):
        wanted = 0.2 * p.numel() ** 0.5
        if hp.scale == "code":
            wanted = max(1.0, p.shape[0] / p.shape[1]) ** 0.5 * old
        factors.append(wanted / (now + 1e-10))
    torch._foreach_mul_(xs, factors)
    ops.sgd_(params, xs, hp.lr * warmup_cosine(progress, hp.warmup), hp.wd)
