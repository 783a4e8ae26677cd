"""Progressive masks: what an N:M mask hides fades, or the pattern tightens, while training goes on.

Bambhaniya et al., "Progressive Gradient Flow for Robust N:M Sparsity Training in Transformers",
arXiv 2402.04744.

    W' = W ⊙ (m + (1 - m)·d), m the N largest |w| of every M consecutive inputs;  ∂L/∂W ← ∂L/∂W'
    flow "exponential": d = e^(-βt), 0 from `cool` on, t in steps
    flow "stepwise": d = 0, and N' of M are kept: M - 1, then M/2, M/4, ... down to N
    flow "geometric": d = 0, and N·2ʲ of M·2ʲ are kept, j falls from `octaves` to 0
    the pattern is N:M from `cool` of the horizon on

State: AdamW's for all parameters.
Departures from the paper: it starts from trained weights; the parts of the horizon are equal.
"""

import math

import torch

from harness import surgery

BASE = "adamw"
TRACKS = ["compress"]
SPACE = {
    "base_lr": {"log": [3e-4, 1e-2]},
    "base_wd": 0.0,
    "kept": 2,  # N
    "of": 4,  # M
    "flow": {"choice": ["exponential", "stepwise", "geometric"], "tuned": False},
    # β times the horizon.
    "decay": {"log": [2.0, 50.0], "default": 10.0},
    "octaves": 3,
    "cool": {"linear": [0.1, 0.9], "default": 0.5},
}
VARIANTS = {"stepwise_mask": {"flow": "stepwise"}, "geometric_mask": {"flow": "geometric"}}


class Straight(torch.autograd.Function):
    """weight·factor, with the gradient of the weight itself."""

    @staticmethod
    def forward(ctx, weight, factor):
        return weight * factor

    @staticmethod
    def backward(ctx, grad):
        return grad, None


def pattern(hp, t, inputs):
    """Return N, M and d at share t of the horizon, for a row of so many inputs."""
    n, m, at = hp.kept, hp.of, min(t / hp.cool, 1.0)
    if hp.flow == "exponential":
        return n, m, math.exp(-hp.decay * t) if at < 1 else 0.0
    if hp.flow == "stepwise":
        stages = [m - 1, *(m >> j for j in range(1, 8) if m >> j > n), n]
        return stages[min(int(at * (len(stages) - 1)), len(stages) - 1)], m, 0.0
    octave = hp.octaves - min(int(at * hp.octaves), hp.octaves)
    while octave and inputs % (m << octave):
        octave -= 1
    return n << octave, m << octave, 0.0


class Fading(surgery.Adapted):
    def __init__(self, linear, hp, progress):
        super().__init__(linear)
        self.weight.requires_grad_(True)
        self.hp, self.progress = hp, progress

    def dense(self):
        n, m, d = pattern(self.hp, self.progress(), self.weight.shape[1])
        mask = surgery.pattern(self.weight.detach().abs(), n, m).to(self.weight)
        return Straight.apply(self.weight, mask + (1 - mask) * d)


def adapt(model, task, hp):
    surgery.replace(model, lambda linear: Fading(linear, hp, lambda: task.progress))
