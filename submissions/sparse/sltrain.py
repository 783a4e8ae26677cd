"""SLTrain: training from scratch of low-rank products plus sparse matrices of fixed support.

Han et al., "SLTrain: a sparse plus low-rank approach for parameter and memory efficient
pretraining", arXiv 2406.02214.

    W = (α/r)·B·A + S,  A Kaiming-uniform, B = 0, S ~ U(±1/√in) at δ·in·out random places

State: AdamW's for A, B and the values of S: r(in + out) + δ·in·out scalars a matrix.
Departures from the paper: embeddings, norms and biases keep the workload's initialisation.
"""

import torch
from torch import nn

from harness import surgery

BASE = "adamw"
TRACKS = ["train"]
SPACE = {
    "base_lr": {"log": [1e-3, 2e-2]},
    "base_wd": 0.0,
    "base_warmup": 0.1,
    "rank": {"int": [4, 32], "default": 16},
    "scale": {"log": [0.25, 4.0], "default": 1.0},  # α/r
    "density": {"log": [0.01, 0.1], "default": 0.03},
}


class SparseLowRank(surgery.Adapted):
    def __init__(self, linear, rank, scale, density):
        super().__init__(linear)
        (out, inputs), bound = self.weight.shape, self.weight.shape[1] ** -0.5
        self.scale, count = scale, int(density * self.weight.numel())
        self.weight.data.zero_()
        self.A = nn.Parameter(self.weight.new_empty(rank, inputs).uniform_(-bound, bound))
        self.B = nn.Parameter(self.weight.new_zeros(out, rank))
        self.values = nn.Parameter(self.weight.new_empty(count).uniform_(-bound, bound))
        support = torch.randperm(self.weight.numel())[:count].to(self.weight.device)
        self.register_buffer("support", support.sort().values)

    def dense(self):
        product = self.scale * self.B @ self.A
        return product.flatten().index_add(0, self.support, self.values).view_as(product)


def adapt(model, task, hp):
    surgery.replace(model, lambda m: SparseLowRank(m, hp.rank, hp.scale, hp.density))
