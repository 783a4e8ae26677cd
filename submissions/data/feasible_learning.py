"""Feasible learning: AdamW on losses weighted by multipliers that grow where a loss is too large.

Ramirez et al., "Feasible Learning", arXiv 2501.14912: find weights whose loss is at most ε on each
example, by primal descent and dual ascent.

    μ_i ← max(0, μ_i + η·(ℓ_i − ε)), for the batch's examples, first;  descend mean μ_i·ℓ_i
    ε = −log p for a probability p of the label;  μ = 0 at first

State: AdamW's m and v, two words per parameter; a multiplier for each example.
Departures from the paper: AdamW takes the primal steps; a step uses its own pass's losses.
"""

import math

import torch

from harness import ops
from harness.batch import part
from submissions.data.infobatch import losses_of
from submissions.first_order import adamw

SPACE = {
    **adamw.SPACE,
    "probability": {"linear": [0.2, 1.0], "default": 0.6},
    "dual_lr": {"log": [1e-3, 10.0], "default": 0.1},
}


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.state = adamw.init(task.params, hp)
        self.multipliers = torch.zeros(task.examples)

    def step(self):
        task, hp, index = self.task, self.hp, self.task.next_index()
        batch, level = task.gather(index), -math.log(hp.probability)

        def loss(*_):
            losses = losses_of(task.logits(batch), part(batch, "targets"))
            above = (losses.detach() - level).to(self.multipliers)
            self.multipliers[index] = (self.multipliers[index] + hp.dual_lr * above).clamp(min=0)
            return (self.multipliers[index].to(losses) * losses).mean()

        value = task.backward(batch, loss)
        ops.apply(adamw.update, task.params, self.state, hp, task.progress)
        return value

    def state_dict(self):
        return {"adam": self.state, "multipliers": self.multipliers}

    def load_state_dict(self, state):
        self.state, self.multipliers = state["adam"], state["multipliers"]
