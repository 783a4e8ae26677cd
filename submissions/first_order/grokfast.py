"""Grokfast: AdamW on gradients whose slow part is amplified.

Lee et al., "Grokfast: Accelerated Grokking by Amplifying Slow Gradients", arXiv 2405.20233,
Algorithm 2 (Grokfast-EMA).

    μ ← α·μ + (1 − α)g, at first g itself;  AdamW with g + λ·μ

State: AdamW's m and v, and μ, three words per parameter; the step.
Departures from the paper: none; the base method is AdamW, as in its experiments.
"""

import torch

from harness import ops
from submissions.first_order import adamw

ELEMENTWISE = True
SPACE = {
    **adamw.SPACE,
    "alpha": {"choice": [0.98, 0.9, 0.8]},
    "lamb": {"log": [0.1, 5.0], "default": 2.0},
}


def init(params, hp):
    return adamw.init(params, hp) | {"slow": ops.zeros(params)}


def update(params, grads, state, hp, progress):
    torch._foreach_lerp_(state["slow"], grads, 1.0 - hp.alpha if state["step"] else 1.0)
    amplified = torch._foreach_mul(state["slow"], hp.lamb)
    torch._foreach_add_(amplified, grads)
    adamw.update(params, amplified, state, hp, progress)
