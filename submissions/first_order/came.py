"""CAME: Adafactor with momentum, divided by the factored size of the momentum's own error.

Luo et al., "CAME: Confidence-guided Adaptive Memory Efficient Optimization", arXiv 2307.02047,
Algorithm 2.

    r, c ← averages of g² + eps1 over columns and rows (β2);  u = g/√(r·c/mean(r))
    u ← u/max(1, RMS(u)/d);  m ← β1·m + (1 − β1)u;  R, C ← averages of (u − m)² + eps2 (β3)
    p ← p(1 − lr·wd) − lr·m/√(R·C/mean(R)).  Tensors of one dimension: p ← p(1 − lr·wd) − lr·m

State: m, one word per parameter; two rows and two columns per matrix; v for vectors.
Departures from the paper: none; the treatment of vectors and decoupled decay are the authors' code.
"""

import torch

from harness import ops
from harness.schedules import warmup_cosine
from submissions.first_order import adafactor

SPACE = {
    # The error's average starts at 0 without a correction, so that early steps are several Adam's.
    "lr": {"log": [3e-4, 8e-3]},
    "wd": {"log": [1e-3, 1.0]},
    "beta1": 0.9,
    "beta2": 0.999,
    "beta3": 0.9999,
    "d": 1.0,
    "eps1": 1e-30,
    "eps2": 1e-16,
    "warmup": 0.05,
}


def init(params, hp):
    sides, errors = adafactor.init(params, hp), adafactor.init(params, hp)
    return {
        "m": ops.zeros(params),
        "r": sides["r"],
        "c": sides["c"],
        "error_r": [e if p.ndim > 1 else p.new_zeros(0) for p, e in zip(params, errors["r"])],
        "error_c": errors["c"],
    }


def root_(square, r, c, mix):
    """Update the averages r and c of `square`; return 1/√ of the matrix that they stand for."""
    r.lerp_(square.mean(dim=-1, keepdim=True), mix)
    c.lerp_(square.mean(dim=-2, keepdim=True), mix)
    rows = (r / r.mean(dim=-2, keepdim=True)).rsqrt_()
    return torch.mul(rows, c.rsqrt(), out=square)


def update(params, grads, state, hp, progress):
    squares = torch._foreach_mul(grads, grads)
    torch._foreach_add_(squares, hp.eps1)
    us = []
    for square, r, c in zip(squares, state["r"], state["c"], strict=True):
        if square.ndim > 1:
            us.append(root_(square, r, c, 1.0 - hp.beta2))
        else:
            us.append(r.lerp_(square, 1.0 - hp.beta2).rsqrt())
    torch._foreach_mul_(us, grads)
    norms = torch.stack(torch._foreach_norm(us)).tolist()
    sizes = [hp.d * max(1, u.numel()) ** 0.5 for u in us]
    torch._foreach_div_(us, [max(1.0, n / size) for n, size in zip(norms, sizes, strict=True)])
    torch._foreach_lerp_(state["m"], us, 1.0 - hp.beta1)
    torch._foreach_sub_(us, state["m"])
    torch._foreach_mul_(us, us)
    torch._foreach_add_(us, hp.eps2)
    steps = [
        root_(u, r, c, 1.0 - hp.beta3).mul_(m) if u.ndim > 1 else m
        for u, m, r, c in zip(us, state["m"], state["error_r"], state["error_c"], strict=True)
    ]
    ops.sgd_(params, steps, hp.lr * warmup_cosine(progress, hp.warmup), hp.wd)
