"""Alternating minimisation: least squares in one factor at a time, by conjugate gradients.

Jain, Netrapalli, Sanghavi, "Low-rank matrix completion using alternating minimization", arXiv
1212.0467; solving the regressions only approximately: Gu, Song, Yin, Zhang, arXiv 2302.11068.

    (L, R) ← (L·Tᵀ, Q), R = Q·T;  L ← argmin_L f(L, R);  the same with L and R exchanged; ...

f is quadratic in each factor, so ∇f(L + p) - ∇f(L) is exactly its Hessian times p: each conjugate
gradient iteration costs one more pass. A step is the regression of one factor.

State: none.
Departures from the paper: a regression is `inner` conjugate gradient iterations from the present
factor; the start is the workload's random one.
"""

import torch

from submissions.matrix import _operator

PASSES = {"forward_backward": 9}
SPACE = {"inner": 8}


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        _operator.pair(task)

    def step(self):
        task = self.task
        batch, params = task.next_batch(), task.params
        factor, partner = params[task.step % 2], params[1 - task.step % 2]
        basis, turn = torch.linalg.qr(partner.data)
        partner.data.copy_(basis)
        factor.data.copy_(factor.data @ turn.T)
        loss = task.forward_backward(batch)
        gradient, start = factor.grad.clone(), factor.data.clone()
        change, residual, along = torch.zeros_like(start), -gradient, -gradient
        size = start.norm().clamp(min=1e-8)
        for _ in range(self.hp.inner):
            reach = size / along.norm().clamp(min=1e-300)
            torch.add(start, along * reach, out=factor.data)
            task.forward_backward(batch)
            curved = (factor.grad - gradient) / reach
            square = residual.square().sum()
            rate = square / (along * curved).sum().clamp(min=1e-300)
            change += rate * along
            residual -= rate * curved
            along = residual + residual.square().sum() / square.clamp(min=1e-300) * along
        torch.add(start, change, out=factor.data)
        return loss

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass
