"""Optimistic SGD: a step along the gradient, and one along its change since the last step.

Daskalakis, Ilyas, Syrgkanis and Zeng, "Training GANs with Optimism", arXiv 1711.00141, equation 5;
adaptive rate: Chen et al. (SEA), arXiv 2302.04552.

    p ← p − 2·lr·u + lr·last u, the last u 0 at first;  u = g + wd·p
    "sea": lr/√(1 + Σ‖u − last u‖²) in place of lr, global norm

State: the last u, one word per parameter; Σ.
Departures from the paper: decay, warm-up and decay of lr. "sea" takes its δ as 1, by memory.
"""

import torch

from harness import ops
from harness.schedules import warmup_cosine

ELEMENTWISE = True
SPACE = {
    "lr": {"log": [0.01, 1.0]},
    "wd": {"log": [1e-6, 1e-3]},
    "rate": {"choice": ["plain", "sea"]},
    "warmup": 0.05,
}


def init(params, hp):
    return {"last": ops.zeros(params), "square": 0.0}


def lean_(params, u, state, lr, rate):
    """Move the parameters along 2u − last u; update the state."""
    if rate == "sea":
        state["square"] += ops.global_norm(torch._foreach_sub(u, state["last"])) ** 2
        lr /= (1.0 + state["square"]) ** 0.5
    torch._foreach_add_(params, u, alpha=-2.0 * lr)
    torch._foreach_add_(params, state["last"], alpha=lr)
    torch._foreach_copy_(state["last"], u)


def update(params, grads, state, hp, progress):
    u = torch._foreach_add(grads, params, alpha=hp.wd)
    lean_(params, u, state, hp.lr * warmup_cosine(progress, hp.warmup), hp.rate)
