"""LoRA-XS: a small square matrix trained between frozen singular vectors.

Bałazy et al., "LoRA-XS: Low-Rank Adaptation with Extremely Small Number of Parameters",
arXiv 2405.17604.

    W = U·S·Vᵀ;  W' = W + (α/r)·U_r·R·S_r·V_rᵀ,  R [r, r] ~ N(0, 1e-5²)

State: AdamW's for R: r² scalars a matrix.
Departures from the paper: an exact singular value decomposition, not a randomised one.
"""

import torch
import torch.nn.functional as F
from torch import nn

from harness import surgery
from submissions.peft import head_only

BASE = "adamw"
TRACKS = ["finetune"]
SPACE = {
    **head_only.SPACE,
    "base_lr": {"log": [1e-3, 1e-1]},
    "rank": {"int": [2, 32], "default": 14},
    # Largest share of all parameters that may train: an upper bound on the rank.
    "share": {"linear": [0.0, 1.0], "default": 1.0, "goal": "trainable"},
    "alpha": 16.0,
    "deviation": 1e-5,
}


class Framed(surgery.Adapted):
    """W + scale·B·R·A with A [r, in], B [out, r] frozen and R [r, r] trained."""

    def __init__(self, linear, scale, b, r, a):
        super().__init__(linear)
        self.scale = scale
        self.register_buffer("A", a.contiguous())
        self.register_buffer("B", b.contiguous())
        self.R = nn.Parameter(r)

    def dense(self):
        return self.weight + self.scale * self.B @ self.R @ self.A

    def forward(self, x):
        change = F.linear(F.linear(F.linear(x, self.A), self.R), self.B)
        return F.linear(x, self.weight, self.bias) + self.scale * change


def adapt(model, task, hp):
    surgery.freeze(model)
    rank = surgery.fitting(model, hp.rank, hp.share, lambda out, inputs, r: r * r)

    def framed(linear):
        u, s, v = torch.linalg.svd(linear.weight.detach(), full_matrices=False)
        a = s[:rank, None] * v[:rank]
        r = torch.randn(len(a), len(a)).to(u) * hp.deviation
        return Framed(linear, hp.alpha / rank, u[:, :rank], r, a)

    surgery.replace(model, framed)
