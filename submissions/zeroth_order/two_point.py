"""Two-point estimator: the mean slope along random directions, and isotropic noise on the step.

Ren, Tang and Li, "Escaping saddle points in zeroth-order optimization: the power of two-point
estimators", arXiv 2209.13555; on the sphere: Shamir, arXiv 1507.08752.

    c_i = (f(p + u·z_i) − f(p − u·z_i))/(2u),  i = 1 ... 4, on one batch
    g = mean c_i·z_i, z_i ~ N(0, I), or d·mean c_i·z_i, z_i on the unit sphere of R^d
    p ← p − lr·(g + noise·ξ), ξ ~ N(0, I)

State: none; directions are drawn again from their seeds.
Departures from the paper: lr is scheduled; 4 directions, a constant of the file, decide the price.
"""

import torch

from harness.schedules import warmup_cosine

DIRECTIONS = 4
PASSES = {"forward": 8}
SPACE = {
    "lr": {"log": [1e-4, 3.0]},
    "u": {"log": [1e-3, 0.3]},
    "noise": 0.0,
    "sphere": {"choice": [False, True]},
}


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp

    def direction(self, seed):
        """Return the direction of a seed: one tensor for each parameter."""
        params = self.task.params
        source = torch.Generator(params[0].device).manual_seed(seed)
        drawn = [
            torch.randn(p.shape, generator=source, device=p.device, dtype=p.dtype) for p in params
        ]
        if self.hp.sphere:
            norm = torch.stack([z.square().sum() for z in drawn]).sum().sqrt()
            torch._foreach_div_(drawn, norm)
        return drawn

    @torch.no_grad()
    def step(self):
        task, hp, batch = self.task, self.hp, self.task.next_batch()
        seeds = torch.randint(2**62, (DIRECTIONS + 1,), generator=task.rng).tolist()
        before = [p.clone() for p in task.params]
        lr, total = hp.lr * warmup_cosine(task.progress, 0.0), 0.0
        way = [torch.zeros_like(p) for p in task.params]
        scale = sum(p.numel() for p in task.params) if hp.sphere else 1
        for seed in seeds[:-1]:
            z, losses = self.direction(seed), []
            for side in (hp.u, -hp.u):
                torch._foreach_copy_(task.params, torch._foreach_add(before, z, alpha=side))
                losses.append(float(task.forward(batch)))
            total += sum(losses) / 2
            slope = (losses[0] - losses[1]) / (2 * hp.u)
            torch._foreach_add_(way, z, alpha=scale * slope / DIRECTIONS)
        if hp.noise:
            torch._foreach_add_(way, self.direction(seeds[-1]), alpha=hp.noise)
        torch._foreach_copy_(task.params, torch._foreach_sub(before, torch._foreach_mul(way, lr)))
        return torch.tensor(total / DIRECTIONS)

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass
