"""Tiger: Lion with one beta, and a step that is a share of each matrix's root mean square.

J. Su, "Tiger: A Tight-fisted Optimizer", 2023 (blog and code bojone/tiger).

    m ← β·m + (1 − β)g
    matrices   p ← p − lr·RMS(p)·(sign(m) + wd·p), with 1/2 in place of an RMS of 0
    vectors    p ← p − lr/2·sign(m), without decay

scale "none" is Lion's step with one beta for all tensors: p ← p − lr·(sign(m) + wd·p).
State: m, one word per parameter.
Departures from the paper: the author's code takes the RMS of an embedding for each row.
"""

import torch

from harness import ops
from harness.schedules import warmup_cosine

SPACE = {
    "lr": {"log": [1e-3, 3e-2]},
    "wd": {"log": [1e-2, 3.0]},
    "beta": {"choice": [0.965, 0.945, 0.98]},
    "scale": "rms",
    "warmup": 0.05,
}


def init(params, hp):
    return {"m": ops.zeros(params)}


def update(params, grads, state, hp, progress):
    lr = hp.lr * warmup_cosine(progress, hp.warmup)
    torch._foreach_lerp_(state["m"], grads, 1.0 - hp.beta)
    u = torch._foreach_sign(state["m"])
    if hp.scale == "none":
        ops.sgd_(params, u, lr, hp.wd)
        return
    norms = torch.stack(torch._foreach_norm(params)).tolist()
    for p, sign, norm in zip(params, u, norms, strict=True):
        matrix, rms = p.ndim > 1, norm / max(1, p.numel()) ** 0.5
        rate = lr * (rms if matrix and rms else 0.5)
        p.mul_(1.0 - rate * hp.wd if matrix else 1.0).sub_(sign, alpha=rate)
