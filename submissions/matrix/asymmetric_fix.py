"""Asymmetric fix: gradient descent with one step that makes the left factor's Gram β²·I.

Xiong, Ding, Du, "How Over-Parameterization Slows Down Gradient Descent in Matrix Sensing: The
Curses of Symmetry and Initialization", arXiv 2310.01769.

    L ← L − lr·∇_L f, R ← R − lr·∇_R f
    once, when f falls to `when` of its first value: L = A·S·Bᵀ (SVD);  L ← β·A·Bᵀ,
    R ← R·B·S·Bᵀ/β, which leaves the product as it is;  β = beta·√(largest σ of the product)

After that the rate no longer depends on how small the start was.

State: the first loss; whether the step was made.
Departures from the paper: the moment is given by the loss, because the error is not known; the
start is the workload's, whose left factor is the larger one.
"""

import torch

from harness import ops
from submissions.matrix import _operator

SPACE = {
    "lr": {"log": [5e-2, 2.0], "default": 0.5},
    "when": {"log": [1e-4, 0.5], "default": 0.01},
    "beta": {"log": [0.1, 2.0], "default": 0.5},
}


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp, self.first, self.done = task, hp, None, False
        _operator.pair(task)

    def step(self):
        task, hp = self.task, self.hp
        loss = task.forward_backward(task.next_batch())
        self.first = float(loss) if self.first is None else self.first
        if not self.done and loss <= hp.when * self.first:
            self.rebalance()
            return loss
        ops.sgd_([p.data for p in task.params], [p.grad for p in task.params], hp.lr)
        return loss

    def rebalance(self):
        left, right = (p.data for p in self.task.params)
        beta = self.hp.beta * torch.linalg.matrix_norm(left @ right.T, 2).sqrt()
        a, s, bt = torch.linalg.svd(left, full_matrices=False)
        right.copy_(right @ (bt.T * s) @ bt / beta)
        left.copy_(beta * a @ bt)
        self.done = True

    def state_dict(self):
        return {"first": self.first, "done": self.done}

    def load_state_dict(self, state):
        self.first, self.done = state["first"], state["done"]
