"""Local SGD: four replicas train separately, average rarely, and are merged at the end.

Stich, "Local SGD Converges Fast and Communicates Little", arXiv 1805.09767; the single merge:
"A Single Merging Suffices", arXiv 2507.06542.

    replica i: SGD on its own quarter of every batch
    every `every` steps (0: never): pᵢ ← (pᵢ₋₁ + pᵢ + pᵢ₊₁)/3 on a ring (graph "ring"), or the mean
    of all (graph "complete")
    evaluation uses the mean of the replicas

State: parameters and momentum of four replicas, eight words per parameter.
Departures from the paper: the mean is computed for every evaluation of the harness; it does not
change the training.
"""

import torch

from harness import ops
from submissions.first_order import sgd

PASSES = {"forward_backward@batch=1/4": 4}
WORKERS = 4
SPACE = {
    **sgd.SPACE,
    "every": {"choice": [10, 1, 100, 0]},
    "graph": {"choice": ["ring", "complete"]},
}


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.replicas = [ops.copies(task.params) for _ in range(WORKERS)]
        self.states = [sgd.init(task.params, hp) for _ in range(WORKERS)]

    def step(self):
        task, hp, losses = self.task, self.hp, []
        params = [p.data for p in task.params]
        for replica, state in zip(self.replicas, self.states):
            torch._foreach_copy_(params, replica)
            losses.append(task.forward_backward(task.next_batch(task.batch_size // WORKERS)))
            ops.apply(sgd.update, task.params, state, hp, task.progress)
            torch._foreach_copy_(replica, params)
        if hp.every and (task.step + 1) % hp.every == 0:
            self.gossip()
        torch._foreach_copy_(params, self.evaluate_view())
        return torch.stack(losses).mean()

    @torch.no_grad()
    def gossip(self):
        if self.hp.graph == "complete":
            mean = self.evaluate_view()
            self.replicas = [ops.copies(mean) for _ in range(WORKERS)]
            return
        ring = [*self.replicas[-1:], *self.replicas, *self.replicas[:1]]
        parts = zip(ring, ring[1:], ring[2:])
        self.replicas = [[(a + b + c) / 3 for a, b, c in zip(*part)] for part in parts]

    def evaluate_view(self):
        return [sum(same) / WORKERS for same in zip(*self.replicas)]

    def state_dict(self):
        return {"replicas": self.replicas, "states": self.states}

    def load_state_dict(self, state):
        self.replicas, self.states = state["replicas"], state["states"]
