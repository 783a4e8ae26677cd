"""NysNewton-CG: Adam, then damped Newton steps by preconditioned conjugate gradients.

Rathore et al., "Challenges in Training PINNs: A Loss Landscape Perspective", arXiv 2402.01868.

    the last `late` of the steps, on fixed points:
    every `refresh` of them  H ≈ U·S·Uᵀ by a Nyström sketch of `rank` Hessian-vector products
    (H + mu·I)·d = g by at most `inner` conjugate gradient iterations, preconditioned by
        P⁻¹ = (s_r + mu)·U(S + mu)⁻¹Uᵀ + (I − UUᵀ), from the last d
    p ← p − τ·d, τ the largest of 1, 1/2, 1/4, ... that meets Armijo's condition

State: AdamW's m and v; U and S, `rank` words per parameter; d and the points.
Departures from the paper: no phase of L-BFGS between; the sketch leaves out directions of negative
curvature, where the authors shift them; conjugate gradients stop at such a direction, and begin
again from 0 if d then rises (from g if it is the first); at most eight step sizes, and no step if
none meets the condition.
"""

import torch

from harness import ops
from submissions.first_order import adamw
from submissions.physics import levenberg_marquardt
from submissions.samplers import uniform
from submissions.second_order.lbfgs import flat

PASSES = {"forward_backward": 1, "hvp": 1.1, "forward": 0.2}
SPACE = {
    "lr": {"log": [5e-4, 1e-2]},
    "late": 0.05,
    "mu": {"log": [1e-5, 0.1], "default": 1e-3},
    "rank": {"choice": [10, 30, 60]},
    "refresh": 20,
    "inner": {"choice": [20, 50]},
    "armijo": 0.1,
    "wd": 0.0,
    "beta1": 0.9,
    "beta2": 0.999,
    "eps": 1e-8,
    "warmup": 0.02,
}
SKIPS = {"passes": "conjugate gradients stop early, and a short run has two Newton steps"}


def nystrom(apply, size, rank, rng, like):
    """Return U [n, rank] and S [rank] of a symmetric map's leading part, from `rank` products."""
    drawn = torch.randn(size, rank, generator=rng, dtype=torch.float64)
    test = torch.linalg.qr(drawn).Q.to(like)
    image = torch.stack([apply(column) for column in test.T], dim=1).double()
    test = test.double()
    shift = torch.finfo(like.dtype).eps * image.norm()
    image = image + shift * test
    core = test.T @ image
    values, vectors = torch.linalg.eigh((core + core.T) / 2)
    # A direction of negative curvature has no square root: the sketch leaves it out.
    root = vectors * torch.where(values > shift, values.clamp(min=float(shift)).rsqrt(), 0.0)
    u, s, _ = torch.linalg.svd(image @ root, full_matrices=False)
    return u, (s.square() - shift).clamp(min=0)


def solve(apply, g, d, u, s, mu, steps):
    """Return d of (H + mu·I)·d = g by preconditioned conjugate gradients, from d."""

    def precondition(r):
        along = u.T @ r
        return u @ ((s[-1] + mu) / (s + mu) * along - along) + r

    r = g - (apply(d) + mu * d) if bool(d.any()) else g.clone()
    z = precondition(r)
    p, product = z.clone(), r @ z
    for _ in range(steps):
        if r.norm() <= 1e-12 * g.norm():
            break
        image = apply(p) + mu * p
        curved = p @ image
        if curved <= 0:
            break
        d, r = d + product / curved * p, r - product / curved * image
        z = precondition(r)
        fresh = r @ z
        p, product = z + fresh / product * p, fresh
    return d


def descent(apply, g, d, u, s, mu, steps):
    """Return `solve`'s direction, from 0 in place of d or g itself where it does not descend."""
    for start in (d, torch.zeros_like(d)):
        found = solve(apply, g, start, u, s, mu, steps)
        if found @ g > 0:
            return found
    return g.clone()


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp, self.adam, self.late = task, hp, adamw.init(task.params, hp), {}

    def step(self):
        task, hp = self.task, self.hp
        begun = task.step - task.horizon + max(1, round(hp.late * task.horizon))
        if begun < 0:
            loss = task.forward_backward(task.batch_at(uniform.draw(task, task.batch_size)))
            ops.apply(adamw.update, task.params, self.adam, hp, task.progress)
            return loss
        if not self.late:
            size = sum(p.numel() for p in task.params)
            self.late = {"points": uniform.draw(task, task.batch_size),
                         "d": torch.zeros(size, dtype=torch.float64)}  # fmt: skip
        batch, late = task.batch_at(self.late["points"]), self.late
        loss = task.forward_backward(batch)
        g = flat(p.grad for p in task.params)

        def apply(vector):
            parts = vector.to(g).split([p.numel() for p in task.params])
            vectors = [v.view_as(p) for v, p in zip(parts, task.params, strict=True)]
            return flat(task.hvp(batch, vectors)).to(vector)

        if begun % hp.refresh == 0:
            late["u"], late["s"] = nystrom(apply, len(g), hp.rank, task.rng, g)
        late["d"] = descent(apply, g.double(), late["d"], late["u"], late["s"], hp.mu, hp.inner)
        self.search(batch, loss.double(), g.double() @ late["d"])
        return loss

    def search(self, batch, loss, slope):
        """Halve the step from 1 until Armijo's condition holds."""
        task, before = self.task, ops.copies(self.task.params)
        for k in range(8):
            rate = 0.5**k
            torch._foreach_copy_([p.data for p in task.params], before)
            levenberg_marquardt.move_(task.params, self.late["d"], -rate)
            if task.forward(batch).double() <= loss - self.hp.armijo * rate * slope:
                return
        torch._foreach_copy_([p.data for p in task.params], before)

    def state_dict(self):
        return {"adam": self.adam, "late": self.late}

    def load_state_dict(self, state):
        self.adam, self.late = state["adam"], state["late"]
