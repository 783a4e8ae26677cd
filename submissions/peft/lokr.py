"""LoKr: a Kronecker product beside every frozen matrix, its larger factor of low rank.

Yeh et al., "Navigating Text-To-Image Customization: From LyCORIS Fine-Tuning to Model Evaluation",
arXiv 2309.14859.

    W' = W + (α/r)·(W1 ⊗ W2),  W1 [o1, i1], W2 [o2, i2], o1·o2 = out, i1·i2 = in
    o1 and i1: the largest divisors up to the square root
    W1 = 0 at the start;  W2 = B·A of rank r where r < max(o2, i2)/2, else a full matrix
    both: W1 is of rank r as well where r < max(o1, i1)/2

State: AdamW's for the factors: o1·i1 + r(o2 + i2) scalars a matrix.
Departures from the paper: none. Factors that are not zero start uniform, as in the package peft.
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
    "rank": {"int": [1, 16], "default": 4},
    # Largest share of all parameters that may train: an upper bound on the rank.
    "share": {"linear": [0.0, 1.0], "default": 1.0, "goal": "trainable"},
    "alpha": 8.0,
    "both": {"choice": [False, True]},
}


def divisor(count):
    """Return the largest divisor up to the square root."""
    return max(d for d in range(1, int(count**0.5) + 1) if count % d == 0)


def factors(out, inputs, rank, both):
    """Return the shapes of the tensors whose products are W1 and W2."""
    o1, i1 = divisor(out), divisor(inputs)
    o2, i2 = out // o1, inputs // i1
    first = [(o1, rank), (rank, i1)] if both and rank < max(o1, i1) / 2 else [(o1, i1)]
    return first, [(o2, rank), (rank, i2)] if rank < max(o2, i2) / 2 else [(o2, i2)]


class LoKr(surgery.Adapted):
    def __init__(self, linear, rank, alpha, both):
        super().__init__(linear)
        self.scale = alpha / rank
        first, second = factors(*self.weight.shape, rank, both)
        self.first = nn.ParameterList(self.drawn(shape) for shape in first)
        self.second = nn.ParameterList(self.drawn(shape) for shape in second)
        nn.init.zeros_(self.first[0])

    def drawn(self, shape):
        bound = shape[1] ** -0.5
        return nn.Parameter(self.weight.new_empty(shape).uniform_(-bound, bound))

    def dense(self):
        one, two = (p[0] if len(p) == 1 else p[0] @ p[1] for p in (self.first, self.second))
        return self.weight + self.scale * torch.kron(one, two)


def adapt(model, task, hp):
    def size(out, inputs, rank):
        first, second = factors(out, inputs, rank, hp.both)
        return sum(rows * columns for rows, columns in first + second)

    surgery.freeze(model)
    rank = surgery.fitting(model, hp.rank, hp.share, size)
    surgery.replace(model, lambda linear: LoKr(linear, rank, hp.alpha, hp.both))
