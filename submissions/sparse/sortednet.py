"""SortedNet: nested sub-networks of the first heads and neurons are trained together.

Valipour et al., "SortedNet: A Scalable and Generalized Framework for Training Modular Deep Neural
Networks", arXiv 2309.00255; "sandwich": Yu, Huang, arXiv 1903.05134.

    a sub-network of share k has the first ⌈k·n⌉ heads and neurons of every block
    per step, gradients of two sub-networks are added:
    draw "sorted": k uniform in {smallest, smallest + 1/8, ..., 1};  "sandwich": the whole and the
    smallest one

State: AdamW's two words per parameter.
Departures from the paper: sub-networks by heads and neurons, not by depth or the residual width.
How its gradients are averaged over sub-networks could not be read; here it is their mean.
"""

import math

import torch

from harness import ops, structure, surgery
from submissions.first_order import adamw

TRACKS = ["compress"]
PASSES = {"forward_backward": 2}
SPACE = {
    **adamw.SPACE,
    "lr": {"log": [3e-4, 1e-2]},
    "wd": 0.0,
    "beta2": 0.99,
    "draw": {"choice": ["sandwich", "sorted"]},
    "smallest": 0.5,
}


class Nested(surgery.Adapted):
    """A matrix of which only the first input channels may be read, `group` at a time."""

    def __init__(self, linear, group):
        super().__init__(linear)
        self.weight.requires_grad_(True)
        self.group, self.read = group, linear.weight.shape[1]

    def keep(self, share):
        count = self.weight.shape[1] // self.group
        self.read = math.ceil(round(share * count, 6)) * self.group

    def dense(self):
        if self.read == self.weight.shape[1]:
            return self.weight
        return self.weight * (torch.arange(self.weight.shape[1]) < self.read).to(self.weight)


def adapt(model, task, hp):
    for block in structure.blocks(model):
        block.project = Nested(block.project, structure.width_of_head(block))
        block.down = Nested(block.down, 1)


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.state = adamw.init(task.params, hp)
        self.maps = [m for b in structure.blocks(task.model) for m in (b.project, b.down)]

    def shares(self):
        """Return the two sub-networks of a step."""
        if self.hp.draw == "sandwich":
            return [1.0, self.hp.smallest]
        steps = round((1 - self.hp.smallest) * 8)
        drawn = torch.randint(steps + 1, (2,), generator=self.task.rng).tolist()
        return [1 - k / 8 for k in drawn]

    def step(self):
        task, losses = self.task, []
        batch = task.next_batch()
        for i, share in enumerate(self.shares()):
            for m in self.maps:
                m.keep(share)
            losses.append(task.forward_backward(batch, accumulate=i > 0))
        for m in self.maps:
            m.keep(1.0)
        for p in task.params:
            p.grad.mul_(0.5)
        ops.apply(adamw.update, task.params, self.state, self.hp, task.progress)
        return sum(losses) / 2

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state
