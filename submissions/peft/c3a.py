"""C3A: blocks of circulant matrices beside every frozen matrix.

Chen et al., "Parameter-Efficient Fine-Tuning via Circular Convolution", arXiv 2407.19342.

    ΔW is a grid of b x b blocks, each circulant: ΔW_kl = w_(l - k mod b)/in within a block

State: AdamW's for the kernels: in·out/b scalars a matrix.
Departures from the paper: the kernels start at zero, and blocks are multiplied out, which gives the
same values as the Fourier transform. b is the largest divisor of both sides up to `block`.
"""

import torch
from torch import nn

from harness import surgery
from submissions.peft import head_only

BASE = "adamw"
TRACKS = ["finetune"]
SPACE = {
    **head_only.SPACE,
    "base_lr": {"log": [1e-2, 1.0]},
    # b, at most.
    "block": {"int": [8, 256], "default": 16},
    # Largest share of all parameters that may train: b doubles until it fits.
    "share": {"linear": [0.0, 1.0], "default": 1.0, "goal": "trainable"},
}


def fit(out, inputs, block):
    """Return b."""
    return max(d for d in range(1, block + 1) if out % d == 0 and inputs % d == 0)


class C3A(surgery.Adapted):
    def __init__(self, linear, block):
        super().__init__(linear)
        out, inputs = self.weight.shape
        b = fit(out, inputs, block)
        self.w = nn.Parameter(self.weight.new_zeros(out // b, inputs // b, b))
        row, column = torch.arange(b)[:, None], torch.arange(b)
        self.register_buffer("turn", ((column - row) % b).to(self.weight.device))

    def dense(self):
        grid = self.w[:, :, self.turn]  # [out/b, in/b, b, b]
        return self.weight + grid.transpose(1, 2).reshape(self.weight.shape) / self.weight.shape[1]


def adapt(model, task, hp):
    allowed = hp.share * sum(p.numel() for p in model.parameters())
    surgery.freeze(model)
    shapes, block = [w.shape for w in surgery.weights(model)], hp.block
    while block < 2**20 and sum(o * i // fit(o, i, min(block, o, i)) for o, i in shapes) > allowed:
        block *= 2
    surgery.replace(model, lambda m: C3A(m, min(block, *m.weight.shape)))
