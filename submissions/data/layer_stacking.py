"""Layer stacking: train a quarter of the blocks, then double the depth by copies, twice.

Gong et al., "Efficient Training of BERT by Progressively Stacking", ICML 2019. Growth is at 1/8 and
3/10 of the budget, as in Kaddour et al., "No Train No Gain", arXiv 2307.06440.

    at each growth from k to 2k blocks: block[i + k] ← block[i], i = 0 ... k − 1;  AdamW in between

State: AdamW's m and v, two words per parameter; the step and the depth.
Departures from the paper: growth is at the steps that have cost these shares of the budget by the
prices of gpt2 mini. As in the second paper, AdamW's state is not copied: it starts again.
"""

import torch

from harness import ops
from harness.errors import UserError
from submissions.first_order import adamw

PASSES = {
    "forward_backward@depth=1/4": 0.25,
    "forward_backward@depth=1/2": 0.22,
    "forward_backward": 0.53,
}
SPACE = {**adamw.SPACE, "first": 0.25, "second": 0.47}


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        if not getattr(task.model, "blocks", ()):
            raise UserError("layer_stacking: this model has no blocks to stack", do="workload=gpt2")
        self.activate(max(1, len(task.model.blocks) // 4))
        self.state = adamw.init(task.params, hp)

    def activate(self, depth):
        """Make the first `depth` blocks active and the others inactive."""
        self.depth = depth
        self.task.model.active = [i < depth for i in range(len(self.task.model.blocks))]

    def step(self):
        task, whole = self.task, len(self.task.model.blocks)
        due = 4 if task.progress < self.hp.first else 2 if task.progress < self.hp.second else 1
        while self.depth < whole // due:
            self.grow()
        loss = task.forward_backward(task.next_batch())
        ops.apply(adamw.update, task.params, self.state, self.hp, task.progress)
        return loss

    @torch.no_grad()
    def grow(self):
        blocks = self.task.model.blocks
        for block, copy in zip(blocks[: self.depth], blocks[self.depth : 2 * self.depth]):
            copy.load_state_dict(block.state_dict())
        self.activate(2 * self.depth)
        self.state = adamw.init(self.task.params, self.hp)

    def state_dict(self):
        return {"adamw": self.state, "depth": self.depth}

    def load_state_dict(self, state):
        self.state = state["adamw"]
        self.activate(state["depth"])
