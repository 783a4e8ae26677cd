"""MeZO: two forward passes, and a step along a random direction; no backward pass.

Malladi et al., "Fine-Tuning Language Models with Just Forward Passes", arXiv 2305.17333.

    c = (f(p + eps·z) − f(p − eps·z)) / (2 eps), z ~ N(0, 1) on one batch;  p ← p − lr·(c·z + wd·p)

State: none; z is drawn again from its seed when needed.
Departures from the paper: none but an optional warm-up of the constant rate.
"""

import torch

from harness.schedules import warmup_constant

PASSES = {"forward": 2}
SPACE = {
    # The paper's 1e-6 is for billions of parameters.
    "lr": {"log": [1e-5, 1e-2], "default": 1e-3},
    "wd": 0.0,
    "eps": 1e-3,
    "warmup": 0.0,
}


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp

    def step(self):
        task, hp = self.task, self.hp
        batch = task.next_batch()
        seed = int(torch.randint(2**62, (), generator=task.rng))
        self.move(seed, hp.eps)
        above = task.forward(batch)
        self.move(seed, -2 * hp.eps)
        below = task.forward(batch)
        lr = hp.lr * warmup_constant(task.progress, hp.warmup)
        slope = float(above - below) / (2 * hp.eps)
        # The decay is of p, and eps·z leads back to p.
        decay = lr * hp.wd
        self.move(seed, hp.eps * (1 - decay) - lr * slope, decay)
        return (above + below) / 2

    @torch.no_grad()
    def move(self, seed, distance, decay=0.0):
        """Set p ← p(1 − decay) + distance·z, with the z of this seed."""
        source = torch.Generator(self.task.params[0].device).manual_seed(seed)
        for p in self.task.params:
            z = torch.randn(p.shape, generator=source, device=p.device, dtype=p.dtype)
            p.mul_(1 - decay).add_(z, alpha=distance)

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass
