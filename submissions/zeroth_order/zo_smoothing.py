"""Accelerated steps on a smoothed loss, whose gradient is estimated from pairs of values.

Gasnikov et al., "The Power of First-Order Smooth Optimization for Black-Box Non-Smooth Problems",
arXiv 2201.12289; the method of similar triangles: Gasnikov and Nesterov, arXiv 1604.05275.

    g(x) = mean over 4 directions of d·(f(x + γe) − f(x − γe))/(2γ)·e, e on the unit sphere of R^d
    α = (k + 2)·lr/2;  A' = A + α;  x = (A·y + α·z)/A'
    z ← z − α·g(x);  y ← (A·y + α·z)/A'

g estimates the gradient of f averaged over a ball of radius γ, which is smooth even where f jumps.
y is evaluated. After `restart` steps k and A are 0 again, and z is y.

State: y and z, two words per parameter; A and k.
Departures from the paper: restarts, because α grows without bound and the noise of g with it.
"""

import torch

from harness import ops

DIRECTIONS = 4
PASSES = {"forward": 8}
SPACE = {
    "lr": {"log": [1e-4, 1.0]},
    "gamma": {"log": [0.03, 3.0]},
    "restart": {"choice": [20, 100, 500]},
}


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.y, self.z = ops.copies(task.params), ops.copies(task.params)
        self.weight, self.k = 0.0, 0

    def direction(self):
        """Return a random point of the unit sphere: one tensor for each parameter."""
        params = self.task.params
        drawn = [
            torch.randn(p.shape, generator=self.task.rng, dtype=torch.float64).to(p) for p in params
        ]
        norm = torch.stack([e.square().sum() for e in drawn]).sum().sqrt()
        return torch._foreach_div(drawn, norm)

    @torch.no_grad()
    def step(self):
        task, hp, batch = self.task, self.hp, self.task.next_batch()
        if self.k == hp.restart:
            self.weight, self.k, self.z = 0.0, 0, ops.copies(self.y)
        alpha = (self.k + 2) * hp.lr / 2
        share = alpha / (self.weight + alpha)
        x = torch._foreach_lerp(self.y, self.z, share)
        total, count = 0.0, sum(p.numel() for p in task.params)
        for _ in range(DIRECTIONS):
            e, losses = self.direction(), []
            for side in (hp.gamma, -hp.gamma):
                torch._foreach_copy_(task.params, torch._foreach_add(x, e, alpha=side))
                losses.append(float(task.forward(batch)))
            slope = count * (losses[0] - losses[1]) / (2 * hp.gamma)
            torch._foreach_add_(self.z, e, alpha=-alpha * slope / DIRECTIONS)
            total += sum(losses) / 2
        self.y = torch._foreach_lerp(self.y, self.z, share)
        self.weight, self.k = self.weight + alpha, self.k + 1
        torch._foreach_copy_(task.params, self.y)
        return torch.tensor(total / DIRECTIONS)

    def state_dict(self):
        return {"y": list(self.y), "z": list(self.z), "weight": self.weight, "k": self.k}

    def load_state_dict(self, state):
        self.y, self.z = state["y"], state["z"]
        self.weight, self.k = state["weight"], state["k"]
