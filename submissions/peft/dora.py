"""DoRA: a low-rank change of the rows' directions; their lengths train separately.

Liu et al., "DoRA: Weight-Decomposed Low-Rank Adaptation", arXiv 2402.09353.

    V = W + s·B·A;  W' = m ⊙ V/‖V‖, norms of rows, constant in the backward pass (section 4.3)
    at the start m = ‖W‖ and B = 0;  s = α/r

State: AdamW's for A, B and m: r(in + out) + out scalars a matrix.
Departures from the paper: no dropout. The paper's columns are those of the transposed matrix.
"""

import torch
import torch.nn.functional as F
from torch import nn

from harness import surgery
from submissions.peft import head_only, lora

BASE = "adamw"
TRACKS = ["finetune"]
SPACE = {
    **head_only.SPACE,
    "base_lr": {"log": [1e-3, 5e-2]},
    "rank": {"int": [1, 16], "default": 4},
    # Largest share of all parameters that may train: an upper bound on the rank.
    "share": {"linear": [0.0, 1.0], "default": 1.0, "goal": "trainable"},
    "alpha": 8.0,
}


class DoRA(lora.LoRA):
    def __init__(self, linear, rank, scale):
        super().__init__(linear, rank, scale)
        self.m = nn.Parameter(self.weight.detach().norm(dim=1))

    def dense(self):
        v = super().dense()
        # A row of zeros has no direction, and stays.
        length = v.detach().norm(dim=1).clamp_min(torch.finfo(v.dtype).tiny)
        return (self.m / length)[:, None] * v

    def forward(self, x):
        return F.linear(x, self.dense(), self.bias)


def adapt(model, task, hp):
    surgery.freeze(model)
    rank = surgery.fitting(model, hp.rank, hp.share, lambda out, n, r: lora.size(out, n, r) + out)
    surgery.replace(model, lambda linear: DoRA(linear, rank, hp.alpha / rank))
