"""PERP: after magnitude pruning only a few parameters train, and the zeros stay.

Zimmer et al., "PERP: Rethinking the Prune-Retrain Paradigm in the Era of LLMs", arXiv 2312.15230.

    biases and norms train; with rank r > 0 also MaskLoRA:  W' = W + (α/r)·(B·A) ⊙ M,  M the mask

State: AdamW's for the parameters that train.
Departures from the paper: M is the mask itself; the authors take W ≠ 0.
"""

import torch

from harness import roles, surgery
from submissions.peft import lora
from submissions.sparse import magnitude

BASE = "adamw"
TRACKS = ["compress"]
SPACE = {
    "base_lr": {"log": [1e-3, 3e-2]},
    "base_wd": 0.0,
    "sparsity": {"linear": [0.0, 0.99], "default": 0.8, "goal": "sparsity"},
    "two_four": {"choice": [False, True], "goal": "two_four"},
    "rank": {"int": [0, 16], "default": 8},
    "alpha": 16.0,
}


class MaskLoRA(lora.LoRA):
    def __init__(self, linear, rank, scale, mask):
        super().__init__(linear, rank, scale)
        self.register_buffer("mask", mask.to(self.weight))
        with torch.no_grad():
            self.weight.mul_(self.mask)

    def dense(self):
        return self.weight + self.scale * (self.B @ self.A) * self.mask

    def forward(self, x):
        return torch.nn.functional.linear(x, self.dense(), self.bias)


def adapt(model, task, hp):
    found = list(surgery.matrices(model).values())
    scores = [m.weight.detach().abs() for m in found]
    masks = dict(zip(found, magnitude.kept(scores, hp.sparsity, "global", hp.two_four)))
    kinds = roles.of(model)
    for name, p in model.named_parameters():
        p.requires_grad_(kinds[name].kind in ("bias", "norm"))
    if hp.rank:
        scale = hp.alpha / hp.rank
        surgery.replace(model, lambda m: MaskLoRA(m, hp.rank, scale, masks[m]))
    else:
        for m, mask in masks.items():
            task.masks.set(m.weight, mask)
