"""ELR: AdamW with a loss term towards the model's earlier predictions for an example.

Liu et al., "Early-Learning Regularization Prevents Memorization of Noisy Labels", arXiv 2007.00151.

    q = clamp(softmax, 1e-4, 1 − 1e-4);  t_i ← β·t_i + (1 − β)·q_i/Σq_i
    loss = cross entropy + λ·mean log(1 − ⟨t_i, q_i⟩)

State: AdamW's m and v, two words per parameter; t, one word per training example and class.
Departures from the paper: none; each label must be a single class.
"""

import torch
import torch.nn.functional as F

from harness import ops
from harness.batch import labels
from submissions.first_order import adamw

SPACE = {**adamw.SPACE, "memory": {"linear": [0.5, 0.9]}, "strength": {"linear": [1.0, 7.0]}}


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.state = adamw.init(task.params, hp) | {"targets": torch.empty(0)}

    def step(self):
        task, hp, index = self.task, self.hp, self.task.next_index()

        def loss(model, batch):
            logits, given = task.logits(batch), labels(batch)
            if not len(self.state["targets"]):
                shape = task.examples, logits.shape[1]
                self.state["targets"] = torch.zeros(shape, device=logits.device)
            q = logits.softmax(dim=1).clamp(1e-4, 1 - 1e-4)
            seen = q.detach() / q.detach().sum(dim=1, keepdim=True)
            t = torch.lerp(seen, self.state["targets"][index].to(q), hp.memory)
            self.state["targets"][index] = t.to(self.state["targets"])
            penalty = (1 - (t * q).sum(dim=1)).log().mean()
            return F.cross_entropy(logits, given) + hp.strength * penalty

        value = task.backward(task.gather(index), loss)
        ops.apply(adamw.update, task.params, self.state, hp, task.progress)
        return value

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state
