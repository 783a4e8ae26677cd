"""Truncated model: SGD that never steps beyond where the loss's linear model reaches zero.

Asi and Duchi, "Stochastic (Approximate) Proximal Point Methods: Convergence, Optimality, and
Adaptivity", arXiv 1810.05633, the truncated model, equation 9: losses are at least `lower`.

    p ← p − min(lr, (f − lower)/‖g‖²)·g, f the batch's loss and g its gradient;  p ← p/(1 + lr·wd)

State: none.
Departures from the paper: the decay, as a proximal step; lr falls as half a cosine, where the paper
has powers of the step.
"""

import torch

from harness import ops
from harness.schedules import warmup_cosine

SPACE = {
    "lr": {"log": [0.1, 10.0]},
    "wd": {"log": [1e-5, 1e-2]},
    "lower": 0.0,
    "warmup": 0.0,
}


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp

    def step(self):
        task, hp = self.task, self.hp
        loss = task.forward_backward(task.next_batch())
        live = [p for p in task.params if p.grad is not None]
        params, grads = [p.data for p in live], [p.grad for p in live]
        lr, norm = hp.lr * warmup_cosine(task.progress, hp.warmup), ops.global_norm(grads)
        length = min(lr, max(float(loss) - hp.lower, 0.0) / norm**2) if norm else 0.0
        torch._foreach_add_(params, grads, alpha=-length)
        torch._foreach_mul_(params, 1.0 / (1.0 + lr * hp.wd))
        return loss

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass
