"""LoLDU: a diagonal between frozen triangular factors trains, and its scale.

Shi et al., "LoLDU: Low-Rank Adaptation via Lower-Diag-Upper Decomposition", arXiv 2410.13618.

    W = P·L·D·U (L and U with unit diagonal);  W' = W_rest + s·P·L_r·diag(z)·U_r
    L_r and U_r are the first r columns and rows;  at the start z = D_r, s = α/r and W' = W

State: AdamW's for z and s: r + 1 scalars a matrix.
Departures from the paper: only the start from the decomposition ("lu"). The trained part leaves out
zero pivots, whose rows of U have no unit diagonal.
"""

import torch
from torch import nn

from harness import surgery
from submissions.peft import head_only

BASE = "adamw"
TRACKS = ["finetune"]
SPACE = {
    **head_only.SPACE,
    "base_lr": {"log": [3e-4, 3e-2]},
    "rank": {"int": [4, 64], "default": 20},
    # Largest share of all parameters that may train: an upper bound on the rank.
    "share": {"linear": [0.0, 1.0], "default": 1.0, "goal": "trainable"},
    "alpha": 20.0,
}


class LoLDU(surgery.Adapted):
    def __init__(self, linear, rank, alpha):
        super().__init__(linear)
        p, lower, upper = torch.linalg.lu(self.weight.detach())
        pivots = upper.diagonal()[:rank]
        sound = pivots.abs() > torch.finfo(pivots.dtype).eps * pivots.abs().max()
        unit = torch.where(sound, pivots, 1.0)[:, None]
        self.register_buffer("L", (p @ lower[:, :rank]).contiguous())
        self.register_buffer("U", torch.where(sound[:, None], upper[:rank] / unit, 0.0))
        self.z = nn.Parameter(pivots.clone())
        self.s = nn.Parameter(pivots.new_full((), alpha / rank))
        with torch.no_grad():
            self.weight.sub_(self.change())

    def change(self):
        return self.s * (self.L * self.z) @ self.U

    def dense(self):
        return self.weight + self.change()


def adapt(model, task, hp):
    def size(out, inputs, rank):
        return min(rank, out, inputs) + 1

    surgery.freeze(model)
    rank = surgery.fitting(model, hp.rank, hp.share, size)
    surgery.replace(model, lambda linear: LoLDU(linear, rank, hp.alpha))
