"""Selective backprop: AdamW on examples drawn by the rank of their loss.

Jiang et al., "Accelerating Deep Learning by Focusing on the Biggest Losers", arXiv 1910.00762.

    forward passes over new examples; keep each with probability CDF(loss)^β, the CDF over the last
    `memory` losses; take a step once a whole batch is kept

State: AdamW's m and v, two words per parameter; the last losses; examples kept for later.
Departures from the paper: β is 1, which keeps half of the examples while the losses are constant.
While they fall, new losses rank low and fewer are kept: PASSES declares three forward passes.
"""

import torch

from harness import ops
from submissions.first_order import adamw

PASSES = {"forward": 3, "forward_backward": 1}
SPACE = {**adamw.SPACE, "memory": {"int": [256, 4096], "default": 1024}}
SKIPS = {"passes": "the faster the loss falls, the fewer examples of a batch are kept"}


def keep_probability(losses, memory):
    """Return for each loss the share of remembered losses that are at most as large."""
    return torch.searchsorted(memory.sort().values, losses, right=True) / len(memory)


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        none = torch.empty(0, dtype=torch.int64)
        self.state = adamw.init(task.params, hp) | {"kept": none, "memory": torch.empty(0)}

    def step(self):
        task, state = self.task, self.state
        while len(state["kept"]) < task.batch_size:
            index = task.next_index()
            losses = task.losses(task.gather(index)).cpu().float()
            state["memory"] = torch.cat([state["memory"], losses])[-self.hp.memory :]
            drawn = torch.rand(len(index), generator=task.rng)
            chosen = drawn < keep_probability(losses, state["memory"])
            state["kept"] = torch.cat([state["kept"], index[chosen]])
        index, state["kept"] = state["kept"].split(
            [task.batch_size, len(state["kept"]) - task.batch_size]
        )
        loss = task.forward_backward(task.gather(index))
        ops.apply(adamw.update, task.params, state, self.hp, task.progress)
        return loss

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state
