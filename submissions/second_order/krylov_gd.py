"""Krylov gradient descent: the best step within the span of the gradient and its Hessian products.

Doikov and Rodomanov, "Polynomial Preconditioning for Gradient Methods", arXiv 2301.13194, the
adaptive form that takes the preconditioner from a Krylov subspace.

    K = [g, Hg, H²g] orthonormalised to Q;  T = QᵀHQ = V·Λ·Vᵀ
    p ← p − lr·Q·V·max(|Λ|, damping)⁻¹·Vᵀ·Qᵀg,  g and H on one batch

On a quadratic with lr = 1 it is conjugate gradients, begun again every third iteration.
State: none.
Departures from the paper: the subspace has three dimensions, a constant of the file; the values of
|Λ| in place of Λ make a descent direction of negative curvature; lr is scheduled. The rule was
written from a summary and not compared with the text.
"""

import torch

from harness.schedules import warmup_cosine

DEPTH = 3
PASSES = {"forward_backward": 1, "hvp": 3}
SPACE = {"lr": {"log": [0.03, 1.0]}, "damping": {"log": [1e-3, 1.0]}, "warmup": 0.05}


def flat(tensors):
    return torch.cat([t.detach().flatten() for t in tensors])


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp

    def step(self):
        task, hp, batch = self.task, self.hp, self.task.next_batch()
        loss = task.forward_backward(batch)
        zero = torch.zeros_like
        vectors = [[zero(p) if p.grad is None else p.grad.clone() for p in task.params]]
        for _ in range(DEPTH):
            size = flat(vectors[-1]).norm().clamp(min=1e-30)
            vectors.append(task.hvp(batch, torch._foreach_div(vectors[-1], float(size))))
        columns = torch.stack([flat(v) for v in vectors], dim=1).double()
        # Column j + 1 is H times column j over its norm.
        unit = columns[:, :DEPTH] / columns[:, :DEPTH].norm(dim=0).clamp(min=1e-30)
        q, r = torch.linalg.qr(unit)
        live = r.diagonal().abs() > 1e-8
        depth = int(live.long().cumprod(0).sum())
        if not depth:
            return loss
        q, images = q[:, :depth], columns[:, 1 : depth + 1]
        images = torch.linalg.solve_triangular(r[:depth, :depth], images, upper=True, left=False)
        small = q.mT @ images
        values, turn = torch.linalg.eigh((small + small.mT) / 2)
        inner = turn.mT @ (q.mT @ columns[:, 0]) / values.abs().clamp(min=hp.damping)
        way = (q @ (turn @ inner)).split([p.numel() for p in task.params])
        lr = hp.lr * warmup_cosine(task.progress, hp.warmup)
        with torch.no_grad():
            for p, part in zip(task.params, way, strict=True):
                p.sub_(part.view_as(p).to(p), alpha=lr)
        return loss

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass
