"""Co-teaching: two networks, each trained by AdamW on the examples of least loss of the other.

Han et al., "Co-teaching: Robust Training of Deep Neural Networks with Extremely Noisy Labels",
arXiv 1804.06872, Algorithm 1.

    R(t) = 1 − τ·min(t/T, 1), t in epochs; each network picks the ⌊R·B⌋ examples of least loss,
    and the other takes a step on their mean loss

τ is the share of wrong labels, which the method is given. Evaluated is the first network.
State: AdamW's m and v twice and the second network, five words per parameter.
Departures from the paper: AdamW takes the place of Adam; the second network starts from other
random weights of the same sizes: each tensor's entries are permuted. Examples that are left out
stay in the pass with weight 0.
"""

import torch

from harness import ops
from submissions.first_order import adamw

PASSES = {"forward": 2, "forward_backward": 2}
SPACE = {
    **adamw.SPACE,
    "noise": {"linear": [0.0, 0.7], "default": 0.45},
    "epochs": {"linear": [1.0, 20.0], "default": 5.0},
}


def shuffled(params, generator):
    """Return copies of the parameters with the entries of each in another order."""
    return [
        p.detach().flatten()[torch.randperm(p.numel(), generator=generator)].view_as(p)
        for p in params
    ]


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.nets = [ops.copies(task.params), shuffled(task.params, task.rng)]
        self.states = [adamw.init(task.params, hp) for _ in range(2)]

    def kept(self):
        """Return how many examples of a batch each network picks."""
        task, hp = self.task, self.hp
        epoch = task.step * task.batch_size / task.examples
        return int((1 - hp.noise * min(epoch / hp.epochs, 1.0)) * task.batch_size)

    def step(self):
        task, batch = self.task, self.task.next_batch()
        params, count, losses = [p.data for p in task.params], max(1, self.kept()), []
        chosen = []
        for net in self.nets:
            torch._foreach_copy_(params, net)
            chosen.append(task.losses(batch).topk(count, largest=False).indices)
        for net, state, index in zip(self.nets, self.states, reversed(chosen)):
            torch._foreach_copy_(params, net)

            def loss(*_, index=index):
                return task.nats(task.logits(batch), batch)[index].mean()

            losses.append(task.backward(batch, loss))
            ops.apply(adamw.update, task.params, state, self.hp, task.progress)
            torch._foreach_copy_(net, params)
        torch._foreach_copy_(params, self.nets[0])
        return losses[0]

    def state_dict(self):
        return {"nets": self.nets, "states": self.states}

    def load_state_dict(self, state):
        self.nets, self.states = state["nets"], state["states"]
