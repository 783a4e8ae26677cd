"""LAMB: AdamW's step, scaled for each tensor to the norm of its weights.

You et al., "Large Batch Optimization for Deep Learning: Training BERT in 76 minutes", arXiv
1904.00962, Algorithm 2.

    r = m̂/(√v̂ + eps) + wd·p;  p ← p − lr·(‖p‖/‖r‖)·r, for each tensor (ratio 1 where a norm is 0)

State: m and v, two words per parameter; the step.
Departures from the paper: φ is the identity; the rule is the same for every tensor, also for biases
and norms.
"""

import torch

from harness import ops
from harness.schedules import warmup_cosine

SPACE = {
    "lr": {"log": [2e-3, 5e-2]},
    "wd": {"log": [1e-2, 1.0]},
    "beta1": 0.9,
    "beta2": {"choice": [0.95, 0.99, 0.999]},
    "eps": 1e-6,
    "warmup": 0.05,
}


def init(params, hp):
    return {"m": ops.zeros(params), "v": ops.zeros(params), "step": 0}


def update(params, grads, state, hp, progress):
    state["step"] += 1
    lr, betas, rs = (
        hp.lr * warmup_cosine(progress, hp.warmup),
        (hp.beta1, hp.beta2),
        ops.zeros(params),
    )
    ops.adam_(rs, grads, state["m"], state["v"], state["step"], -1.0, betas, hp.eps)
    torch._foreach_add_(rs, params, alpha=hp.wd)
    sizes, lengths = torch.stack(torch._foreach_norm([*params, *rs])).chunk(2)
    ratios = torch.where((sizes > 0) & (lengths > 0), sizes / lengths, 1.0)
    for p, r, ratio in zip(params, rs, ratios.tolist(), strict=True):
        p.add_(r, alpha=-lr * ratio)
