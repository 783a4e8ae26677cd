"""Intrinsic dimension: all matrices move in one random subspace of few dimensions.

Aghajanyan et al., "Intrinsic Dimensionality Explains the Effectiveness of Language Model
Fine-Tuning", arXiv 2012.13255 (structure-aware form); Li et al., arXiv 1804.08838.

    W' = W + λ_W·reshape(F_W z),  z in R^d zero at the start, shared; λ_W = 1
    F = H·G·Π·H·S / √(D·ΣG²), the Fastfood transform of n = 2^k ≥ D = in·out dimensions: S random
    signs, Π a permutation, G Gaussian, H Walsh-Hadamard

State: AdamW's for z and the λ: d scalars in all, including one λ for each matrix.
Departures from the paper: biases, norms and embeddings are frozen. The divisor is that of the
authors' code.
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
    "base_wd": 0.0,
    # d, which includes the λ of the matrices.
    "dimension": {"int": [32, 2048], "default": 320},
    # Largest share of all parameters that may train: an upper bound on d.
    "share": {"linear": [0.0, 1.0], "default": 1.0, "goal": "trainable"},
}


def hadamard(x):
    """Return the unnormalised Walsh-Hadamard transform of x, of length a power of two."""
    n, h = len(x), 1
    while h < n:
        x = x.view(-1, 2, h)
        x = torch.stack([x[:, 0] + x[:, 1], x[:, 0] - x[:, 1]], dim=1)
        h *= 2
    return x.reshape(n)


class Subspace(surgery.Adapted):
    def __init__(self, linear, z):
        super().__init__(linear)
        size = self.weight.numel()
        n = 1 << (size - 1).bit_length()
        self.z, self.lam = z, nn.Parameter(self.weight.new_ones(()))
        self.register_buffer("signs", self.weight.new_empty(len(z)).bernoulli_().mul_(2).sub_(1))
        self.register_buffer("order", torch.randperm(n).to(z.device))
        gaussian = self.weight.new_empty(n).normal_()
        self.register_buffer("G", gaussian / (size * gaussian.square().sum()).sqrt())

    def dense(self):
        spread = hadamard(F.pad(self.signs * self.z, (0, len(self.G) - len(self.z))))
        move = hadamard(self.G * spread[self.order])[: self.weight.numel()]
        return self.weight + self.lam * move.view_as(self.weight)


def adapt(model, task, hp):
    surgery.freeze(model)
    allowed = int(hp.share * sum(p.numel() for p in model.parameters()))
    size = max(1, min(hp.dimension, allowed) - len(surgery.matrices(model)))
    z = nn.Parameter(next(model.parameters()).new_zeros(size))
    surgery.replace(model, lambda linear: Subspace(linear, z))
