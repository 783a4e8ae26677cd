"""PrecGD: preconditioned gradient descent whose damping follows the loss down.

Zhang, Fattahi, Zhang, "Preconditioned gradient descent for over-parameterized nonconvex matrix
factorization", NeurIPS 2021, arXiv 2504.09708.

    η = c·√f(X);   X ← X - lr·∇f(X)·(XᵀX + ηI)⁻¹;   a pair is preconditioned by its partner

√f is within constant factors of the error, which is all the theory asks of η; it makes the method
linear whatever the condition number and the number of columns.

State: none.
Departures from the paper: the paper has symmetric factors only.
"""

import torch

from submissions.matrix import scaled_gd_lambda

SPACE = {
    "lr": {"log": [0.1, 1.0], "default": 0.5},
    "damping": {"log": [0.1, 10.0], "default": 1.0},
}


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        if any(role.kind != "factor" for role in task.roles):
            raise ValueError("precgd acts on factors; this model has other parameters")

    def step(self):
        loss = self.task.forward_backward(self.task.next_batch())
        factors = [p.data for p in self.task.params]
        damping = self.hp.damping * loss.sqrt()
        scaled = scaled_gd_lambda.precondition(factors, [p.grad for p in self.task.params], damping)
        torch._foreach_add_(factors, scaled, alpha=-self.hp.lr)
        return loss

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass
