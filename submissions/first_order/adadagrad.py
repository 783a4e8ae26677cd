"""AdAdaGrad: AdaGrad whose batch grows when the gradients of its examples disagree.

Lau, Liu and Kolar, "AdAdaGrad: Adaptive Batch Size Schemes for Adaptive Gradient Methods",
arXiv 2402.11215, with the norm test.

    s ← s + g²;  p ← p(1 − lr·wd) − lr·g/(√s + eps), g the mean over a batch of B examples
    at every 50th batch, with gᵢ the examples' gradients: B ← max(B, ⌈Σ var(gᵢ)/(η²·‖mean(gᵢ)‖²)⌉)

A step here is one batch of the workload. The parameters move once B examples have been seen. So
the budget and lr's schedule count examples, whatever B is.
State: AdaGrad's v and the sum of gradients, two words per parameter; B in batches; counters.
Departures from the paper: B is rounded up to whole batches of the workload and is at most `most` of
them; the test uses every 50th batch alone.
"""

import math

import torch

from harness import ops
from submissions.first_order import adagrad

# Batches between two tests. PASSES has its inverse.
EVERY = 50
PASSES = {"forward_backward": 1, "per_example_gradients": 0.02}
SPACE = {**adagrad.SPACE, "eta": {"log": [0.3, 3.0]}, "most": 8}


def wanted(examples, eta):
    """Return the batch size that the norm test asks for, from a list of [B, *shape] gradients."""
    variance = sum(float(g.var(dim=0).sum()) for g in examples)
    square = sum(float(g.mean(dim=0).square().sum()) for g in examples)
    return variance / (eta**2 * square) if square else float("inf")


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        counters = {"batches": 1, "seen": 0}
        self.state = adagrad.init(task.params, hp) | {"sum": ops.zeros(task.params), **counters}

    def step(self):
        task, state, hp = self.task, self.state, self.hp
        batch = task.next_batch()
        loss = task.forward_backward(batch)
        have = [i for i, p in enumerate(task.params) if p.grad is not None]
        grads = [task.params[i].grad for i in have]
        torch._foreach_add_([state["sum"][i] for i in have], grads)
        state["seen"] += 1
        if task.step % EVERY == EVERY - 1:
            size = wanted(task.per_example_grads(batch), hp.eta) / task.batch_size
            state["batches"] = max(state["batches"], math.ceil(min(size, hp.most)))
        if state["seen"] >= state["batches"]:
            self.move(have, grads)
        return loss

    def move(self, have, grads):
        """Apply AdaGrad to the mean gradient since the last update."""
        for i, g in zip(have, grads):
            g.copy_(self.state["sum"][i] / self.state["seen"])
        ops.apply(adagrad.update, self.task.params, self.state, self.hp, self.task.progress)
        torch._foreach_zero_(self.state["sum"])
        self.state["seen"] = 0

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state
