"""Movement pruning: trained scores choose the weights that stay, and follow their movement.

Sanh et al., "Movement Pruning: Adaptive Sparsity by Fine-Tuning", arXiv 2005.07683.

    W' = W ⊙ top_v(S);  ∂L/∂S = ∂L/∂W' ⊙ W (straight through),  S = 0 at the start
    v: 1 until `warm` of the horizon, then falls as a cubic to 1 - sparsity at `cool`, then constant

State: AdamW's for W, S and all other parameters.
Departures from the paper: no distillation; hard movement only; AdamW without decay. Equal scores,
such as those at the start, are ordered by magnitude.
"""

import torch
from torch import nn

from harness import surgery
from submissions.peft import head_only
from submissions.sparse import magnitude

TRACKS = ["compress"]
SPACE = {
    "lr": {"log": [3e-4, 1e-2]},
    "wd": 0.0,
    "beta1": 0.9,
    "beta2": 0.99,
    "eps": 1e-8,
    "warmup": 0.05,
    "head_lr": {"log": [3e-3, 1e-1]},  # of the scores
    "sparsity": {"linear": [0.0, 0.99], "default": 0.8, "goal": "sparsity"},
    "warm": 0.05,
    "cool": 0.5,
}


class Masked(torch.autograd.Function):
    """W ⊙ mask, with gradients to W under the mask and to S everywhere."""

    @staticmethod
    def forward(ctx, weight, scores, mask):
        ctx.save_for_backward(weight, mask)
        return weight * mask

    @staticmethod
    def backward(ctx, grad):
        weight, mask = ctx.saved_tensors
        return grad * mask, grad * weight, None


class Scored(surgery.Adapted):
    def __init__(self, linear, trained=True):
        super().__init__(linear)
        self.weight.requires_grad_(trained)
        self.S = nn.Parameter(torch.zeros_like(self.weight))
        self.register_buffer("mask", torch.ones_like(self.weight))

    def dense(self):
        return Masked.apply(self.weight, self.S, self.mask)


def adapt(model, task, hp):
    surgery.replace(model, Scored)


class Algorithm:
    scope = "global"

    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.maps = list(surgery.matrices(task.model).values())
        self.trainer = head_only.Trainer(task, hp, apart=[m.S for m in self.maps])

    def sparsity(self):
        t = (self.task.progress - self.hp.warm) / (self.hp.cool - self.hp.warm)
        return self.hp.sparsity * (1 - (1 - min(max(t, 0.0), 1.0)) ** 3)

    def step(self):
        scores = [m.S.detach() + 1e-12 * m.weight.detach().abs() for m in self.maps]
        for m, mask in zip(self.maps, magnitude.kept(scores, self.sparsity(), self.scope)):
            m.mask.copy_(mask)
        loss = self.task.forward_backward(self.task.next_batch())
        self.trainer.update()
        return loss

    def state_dict(self):
        return self.trainer.state

    def load_state_dict(self, state):
        self.trainer.state = state
