"""Muon: momentum whose update is nearly orthogonal for every matrix.

K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024 (blog); weight
decay: Liu et al., arXiv 2502.16982.

    m ← μ·m + (1 − μ)g;  u = (1 − μ)g + μ·m;  X = NewtonSchulz₅(u)
    p ← p − lr·(√max(1, rows/columns)·X + wd·p)

It updates the hidden matrices. AdamW updates embeddings, the readout, norms and biases.
State: m, one word per parameter.
Departures from the paper: matrices of one shape are orthogonalised as one stack; on a CPU this is
done in float32, not bfloat16.
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
    "warmup": 0.05,
    "fallback_lr": {"log": [1e-3, 2e-2]},
    "fallback_wd": 0.1,
}


def init(params, hp):
    return {"m": ops.zeros(params)}


def update(params, grads, state, hp, progress):
    lr, shapes = hp.lr * warmup_cosine(progress, hp.warmup), defaultdict(list)
    for i, (m, g) in enumerate(zip(state["m"], grads, strict=True)):
        m.lerp_(g, 1.0 - hp.momentum)
        shapes[g.shape].append(i)
    for (rows, columns), members in shapes.items():
        u = torch.stack([torch.lerp(grads[i], state["m"][i], hp.momentum) for i in members])
        stretch = max(1.0, rows / columns) ** 0.5
        x = ops.newton_schulz(u).unbind()
        ops.sgd_([params[i] for i in members], x, lr * stretch, hp.wd / stretch)
