"""MultiAdam: Adam for the residual and for the conditions apart, steps added.

Yao et al., "MultiAdam: Parameter-wise Scale-invariant Optimizer for Multiscale Training of
Physics-informed Neural Networks", arXiv 2306.02816.

    groups j: residual; conditions:  m_j ← β1·m_j + (1 − β1)·g_j, v_j ← β2·v_j + (1 − β2)·g_j²
    p ← p − lr·Σ_j m̂_j/(√v̂_j + eps)/2

State: m and v of each group, four words per parameter; the step; the points.
Departures from the paper: warm-up and cosine decay; new points in every step.
"""

import torch

from harness import ops
from harness.schedules import warmup_cosine
from submissions.samplers import uniform

PASSES = {"forward_backward": 2}
SPACE = {
    "lr": {"log": [5e-4, 1e-2]},
    "beta1": {"choice": [0.99, 0.9]},
    "beta2": {"choice": [0.99, 0.999]},
    "eps": 1e-8,
    "warmup": 0.02,
}


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.groups = [[ops.zeros(task.params), ops.zeros(task.params)] for _ in range(2)]

    def step(self):
        task, hp = self.task, self.hp
        batch = task.batch_at(uniform.draw(task, task.batch_size))
        losses, values = [], [p.data for p in task.params]
        rate = hp.lr * warmup_cosine(task.progress, hp.warmup) / 2
        conditions = task.forward_backward(batch, weights={"residual": None})
        grads = {1: [p.grad for p in task.params]}
        others = dict.fromkeys(n for n in task.last_terms if n != "residual")
        losses = conditions + task.forward_backward(batch, weights=others)
        grads[0] = [p.grad for p in task.params]
        for j, (m, v) in enumerate(self.groups):
            g = [torch.zeros_like(p) if x is None else x for p, x in zip(task.params, grads[j])]
            ops.adam_(values, g, m, v, task.step + 1, rate, (hp.beta1, hp.beta2), hp.eps)
        return losses

    def state_dict(self):
        return {"groups": self.groups}

    def load_state_dict(self, state):
        self.groups = state["groups"]
