"""PrecGD: preconditioned gradient descent whose damping falls with the loss.

Zhang, Fattahi, Zhang, "Preconditioned gradient descent for over-parameterized nonconvex matrix
factorization", NeurIPS 2021, arXiv 2504.09708.

    η = c·√f(X);   X ← X - lr·∇f(X)·(XᵀX + ηI)⁻¹;   a pair: each preconditioned by its partner

√f is within constant factors of the error, as the theory requires of η. Then the method converges
linearly for every condition number and number of columns.

State: none.
Departures from the paper: pairs of factors are allowed; the paper's factors are symmetric.
"""

import torch

from harness.errors import UserError
from submissions.matrix import scaled_gd_lambda

SPACE = {
    "lr": {"log": [0.1, 1.0], "default": 0.5},
    "damping": {"log": [0.1, 10.0], "default": 1.0},
}


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        if any(role.kind != "factor" for role in task.roles):
            raise UserError(
                "precgd acts on factors; this model has other parameters",
                do="workload=matrix_sensing",
            )

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
