"""Sparse update: in the last blocks, the biases and a share of each matrix's inputs train.

Lin et al., "On-Device Training Under 256KB Memory", arXiv 2206.15472.

    in the last `blocks` blocks: every bias trains, and of every matrix the columns of its first
    `part` of inputs; all else but the head is frozen, so a step stores nothing of earlier blocks

State: AdamW's for what trains.
Departures from the paper: blocks and part are hyperparameters; the authors search a scheme for
a memory limit by training each layer alone. Weights stay in float32, so the paper's quantisation-
aware scaling of gradients has nothing to do.
"""

import torch.nn.functional as F
from torch import nn

from harness import roles, surgery
from harness.errors import UserError
from submissions.peft import head_only

BASE = "adamw"
TRACKS = ["finetune"]
SPACE = {
    **head_only.SPACE,
    "base_lr": {"log": [1e-3, 3e-2]},
    "blocks": {"int": [1, 4], "default": 2},
    "part": {"choice": [0.25, 0.125, 0.5, 1.0]},
}


class Columns(surgery.Adapted):
    def __init__(self, linear, part):
        super().__init__(linear)
        out, inputs = self.weight.shape
        self.change = nn.Parameter(self.weight.new_zeros(out, max(1, int(part * inputs))))

    def dense(self):
        rest = self.weight.shape[1] - self.change.shape[1]
        return self.weight + F.pad(self.change, (0, rest))

    def forward(self, x):
        # The copy is what the backward pass keeps, in place of all of x.
        first = x[..., : self.change.shape[1]].contiguous()
        return F.linear(x, self.weight, self.bias) + F.linear(first, self.change)


def adapt(model, task, hp):
    blocks = list(getattr(model, "blocks", []))
    if not blocks:
        raise UserError("sparse_update trains the last blocks; this model has no blocks")
    surgery.freeze(model)
    last = {m for block in blocks[-hp.blocks :] for m in block.modules()}
    inside = {id(p) for m in last for p in m.parameters(recurse=False)}
    kinds = roles.of(model)
    for name, p in model.named_parameters():
        if id(p) in inside and kinds[name].kind == "bias":
            p.requires_grad_(True)
    surgery.replace(model, lambda m: Columns(m, hp.part) if m in last else m)
