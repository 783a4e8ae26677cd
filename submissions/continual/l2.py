"""L2: an equal pull of every weight to its value at the last boundary; null of ewc, mas, si.

Kirkpatrick et al., arXiv 1612.00796, use it as their baseline.

    g ← ∇L(new) + lam·(θ − θ*);  finetune's step on g

State: finetune's; θ*, one word per parameter.
Departures from the paper: none.
"""

import torch

from harness import ops
from submissions.continual import finetune

TRACKS = ["continual"]
SPACE = {**finetune.SPACE, "lam": {"log": [1e-4, 10.0], "default": 0.01}}


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.state, self.anchor = finetune.init(task.params, hp), []

    def step(self):
        task = self.task
        if task.boundary and task.step:
            self.anchor = ops.copies(task.params)
        loss = task.forward_backward(task.next_batch())
        if self.anchor:
            apart = torch._foreach_sub([p.data for p in task.params], self.anchor)
            torch._foreach_add_([p.grad for p in task.params], apart, alpha=self.hp.lam)
        ops.apply(finetune.update, task.params, self.state, self.hp, task.progress)
        return loss

    def state_dict(self):
        return {"state": self.state, "anchor": self.anchor}

    def load_state_dict(self, saved):
        self.state, self.anchor = saved["state"], saved["anchor"]
