"""Median of a batch: SGD along the median of the examples' gradients, not along their mean.

Schaipp et al., "Tracking the Median of Gradients with a Stochastic Proximal Point Method", arXiv
2402.12828: the median over the batch (SMGD).

    "element": u = the median of each element over the examples (the lower of two middle values)
    "geometric": u = argmin Σ ‖u − gᵢ‖ by `rounds` of Weiszfeld's u ← Σ wᵢgᵢ/Σ wᵢ, wᵢ = 1/‖u − gᵢ‖
    p ← p(1 − lr·wd) − lr·u

State: none; gradients of all examples during a step.
Departures from the paper: decoupled decay, a schedule of lr, and a fixed number of rounds from the
mean, with distances of at least 1e-8 of the largest gradient.
"""

import torch

from harness import ops
from harness.schedules import warmup_cosine

PASSES = {"per_example_gradients": 1}
SPACE = {
    "lr": {"log": [0.1, 10.0]},
    "wd": {"log": [1e-5, 1e-2]},
    "kind": {"choice": ["geometric", "element"]},
    "rounds": 8,
    "warmup": 0.05,
}


def squares(rows, center):
    """Return the squared distance of each example's row to the center, over all tensors: [B]."""
    each = [(r - c).square().sum(dim=1) for r, c in zip(rows, center, strict=True)]
    return torch.stack(each).sum(dim=0)


def geometric(examples, rounds):
    """Return the point of least total distance to the rows of the tensors [B, *shape]."""
    rows = [g.reshape(len(g), -1) for g in examples]
    largest = float(squares(rows, [torch.zeros_like(r[0]) for r in rows]).max()) ** 0.5
    center = [r.mean(dim=0) for r in rows]
    for _ in range(rounds):
        weights = 1.0 / squares(rows, center).sqrt().clamp(min=1e-8 * largest + 1e-30)
        weights /= weights.sum()
        center = [weights @ r for r in rows]
    return [c.view(g.shape[1:]) for c, g in zip(center, examples, strict=True)]


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp

    def step(self):
        task, hp = self.task, self.hp
        examples = task.per_example_grads(task.next_batch())
        with torch.no_grad():
            if hp.kind == "element":
                u = [g.median(dim=0).values for g in examples]
            else:
                u = geometric(examples, hp.rounds)
            lr = hp.lr * warmup_cosine(task.progress, hp.warmup)
            ops.sgd_([p.data for p in task.params], u, lr, hp.wd)

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass
