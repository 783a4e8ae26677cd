"""Trusted mix: AdamW on batches of which a fixed share are trusted examples.

The baseline for workloads that name examples whose labels are known to be right. The variant
`trusted_only` never looks at the others.

    a share s of each batch is drawn from the trusted examples, the rest from all

State: AdamW's m and v, two words per parameter.
Departures from the paper: none; it has no paper.
"""

import torch

from harness import ops
from submissions.first_order import adamw

SPACE = {**adamw.SPACE, "share": {"linear": [0.0, 1.0]}}
VARIANTS = {"trusted_only": {"share": 1.0}}


def draw(trusted, count, generator):
    """Return `count` of the trusted numbers, drawn with replacement."""
    return trusted[torch.randint(len(trusted), (count,), generator=generator)]


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.state = adamw.init(task.params, hp)

    def step(self):
        task = self.task
        count = round(self.hp.share * task.batch_size)
        index = draw(task.trusted, count, task.rng)
        if count < task.batch_size:
            index = torch.cat([index, task.next_index(task.batch_size - count)])
        loss = task.forward_backward(task.gather(index))
        ops.apply(adamw.update, task.params, self.state, self.hp, task.progress)
        return loss

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state
