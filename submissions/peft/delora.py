"""DeLoRA: a low-rank change whose size is bounded apart from its direction.

Bini et al., "Decoupling Angles and Strength in Low-rank Adaptation", arXiv 2503.18225.

    ΔW = (λ/r)·Σ_k b_k·a_kᵀ/(‖b_k‖·‖a_k‖)·diag(‖W_·1‖, ..., ‖W_·in‖);  λ, A and B train
    W' = W - ΔW(0) + ΔW, A and B uniform at the start

State: AdamW's for A, B and λ: r(in + out) + 1 scalars a matrix.
Departures from the paper: the start of the authors' code could not be read; "subtracted" is that of
two later implementations, "zero" is that of the package peft, with B = 0 and norms below 10⁻⁴
counted as 10⁻⁴. AdamW without decay.
"""

import torch
from torch import nn

from harness import surgery
from submissions.peft import head_only, lora

BASE = "adamw"
TRACKS = ["finetune"]
SPACE = {
    **head_only.SPACE,
    "base_wd": 0.0,
    "base_lr": {"log": [1e-3, 5e-2]},
    "rank": {"int": [1, 16], "default": 4},
    # Largest share of all parameters that may train: an upper bound on the rank.
    "share": {"linear": [0.0, 1.0], "default": 1.0, "goal": "trainable"},
    # λ at the start
    "bound": {"log": [0.3, 30.0], "default": 3.0},
    "start": {"choice": ["subtracted", "zero"]},
}


class DeLoRA(surgery.Adapted):
    def __init__(self, linear, rank, bound, start):
        super().__init__(linear)
        (out, inputs), a = self.weight.shape, self.weight.shape[1] ** -0.5
        b = 0.0 if start == "zero" else rank**-0.5
        self.A = nn.Parameter(self.weight.new_empty(rank, inputs).uniform_(-a, a))
        self.B = nn.Parameter(self.weight.new_empty(out, rank).uniform_(-b, b))
        self.bound = nn.Parameter(self.weight.new_full((1,), bound))
        self.register_buffer("norms", self.weight.detach().norm(dim=0))
        if start == "subtracted":
            with torch.no_grad():
                self.weight.sub_(self.change())

    def change(self):
        lengths = self.A.norm(dim=1).clamp(min=1e-4) * self.B.norm(dim=0).clamp(min=1e-4)
        return (self.B * (self.bound / len(self.A) / lengths)) @ (self.A * self.norms)

    def dense(self):
        return self.weight + self.change()


def adapt(model, task, hp):
    surgery.freeze(model)
    rank = surgery.fitting(model, hp.rank, hp.share, lambda o, i, r: lora.size(o, i, r) + 1)
    surgery.replace(model, lambda linear: DeLoRA(linear, rank, hp.bound, hp.start))
