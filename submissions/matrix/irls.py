"""MatrixIRLS: reweighted least squares for a smoothed log-determinant; for completion.

Kümmerle and Mayrink Verdun, "A Scalable Second Order Method for Ill-Conditioned Matrix Completion
from Few Samples", arXiv 2106.02119.

    W⁻¹(M) = S_U·M·S_V, S_U = e·I + U(Σ − e)Uᵀ over the singular values above e, S_V likewise
    X ← argmin ⟨X, W(X)⟩ where A(X) = y;  e ← min(e, σ_{r+1}(X)),  r the columns of a factor

With W⁻¹ = e²·I + T·D·Tᵀ, T the tangent space at U, V and A·A* = c·I, X is e²·A*(z) + T(γ) where
(e²·c·D⁻¹ + Tᵀ·A*·A·T)·γ = Tᵀ·A*(y) and z = (y − A(T(γ)))/(e²·c): conjugate gradients in T.

State: U, Σ, V of the singular values above e, at most r + 1 of them; e.
Departures from the paper: at most `inner` iterations of conjugate gradients; σ_{r+1} by subspace
iterations; at most r + 1 singular values have weights of their own; e stays above 1e-8·σ₁, because
below that rounding decides, and a solution that was right to 1e-9 is lost again.
"""

import torch

from harness.errors import UserError
from submissions.matrix import _operator

SPACE = {"inner": {"choice": [50, 20, 200]}, "tolerance": 1e-9, "sweeps": {"choice": [5, 20]}}
FLOOR = 1e-8  # of e, as a share of the largest singular value


def lift(parts, u, v):
    """Return the matrix U·M₁·Vᵀ + U·M₂ + M₃·Vᵀ of a tangent vector's coordinates."""
    m1, m2, m3 = parts
    return u @ (m1 @ v.T + m2) + m3 @ v.T


def coordinates(x, u, v):
    """Return the coordinates [r, r], [r, n] and [n, r] of x's part in the tangent space."""
    ux, xv = u.T @ x, x @ v
    m1 = ux @ v
    return [m1, ux - m1 @ v.T, xv - u @ m1]


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        _operator.pair(task)
        self.kept = {}

    def step(self):
        task, hp = self.task, self.hp
        left, right = (p.data for p in task.params)
        rank, batch = left.shape[1], task.next_batch()
        measure = _operator.Operator(batch, (len(left), len(right)))
        if not measure.entries:
            raise UserError("irls needs measurements that are entries", "matrix_completion")
        loss, _ = _operator.slope(task, batch, measure)
        x = self.solve(measure) if self.kept else measure.adjoint(measure.y) / measure.square
        start = self.kept.get("v", x[: rank + 1].T)
        if start.shape[1] <= rank:
            start = torch.cat([start, x[: rank + 1 - start.shape[1]].T], dim=1)
        u, s, v = _operator.leading(x, rank + 1, start, hp.sweeps)
        e = min(self.kept.get("e", float(s[0])), float(s[rank]))
        e = max(e, FLOOR * float(s[0]))
        over = s > e
        self.kept = {"u": u[:, over], "s": s[over], "v": v[:, over], "e": e}
        _operator.balance_(task.params, u[:, :rank], s[:rank], v[:, :rank])
        return loss

    def solve(self, measure):
        """Return the weighted least-squares solution."""
        u, s, v, e = (self.kept[name] for name in ("u", "s", "v", "e"))
        if not len(s):
            return measure.adjoint(measure.y) / measure.square
        floor = e**2 * measure.square
        # e²c·D⁻¹: D = σᵢσⱼ − e² on U·M₁·Vᵀ, and σᵢe − e² on the two others
        mixed = floor / (e * (s - e))
        ridge = [floor / (torch.outer(s, s) - e**2), mixed[:, None], mixed]

        def apply(parts):
            seen = measure.adjoint(measure(lift(parts, u, v)))
            image = coordinates(seen, u, v)
            return [a + d * b for a, d, b in zip(image, ridge, parts, strict=True)]

        right = coordinates(measure.adjoint(measure.y), u, v)
        tangent = lift(_operator.solve(apply, right, self.hp.inner, self.hp.tolerance), u, v)
        rest = measure.adjoint(measure.y - measure(tangent)) / measure.square
        return tangent + rest

    def state_dict(self):
        return {"kept": self.kept}

    def load_state_dict(self, state):
        self.kept = state["kept"]
