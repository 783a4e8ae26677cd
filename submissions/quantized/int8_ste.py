"""Quantisation-aware training: the forward pass rounds weights; gradients ignore the rounding.

Bengio et al., arXiv 1308.3432 (straight-through estimator); Jacob et al., "Quantization and
Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", arXiv 1712.05877.

    s = max |w|/(2^(b-1) - 1) of a row;  W' = s·round(W/s);  ∂L/∂W ← ∂L/∂W'

State: AdamW's two words per parameter, of the unrounded weights.
Departures from the paper: weights only, activations stay in float32; symmetric grids from each
step's own weights, not from running ranges.
"""

import torch

from harness import surgery

BASE = "adamw"
TRACKS = ["compress"]
SPACE = {
    "base_lr": {"log": [1e-4, 3e-3]},
    "base_wd": 0.0,
    "bits": {"int": [2, 8], "default": 8, "goal": "bits"},
}


class Rounded(surgery.Adapted):
    def __init__(self, linear, bits):
        super().__init__(linear)
        self.weight.requires_grad_(True)
        self.levels = 2 ** (bits - 1) - 1

    def dense(self):
        w = self.weight.detach()
        scale = (w.abs().amax(1, keepdim=True) / self.levels).clamp(min=torch.finfo(w.dtype).tiny)
        return Straight.apply(self.weight, scale)


class Straight(torch.autograd.Function):
    """scale·round(w/scale), with the gradient of w itself."""

    @staticmethod
    def forward(ctx, weight, scale):
        return scale * (weight / scale).round()

    @staticmethod
    def backward(ctx, grad):
        return grad, None


def adapt(model, task, hp):
    surgery.replace(model, lambda linear: Rounded(linear, hp.bits))
