"""LISA: each period trains a few random blocks; embedding, last norm and head always train.

Pan et al., "LISA: Layerwise Importance Sampling for Memory-Efficient Large Language Model
Fine-Tuning", arXiv 2403.17919.

    every `period` steps: draw `blocks` blocks uniformly without replacement; freeze the others

State: AdamW's, two words per parameter that trains now.
Departures from the paper: AdamW restarts for all parameters at each draw, so that frozen blocks
have no state (the authors' code keeps all of it).
"""

import torch

from harness.errors import UserError
from submissions.first_order import adamw
from submissions.peft import head_only

TRACKS = ["finetune"]
SPACE = {
    **adamw.SPACE,
    "lr": {"log": [3e-4, 1e-2]},
    "wd": 0.01,
    "beta2": 0.99,
    "head_lr": 5e-3,
    "blocks": {"int": [1, 4], "default": 2},
    "period": {"int": [5, 50], "default": 20},
}


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        if not hasattr(task.model, "blocks") or hp.blocks > len(task.model.blocks):
            raise UserError(f"lisa trains {hp.blocks} blocks at a time; this model has not as many")
        self.chosen: list[int] = []
        self.train([0])
        self.trainer = head_only.Trainer(task, hp)

    def train(self, chosen):
        self.chosen = chosen
        for i, block in enumerate(self.task.model.blocks):
            block.requires_grad_(i in chosen)

    def step(self):
        if self.task.step % self.hp.period == 0:
            order = torch.randperm(len(self.task.model.blocks), generator=self.task.rng)
            self.train(order[: self.hp.blocks].tolist())
            self.trainer.reset()
        loss = self.task.forward_backward(self.task.next_batch())
        self.trainer.update()
        return loss

    def state_dict(self):
        return {"chosen": self.chosen, **self.trainer.state}

    def load_state_dict(self, state):
        self.train(state.pop("chosen"))
        self.trainer.reset()
        self.trainer.state = state
