"""VeRA: two trained vectors for each matrix, around random matrices that all share.

Kopiczko et al., "VeRA: Vector-based Random Matrix Adaptation", arXiv 2310.11454.

    W' = W + diag(b)·B·diag(d)·A,  A [r, in] and B [out, r] random and frozen;  b = 0, d = 0.1

State: AdamW's for b and d: out + r scalars a matrix.
Departures from the paper: a smaller matrix takes a slice of the shared ones, with the Kaiming bound
√(6/fan-in) of its own fan-in.
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
    "base_lr": {"log": [3e-3, 1e-1]},
    "rank": {"int": [8, 256], "default": 64},
    # Largest share of all parameters that may train: an upper bound on the rank.
    "share": {"linear": [0.0, 1.0], "default": 1.0, "goal": "trainable"},
    "d_initial": 0.1,
}


class VeRA(surgery.Adapted):
    def __init__(self, linear, shared_a, shared_b, d_initial):
        super().__init__(linear)
        (out, inputs), rank = self.weight.shape, len(shared_a)
        self.register_buffer("A", shared_a[:, :inputs] * (6 / inputs) ** 0.5)
        self.register_buffer("B", shared_b[:out] * (6 / rank) ** 0.5)
        self.d = nn.Parameter(torch.full_like(self.A[:, 0], d_initial))
        self.b = nn.Parameter(torch.zeros_like(self.B[:, 0]))

    def dense(self):
        return self.weight + (self.b[:, None] * self.B) @ (self.d[:, None] * self.A)

    def forward(self, x):
        change = F.linear(F.linear(x, self.A) * self.d, self.B) * self.b
        return F.linear(x, self.weight, self.bias) + change


def adapt(model, task, hp):
    surgery.freeze(model)
    rank = surgery.fitting(model, hp.rank, hp.share, lambda out, inputs, r: r + out)
    shapes = [m.weight.shape for m in surgery.matrices(model).values()]
    like = next(model.parameters())
    a = like.new_empty(rank, max(s[1] for s in shapes)).uniform_(-1, 1)
    b = like.new_empty(max(s[0] for s in shapes), rank).uniform_(-1, 1)
    surgery.replace(model, lambda linear: VeRA(linear, a, b, hp.d_initial))
