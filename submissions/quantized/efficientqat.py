"""EfficientQAT: weights and grids are trained block after block, then the grids' steps together.

Chen et al., "EfficientQAT: Efficient Quantization-Aware Training for Large Language Models",
arXiv 2407.11062.

    W' = δ·(q - z),  q = clip(round(W/δ) + z, 0, 2^b - 1), z rounded;  δ and z of each row, first
    those of round to nearest
    first (Block-AP): minimise ‖output of a block - dense output‖² over W, δ and z, straight through
    the roundings, block after block
    then (E2E-QP): q, z and all other parameters stay, δ ← AdamW on the loss

State: AdamW's for δ, one scalar a row.
Departures from the paper: grids of rows, not of groups of 64; tens of iterations a block, hence
larger learning rates, without a decay of them. The rate of W is `ratio` times that of δ and z.
"""

import torch
from torch import nn

from harness import surgery
from submissions.quantized import _reconstruction, omniquant, rtn

BASE = "adamw"
TRACKS = ["compress"]
SPACE = {
    "base_lr": {"log": [1e-6, 1e-3], "default": 3e-5},
    "base_wd": 0.0,
    "bits": {"int": [2, 8], "default": 4, "goal": "bits"},
    "examples": 32,
    "unit": {"choice": ["block", "matrix"]},
    "iterations": {"int": [10, 60], "default": 40},
    "batch": 8,
    "rate": {"log": [1e-5, 1e-3], "default": 1e-4},
    "ratio": {"log": [0.1, 100.0], "default": 3.0},
}


class Trained:
    """A matrix with its grid; W moves `ratio` times as fast as what Adam sees."""

    def __init__(self, weight, bits, ratio):
        step, low = rtn.grid(weight, bits)
        self.weight, self.top, self.ratio = weight, 2**bits - 1, ratio
        self.params = [torch.zeros_like(weight), step, -low / step]
        for p in self.params:
            p.requires_grad_(True)

    def up(self):
        """Return q - z, whole numbers, and δ."""
        moved, step, zero = self.params
        zero = omniquant.straight(zero)
        step = step.clamp(min=torch.finfo(step.dtype).tiny)
        code = omniquant.straight((self.weight + self.ratio * moved) / step) + zero
        return code.clamp(0, self.top) - zero, step

    def dense(self, grid):
        code, step = grid
        return step * code

    def rounded(self):
        return self.dense(self.up())


class Stepped(surgery.Adapted):
    """Fixed whole numbers times the trained step of their row."""

    def __init__(self, linear, codes, step):
        super().__init__(linear)
        self.register_buffer("codes", codes)
        self.step = nn.Parameter(step)

    def dense(self):
        return self.step * self.codes


def adapt(model, task, hp):
    model.requires_grad_(False)
    made, hidden = [], set(surgery.matrices(model).values())

    def make(weight):
        made.append(Trained(weight, hp.bits, hp.ratio))
        return made[-1]

    _reconstruction.fit(model, task, hp, make, lambda rounding, t: 0.0)
    modules = [
        m for unit in _reconstruction.units(model, hp.unit) for u in unit for m in u.modules()
    ]
    known = dict(zip((m for m in modules if m in hidden), made, strict=True))
    surgery.replace(
        model, lambda linear: Stepped(linear, *(v.detach() for v in known[linear].up()))
    )
