"""NIHT: a gradient step on the whole matrix, cut to its leading singular values.

Normalised steps: Tanner and Wei, "Normalized iterative hard thresholding for matrix completion",
SIAM J. Sci. Comput. 35 (2013); constant ones (SVP): Jain, Meka, Dhillon, arXiv 0909.5457.

    Z = A*(A(X) − y);  X ← P_r(X − η·Z), from X = 0
    normalised: η = ‖UUᵀZ‖²/‖A(UUᵀZ)‖², U the present column space;  fixed: η = lr

State: none; X is the product of the factors, each U·√σ and V·√σ.
Departures from the paper: P_r is `sweeps` subspace iterations from the present row space, not an
SVD; the first step is 1.
"""

import torch

from submissions.matrix import _operator

SPACE = {
    "step": {"choice": ["normalised", "fixed"], "tuned": False},
    "lr": {"log": [0.2, 1.5], "default": 0.75},
    "sweeps": {"choice": [3, 10]},
}
VARIANTS = {"svp": {"step": "fixed"}}


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        _operator.pair(task)

    def step(self):
        task, hp = self.task, self.hp
        left, right = (p.data for p in task.params)
        start, batch = right.clone(), task.next_batch()
        if not task.step:
            left.zero_()
        measure = _operator.Operator(batch, (len(left), len(right)))
        loss, z = _operator.slope(task, batch, measure)
        rate = hp.lr if hp.step == "fixed" else 1.0
        if hp.step == "normalised" and task.step:
            basis = torch.linalg.qr(left).Q
            inside = basis @ (basis.T @ z)
            rate = inside.square().sum() / measure(inside).square().sum().clamp(min=1e-300)
        moved = left @ right.T - rate * z
        u, s, v = _operator.leading(moved, left.shape[1], start, hp.sweeps)
        _operator.balance_(task.params, u, s, v)
        return loss

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass
