"""RoAd: the outputs of every frozen matrix are turned and stretched in pairs.

Liao et al., "3-in-1: 2D Rotary Adaptation for Efficient Finetuning, Efficient Batching and
Composability", arXiv 2409.00119.

    (y'_2j, y'_2j+1) = α_j·(cos θ_j·y_2j - sin θ_j·y_2j+1, sin θ_j·y_2j + cos θ_j·y_2j+1)
    y = W x + b;  θ = 0, α = 1 at the start

State: AdamW's for θ and α: out scalars a matrix.
Departures from the paper: the form with one angle and one length for a pair (RoAd1). Where the
goal's share is too small for all matrices, those with the fewest outputs come first. AdamW without
decay, because α is 1 at rest.
"""

import torch
from torch import nn

from harness import surgery
from harness.errors import UserError
from submissions.peft import head_only

BASE = "adamw"
TRACKS = ["finetune"]
SPACE = {
    **head_only.SPACE,
    "base_wd": 0.0,
    "base_lr": {"log": [1e-3, 1e-1]},
    # Largest share of all parameters that may train: matrices are turned while they fit.
    "share": {"linear": [0.0, 1.0], "default": 1.0, "goal": "trainable"},
}


class RoAd(surgery.Adapted):
    def __init__(self, linear):
        super().__init__(linear)
        if len(self.weight) % 2:
            raise UserError(f"road turns outputs in pairs; a matrix has {len(self.weight)} of them")
        self.theta = nn.Parameter(self.weight.new_zeros(len(self.weight) // 2))
        self.alpha = nn.Parameter(torch.ones_like(self.theta))

    def turned(self, y):
        """Return values [out, ...] with their rows turned."""
        even, odd = y[0::2], y[1::2]
        shape = (-1, *[1] * (y.ndim - 1))
        c, s = ((self.alpha * f(self.theta)).view(shape) for f in (torch.cos, torch.sin))
        return torch.stack((c * even - s * odd, s * even + c * odd), 1).flatten(0, 1)

    def dense(self):
        return self.turned(self.weight)

    def dense_bias(self):
        return None if self.bias is None else self.turned(self.bias)


def adapt(model, task, hp):
    left, turned = hp.share * sum(p.numel() for p in model.parameters()), set()
    surgery.freeze(model)
    for linear in sorted(surgery.matrices(model).values(), key=lambda m: len(m.weight)):
        if len(linear.weight) <= left:
            left -= len(linear.weight)
            turned.add(linear)
    surgery.replace(model, lambda linear: RoAd(linear) if linear in turned else linear)
