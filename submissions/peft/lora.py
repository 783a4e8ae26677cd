"""LoRA: a trainable low-rank product beside every frozen matrix.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", arXiv 2106.09685; scale
"rank_stable": rsLoRA, Kalajdzievski, arXiv 2312.03732; start "pissa": Meng et al., arXiv
2404.02948.

    W' = W + s·B·A,  A [r, in], B [out, r];  s = α/r, or α/√r when rank-stable
    start "zero":  A ~ U(±1/√in), B = 0;   start "pissa":  W = U·S·Vᵀ,
        B = U_r·√S_r/√s, A = √S_r·V_rᵀ/√s, and W - s·B·A takes the place of W

State: AdamW's for A and B, r(in + out) scalars a matrix.
Departures from the paper: every hidden matrix has an adapter; no dropout. Rows of a fused
query-key-value matrix share one A.
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
    "base_lr": {"log": [1e-3, 5e-2]},
    "rank": {"int": [1, 16], "default": 4},
    # Largest share of all parameters that may train: an upper bound on the rank.
    "share": {"linear": [0.0, 1.0], "default": 1.0, "goal": "trainable"},
    "alpha": 8.0,
    "scale": {"choice": ["standard", "rank_stable"]},
    "start": {"choice": ["zero", "pissa"]},
}
VARIANTS = {"rslora": {"scale": "rank_stable"}, "pissa": {"start": "pissa"}}


class LoRA(surgery.Adapted):
    def __init__(self, linear, rank, scale, start="zero"):
        super().__init__(linear)
        out, inputs = self.weight.shape
        if start == "pissa":
            rank = min(rank, out, inputs)
        self.scale = scale
        self.A = nn.Parameter(
            self.weight.new_empty(rank, inputs).uniform_(-(inputs**-0.5), inputs**-0.5)
        )
        self.B = nn.Parameter(self.weight.new_zeros(out, rank))
        if start == "pissa":
            with torch.no_grad():
                u, s, v = torch.linalg.svd(self.weight, full_matrices=False)
                root = (s[:rank] / scale).sqrt()
                self.B.copy_(u[:, :rank] * root)
                self.A.copy_(root[:, None] * v[:rank])
                self.weight.sub_(scale * self.B @ self.A)

    def dense(self):
        return self.weight + self.scale * self.B @ self.A

    def forward(self, x):
        return F.linear(x, self.weight, self.bias) + self.scale * F.linear(
            F.linear(x, self.A), self.B
        )


def size(out, inputs, rank):
    """Return how many scalars train for a matrix."""
    return rank * (out + inputs)


def adapt(model, task, hp):
    surgery.freeze(model)
    rank = surgery.fitting(model, hp.rank, hp.share, size)
    scale = hp.alpha / (rank**0.5 if hp.scale == "rank_stable" else rank)
    surgery.replace(model, lambda linear: LoRA(linear, rank, scale, hp.start))
