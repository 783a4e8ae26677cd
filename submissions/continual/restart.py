"""Restart: a new network at every boundary; what plasticity is measured against.

    at a boundary: new initial weights, and finetune's state anew;  finetune's step

It remembers nothing, and loses no plasticity. It needs to know the boundaries.

State: finetune's.
Departures from the paper: there is none; weights are drawn by torch's own initialisation.
"""

from harness import ops
from submissions.continual import finetune, shrink_perturb

TRACKS = ["continual"]
SPACE = {
    **finetune.SPACE,
    "lr": {"log": [1e-4, 1e-2], "default": 1e-3},
    "adaptive": True,
}


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp, self.state = task, hp, finetune.init(task.params, hp)

    def step(self):
        task = self.task
        if task.boundary and task.step:
            shrink_perturb.renew(task.model)
            self.state = finetune.init(task.params, self.hp)
        loss = task.forward_backward(task.next_batch())
        ops.apply(finetune.update, task.params, self.state, self.hp, task.progress)
        return loss

    def state_dict(self):
        return {"state": self.state}

    def load_state_dict(self, saved):
        self.state = saved["state"]
