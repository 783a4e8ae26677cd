"""Merge: replay, and at each task's end the weights are averaged with those before the task.

The recipe that does best under a budget in Roth et al., "A Practitioner's Guide to Continual
Multimodal Pretraining" (FoMo-in-Flux), arXiv 2408.14471; merging of weights: Wortsman et al.,
arXiv 2109.01903.

    er's step;  after the last step of every task but the first  θ ← (1 − w)·θ_before + w·θ
    kind "start": θ_before are the weights at the task's start;  "first": those after the first task
    finetune's moments are then zero

State: er's; θ_before, one word per parameter.
Departures from the paper: its models are pretrained, so that it also merges after the first task;
w is searched. Not compared with the paper's text.
"""

import torch

from harness import ops
from submissions.continual import er, finetune

TRACKS = ["continual"]
PASSES = er.PASSES
SPACE = {
    **er.SPACE,
    "weight": {"linear": [0.3, 1.0], "default": 0.8},
    "kind": {"choice": ["start", "first"]},
}


class Algorithm(er.Algorithm):
    def __init__(self, task, hp):
        super().__init__(task, hp)
        self.before = ops.copies(task.params)

    def step(self):
        task, (first, length) = self.task, self.task.segment
        loss = super().step()
        if task.step == first + length - 1:
            values = [p.data for p in task.params]
            if first:
                merged = torch._foreach_lerp(self.before, values, self.hp.weight)
                torch._foreach_copy_(values, merged)
                self.state = finetune.init(task.params, self.hp)
            if self.hp.kind == "start" or not first:
                self.before = ops.copies(task.params)
        return loss

    def state_dict(self):
        return super().state_dict() | {"before": self.before}

    def load_state_dict(self, saved):
        super().load_state_dict(saved)
        self.before = saved["before"]
