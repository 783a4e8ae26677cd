"""FISTA: accelerated proximal gradient steps on the gradient of all examples.

Beck and Teboulle, "A Fast Iterative Shrinkage-Thresholding Algorithm for Linear Inverse Problems",
SIAM J. Imaging Sciences 2(1), 2009; restart: O'Donoghue and Candès, arXiv 1204.3982, Section 3.2.

    x' = prox(y − lr·∇s(y), lr);  t' = (1 + √(1 + 4t²))/2;  y' = x' + ((t − 1)/t')·(x' − x)
    with `restart`, t ← 1 before the extrapolation where (y − x')ᵀ(x' − x) > 0

s is the loss's smooth part and prox of the rest (task.composite). A gradient of all examples is the
mean over consecutive batches, one in a step, so the weights move once in an epoch. If the
workload's batch is all examples, they move in every step.

State: y, x and the sum of gradients, three words per parameter with the weights; t; the batches.
Departures from the paper: lr is a hyperparameter instead of 1/L.
"""

import math

import torch

from harness import ops

SPACE = {
    # 1/L, which is 0.4 for the logistic regression; beyond 4/3 of it the steps diverge.
    "lr": {"log": [0.03, 1.0]},
    "momentum": {"choice": [True, False]},
    "restart": True,
}
VARIANTS = {"proximal_gradient": {"momentum": False, "restart": False}}


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.blocks = math.ceil(task.examples / task.batch_size)
        self.x, self.sum = ops.copies(task.params), ops.zeros(task.params)
        self.t, self.block = 1.0, 0

    def step(self):
        task = self.task
        loss = task.backward(task.next_batch(), task.composite.smooth)
        for total, p in zip(self.sum, task.params):
            if p.grad is not None:
                total.add_(p.grad)
        self.block += 1
        if self.block == self.blocks:
            with torch.no_grad():
                self.move()
            self.block = 0
            torch._foreach_zero_(self.sum)
        return loss

    def move(self):
        """Move x by a proximal step from y, and y ahead of it."""
        hp, y = self.hp, self.task.params
        ahead = torch._foreach_sub(y, torch._foreach_mul(self.sum, hp.lr / self.blocks))
        new = self.task.composite.prox(ahead, hp.lr)
        moved = torch._foreach_sub(new, self.x)
        back = torch._foreach_sub(y, new)
        if hp.restart and sum(float((a * b).sum()) for a, b in zip(back, moved)) > 0:
            self.t = 1.0
        following = (1 + math.sqrt(1 + 4 * self.t**2)) / 2 if hp.momentum else 1.0
        for p, old, target, way in zip(y, self.x, new, moved):
            old.copy_(target)
            p.copy_(target).add_(way, alpha=(self.t - 1) / following)
        self.t = following

    def evaluate_view(self):
        return self.x

    def state_dict(self):
        return {"x": self.x, "sum": self.sum, "t": self.t, "block": self.block}

    def load_state_dict(self, state):
        self.x, self.sum = state["x"], state["sum"]
        self.t, self.block = state["t"], state["block"]
