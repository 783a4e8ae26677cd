"""APOLLO: whole gradients scaled, channel by channel, as Adam would scale a random projection.

Zhu et al., "APOLLO: SGD-like Memory, AdamW-level Performance", arXiv 2412.05270, Algorithm 1; order
and placement of eps agree with the authors' package.

    every `gap` steps: P ← a new Gaussian matrix with entries of variance 1/r
    R = gP (rows ≥ columns) or Pg;  R̃ = R's Adam step, m and v averaged over R
    factor = ‖R̃‖/‖R‖ of each channel (a row, or a column if there are fewer rows), or of the matrix
    s = g·factor;  s ← s/max(1, ‖s‖/(1.01·last ‖s‖));  p ← p − lr·√scale·s;  p ← p(1 − lr·wd)

apollo_mini has rank 1 and one factor for each matrix. It updates the hidden matrices; AdamW the
rest.
State: m and v of R, and P; one norm for each matrix; the step.
Departures from the paper: P is kept, where the paper draws it anew from its seed.
"""

import math

import torch

from harness.schedules import warmup_cosine

HANDLES = ["hidden"]
FALLBACK = "adamw"
SPACE = {
    "lr": {"log": [3e-3, 5e-2]},
    "wd": {"log": [1e-3, 1e-1]},
    "rank": {"int": [1, 64], "default": 16},
    "gap": {"choice": [200, 50]},
    "scale": 1.0,
    "factor": "channel",
    "beta1": 0.9,
    "beta2": {"choice": [0.99, 0.999]},
    "eps": 1e-6,
    "warmup": 0.05,
    "fallback_lr": {"log": [1e-3, 2e-2]},
    "fallback_wd": 0.1,
}
VARIANTS = {"apollo_mini": {"rank": 1, "scale": 128.0, "factor": "tensor"}}
GROWTH = 1.01


def tall(p):
    return p.shape[0] >= p.shape[1]


def init(params, hp):
    ranks = [max(1, min(hp.rank, *p.shape)) for p in params]
    small = [(p.shape[0], r) if tall(p) else (r, p.shape[1]) for p, r in zip(params, ranks)]
    return {
        "m": [p.new_zeros(shape) for p, shape in zip(params, small)],
        "v": [p.new_zeros(shape) for p, shape in zip(params, small)],
        "projection": [p.new_zeros(min(p.shape), r) for p, r in zip(params, ranks)],
        "norm": [p.new_zeros(()) for p in params],
        "step": 0,
    }


def update(params, grads, state, hp, progress):
    lr, projections = hp.lr * warmup_cosine(progress, hp.warmup), state["projection"]
    if state["step"] % hp.gap == 0:
        for basis in projections:
            basis.copy_(torch.randn(basis.shape, device=basis.device)).div_(basis.shape[1] ** 0.5)
    state["step"] += 1
    t, m, v = state["step"], state["m"], state["v"]
    small = [g @ b if tall(g) else b.mT @ g for g, b in zip(grads, projections, strict=True)]
    torch._foreach_lerp_(m, small, 1.0 - hp.beta1)
    torch._foreach_mul_(v, hp.beta2)
    torch._foreach_addcmul_(v, small, small, value=1.0 - hp.beta2)
    scale = torch._foreach_sqrt(v)
    torch._foreach_add_(scale, hp.eps)
    steps = []
    for g, r, adam in zip(grads, small, torch._foreach_div(m, scale), strict=True):
        axes = (0, 1) if hp.factor == "tensor" else (1 if tall(g) else 0)
        above = torch.linalg.vector_norm(adam, dim=axes, keepdim=True)
        steps.append(g * (above / (torch.linalg.vector_norm(r, dim=axes, keepdim=True) + 1e-8)))
    norms, last = torch.stack(torch._foreach_norm(steps)), torch.stack(state["norm"])
    # A last norm of 0 is that of no step at all: nothing limits the first one.
    limits = torch.where(last > 0, (norms / (last + 1e-8)).clamp_(min=GROWTH) / GROWTH, 1.0)
    torch._foreach_copy_(state["norm"], list((norms / limits).unbind()))
    correction = math.sqrt(1.0 - hp.beta2**t) / (1.0 - hp.beta1**t)
    torch._foreach_div_(steps, list(limits.unbind()))
    torch._foreach_add_(params, steps, alpha=-lr * correction * hp.scale**0.5)
    torch._foreach_mul_(params, 1.0 - lr * hp.wd)
