"""BOHB: Hyperband whose points come from densities of good and bad points seen so far.

Falkner, Klein and Hutter, "BOHB: Robust and Efficient Hyperparameter Optimization at Scale",
arXiv 1807.01774, Algorithms 1 and 2.

    model of the rung with most steps that has at least 4 points: l(x) of the best 15 % of them (at
    least 3), g(x) of the others (at least 3); Gaussian kernels in (log lr, log wd) on [0, 1]²,
    bandwidth 1.06·σ·n^(−1/6) in each, at least 1e-3
    a new point: with chance 1/3, or without a model, uniform; else the largest l/g of 64 draws from
    l with three times its bandwidths

Everything else is `hyperband`: rungs, budget, schedule, fitness, evaluation.
State: as `hyperband`; the points seen.
Departures from the paper: as in `hyperband`; a run that diverged counts as the worst.
"""

import math

import torch

from submissions.first_order import adamw
from submissions.tuners import hyperband

DIMENSIONS, BEST, DRAWS, WIDER, NARROWEST, AT_RANDOM = 2, 0.15, 64, 3.0, 1e-3, 1 / 3
SPACE = {**adamw.SPACE, "spread": {"log": [3.0, 30.0]}}


def bandwidths(points):
    """Return the bandwidth of a kernel density of points [n, 2] in each dimension, [2]."""
    spread = points.std(dim=0, unbiased=False)
    return (1.06 * spread * len(points) ** (-1 / (4 + DIMENSIONS))).clamp_min(NARROWEST)


def density(points, x):
    """Return the kernel density of points [n, 2] at x [m, 2]; [m]."""
    h = bandwidths(points)
    z = (x[:, None] - points[None]) / h
    kernels = torch.exp(-z.square() / 2) / (h * math.sqrt(2 * math.pi))
    return kernels.prod(dim=2).mean(dim=1)


def divided(points, losses):
    """Return the good and the bad of points [n, 2] by their losses [n]; None if too few."""
    least = DIMENSIONS + 1
    if len(points) <= least:
        return None
    order = points[losses.argsort(stable=True)]
    good = max(least, int(BEST * len(points)))
    return order[:good], order[-max(least, len(points) - good) :]


def proposed(good, bad, generator):
    """Return the draw from the good points' density, widened, with the largest ratio; [2]."""
    around = good[torch.randint(len(good), (DRAWS,), generator=generator)]
    # A normal variable between 0 and 1, by the inverse of its distribution.
    scale, normal = WIDER * bandwidths(good), torch.distributions.Normal(0.0, 1.0)
    low, high = normal.cdf((0 - around) / scale), normal.cdf((1 - around) / scale)
    u = torch.rand(around.shape, generator=generator, dtype=around.dtype)
    at = low + (high - low) * u
    drawn = around + scale * normal.icdf(at.clamp(1e-12, 1 - 1e-12))
    drawn = drawn.clamp(0, 1)
    return drawn[(density(good, drawn) / density(bad, drawn).clamp_min(1e-32)).argmax()]


class Algorithm(hyperband.Algorithm):
    def __init__(self, task, hp):
        self.seen = {}
        super().__init__(task, hp)

    def point(self):
        """Return an untrained point where the model proposes one, or a random one."""
        made = super().point()
        made["place"] = self.place(made)
        model = self.model()
        if model and float(torch.rand(1, generator=self.task.rng)) >= AT_RANDOM:
            made["place"] = proposed(*model, self.task.rng).tolist()
            for name, u in zip(("lr", "wd"), made["place"]):
                made[name] = getattr(self.hp, name) * self.hp.spread ** (2 * u - 1)
        return made

    def place(self, point):
        """Return where a point's lr and wd lie in their ranges, in [0, 1]."""
        return [
            0.5 + 0.5 * math.log(point[name] / getattr(self.hp, name)) / math.log(self.hp.spread)
            for name in ("lr", "wd")
        ]

    def model(self):
        """Return good and bad points of the rung with most steps that has enough, or None."""
        for steps in sorted(self.seen, reverse=True):
            points = torch.tensor([place for place, _ in self.seen[steps]], dtype=torch.float64)
            losses = torch.tensor([loss for _, loss in self.seen[steps]], dtype=torch.float64)
            if parts := divided(points, losses.nan_to_num(math.inf, math.inf)):
                return parts
        return None

    def train(self, point, at, share):
        loss = super().train(point, at, share)
        if self.task.step < len(self.work):
            k, _, _ = self.work[self.task.step]
            last = self.rungs[k][3]
            if at == last - 1:
                self.seen.setdefault(last, []).append((point["place"], point["loss"]))
        return loss

    def state_dict(self):
        return {"hyperband": self.state, "seen": self.seen}

    def load_state_dict(self, state):
        self.state, self.seen = state["hyperband"], state["seen"]
