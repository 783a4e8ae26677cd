"""LARS: momentum SGD whose step in each matrix is a fixed share of the norm of its weights.

You, Gitman and Ginsburg, "Large Batch Training of Convolutional Networks", arXiv 1708.03888,
Algorithm 1.

    λ = η·‖p‖/(‖g‖ + wd·‖p‖), for each tensor of two dimensions and more (1 where a norm is 0)
    b ← momentum·b + λ·(g + wd·p);  p ← p − lr·b

State: b, one word per parameter.
Departures from the paper: lr stays outside of the buffer, and vectors take plain momentum steps
without decay, both as in common implementations.
"""

import torch

from harness import ops
from harness.schedules import warmup_cosine

SPACE = {
    "lr": {"log": [0.03, 3.0]},
    "trust": {"choice": [3e-2, 1e-2, 1e-3]},
    "momentum": {"choice": [0.9, 0.95]},
    "wd": {"log": [1e-6, 1e-3]},
    "warmup": 0.05,
}


def init(params, hp):
    return {"b": ops.zeros(params)}


def update(params, grads, state, hp, progress):
    sizes, slopes = torch.stack(torch._foreach_norm([*params, *grads])).chunk(2)
    below = slopes + hp.wd * sizes
    fit = (sizes > 0) & (below > 0) & torch.tensor([p.ndim > 1 for p in params]).to(sizes.device)
    ratios = torch.where(fit, hp.trust * sizes / below, 1.0).tolist()
    for p, g, b, ratio in zip(params, grads, state["b"], ratios, strict=True):
        b.mul_(hp.momentum).add_(g, alpha=ratio)
        if p.ndim > 1:
            b.add_(p, alpha=ratio * hp.wd)
    torch._foreach_add_(params, state["b"], alpha=-hp.lr * warmup_cosine(progress, hp.warmup))
