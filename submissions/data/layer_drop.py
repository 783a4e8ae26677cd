"""Progressive layer drop: AdamW that skips a quarter of the blocks, later ones more often.

Zhang and He, "Accelerating Training of Transformer-Based Language Models with Progressive Layer
Dropping", arXiv 2010.13369.

    first quarter of the horizon: all L blocks
    then each step skips L/4 of them, drawn without replacement with weights 1, 2, ..., L

State: AdamW's m and v, two words per parameter.
Departures from the paper: the number of skipped blocks is 0, then L/4, so that a step's cost is
known; in the paper it changes smoothly. The other blocks are not rescaled. L must be a multiple of
4.
"""

import torch

from harness import ops
from harness.errors import UserError
from submissions.first_order import adamw

PASSES = {"forward_backward": 0.25, "forward_backward@depth=3/4": 0.75}
SPACE = adamw.SPACE


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.state = adamw.init(task.params, hp)
        self.depth = len(getattr(task.model, "active", ()))
        if self.depth == 0 or self.depth % 4:
            raise UserError(
                f"layer_drop needs blocks in fours; this model has {self.depth}", do="workload=gpt2"
            )

    def step(self):
        task = self.task
        if task.progress >= 0.25:
            weights = torch.arange(1.0, self.depth + 1)
            drawn = torch.multinomial(weights, self.depth // 4, generator=task.rng)
            for i in drawn.tolist():
                task.model.active[i] = False
        loss = task.forward_backward(task.next_batch())
        task.model.active = [True] * self.depth
        ops.apply(adamw.update, task.params, self.state, self.hp, task.progress)
        return loss

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state
