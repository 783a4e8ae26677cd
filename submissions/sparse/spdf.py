"""SPDF: pretraining under a random mask, and dense training after it.

Thangarasa et al., "SPDF: Sparse Pre-training and Dense Fine-tuning for Large Language Models",
arXiv 2303.10464.

    until `densify` of the horizon a share of every hidden matrix is zero, drawn once at random;
    then every weight trains, from zero where it was masked

State: a mask until then; AdamW's two words per parameter.
Departures from the paper: both phases are on the same text. Prices are those of dense matrices.
"""

import torch

from harness import ops, surgery
from harness.errors import UserError
from submissions.first_order import adamw
from submissions.sparse import random_mask

TRACKS = ["train"]
SPACE = {
    **adamw.SPACE,
    "sparsity": {"linear": [0.0, 0.9], "default": 0.5},
    "two_four": False,
    "densify": {"linear": [0.0, 1.0], "default": 0.7},
}


def adapt(model, task, hp):
    if not surgery.weights(model):
        raise UserError("spdf: this model has no hidden matrix to mask", do="workload=gpt2")
    random_mask.adapt(model, task, hp)


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp, self.state = task, hp, adamw.init(task.params, hp)

    def step(self):
        task, hp = self.task, self.hp
        if task.step == int(hp.densify * task.horizon):
            for w in surgery.weights(task.model):
                task.masks.set(w, torch.ones_like(w, dtype=torch.bool))
        loss = task.forward_backward(task.next_batch())
        ops.apply(adamw.update, task.params, self.state, hp, task.progress)
        return loss

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state
