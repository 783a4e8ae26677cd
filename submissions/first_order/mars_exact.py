"""Exact MARS: AdamW on gradients with a share of their change since the last p, on one batch.

Yuan et al., "MARS: Unleashing the Power of Variance Reduction for Training Large Models", arXiv
2411.10438, Algorithm 2 (MARS-AdamW), with the exact difference.

    c = g + γ·β1/(1 − β1)·(g − ∇f(last p)), both gradients on the same batch;  the rest is mars

Two passes a step, where mars takes the last step's gradient in place of the second.
State: m, v, the last p and a gradient, four words per parameter; the step.
Departures from the paper: none.
"""

import torch

from harness import ops
from submissions.first_order import mars

PASSES = {"forward_backward": 2}
SPACE = mars.SPACE


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.state: dict = mars.init(task.params, hp) | {"before": ops.copies(task.params)}

    def step(self):
        task, state = self.task, self.state
        params, batch, now = (
            [p.data for p in task.params],
            task.next_batch(),
            ops.copies(task.params),
        )
        torch._foreach_copy_(params, state["before"])
        task.forward_backward(batch)
        for last, p in zip(state["last"], task.params, strict=True):
            last.zero_() if p.grad is None else last.copy_(p.grad)
        torch._foreach_copy_(params, now)
        torch._foreach_copy_(state["before"], now)
        loss = task.forward_backward(batch)
        ops.apply(mars.update, task.params, state, self.hp, task.progress)
        return loss

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state
