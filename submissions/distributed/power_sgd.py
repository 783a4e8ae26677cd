"""PowerSGD: clients exchange low-rank factors of their gradients, with error feedback.

Vogels, Karimireddy and Jaggi, "PowerSGD: Practical Low-Rank Gradient Compression for Distributed
Optimization", arXiv 1905.13727, Algorithms 1 and 2.

    D_k = g_k + e_k;  P = mean D_k·Q, orthonormalised;  Q = mean D_kᵀ·P;  ĝ = P·Qᵀ;  e_k = D_k − ĝ
    SGD with momentum on ĝ;  vectors are sent as they are

Rank 2: on `fed` the factors and the vectors are 1/34 of as many numbers as there are parameters,
counted as an exchange of 1/32.
State: momentum, four clients' errors, six words per parameter; Q.
Departures from the paper: matrices are sent whole where factors are not smaller. Examples are drawn
with replacement.
"""

import math
from fractions import Fraction

import torch

from harness import ops
from submissions.distributed.fedavg import clients_of, local_batch, mean_of
from submissions.first_order import sgd

RANK, SHARE = 2, Fraction(1, 32)
PASSES = {"forward_backward@batch=1/4": 4, "exchange@batch=1/32": 1}
SPACE = {**sgd.SPACE, "lr": {"log": [3e-3, 0.3]}}


def low_rank(p):
    """Return True if rank-RANK factors of a parameter are smaller than itself."""
    return p.ndim == 2 and RANK * sum(p.shape) < p.numel()


def units(params):
    """Return how many exchanges of SHARE a step's numbers fill: one on `fed`."""
    sent = sum(RANK * sum(p.shape) if low_rank(p) else p.numel() for p in params)
    return math.ceil(sent / (SHARE * sum(p.numel() for p in params)))


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.clients = clients_of(task)
        self.state = sgd.init(task.params, hp)
        self.errors = [ops.zeros(task.params) for _ in self.clients]
        self.factors = [
            torch.randn(p.shape[1], RANK, generator=task.rng, dtype=p.dtype)
            if low_rank(p)
            else p[:0]
            for p in (p.detach() for p in task.params)
        ]

    def step(self):
        task, losses, grads = self.task, [], []
        for error, numbers in zip(self.errors, self.clients):
            losses.append(task.forward_backward(local_batch(task, numbers)))
            grads.append([p.grad + e for p, e in zip(task.params, error)])
        for _ in range(units(task.params)):
            task.exchange(SHARE)
        mean = mean_of(grads, [1 / len(grads)] * len(grads))
        with torch.no_grad():
            kept = [self.compress(i, d) for i, d in enumerate(mean)]
            for error, own in zip(self.errors, grads):
                torch._foreach_copy_(error, torch._foreach_sub(own, kept))
            sgd.update([p.data for p in task.params], kept, self.state, self.hp, task.progress)
        return torch.stack(losses).mean()

    def compress(self, i, mean):
        """Return what arrives of the clients' mean: its rank-RANK part, or all of it.

        The factors are linear in the gradients, so the mean of the clients' factors is that of
        their mean.
        """
        if not low_rank(mean):
            return mean
        p = torch.linalg.qr(mean @ self.factors[i]).Q
        self.factors[i] = mean.T @ p
        return p @ self.factors[i].T

    def state_dict(self):
        return {"momentum": self.state, "errors": self.errors, "factors": self.factors}

    def load_state_dict(self, state):
        self.state, self.errors = state["momentum"], state["errors"]
        self.factors = state["factors"]
