"""Median SGD: steps along a running median of the gradients, which moves at most τ a step.

Schaipp et al., "Tracking the Median of Gradients with a Stochastic Proximal Point Method",
arXiv 2402.12828: the median across iterations, in the 1-norm.

    m ← m + clip(g − m, −τ, τ), elementwise;  p ← p(1 − lr·wd) − lr·m

m is the proximal point of τ·‖m − g‖₁ at the last m; with τ = ∞ this is SGD.
State: m, one word per parameter.
Departures from the paper: decoupled decay. The rule follows the abstract: a stochastic proximal
point of the distance to the median, with clipping as its closed form. The paper's step sizes were
not available, so lr and τ are free; lr has a schedule, τ is constant.
"""

import torch

from harness import ops
from harness.schedules import warmup_cosine

ELEMENTWISE = True
SPACE = {
    "lr": {"log": [0.1, 10.0]},
    "tau": {"log": [1e-5, 1e-2]},
    "wd": {"log": [1e-5, 1e-2]},
    "warmup": 0.05,
}


def init(params, hp):
    return {"m": ops.zeros(params)}


def update(params, grads, state, hp, progress):
    for m, g in zip(state["m"], grads, strict=True):
        m.add_(torch.sub(g, m).clamp_(-hp.tau, hp.tau))
    ops.sgd_(params, state["m"], hp.lr * warmup_cosine(progress, hp.warmup), hp.wd)
