"""RHO-loss: AdamW on those examples of a large batch that are learnable but not yet learnt.

Mindermann et al., "Prioritized Training on Points that are Learnable, Worth Learning, and Not Yet
Learnt", arXiv 2206.07137.

    first fifth of the horizon: train the model on a share `holdout` of the training data
    then start again from the first weights on the rest: of four batches of candidates, train on the
    one batch with the largest loss(now) − loss(model of the first phase)

State: AdamW's m and v, the first weights and the first phase's last, four words per parameter.
Departures from the paper: the holdout is a part of the training data, and its model has the same
size; candidates are four batches, not ten, drawn with replacement; both losses are computed anew.
"""

import torch

from harness import ops
from submissions.first_order import adamw

# Batches of candidates a step; the first phase's share of the horizon. PASSES follows from both.
CANDIDATES, FIRST = 4, 0.2
PASSES = {"forward_backward": 1, "forward@batch=4": 1.6}
SPACE = {**adamw.SPACE, "holdout": {"linear": [0.1, 0.3]}}


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        order = torch.randperm(task.examples, generator=task.rng)
        first = ops.copies(task.params)
        self.state = adamw.init(task.params, hp) | {"order": order, "first": first, "judge": first}
        self.state |= {"phase": 0}

    def draw(self, count):
        """Return random example numbers from the present phase's part of the data."""
        order, held = self.state["order"], round(self.hp.holdout * self.task.examples)
        part = order[held:] if self.state["phase"] else order[:held]
        return part[torch.randint(len(part), (count,), generator=self.task.rng)]

    def begin_again(self):
        state, params = self.state, [p.data for p in self.task.params]
        state["judge"], state["phase"] = ops.copies(params), 1
        torch._foreach_copy_(params, state["first"])
        state.update(adamw.init(params, self.hp))

    def judged(self, batch):
        """Return the losses of the first phase's model."""
        params = [p.data for p in self.task.params]
        now = ops.copies(params)
        torch._foreach_copy_(params, self.state["judge"])
        losses = self.task.losses(batch)
        torch._foreach_copy_(params, now)
        return losses

    def step(self):
        task, progress = self.task, self.task.progress / FIRST
        if not self.state["phase"] and progress >= 1:
            self.begin_again()
        if self.state["phase"]:
            progress = (task.progress - FIRST) / (1 - FIRST)
            batch = task.gather(self.draw(CANDIDATES * task.batch_size))
            worth = task.losses(batch) - self.judged(batch)
            chosen = worth.topk(task.batch_size).indices
            batch = {name: value[chosen] for name, value in batch.items()}
        else:
            batch = task.gather(self.draw(task.batch_size))
        loss = task.forward_backward(batch)
        ops.apply(adamw.update, task.params, self.state, self.hp, progress)
        return loss

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state
