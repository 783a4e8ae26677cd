"""Sign LMO: conditional gradient steps within a box for each matrix; Scion's rule outside of it.

Pethick et al., "Training Deep Learning Models with Norm-Constrained LMOs", arXiv 2502.07529,
Algorithm 2 with the norms that its code calls Sign and BiasRMS.

    d ← (1 − μ)d + μ·g;  p ← (1 − γ)p − γ·ρ·lmo(d), γ = lr
    lmo(d) = sign(d)/columns for tensors of two dimensions and more;  d/RMS(d) for others

No entry of a matrix leaves [−ρ/columns, ρ/columns] for good. Scion uses it for what is not hidden.
State: d, one word per parameter.
Departures from the paper: weights are not drawn at the start; vectors have a radius of their own.
"""

import torch

from harness import ops
from harness.schedules import warmup_cosine

SPACE = {
    "lr": {"log": [1e-4, 3e-3]},
    "mu": {"choice": [0.1, 0.5]},
    "rho": {"log": [10.0, 3000.0], "default": 100.0},
    "vector_rho": {"choice": [10.0, 50.0]},
    "warmup": 0.05,
}


def init(params, hp):
    return {"d": ops.zeros(params)}


def update(params, grads, state, hp, progress):
    torch._foreach_lerp_(state["d"], grads, hp.mu)
    steps = []
    for d in state["d"]:
        if d.ndim > 1:
            steps.append(d.sign().mul_(hp.rho / max(1, d[0].numel())))
        else:
            rms = d.norm() / max(1, d.numel()) ** 0.5
            steps.append(d * (hp.vector_rho / (rms + 1e-8)))
    ops.sgd_(params, steps, hp.lr * warmup_cosine(progress, hp.warmup), 1.0)
