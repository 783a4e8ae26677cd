"""APGD: gradient steps in one factor after the other, each over its partner's Gram, undamped.

Liu et al., arXiv 2502.00463; the same rule is the approximate Gauss-Newton method (AGN) of Jia,
Feng, Meng, Sun, NeurIPS 2024.

    L ← L − lr·∇_L f·(RᵀR)⁺;  then, with the new L:  R ← R − lr·∇_R f·(LᵀL)⁺

It needs no small start, and no damping when the factors have too many columns.

State: none.
Departures from the paper: the pseudo-inverse leaves out eigenvalues below 1e-14 of the largest.
"""

import torch

from submissions.matrix import _operator

PASSES = {"forward_backward": 2}
SPACE = {"lr": {"log": [0.1, 1.5], "default": 0.7}}
VARIANTS = {"agn": {"lr": 0.5}}
CUT = 1e-14


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        _operator.pair(task)

    def step(self):
        task, first = self.task, None
        batch = task.next_batch()
        for factor, partner in (task.params, task.params[::-1]):
            loss = task.forward_backward(batch)
            first = loss if first is None else first
            gram = torch.linalg.pinv(partner.data.T @ partner.data, rtol=CUT, hermitian=True)
            factor.data.sub_(factor.grad @ gram, alpha=self.hp.lr)
        return first

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass
