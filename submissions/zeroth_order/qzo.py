"""QZO: fine-tuning of integer weights by the scales of their groups, with forward passes alone.

Shang, Zhou, Lin, Li and Zhou, "Fine-tuning Quantized Neural Networks with Zeroth-order
Optimization", arXiv 2505.13430.

    W = Δ⊙W̄, W̄ integers of four bits, Δ a scale for each group of inputs of a row
    c = clip((f(Δ + eps·z) − f(Δ − eps·z))/(2·eps), ±C), z ~ N(0, 1) on one batch
    Δ ← max(Δ − lr·c·z, 0)

The start is the pretrained matrix rounded to the nearest point of symmetric grids. Norms, biases
and embeddings stay frozen; a head trains in the same way, without the bound at 0.

State: none; z is drawn again from its seed.
Departures from the paper: rounding to nearest makes the integers, where the paper takes weights of
other quantisers; groups that do not divide a row are whole rows.
"""

import torch
from torch import nn

from harness import surgery
from harness.schedules import warmup_cosine
from submissions.zeroth_order import mezo

TRACKS = ["finetune"]
PASSES = {"forward": 2}
SPACE = {
    "lr": {"log": [1e-7, 1e-3], "default": 1e-5},
    "eps": 1e-3,
    "clip": {"log": [1.0, 1000.0], "default": 100.0},
    "group": {"choice": [128, 32]},
}
MOST = 7


class Scaled(surgery.Adapted):
    """A linear map of integers [out, groups, size] times scales [out, groups, 1]."""

    def __init__(self, linear, group):
        super().__init__(linear)
        out, inputs = self.weight.shape
        parts = self.weight.detach().view(out, -1, group if inputs % group == 0 else inputs)
        scale = (parts.abs().amax(2, keepdim=True) / MOST).clamp(min=1e-12)
        self.register_buffer("codes", (parts / scale).round().to(torch.int8))
        self.scale = nn.Parameter(scale)

    def dense(self):
        return (self.codes * self.scale).view_as(self.weight)


def adapt(model, task, hp):
    surgery.freeze(model)
    surgery.replace(model, lambda linear: Scaled(linear, hp.group))


class Algorithm(mezo.Algorithm):
    def step(self):
        task, hp, batch = self.task, self.hp, self.task.next_batch()
        seed = int(torch.randint(2**62, (), generator=task.rng))
        self.move(seed, hp.eps)
        above = task.forward(batch)
        self.move(seed, -2 * hp.eps)
        below = task.forward(batch)
        slope = max(-hp.clip, min(hp.clip, float(above - below) / (2 * hp.eps)))
        self.move(seed, hp.eps - hp.lr * warmup_cosine(task.progress, 0.0) * slope)
        with torch.no_grad():
            for module in task.model.modules():
                if isinstance(module, Scaled):
                    module.scale.clamp_(min=0.0)
        return (above + below) / 2
