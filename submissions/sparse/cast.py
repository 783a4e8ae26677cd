"""CAST: weights outside the pattern shrink step by step to zero, while all of them train.

Huang et al., "CAST: Continuous and Differentiable Semi-Structured Sparsity-Aware Training for Large
Language Models", arXiv 2509.25996.

    every `period` steps: m = the `kept` largest |w| of `of` consecutive inputs
    W ← AdamW(W);  where m = 0: w ← sign(w)·max(|w| − lr·λ_t, 0),  λ_t rises evenly to λ
    y = (s ⊙ W)x, s one factor a row that trains too, and makes up for what W loses
    L = loss + weight·KL(p‖q), p the outputs of the pretrained model, q ours
    from the share `end` of the horizon on, m stays and the rest is zero

State: AdamW's two words per parameter; the pretrained weights; m.
Departures from the paper: λ, its rise and `end` are ours. The decay is decoupled, so as a term of
the loss it has the strength of Adam's denominators. Their schedule and the groups of the factors
were not compared with the paper's text.
"""

import torch
from torch import nn

from harness import surgery
from harness.schedules import warmup_cosine
from submissions.first_order import adamw
from submissions.sparse import distil

TRACKS = ["compress"]
SPACE = {
    **adamw.SPACE,
    "lr": {"log": [3e-4, 1e-2]},
    "wd": 0.0,
    "beta2": 0.99,
    "kept": 2,
    "of": 4,
    "period": 10,
    "decay": {"log": [0.03, 3.0], "default": 0.3},  # λ
    "end": {"linear": [0.5, 0.9], "default": 0.7},
    "kind": "forward",
    "weight": {"log": [0.1, 10.0], "default": 1.0},
    "temperature": 1.0,
    "delta": 1.0,
}


class Scaled(surgery.Adapted):
    """A matrix that trains, and a factor for each of its rows."""

    def __init__(self, linear):
        super().__init__(linear)
        self.weight.requires_grad_(True)
        self.scale = nn.Parameter(torch.ones_like(linear.weight[:, :1]))

    def dense(self):
        return self.scale * self.weight


def adapt(model, task, hp):
    surgery.replace(model, Scaled)


class Algorithm(distil.Algorithm):
    def compress(self):
        self.maps = list(surgery.matrices(self.task.model).values())
        # Not a list: masks act on every list of the state that runs parallel to the parameters.
        self.kept = {}

    def step(self):
        task, hp = self.task, self.hp
        value, end = super().step(), round(hp.end * task.horizon)
        if task.step <= end and task.step % hp.period == 0:
            self.choose()
        if task.step < end:
            self.shrink(task.step / end)
        elif task.step == end:
            for i, m in enumerate(self.maps):
                task.masks.set(m.weight, self.kept[str(i)])
        return value

    def choose(self):
        """Take the pattern anew from the weights in effect."""
        hp = self.hp
        for i, m in enumerate(self.maps):
            self.kept[str(i)] = surgery.pattern(m.weight.detach().abs(), hp.kept, hp.of)

    @torch.no_grad()
    def shrink(self, risen):
        """Move what is outside the pattern towards zero."""
        hp = self.hp
        rate = hp.lr * warmup_cosine(self.task.progress, hp.warmup) * hp.decay * risen
        for i, m in enumerate(self.maps):
            less = m.weight.sign() * (m.weight.abs() - rate).clamp(min=0)
            m.weight.copy_(torch.where(self.kept[str(i)], m.weight, less))

    def state_dict(self):
        return super().state_dict() | {"kept": self.kept}

    def load_state_dict(self, state):
        self.kept = state.pop("kept")
        super().load_state_dict(state)
