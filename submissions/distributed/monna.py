"""MoNNA: workers average the models nearest to their own, and so ignore a Byzantine worker.

Farhadkhani et al., "Robust Collaborative Learning with Linear Gradient Overhead", arXiv 2209.10931,
Algorithm 1.

    worker i: mᵢ ← β·mᵢ + (1 − β)gᵢ;  hᵢ = pᵢ − lr·mᵢ;  pᵢ ← mean of the n − 2f nearest to hᵢ of
    all h, its own included

One of five workers is Byzantine (f = 1): it sends the mean of the others plus `attack` times their
mean step backwards. The four honest workers share the workload's batch; evaluation uses their mean.
State: parameters and momentum of four workers, eight words per parameter.
Departures from the paper: no message is lost or late, so all n models arrive, not n − f.
"""

import torch

from harness import ops
from harness.schedules import warmup_cosine

PASSES = {"forward_backward@batch=1/4": 4}
HONEST, LIARS = 4, 1
SPACE = {
    "lr": {"log": [0.03, 1.0]},
    "momentum": {"choice": [0.9, 0.99]},
    "attack": {"choice": [10.0, 0.0]},
    "warmup": 0.05,
}


def nearest_mean(own, models, count):
    """Return the mean of the `count` models (lists of tensors) nearest to `own`."""

    def distance(model):
        return sum(float((a - b).square().sum()) for a, b in zip(own, model))

    chosen = sorted(models, key=distance)[:count]
    return [sum(same) / count for same in zip(*chosen)]


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.models = [ops.copies(task.params) for _ in range(HONEST)]
        self.momenta = [ops.zeros(task.params) for _ in range(HONEST)]

    def step(self):
        task, hp, losses = self.task, self.hp, []
        params, before = [p.data for p in task.params], self.evaluate_view()
        lr = hp.lr * warmup_cosine(task.progress, hp.warmup)
        for model, momentum in zip(self.models, self.momenta):
            torch._foreach_copy_(params, model)
            losses.append(task.forward_backward(task.next_batch(task.batch_size // HONEST)))
            for p, m, x in zip(task.params, momentum, model):
                if p.grad is not None:
                    m.lerp_(p.grad, 1.0 - hp.momentum)
                x.sub_(m, alpha=lr)
        mean = self.evaluate_view()
        lie = [b + (a - b) * hp.attack for a, b in zip(before, mean)]
        sent = [*self.models, *[lie] * LIARS]
        nearest = HONEST + LIARS - 2 * LIARS
        self.models = [nearest_mean(own, sent, nearest) for own in self.models]
        torch._foreach_copy_(params, self.evaluate_view())
        return torch.stack(losses).mean()

    def evaluate_view(self):
        return [sum(same) / HONEST for same in zip(*self.models)]

    def state_dict(self):
        return {"models": self.models, "momenta": self.momenta}

    def load_state_dict(self, state):
        self.models, self.momenta = state["models"], state["momenta"]
