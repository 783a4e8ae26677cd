"""RS2: AdamW on a new random subset of the training data each round.

Okanovic et al., "Repeated Random Sampling for Minimizing the Time-to-Accuracy of Learning",
arXiv 2305.18424.

    each round: draw a share r of the examples without replacement and pass over it once

State: AdamW's m and v, two words per parameter; the round's example numbers.
Departures from the paper: none.
"""

import torch

from harness import ops
from submissions.first_order import adamw

SPACE = {**adamw.SPACE, "share": {"log": [0.02, 0.5]}}


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        none = torch.empty(0, dtype=torch.int64)
        self.state = adamw.init(task.params, hp) | {"left": none}

    def take(self, count):
        """Return the next `count` example numbers of the rounds."""
        left = self.state["left"]
        while len(left) < count:
            drawn = torch.randperm(self.task.examples, generator=self.task.rng)
            left = torch.cat([left, drawn[: max(1, round(self.hp.share * len(drawn)))]])
        self.state["left"] = left[count:]
        return left[:count]

    def step(self):
        task = self.task
        loss = task.forward_backward(task.gather(self.take(task.batch_size)))
        ops.apply(adamw.update, task.params, self.state, self.hp, task.progress)
        return loss

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state
