"""RandLoRA: a full-rank change as a trained combination of random low-rank products.

Albert et al., "RandLoRA: Full-rank parameter-efficient fine-tuning of large models",
arXiv 2502.00987.

    W' = W + (α/r)·Σ_j B_j·Λ_j·A·Γ_j,  j = 1 ... n = ⌈min(in, out)/r⌉  (transposed where in > out)
    B_j [max, r] and A [r, min] random, frozen, of deviation 1, shared by all matrices;
    Λ_j [r] = 0 and Γ_j [min] = 1/max(n, min) are trained

pairing "code": columns of the B_j and rows of A·Γ are paired in the order of the authors' layers
(bases outer in B, ranks outer in A). The formula pairs them differently.
State: AdamW's for Λ and Γ: n(r + min) scalars a matrix, more for a smaller r.
Departures from the paper: dense random bases only, no sparse ones.
"""

import torch
from torch import nn

from harness import surgery
from submissions.peft import head_only

BASE = "adamw"
TRACKS = ["finetune"]
SPACE = {
    **head_only.SPACE,
    "base_lr": {"log": [1e-3, 5e-2]},
    "rank": {"int": [4, 64], "default": 16},
    # Largest share of all parameters that may train: a lower bound on the rank.
    "share": {"linear": [0.0, 1.0], "default": 1.0, "goal": "trainable"},
    "scale": 20.0,  # α/r
    "pairing": {"choice": ["paper", "code"]},
}


class RandLoRA(surgery.Adapted):
    def __init__(self, linear, shared_a, shared_b, scale, pairing):
        super().__init__(linear)
        small, large = sorted(self.weight.shape)
        bases = -(-small // len(shared_a))
        self.scale, self.wide = scale, self.weight.shape[1] > self.weight.shape[0]
        b = shared_b[:large, :bases]  # [max, n, r]
        self.register_buffer("A", shared_a[:, :small].clone())
        columns = b.flatten(1) if pairing == "code" else b.transpose(1, 2).flatten(1)
        self.register_buffer("B", columns.clone())  # [max, n·r]
        self.lam = nn.Parameter(torch.zeros_like(self.A[:, :1]).repeat(1, bases))  # [r, n]
        self.gamma = nn.Parameter(
            torch.full_like(self.A[:1], 1 / max(bases, small)).repeat(bases, 1)
        )

    def dense(self):
        rows = (self.lam[:, :, None] * self.A[:, None] * self.gamma).flatten(0, 1)  # [r·n, min]
        change = self.scale * self.B @ rows
        return self.weight + (change.T if self.wide else change)


def fitting(shapes, rank, allowed):
    """Return the least rank from `rank` on that trains at most `allowed` scalars, if one does.

    Args:
        shapes: (smaller, larger side) of each matrix.
    """
    most = max(small for small, _ in shapes)
    while rank < most and sum(-(-s // rank) * (rank + s) for s, _ in shapes) > allowed:
        rank += 1
    return rank


def adapt(model, task, hp):
    surgery.freeze(model)
    shapes = [sorted(m.weight.shape) for m in surgery.matrices(model).values()]
    small, large = max(s[0] for s in shapes), max(s[1] for s in shapes)
    like = next(model.parameters())
    rank = fitting(shapes, hp.rank, hp.share * sum(p.numel() for p in model.parameters()))
    a = like.new_empty(rank, small).uniform_(-1, 1)
    b = like.new_empty(large, -(-small // rank), rank).uniform_(-1, 1)
    a, b = a / a.std(), b / b.std()
    surgery.replace(model, lambda linear: RandLoRA(linear, a, b, hp.scale, hp.pairing))
