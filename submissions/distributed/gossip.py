"""Gossip: clients train by AdamW on their own examples, and random pairs average their weights.

"A Single Merging Suffices", arXiv 2507.06542, with AdamW inside; gossip of pairs: Boyd et al.,
"Randomized Gossip Algorithms", IEEE Trans. Inf. Theory 2006.

    every client: an AdamW step on its own examples
    every tenth step two clients, neighbours in the graph, take the mean of their weights
    every 40th step the mean of all is computed, for evaluation alone: clients go on from their own

On a ring a client meets its two neighbours, in the complete graph any other. A meeting of two of
four clients sends half of an exchange; the mean of all is a whole one.
State: four clients' weights, m and v, and the mean, thirteen words per parameter.
Departures from the paper: meetings come at fixed steps, not with a chance of 0.2 for each client;
the merged weights are evaluated on the way, and each merge is paid for.
"""

import torch

from harness import ops
from submissions.distributed.fedavg import clients_of, local_batch, mean_of
from submissions.first_order import adamw

MEET, LOOK = 10, 40
PASSES = {
    "forward_backward@batch=1/4": 4,
    "exchange@batch=1/2": 0.1,
    "exchange": 0.025,
}
SPACE = {**adamw.SPACE, "graph": {"choice": ["ring", "complete"], "tuned": False}}
VARIANTS = {"gossip_complete": {"graph": "complete"}}


def pairs(count, graph):
    """Return the pairs of clients that may meet."""
    every = [(i, j) for i in range(count) for j in range(i + 1, count)]
    return [p for p in every if graph == "complete" or p[1] - p[0] in (1, count - 1)]


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.clients = clients_of(task)
        self.shares = [len(numbers) / task.examples for numbers in self.clients]
        self.pairs = pairs(len(self.clients), hp.graph)
        self.models = [ops.copies(task.params) for _ in self.clients]
        self.states = [adamw.init(task.params, hp) for _ in self.clients]
        self.mean = ops.copies(task.params)

    def step(self):
        task, params, losses = self.task, [p.data for p in self.task.params], []
        for model, state, numbers in zip(self.models, self.states, self.clients):
            torch._foreach_copy_(params, model)
            losses.append(task.forward_backward(local_batch(task, numbers)))
            ops.apply(adamw.update, task.params, state, self.hp, task.progress)
            torch._foreach_copy_(model, params)
        if (task.step + 1) % MEET == 0:
            self.meet()
        if (task.step + 1) % LOOK == 0:
            task.exchange()
            self.mean = mean_of(self.models, self.shares)
        torch._foreach_copy_(params, self.mean)
        return torch.stack(losses).mean()

    def meet(self):
        """Let a random pair take the mean of its weights."""
        drawn = int(torch.randint(len(self.pairs), (), generator=self.task.rng))
        one, other = (self.models[k] for k in self.pairs[drawn])
        self.task.exchange(2 / len(self.clients))
        torch._foreach_lerp_(one, other, 0.5)
        torch._foreach_copy_(other, one)

    def state_dict(self):
        return {"models": self.models, "states": self.states, "mean": self.mean}

    def load_state_dict(self, state):
        self.models, self.states, self.mean = state["models"], state["states"], state["mean"]
