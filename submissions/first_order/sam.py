"""SAM: AdamW on the gradient taken at the worst point of a small ball.

Foret et al., "Sharpness-Aware Minimization for Efficiently Improving Generalization",
arXiv 2010.01412.

    e = ρ·g/(‖g‖ + 1e-12), global norm;  g' = ∇f(p + e) on the same batch;  AdamW step at p with g'

State: AdamW's m and v, two words per parameter; the step (and a copy of p during a step).
Departures from the paper: the base method is AdamW in place of SGD.
"""

import torch

from harness import ops
from submissions.first_order import adamw

PASSES = {"forward_backward": 2}
SPACE = {**adamw.SPACE, "rho": {"log": [1e-2, 0.25]}}


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.state = adamw.init(task.params, hp)

    def step(self):
        task = self.task
        batch = task.next_batch()
        loss = task.forward_backward(batch)
        live = [p for p in task.params if p.grad is not None]
        before = ops.copies(live)
        with torch.no_grad():
            reach = self.hp.rho / (ops.global_norm([p.grad for p in live]) + 1e-12)
            for p in live:
                p.add_(p.grad, alpha=reach)
        task.forward_backward(batch)
        with torch.no_grad():
            for p, old in zip(live, before, strict=True):
                p.copy_(old)
        ops.apply(adamw.update, task.params, self.state, self.hp, task.progress)
        return loss

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state
