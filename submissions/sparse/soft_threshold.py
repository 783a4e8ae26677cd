"""Soft threshold (STR): a threshold of each matrix is trained, and shrinks all of its weights.

Kusupati et al., "Soft Threshold Weight Reparameterization for Learnable Sparsity",
arXiv 2002.03231.

    W' = sign(W)·max(|W| - σ(s), 0), one s a matrix, from `start`
    s ← s - f·(pull·s + rate·∂L/∂s): its decay towards zero is what makes zeros; f the schedule
    from `cut` of the horizon a mask keeps the goal's share of the largest |W'| of all matrices

State: AdamW's two words per parameter, and s; a mask at the end.
Departures from the paper: s decays on its own, because AdamW has no decay that depends on it; the
mask holds the goal's share of zeros, which the paper finds by trying decays.
"""

import torch
from torch import nn

from harness import ops, surgery
from harness.schedules import warmup_cosine
from submissions.first_order import adamw
from submissions.sparse import magnitude

TRACKS = ["compress"]
SPACE = {
    **adamw.SPACE,
    "lr": {"log": [3e-4, 1e-2]},
    "wd": 0.0,
    "beta2": 0.99,
    "sparsity": {"linear": [0.0, 0.99], "default": 0.8, "goal": "sparsity"},
    "start": {"linear": [-12.0, -4.0], "default": -8.0},
    "pull": {"log": [1e-3, 5e-2], "default": 7e-3},
    "rate": {"log": [1e-3, 1.0], "default": 0.03},
    "cut": {"linear": [0.2, 0.9], "default": 0.6},
}


class Soft(surgery.Adapted):
    def __init__(self, linear, start):
        super().__init__(linear)
        self.weight.requires_grad_(True)
        self.s = nn.Parameter(self.weight.new_full((), start))

    def dense(self):
        return self.weight.sign() * (self.weight.abs() - self.s.sigmoid()).relu()


def adapt(model, task, hp):
    surgery.replace(model, lambda linear: Soft(linear, hp.start))


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp, self.maps = task, hp, list(surgery.matrices(task.model).values())
        thresholds = {id(m.s) for m in self.maps}
        self.others = [p for p in task.params if id(p) not in thresholds]
        self.state = adamw.init(self.others, hp)

    def step(self):
        task, hp = self.task, self.hp
        if task.step == int(hp.cut * task.horizon):
            scores = [m.dense().detach().abs() for m in self.maps]
            for m, mask in zip(self.maps, magnitude.kept(scores, hp.sparsity)):
                task.masks.set(m.weight, mask)
        loss = task.forward_backward(task.next_batch())
        ops.apply(adamw.update, self.others, self.state, hp, task.progress)
        with torch.no_grad():
            factor = warmup_cosine(task.progress, hp.warmup)
            for m in self.maps:
                m.s.sub_(factor * (hp.pull * m.s + hp.rate * m.s.grad))
        return loss

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state
