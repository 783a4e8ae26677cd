"""SVFit: only the largest singular values of each matrix train.

Sun et al., "SVFit: Parameter-Efficient Fine-Tuning of Large Pre-Trained Models Using Singular
Values", arXiv 2409.05926.

    W = U_r·diag(σ_r)·V_rᵀ + W_rest;  σ_r ← AdamW, U_r, V_r and W_rest are frozen

State: AdamW's for σ_r: r scalars a matrix.
Departures from the paper: none known. The rule follows its abstract and introduction; the authors
publish no code.
"""

import torch
from torch import nn

from harness import surgery
from submissions.peft import head_only

BASE = "adamw"
TRACKS = ["finetune"]
SPACE = {
    **head_only.SPACE,
    "base_lr": {"log": [1e-3, 1e-1]},
    "rank": {"int": [4, 64], "default": 64},
    # Largest share of all parameters that may train: an upper bound on the rank.
    "share": {"linear": [0.0, 1.0], "default": 1.0, "goal": "trainable"},
}


class SVFit(surgery.Adapted):
    def __init__(self, linear, rank):
        super().__init__(linear)
        u, s, v = torch.linalg.svd(self.weight.detach(), full_matrices=False)
        self.register_buffer("U", u[:, :rank].contiguous())
        self.register_buffer("V", v[:rank].contiguous())
        self.sigma = nn.Parameter(s[:rank].clone())
        with torch.no_grad():
            self.weight.sub_((self.U * self.sigma) @ self.V)

    def dense(self):
        return self.weight + (self.U * self.sigma) @ self.V


def adapt(model, task, hp):
    surgery.freeze(model)
    rank = surgery.fitting(model, hp.rank, hp.share, lambda out, inputs, r: min(out, inputs, r))
    surgery.replace(model, lambda linear: SVFit(linear, rank))
