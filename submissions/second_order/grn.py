"""GRN: Newton steps regularised by the gradient's norm over an estimate of smoothness.

Semenov, Jaggi and Doikov, "Gradient-Normalized Smoothness for Optimization with Approximate
Hessians", arXiv 2506.13710.

    λ = ‖g‖/γ;  δ = −(H + λI)⁻¹g by ten conjugate gradient iterations;  g' = ∇f(p + δ), one batch
    f(p) − f(p + δ) ≥ ‖g'‖²/(8λ): keep p + δ, γ ← 2γ;  else back to p, γ ← γ/2

State: γ.
Departures from the paper: the linear system is solved by at most ten iterations, which end at a
direction of negative curvature; each step tries one γ, so that it always costs the same.
"""

import torch

from harness import ops

INNER = 10
PASSES = {"forward_backward": 2, "hvp": 10}
SPACE = {"gamma": {"log": [0.01, 100.0]}}


def flat(tensors):
    return torch.cat([t.detach().flatten() for t in tensors])


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp, self.gamma = task, hp, hp.gamma

    def gradient(self, batch):
        loss = self.task.forward_backward(batch)
        zero = torch.zeros_like
        return loss, flat([zero(p) if p.grad is None else p.grad for p in self.task.params])

    def shaped(self, vector):
        """Return a flat vector as one tensor for each parameter."""
        params = self.task.params
        parts = vector.split([p.numel() for p in params])
        return [part.view_as(p) for part, p in zip(parts, params, strict=True)]

    def solved(self, batch, g, ridge):
        """Return (H + ridge·I)⁻¹g by conjugate gradients."""
        x, r, way = torch.zeros_like(g), g.clone(), g.clone()
        for _ in range(INNER):
            image = flat(self.task.hvp(batch, self.shaped(way))) + ridge * way
            curvature, square = way @ image, r @ r
            if curvature <= 0 or square <= 0:
                # The first direction is the gradient itself.
                return x if x.any() else g / ridge
            x = x + square / curvature * way
            r = r - square / curvature * image
            way = r + (r @ r) / square * way
        return x

    def step(self):
        task, batch = self.task, self.task.next_batch()
        loss, g = self.gradient(batch)
        before, ridge = ops.copies(task.params), float(g.norm()) / (self.gamma + 1e-8)
        if not ridge:
            return loss
        delta = self.shaped(self.solved(batch, g, ridge))
        params = [p.data for p in task.params]
        torch._foreach_sub_(params, delta)
        after, new = self.gradient(batch)
        if loss - after >= (new @ new) / (8 * ridge):
            self.gamma = max(2 * self.gamma, 1e-9)
        else:
            torch._foreach_copy_(params, before)
            self.gamma /= 2
        return loss

    def state_dict(self):
        return {"gamma": self.gamma}

    def load_state_dict(self, state):
        self.gamma = state["gamma"]
