"""Ternary and binary weights: training through two or three values for each matrix or row.

Li, Liu, "Ternary Weight Networks", arXiv 1605.04711; kind "binary": Rastegari et al., "XNOR-Net:
ImageNet Classification Using Binary Convolutional Neural Networks", arXiv 1603.05279; kind
"bitnet": Ma et al., "The Era of 1-bit LLMs: All Large Language Models are in 1.58 Bits",
arXiv 2402.17764.

    "ternary":  Δ = 0.7·mean|w|, α = mean of the |w| above Δ;  w → α·sign(w) above Δ, else 0
    "binary":   α = mean|w|;  w → α·sign(w), and +α for 0
    "bitnet":   γ = mean|w|;  w → γ·clip(round(w/γ), -1, 1)
    W' = (1 - λ)·W + λ·q(W), λ rises from 0 to 1 in `warm` of the horizon;  ∂L/∂W ← ∂L/∂W'

State: AdamW's two words per parameter, of the unrounded weights.
Departures from the paper: it starts from trained weights, hence λ, which is not in the papers;
activations stay in float32; BitNet's norms before the maps and its two learning rates are left out.
"""

import torch

from harness import surgery

BASE = "adamw"
TRACKS = ["compress"]
SPACE = {
    "base_lr": {"log": [3e-4, 1e-2]},
    "base_wd": 0.0,
    "kind": {"choice": ["ternary", "binary", "bitnet"], "tuned": False},
    # Weights that share α.
    "scope": {"choice": ["row", "matrix"]},
    "warm": {"linear": [0.0, 0.6], "default": 0.3},
}
VARIANTS = {"binary": {"kind": "binary"}, "bitnet": {"kind": "bitnet", "scope": "matrix"}}


def quantised(w, kind, scope):
    """Return q(W) for a matrix [out, in]."""
    across = 1 if scope == "row" else (0, 1)
    tiny = torch.finfo(w.dtype).tiny
    mean = w.abs().mean(across, keepdim=True)
    if kind == "bitnet":
        return mean * (w / mean.clamp(min=tiny)).round().clamp(-1, 1)
    if kind == "binary":
        return torch.where(w < 0, -mean, mean)
    large = w.abs() > 0.7 * mean
    count = large.sum(across, keepdim=True).clamp(min=1)
    return w.sign() * large * ((w.abs() * large).sum(across, keepdim=True) / count)


class Few(surgery.Adapted):
    def __init__(self, linear, hp, progress):
        super().__init__(linear)
        self.weight.requires_grad_(True)
        self.hp, self.progress = hp, progress

    def dense(self):
        w, hp = self.weight.detach(), self.hp
        share = min(1.0, self.progress() / hp.warm) if hp.warm else 1.0
        q = quantised(w, hp.kind, hp.scope)
        return Replaced.apply(self.weight, q if share == 1.0 else w + share * (q - w))


class Replaced(torch.autograd.Function):
    """The second matrix, with the gradient of the first."""

    @staticmethod
    def forward(ctx, weight, value):
        return value.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad, None


def adapt(model, task, hp):
    surgery.replace(model, lambda linear: Few(linear, hp, lambda: task.progress))
