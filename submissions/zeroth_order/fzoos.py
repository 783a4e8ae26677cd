"""FZooS on one client: gradient steps on a Gaussian process fitted to all values seen so far.

Shu, Lin, Dai and Low, "Federated Zeroth-Order Optimization using Trajectory-Informed Surrogate
Gradients", arXiv 2308.04077; on one machine: arXiv 2108.04675 (ZoRD).

    the loss at 8 random points at distance `radius` of p joins the values of the last steps
    GP with a Matérn-5/2 kernel of length `length` on the `history` newest values, scaled to [0, 1]
    p ← Adam's step along the gradient of the posterior mean

For models of few hundred parameters: nearest neighbours say nothing about more.
State: the points and their values, history + 2 words per parameter with Adam's m and v.
Departures from the paper: one client, so no correction by the other clients' surrogates; the points
to ask for are random, not those of largest uncertainty; one step follows each round.
"""

import torch

from harness import ops
from harness.errors import UserError
from harness.schedules import warmup_cosine

POINTS, LARGEST = 8, 2000
PASSES = {"forward": 8}
SPACE = {
    "lr": {"log": [1e-3, 0.3]},
    "radius": {"log": [1e-2, 1.0]},
    "length": {"log": [0.3, 30.0]},
    "history": {"choice": [150, 64]},
    "noise": 1e-6,
}


def flat(tensors):
    return torch.cat([t.detach().flatten() for t in tensors])


def slope_of_mean(points, values, at, length, noise):
    """Return the gradient at `at` [n] of the posterior mean given values [k] at points [k, n]."""
    scaled = (values - values.min()) / (values.max() - values.min()).clamp(min=1e-12)
    apart = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
    r = 5**0.5 * apart / length
    kernel = (1 + r + r * r / 3) * torch.exp(-r)
    kernel.diagonal().add_(noise)
    weights = torch.linalg.solve(kernel, scaled - scaled.mean())
    way = at - points
    r = 5**0.5 * way.norm(dim=1) / length
    # d/dx of the kernel is −5/(3·length²)·(1 + r)·exp(−r)·(x − x_i).
    pull = -5 / (3 * length**2) * (1 + r) * torch.exp(-r)
    return (weights * pull) @ way


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        w = flat(task.params).double()
        if len(w) > LARGEST:
            raise UserError(
                f"fzoos fits a Gaussian process in {len(w)} dimensions, which predicts nothing",
                f"models of at most {LARGEST} parameters",
                "workload=blackbox",
            )
        zero = torch.zeros_like(w)
        self.state = {"points": w.new_zeros(0, len(w)), "values": w[:0].clone(), "step": 0}
        self.state |= {"m": [zero], "v": [zero.clone()]}

    @torch.no_grad()
    def put(self, vector):
        """Set the parameters to a flat vector."""
        params = self.task.params
        for p, part in zip(params, vector.split([p.numel() for p in params]), strict=True):
            p.copy_(part.view_as(p))

    def step(self):
        task, hp, s, batch = self.task, self.hp, self.state, self.task.next_batch()
        w = flat(task.params).double()
        drawn = torch.randn(POINTS, len(w), generator=task.rng, dtype=torch.float64).to(w)
        asked = w + hp.radius * drawn / drawn.norm(dim=1, keepdim=True)
        told = []
        for point in asked:
            self.put(point)
            told.append(task.forward(batch).double())
        told = torch.stack(told)
        s["points"] = torch.cat([s["points"], asked])[-hp.history :]
        s["values"] = torch.cat([s["values"], told])[-hp.history :]
        g = slope_of_mean(s["points"], s["values"], w, hp.length, hp.noise)
        s["step"] += 1
        lr = hp.lr * warmup_cosine(task.progress, 0.0)
        ops.adam_([w], [g], s["m"], s["v"], s["step"], lr, (0.9, 0.999), 1e-8)
        self.put(w)
        return told.mean()

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        # Loaded tensors may have another alignment in memory: a clone restores it.
        self.state = state | {name: state[name].clone() for name in ("points", "values")}
