"""SWAN: gradients whose rows are standardised and whose columns are whitened; no state at all.

Ma et al., "SWAN: SGD with Normalization and Whitening Enables Stateless LLM Training", arXiv
2412.13148, Algorithms 1 to 3; the rule is restated in arXiv 2502.07752, appendix B.7.

    G = (g − row mean)/row standard deviation;  W = (GGᵀ)^(−1/2)·G
    p ← p(1 − lr·wd) − lr·√(rows·columns)·W/‖W‖

(GGᵀ)^(−1/2) by ten coupled Newton-Schulz iterations: from Y = GGᵀ/‖G‖², Z = I,
Y ← β·Y(3I − ZY), Z ← β·(3I − ZY)Z. With β = 0.5 they converge, slowly where singular values are
small; with β = 0.8 these grow 2.4-fold in each iteration, and all end between about 0.5 and 1.6
times a common value. It updates the hidden matrices; AdamW the rest.
State: none.
Departures from the paper: a tall matrix is whitened on its short side. β = 0.8 and ten iterations
are those of a public implementation; the paper's listing was not at hand.
"""

from collections import defaultdict

import torch

from harness import ops
from harness.schedules import warmup_cosine

HANDLES = ["hidden"]
FALLBACK = "adamw"
SPACE = {
    "lr": {"log": [5e-5, 5e-3]},
    "wd": {"log": [1e-3, 1e-1]},
    "beta": {"choice": [0.8, 0.5]},
    "steps": 10,
    "warmup": 0.05,
    "fallback_lr": {"log": [1e-3, 2e-2]},
    "fallback_wd": 0.1,
}


def init(params, hp):
    return {}


def standardised(g):
    """Return a stack of gradients with rows of mean 0 and variance 1 (rows of zeros stay)."""
    g = g - g.mean(dim=-1, keepdim=True)
    return g / g.square().mean(dim=-1, keepdim=True).sqrt().clamp_(min=1e-30)


def whitened(g, beta, steps):
    """Return (GGᵀ)^(−1/2)·G of a stack [matrices, rows, columns], up to a factor."""
    tall = g.size(-2) > g.size(-1)
    x = g.mT if tall else g
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp_(min=1e-30)
    y = x @ x.mT
    identity = torch.eye(y.size(-1), dtype=y.dtype, device=y.device).expand_as(y)
    z = identity
    for _ in range(steps):
        factor = torch.baddbmm(identity, z, y, beta=3.0 * beta, alpha=-beta)
        y, z = y @ factor, factor @ z
    x = z @ x
    return x.mT if tall else x


def update(params, grads, state, hp, progress):
    lr, shapes = hp.lr * warmup_cosine(progress, hp.warmup), defaultdict(list)
    for i, g in enumerate(grads):
        shapes[g.shape].append(i)
    for members in shapes.values():
        g = standardised(torch.stack([grads[i] for i in members]))
        w = whitened(g, hp.beta, hp.steps)
        norms = torch.linalg.matrix_norm(w, keepdim=True).clamp_(min=1e-30)
        w = w * (torch.linalg.matrix_norm(g, keepdim=True) / norms)
        ops.sgd_([params[i] for i in members], w.unbind(), lr, hp.wd)
