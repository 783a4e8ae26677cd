"""SPlus: the signs of the momentum in Shampoo's eigenbasis, and an average that is evaluated.

Frans, Levine and Abbeel, "A Stable Whitening Optimizer for Efficient Neural Network Training",
arXiv 2506.07254, Algorithm 1.

    m ← β1·m + (1 − β1)g;  L ← β2·L + (1 − β2)ggᵀ,  R ← β2·R + (1 − β2)gᵀg
    p ← p − lr·2/(rows + columns)·U·sign(UᵀmV)·Vᵀ;  p ← p(1 − lr·2/(rows + columns)·wd)
    at the first step and at every multiple of `every`: U, V ← eigenvectors of L and R
    x ← ε·x + (1 − ε)p before the decay;  evaluation uses x/(1 − εᵗ)

It updates the hidden matrices. AdamW updates the rest.
State: m, x, L, R, U and V; for n x n matrices 6 words per parameter; the step.
Departures from the paper: AdamW takes the place of sign steps for tensors that are not matrices.
The bases serve from the step after the one that computes them, as in the authors' code.
"""

import torch

from harness import ops
from harness.schedules import warmup_cosine

HANDLES = ["hidden"]
FALLBACK = "adamw"
SPACE = {
    "lr": {"log": [0.03, 1.0]},
    "wd": {"log": [1e-3, 1e-1]},
    "beta1": 0.9,
    "beta2": {"choice": [0.999, 0.99]},
    "average": {"choice": [0.99, 0.999]},
    "every": {"choice": [100, 20]},
    "warmup": 0.05,
    "fallback_lr": {"log": [1e-3, 2e-2]},
    "fallback_wd": 0.1,
}


def init(params, hp):
    state = {"m": ops.zeros(params), "x": ops.zeros(params), "step": 0, "average": hp.average}
    for axis, side in enumerate(("left", "right")):
        state[side] = [p.new_zeros(p.shape[axis], p.shape[axis]) for p in params]
        state[f"{side}_basis"] = [
            torch.eye(p.shape[axis], dtype=p.dtype, device=p.device) for p in params
        ]
    return state


def update(params, grads, state, hp, progress):
    state["step"] += 1
    lr, mix = hp.lr * warmup_cosine(progress, hp.warmup), 1.0 - hp.beta2
    torch._foreach_lerp_(state["m"], grads, 1.0 - hp.beta1)
    sides = (state[key] for key in ("m", "x", "left", "right", "left_basis", "right_basis"))
    for p, g, m, x, left, right, u, v in zip(params, grads, *sides, strict=True):
        left.addmm_(g, g.mT, beta=hp.beta2, alpha=mix)
        right.addmm_(g.mT, g, beta=hp.beta2, alpha=mix)
        step = lr * 2.0 / max(1, sum(p.shape))
        p.addmm_(u @ (u.mT @ m @ v).sign_(), v.mT, alpha=-step)
        x.lerp_(p, 1.0 - hp.average)
        p.mul_(1.0 - step * hp.wd)
        if state["step"] == 1 or state["step"] % hp.every == 0:
            u.copy_(torch.linalg.eigh(left).eigenvectors)
            v.copy_(torch.linalg.eigh(right).eigenvectors)


def evaluate_view(params, state):
    if state["step"] == 0:
        return list(params)
    weight = 1.0 - state["average"] ** state["step"]
    return [x / weight for x in state["x"]]
