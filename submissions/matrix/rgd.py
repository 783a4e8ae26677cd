"""RGD: steepest descent on the manifold of matrices of one rank, with the exact tangent step.

Wei, Cai, Chan, Leung, "Guarantees of Riemannian optimization for low rank matrix recovery",
arXiv 1511.01562.

    X = U·Σ·Vᵀ, Z = A*(A(X) − y);  P(Z) = UUᵀZ + ZVVᵀ − UUᵀZVVᵀ;  d = −P(Z)
    conjugate: d ← −P(Z) + b·P(d before), b such that A(d) and A(P(d before)) are orthogonal;
    a restart, b = 0, where |⟨P(Z), P(d before)⟩| ≥ ANGLE·‖P(Z)‖·‖P(d before)‖ or
    ‖P(Z)‖ ≥ RATIO·‖P(d before)‖
    X ← the best approximation of rank r of X + t·d, t = −⟨P(Z), d⟩/‖A(d)‖²

The approximation is an SVD of 2r x 2r, since X + t·d has rank 2r.

State: none; the last direction if conjugate.
Departures from the paper: a spectral start by `sweeps` subspace iterations on A*(y).
"""

import torch

from submissions.matrix import _operator

SPACE = {"conjugate": {"choice": [False, True], "tuned": False}, "sweeps": 10}
VARIANTS = {"rcg": {"conjugate": True}}
ANGLE, RATIO = 0.1, 1.0


def tangent(z, u, v):
    """Return the projection of z on the tangent space at U·Σ·Vᵀ."""
    zv, uz = z @ v, u.T @ z
    return u @ uz + (zv - u @ (u.T @ zv)) @ v.T


def retract(x, rank, u, v):
    """Return U, σ, V of the best approximation of a tangent vector's x of rank 2r."""
    q = torch.linalg.qr(torch.cat([u, x @ v], dim=1)).Q
    p = torch.linalg.qr(torch.cat([v, x.T @ u], dim=1)).Q
    a, s, bt = torch.linalg.svd(q.T @ x @ p)
    return q @ a[:, :rank], s[:rank], p @ bt[:rank].T


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp, self.last = task, hp, None
        _operator.pair(task)

    def step(self):
        task, hp = self.task, self.hp
        left, right = (p.data for p in task.params)
        rank, batch = left.shape[1], task.next_batch()
        measure = _operator.Operator(batch, (len(left), len(right)))
        if not task.step:
            start = _operator.leading(measure.adjoint(measure.y), rank, right, hp.sweeps)
            _operator.balance_(task.params, *start)
        loss, z = _operator.slope(task, batch, measure)
        u, _, v = _operator.spectral(left, right)
        g = tangent(z, u, v)
        along = -g
        if self.last is not None:
            before = tangent(self.last, u, v)
            size = before.norm()
            turned = (g * before).sum().abs() < ANGLE * g.norm() * size
            if turned and g.norm() < RATIO * size:
                a, b = measure(along), measure(before)
                along = along - (a * b).sum() / b.square().sum().clamp(min=1e-300) * before
        rate = -(g * along).sum() / measure(along).square().sum().clamp(min=1e-300)
        moved = left @ right.T + rate * along
        _operator.balance_(task.params, *retract(moved, rank, u, v))
        self.last = along if hp.conjugate else None
        return loss

    def state_dict(self):
        return {"last": self.last}

    def load_state_dict(self, state):
        self.last = state["last"]
