"""Mesa: the backward pass uses 8-bit copies of the inputs, the forward pass is exact.

Pan et al., "Mesa: A Memory-saving Training Framework for Transformers", arXiv 2111.11124.

    ∇W = gᵀ·x̂,  x̂ = low + round((x - low)/δ)·δ,  δ = (max - min)/255 of a group of inputs

Everything trains.
State: AdamW's, two words per parameter.
Departures from the paper: the inputs of hidden matrices alone are stored in 8 bits; norms,
activation functions and attention keep theirs. A group's range is that of the present batch, not a
running mean.
"""

import torch
import torch.nn.functional as F

from harness import surgery
from submissions.peft import head_only

BASE = "adamw"
TRACKS = ["finetune"]
SPACE = {
    **head_only.SPACE,
    "base_lr": {"log": [3e-4, 1e-2]},
    # Groups of a matrix's inputs, at most.
    "groups": {"int": [1, 16], "default": 4},
}
LEVELS = 255


class Linear(torch.autograd.Function):
    """A linear map that keeps its inputs in 8 bits."""

    @staticmethod
    def forward(ctx, x, weight, bias, groups):
        grouped = x.detach().reshape(-1, groups, x.shape[-1] // groups)
        low = grouped.amin((0, 2), keepdim=True)
        step = (grouped.amax((0, 2), keepdim=True) - low) / LEVELS
        step = step.clamp(min=torch.finfo(x.dtype).tiny)
        codes = ((grouped - low) / step).round().to(torch.uint8)
        ctx.save_for_backward(codes, low, step, weight)
        ctx.biased = bias is not None
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx, grad):
        codes, low, step, weight = ctx.saved_tensors
        x = (low + codes.to(low.dtype) * step).flatten(1)
        flat = grad.flatten(0, -2)
        return grad @ weight, flat.T @ x, flat.sum(0) if ctx.biased else None, None


class Stored(surgery.Adapted):
    def __init__(self, linear, groups):
        super().__init__(linear)
        self.weight.requires_grad_(True)
        inputs = self.weight.shape[1]
        self.groups = max(n for n in range(1, groups + 1) if inputs % n == 0)

    def dense(self):
        return self.weight

    def forward(self, x):
        return Linear.apply(x, self.weight, self.bias, self.groups)


def adapt(model, task, hp):
    surgery.replace(model, lambda linear: Stored(linear, hp.groups))
