"""Scion: conditional gradient steps within a spectral ball for each hidden matrix.

Pethick et al., "Training Deep Learning Models with Norm-Constrained LMOs", arXiv 2502.07529,
Algorithm 3, constrained; norms and radii of its nanoGPT experiments.

    d ← (1 − μ)d + μ·g;  p ← (1 − γ)p − γ·ρ·√(rows/columns)·NewtonSchulz₅(d);  γ = lr

A hidden matrix ends with a spectral norm of at most ρ·√(rows/columns). sign_lmo updates the rest.
State: d, one word per parameter.
Departures from the paper: weights are not drawn at the start; `constrained` off gives the form
without the factor (1 − γ).
"""

from collections import defaultdict

import torch

from harness import ops
from harness.schedules import warmup_cosine

HANDLES = ["hidden"]
FALLBACK = "sign_lmo"
SPACE = {
    "lr": {"log": [1e-4, 3e-3]},
    "mu": {"choice": [0.1, 0.5]},
    "rho": {"log": [10.0, 100.0], "default": 50.0},
    "constrained": {"choice": [True, False]},
    "warmup": 0.05,
    "fallback_lr": {"log": [1e-4, 3e-3]},
    # The paper's 3,000 over its 768 columns is 250 over 64.
    "fallback_rho": {"log": [30.0, 3000.0], "default": 250.0},
    "fallback_vector_rho": 10.0,
}


def init(params, hp):
    return {"d": ops.zeros(params)}


def update(params, grads, state, hp, progress):
    lr, shapes = hp.lr * warmup_cosine(progress, hp.warmup), defaultdict(list)
    torch._foreach_lerp_(state["d"], grads, hp.mu)
    for i, g in enumerate(grads):
        shapes[g.shape].append(i)
    for (rows, columns), members in shapes.items():
        x = ops.newton_schulz(torch.stack([state["d"][i] for i in members])).unbind()
        radius = hp.rho * (rows / max(1, columns)) ** 0.5
        wd = 1.0 / radius if hp.constrained else 0.0
        ops.sgd_([params[i] for i in members], x, lr * radius, wd)
