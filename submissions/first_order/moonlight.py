"""Moonlight's Muon: Muon scaled so that its update has the size of AdamW's, for any shape.

Liu et al., "Muon is Scalable for LLM Training", arXiv 2502.16982, equation 4.

    m ← μ·m + (1 − μ)g;  u = (1 − μ)g + μ·m;  X = NewtonSchulz₅(u)
    p ← p − lr·(0.2·√max(rows, columns)·X + wd·p)

Learning rate and decay may then be AdamW's own. It updates the hidden matrices; AdamW the rest.
State: m, one word per parameter.
Departures from the paper: as in muon.
"""

from collections import defaultdict

import torch

from harness import ops
from harness.schedules import warmup_cosine

HANDLES = ["hidden"]
FALLBACK = "adamw"
SPACE = {
    "lr": {"log": [1e-3, 2e-2]},
    "wd": {"log": [1e-2, 1.0]},
    "momentum": 0.95,
    "rms": 0.2,
    "warmup": 0.05,
    "fallback_lr": {"log": [1e-3, 2e-2]},
    "fallback_wd": 0.1,
}


def init(params, hp):
    return {"m": ops.zeros(params)}


def directions(grads, m, momentum, orthogonalise=ops.newton_schulz):
    """Update the momenta m in place; return each matrix's orthogonalised Nesterov direction.

    Matrices of one shape are orthogonalised as one stack [matrices, rows, columns].
    """
    torch._foreach_lerp_(m, grads, 1.0 - momentum)
    shapes = defaultdict(list)
    for i, g in enumerate(grads):
        shapes[g.shape].append(i)
    result = [torch.empty(0)] * len(grads)
    for members in shapes.values():
        u = torch.stack([torch.lerp(grads[i], m[i], momentum) for i in members])
        for i, x in zip(members, orthogonalise(u).unbind(), strict=True):
            result[i] = x
    return result


def update(params, grads, state, hp, progress):
    xs = directions(grads, state["m"], hp.momentum)
    torch._foreach_mul_(xs, [hp.rms * max(p.shape) ** 0.5 for p in params])
    ops.sgd_(params, xs, hp.lr * warmup_cosine(progress, hp.warmup), hp.wd)
