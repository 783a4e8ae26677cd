"""Curriculum: AdamW on the easiest examples first, more of them as training goes on.

Wu, Dyer and Neyshabur, "When Do Curricula Work?", arXiv 2012.03107, with linear pacing: an order of
the examples by the loss of a first run, and a pool of the first of them that grows to all.

    first fifth of the budget: ordinary training, which gives each example's loss
    then the pool has a share b + (1 − b)·t/a of the examples, all from t = a on

t is the progress of the rest. The variant `anti_curriculum` begins with the hardest. The paper
finds no gain with a usual budget and clean labels.
State: AdamW's m and v, two words per parameter; a loss for each example.
Departures from the paper: the first run is a part of the budget, and training goes on from it.
Examples without a visit come last. Batches are drawn from the pool with replacement.
"""

import torch

from harness import ops
from harness.batch import part
from submissions.data.infobatch import losses_of
from submissions.first_order import adamw

SPACE = {
    **adamw.SPACE,
    "begin": {"linear": [0.05, 1.0], "default": 0.2},
    "whole": {"linear": [0.1, 1.0], "default": 0.8},
    "hardest": {"choice": [False, True], "tuned": False},
}
VARIANTS = {"anti_curriculum": {"hardest": True}}
FIRST = 0.2


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.state = adamw.init(task.params, hp)
        self.seen = {"losses": torch.full((task.examples,), torch.inf)}
        self.seen["order"] = torch.empty(0, dtype=torch.int64)

    def draw(self):
        """Return example numbers from the present pool."""
        task, hp, seen = self.task, self.hp, self.seen
        if not len(seen["order"]):
            key = seen["losses"]
            key = torch.where(key.isinf(), torch.inf, -key) if hp.hardest else key
            seen["order"] = torch.argsort(key, stable=True)
        progress = (task.progress - FIRST) / (1 - FIRST)
        share = min(1.0, hp.begin + (1 - hp.begin) * progress / hp.whole)
        pool = seen["order"][: max(1, round(share * task.examples))]
        return pool[torch.randint(len(pool), (task.batch_size,), generator=task.rng)]

    def step(self):
        task, first = self.task, self.task.progress < FIRST
        index = task.next_index() if first else self.draw()
        batch = task.gather(index)

        def loss(*_):
            losses = losses_of(task.logits(batch), part(batch, "targets"))
            if first:
                self.seen["losses"][index] = losses.detach().to(self.seen["losses"])
            return losses.mean()

        value = task.backward(batch, loss)
        ops.apply(adamw.update, task.params, self.state, self.hp, task.progress)
        return value

    def state_dict(self):
        return {"adam": self.state, "seen": self.seen}

    def load_state_dict(self, state):
        self.state, self.seen = state["adam"], state["seen"]
