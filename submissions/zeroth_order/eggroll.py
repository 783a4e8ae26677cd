"""EGGROLL: an evolution strategy with rank-one perturbations of matrices; no backward pass.

Sarkar et al., "Evolution Strategies at the Hyperscale", arXiv 2511.16652.

    members ±i of N/2 pairs: E = σ·abᵀ/√r for matrices (r = 1), σ·N(0, I) else;  fᵢ = −loss(p + Eᵢ)
    f ← (f − mean)/√(var + 1e-5);  ĝ = −√N·mean(fᵢ·Eᵢ/σ);  p ← p(1 − lr·wd) − lr·ĝ

State: none; perturbations are drawn again from their seeds when needed.
Departures from the paper: N is 16; all members see one batch; matrices are perturbed in place, one
member at a time, while the authors' code never forms p + E.
"""

import torch

from harness.schedules import warmup_cosine

PASSES = {"forward": 16}
MEMBERS = 16
SPACE = {
    "lr": {"log": [1e-4, 1e-2]},
    "wd": 0.0,
    "sigma": {"log": [1e-3, 3e-2]},
    "rank": 1,
    "warmup": 0.0,
}


def noise(params, seed, rank):
    """Return unit-variance noise for each parameter, of rank `rank` if it is a matrix."""
    source = torch.Generator(params[0].device).manual_seed(seed)

    def draw(p, *shape):
        return torch.randn(shape, generator=source, device=p.device, dtype=p.dtype)

    for p in params:
        if p.ndim == 2:
            yield draw(p, p.shape[0], rank) @ draw(p, rank, p.shape[1]) / rank**0.5
        else:
            yield draw(p, *p.shape)


def standardised(fitness):
    return (fitness - fitness.mean()) / (fitness.var(unbiased=False) + 1e-5).sqrt()


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp

    @torch.no_grad()
    def step(self):
        task, hp, batch = self.task, self.hp, self.task.next_batch()
        seeds = torch.randint(2**62, (MEMBERS // 2,), generator=task.rng).tolist()
        losses = []
        for seed in seeds:
            for distance in (hp.sigma, -2 * hp.sigma):
                self.move(seed, distance)
                losses.append(task.forward(batch))
            self.move(seed, hp.sigma)
        fitness = standardised(-torch.stack(losses).double()).view(-1, 2)
        rate = hp.lr * warmup_cosine(task.progress, hp.warmup) * MEMBERS**0.5 / MEMBERS
        for seed, (up, down) in zip(seeds, fitness.tolist()):
            self.move(seed, rate * (up - down))
        for p in task.params:
            p.mul_(1.0 - hp.lr * hp.wd)
        return torch.stack(losses).mean()

    def move(self, seed, distance):
        params = self.task.params
        for p, e in zip(params, noise(params, seed, self.hp.rank)):
            p.add_(e, alpha=distance)

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass
