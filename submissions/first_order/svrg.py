"""Prox-SVRG: stochastic steps whose noise is corrected by a gradient of all examples.

Johnson and Zhang, "Accelerating Stochastic Gradient Descent using Predictive Variance Reduction",
NeurIPS 2013; with a proximal step: Xiao and Zhang, arXiv 1403.4699.

    snapshot w̃;  μ = ∇s(w̃) over all examples
    for `inner` epochs of batches B:  v = ∇s_B(w) − ∇s_B(w̃) + μ;  w ← prox(w − lr·v, lr)
    then w̃ ← w, and again

s is the loss's smooth part and prox of the rest (task.composite). A step is one batch of either
part: first the batches of μ, one pass each, during which w rests; then the inner steps of two.

State: w̃ and μ, two words per parameter; the place in the cycle.
Departures from the paper: batches come in shuffled epochs instead of independent draws; the next
snapshot is the last inner point (the first paper's option I) instead of the average.
"""

import math

import torch

from harness import ops

# Of a cycle with two inner epochs: one pass for each batch of μ, two for each inner step.
PASSES = {"forward_backward": 1.6667}
INNER = 2
SPACE = {"lr": {"log": [0.02, 1.0]}}


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.blocks = math.ceil(task.examples / task.batch_size)
        self.snapshot, self.mean = ops.copies(task.params), ops.zeros(task.params)
        self.count = 0

    def gradient(self, batch):
        """Return the loss of the batch and the gradient of its smooth part."""
        loss = self.task.backward(batch, self.task.composite.smooth)
        return loss, [torch.zeros_like(p) if p.grad is None else p.grad for p in self.task.params]

    def step(self):
        batch = self.task.next_batch()
        loss, grads = self.gradient(batch)
        if self.count < self.blocks:
            torch._foreach_add_(self.mean, torch._foreach_div(grads, self.blocks))
        else:
            self.move(batch, grads)
        self.count += 1
        if self.count == (1 + INNER) * self.blocks:
            self.count, self.snapshot = 0, ops.copies(self.task.params)
            torch._foreach_zero_(self.mean)
        return loss

    def move(self, batch, grads):
        """Make a proximal step along the corrected gradient."""
        params, lr = self.task.params, self.hp.lr
        now = ops.copies(params)
        with torch.no_grad():
            torch._foreach_copy_(params, self.snapshot)
        _, before = self.gradient(batch)
        with torch.no_grad():
            v = torch._foreach_sub(grads, before)
            torch._foreach_add_(v, self.mean)
            ahead = torch._foreach_sub(now, torch._foreach_mul(v, lr))
            torch._foreach_copy_(params, self.task.composite.prox(ahead, lr))

    def state_dict(self):
        return {"snapshot": self.snapshot, "mean": self.mean, "count": self.count}

    def load_state_dict(self, state):
        self.snapshot, self.mean = state["snapshot"], state["mean"]
        self.count = state["count"]
