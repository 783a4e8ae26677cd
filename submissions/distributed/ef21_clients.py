"""EF21 among clients: each sends the largest changes of its gradient, and pays for these alone.

Richtárik, Sokolov, Fatkhullin, "EF21: A New, Simpler, Theoretically Better, and Practically Faster
Error Feedback", arXiv 2106.05203, Algorithm 2; momentum: Fatkhullin et al., arXiv 2305.15155,
EF21-SGDM. `ef21` is the same rule on parts of one batch, where nothing is sent.

    client k   v_k ← (1 − η)v_k + η·∇f_k(p);  c_k = TopK(v_k − g_k) is sent;  g_k ← g_k + c_k
    server     p ← p(1 − lr·wd) − lr·mean g_k

TopK keeps a 64th of all numbers, whose values and places are a 32nd of an exchange; g = 0 at first.
State: v and g of four clients, eight words per parameter.
Departures from the paper: examples are drawn with replacement. The first v is the first gradient.
"""

import math
from fractions import Fraction

import torch

from harness import ops
from harness.schedules import warmup_cosine
from submissions.distributed.fedavg import clients_of, local_batch

KEPT = 64
# A value and a place for each number that is kept.
SHARE = Fraction(2, KEPT)
PASSES = {"forward_backward@batch=1/4": 4, "exchange@batch=1/32": 1}
SPACE = {
    "lr": {"log": [0.01, 1.0], "default": 0.1},
    "wd": {"log": [1e-6, 1e-3]},
    "eta": {"choice": [1.0, 0.1]},
    "warmup": 0.05,
}


def top(x, count):
    """Return a vector with all but its largest elements in magnitude set to 0."""
    kept = x.abs().topk(count).indices
    return torch.zeros_like(x).index_copy(0, kept, x[kept])


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.clients = clients_of(task)
        long = torch.cat([p.detach().flatten() for p in task.params])
        self.count = max(1, len(long) // KEPT)
        # More than one where the model is so small that one number is more than a 64th.
        self.units = math.ceil(2 * self.count / (SHARE * len(long)))
        self.state = {name: [torch.zeros_like(long) for _ in self.clients] for name in ("v", "g")}
        self.state["begun"] = False

    def step(self):
        task, hp, state, losses = self.task, self.hp, self.state, []
        eta = hp.eta if state["begun"] else 1.0
        for v, g, numbers in zip(state["v"], state["g"], self.clients):
            losses.append(task.forward_backward(local_batch(task, numbers)))
            v.lerp_(torch.cat([p.grad.flatten() for p in task.params]), eta)
            g.add_(top(v - g, self.count))
        state["begun"] = True
        for _ in range(self.units):
            task.exchange(SHARE)
        mean = torch.stack(state["g"]).mean(dim=0).split([p.numel() for p in task.params])
        grads = [part.view_as(p) for part, p in zip(mean, task.params)]
        lr = hp.lr * warmup_cosine(task.progress, hp.warmup)
        ops.sgd_([p.data for p in task.params], grads, lr, hp.wd)
        return torch.stack(losses).mean()

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state
