"""Token walk: one model walks from client to client on a ring and trains where it is.

Hu, Doshi and Eun, "Accelerating Distributed Stochastic Optimization via Self-Repellent Random
Walks", arXiv 2401.09665 (SA-SRRW); with repulsion 0 it is the plain walk.

    at client i: SGD on its examples, `VISIT` steps; then to a neighbour j with a chance
    proportional to (x_j/μ_j)^(−α), μ the uniform share
    x ← x + γ·(e_i − x), γ = (n + 1)^(−0.8): the share of visits so far, recent ones weigh more

The more often a client was visited, the more it is avoided: with α > 0 visits are more even than
chance would make them. A move sends one model once, 1/4 of an exchange.
State: one share per client. The token carries the weights alone, so SGD has no momentum.
Departures from the paper: five steps a visit instead of one; lr follows the harness's schedule, not
n^(−0.9); a client's examples are drawn with replacement; not compared with the paper's text.
"""

import torch

from harness import ops
from harness.schedules import warmup_cosine
from submissions.distributed.fedavg import clients_of

VISIT = 5
PASSES = {"forward_backward": 1, "exchange@batch=1/4": 0.2}
SPACE = {
    "lr": {"log": [0.01, 1.0]},
    "wd": {"log": [1e-6, 1e-3]},
    "repulsion": {"linear": [0.0, 20.0], "default": 0.0},
    "warmup": 0.05,
}
VARIANTS = {"srrw": {"repulsion": 5.0}}
# γ_n = (n + 1)^(−AGEING)
AGEING = 0.8


def chances(shares, at, repulsion):
    """Return the chance of each client to be next on a ring, from client `at`; float64 [K]."""
    count = len(shares)
    p = torch.zeros(count, dtype=torch.float64)
    around = torch.tensor(sorted({(at - 1) % count, (at + 1) % count}))
    # In logarithms: a power of 20 of a small share is large.
    p[around] = (-repulsion * (shares[around] * count).log()).softmax(dim=0)
    return p


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.clients = clients_of(task)
        count = len(self.clients)
        shares = torch.full((count,), 1 / count, dtype=torch.float64)
        self.state = {"at": 0, "moves": 0, "shares": shares}

    def move(self):
        """Note the visit, and go to a neighbour."""
        state = self.state
        state["moves"] += 1
        here = torch.zeros_like(state["shares"])
        here[state["at"]] = 1.0
        state["shares"].lerp_(here, (state["moves"] + 1) ** -AGEING)
        p = chances(state["shares"], state["at"], self.hp.repulsion)
        state["at"] = int(torch.multinomial(p, 1, generator=self.task.rng))
        self.task.exchange(1 / len(self.clients))

    def step(self):
        task, hp = self.task, self.hp
        own = self.clients[self.state["at"]]
        drawn = torch.randint(len(own), (task.batch_size,), generator=task.rng)
        loss = task.forward_backward(task.gather(own[drawn]))
        lr = hp.lr * warmup_cosine(task.progress, hp.warmup)
        params = [p.data for p in task.params]
        grads = torch._foreach_add([p.grad for p in task.params], params, alpha=hp.wd)
        ops.sgd_(params, grads, lr)
        if (task.step + 1) % VISIT == 0:
            self.move()
        return loss

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state
