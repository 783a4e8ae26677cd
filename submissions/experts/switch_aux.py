"""Auxiliary loss: a term that is least when all experts get the same share of tokens.

Fedus, Zoph, Shazeer, "Switch Transformers", arXiv 2101.03961.

    L + alpha·Σ over blocks of E·Σ_e f_e·P_e,  f_e the share of tokens that e got (no gradient), P_e
    the mean of its probability;  AdamW's step

State: AdamW's m and v, two words per parameter.
Departures from the paper: the probability is the router's score over the sum of all scores, because
this router's scores are sigmoids and not a softmax; no z-loss.
"""

from harness import ops, surgery
from submissions.first_order import adamw

SPACE = {**adamw.SPACE, "alpha": {"log": [1e-3, 0.1], "default": 1e-2}}


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.state, self.routers = adamw.init(task.params, hp), surgery.routers(task.model)

    def step(self):
        task = self.task
        loss = task.backward(task.next_batch(), self.loss)
        ops.apply(adamw.update, task.params, self.state, self.hp, task.progress)
        return loss

    def loss(self, model, batch):
        nats = self.task.nats(self.task.logits(batch), batch).mean()
        return nats + self.hp.alpha * sum(uneven(r.load, r.share) for r in self.routers)

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state


def uneven(load, share):
    """Return E·Σ f_e·P_e, 1 where both are even."""
    return len(load) * (load / load.sum() * share).sum()
