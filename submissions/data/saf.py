"""SAF: AdamW with a penalty on the change of an example's prediction since some epochs ago.

Du, Zhou, Feng, Tan and Zhou, "Sharpness-Aware Training for Free", arXiv 2205.14083.

    loss = cross entropy + λ·T²·mean KL(softmax(z₋/T) ‖ softmax(z/T))

z₋ are the logits of the same example `lag` visits ago. The penalty begins after the share `begin`
of the horizon, for examples that were visited often enough.

State: AdamW's m and v, two words per parameter; `lag` words per training example and class.
Departures from the paper: an example's epochs are its visits; each label must be a single class.
"""

import torch
import torch.nn.functional as F

from harness import ops
from harness.batch import labels
from submissions.first_order import adamw

SPACE = {
    **adamw.SPACE,
    "strength": {"linear": [0.1, 0.9], "default": 0.3},
    "lag": {"choice": [3, 2]},
    "temperature": 5.0,
    "begin": 0.3,
}


def divergence(past, now, temperature):
    """Return T²·KL(softmax(past/T) ‖ softmax(now/T)) of each example, from logits [B, classes]."""
    p, q = (F.log_softmax(z / temperature, dim=1) for z in (past, now))
    return temperature**2 * (p.exp() * (p - q)).sum(1)


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        visits = torch.zeros(task.examples, dtype=torch.int64)
        self.state = adamw.init(task.params, hp) | {"past": torch.empty(0), "visits": visits}

    def step(self):
        task, hp, state, index = self.task, self.hp, self.state, self.task.next_index()

        def loss(model, batch):
            z = task.logits(batch)
            nats = F.cross_entropy(z, labels(batch))
            if not len(state["past"]):
                state["past"] = z.new_zeros(task.examples, hp.lag, z.shape[1])
            visits = state["visits"][index]
            slot, seen = visits % hp.lag, (visits >= hp.lag).to(z)
            change = divergence(state["past"][index, slot].to(z), z, hp.temperature)
            state["past"][index, slot] = z.detach().to(state["past"])
            state["visits"][index] += 1
            on = hp.strength if task.progress >= hp.begin else 0.0
            return nats + on * (seen * change).mean()

        value = task.backward(task.gather(index), loss)
        ops.apply(adamw.update, task.params, state, hp, task.progress)
        return value

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state
