"""Sparse model soups: the mean of several copies retrained under one mask.

Zimmer et al., "Sparse Model Soups: A Recipe for Improved Pruning via Model Averaging",
arXiv 2306.16788.

    prune by magnitude; retrain `copies` times from the pruned weights, one copy after another, each
    on other batches; the mean of the copies has the same mask

State: a mask; AdamW's two words per parameter; the pruned weights and the sum of the copies.
Departures from the paper: one round of pruning; each copy costs a part of the horizon; uniform
mean. Until the last copy is done, evaluation uses the finished copies' mean, or the first copy.
"""

import torch

from harness import ops
from submissions.first_order import adamw
from submissions.sparse import magnitude

TRACKS = ["compress"]
SPACE = {
    **adamw.SPACE,
    "lr": {"log": [3e-4, 1e-2]},
    "wd": 0.1,
    "beta2": 0.99,
    "sparsity": {"linear": [0.0, 0.99], "default": 0.8, "goal": "sparsity"},
    "two_four": {"choice": [False, True], "goal": "two_four"},
    "scope": "global",
    "copies": {"int": [2, 5], "default": 3},
}


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp, self.finished = task, hp, 0
        magnitude.adapt(task.model, task, hp)
        self.start, self.sum = ops.copies(task.params), ops.zeros(task.params)
        self.state = adamw.init(task.params, hp)

    def step(self):
        task, hp = self.task, self.hp
        length = -(-task.horizon // hp.copies)
        loss = task.forward_backward(task.next_batch())
        progress = (task.step % length + 0.5) / length
        ops.apply(adamw.update, task.params, self.state, hp, progress)
        if task.step % length == length - 1 or task.step == task.horizon - 1:
            self.finish()
        return loss

    @torch.no_grad()
    def finish(self):
        self.finished += 1
        for total, p, old in zip(self.sum, self.task.params, self.start):
            total.add_(p)
            p.copy_(old)
        self.state = adamw.init(self.task.params, self.hp)

    def evaluate_view(self):
        if not self.finished:
            return [p.data for p in self.task.params]
        return [total / self.finished for total in self.sum]

    def state_dict(self):
        kept = {"adam": self.state, "start": self.start, "sum": self.sum}
        return {**kept, "finished": self.finished}

    def load_state_dict(self, state):
        self.state, self.start = state["adam"], state["start"]
        self.sum, self.finished = state["sum"], state["finished"]
