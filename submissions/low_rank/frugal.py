"""FRUGAL: AdamW on a quarter of the weights at a time, sign descent on the rest.

Zmushko et al., "FRUGAL: Memory-Efficient Optimization by Reducing State Overhead for Scalable
Training", arXiv 2411.07837, Algorithm 1 with columns as the subspace.

    every `gap` steps: draw a share ρ of each matrix's columns; m = v = 0, t = 0
    drawn columns: AdamW;  the others: p ← p(1 − lr·wd) − lr·s·sign(g)

It updates the hidden matrices. AdamW updates the rest.
State: m and v of the drawn columns, 2ρ words per parameter; the column numbers; the step.
Departures from the paper: columns are drawn (the paper's default draws whole blocks of layers).
"""

import torch

from harness import ops
from harness.schedules import warmup_cosine

HANDLES = ["hidden"]
FALLBACK = "adamw"
SPACE = {
    "lr": {"log": [1e-3, 1e-2]},
    "wd": {"log": [1e-2, 1.0]},
    "density": {"choice": [0.25, 0.0, 1.0]},
    "sign_scale": {"log": [0.1, 1.0]},
    "gap": {"choice": [100, 50, 200]},
    "beta1": 0.9,
    "beta2": {"choice": [0.99, 0.999]},
    "eps": 1e-8,
    "warmup": 0.05,
    "fallback_lr": {"log": [1e-3, 2e-2]},
    "fallback_wd": 0.1,
}


def init(params, hp):
    counts = [round(hp.density * p.shape[1]) for p in params]
    small = [p.new_zeros(p.shape[0], k) for p, k in zip(params, counts)]
    columns = [torch.arange(k, device=p.device) for p, k in zip(params, counts)]
    return {"m": ops.zeros(small), "v": small, "columns": columns, "step": 0}


def update(params, grads, state, hp, progress):
    lr = hp.lr * warmup_cosine(progress, hp.warmup)
    if state["step"] % hp.gap == 0:
        for p, m, v, columns in zip(params, state["m"], state["v"], state["columns"]):
            columns.copy_(torch.randperm(p.shape[1])[: len(columns)])
            m.zero_()
            v.zero_()
    t = state["step"] % hp.gap + 1
    state["step"] += 1
    small = [g[:, c] for g, c in zip(grads, state["columns"])]
    steps = ops.zeros(small)
    ops.adam_(steps, small, state["m"], state["v"], t, -lr, (hp.beta1, hp.beta2), hp.eps)
    for p, g, u, columns in zip(params, grads, steps, state["columns"]):
        step = g.sign().mul_(lr * hp.sign_scale)
        step[:, columns] = u
        p.mul_(1.0 - lr * hp.wd).sub_(step)
