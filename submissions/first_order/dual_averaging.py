"""Dual averaging: each point minimises the mean of all linear models, a penalty and a pull home.

Nesterov, "Primal-dual subgradient methods for convex problems", 2009; with the penalty kept whole
(RDA): Xiao, "Dual Averaging Methods for Regularized Stochastic Learning", JMLR 2010, Algorithm 1.

    ḡ ← ḡ + (∇s_B(w) − ḡ)/t
    w ← argmin <ḡ, z> + rest(z) + ‖z − w₀‖²/(2·lr·√t) = prox(w₀ − lr·√t·ḡ, lr·√t)

s is the loss's smooth part and prox of the rest (task.composite): with an l1 penalty all iterates
are sparse, which a subgradient's are not.

State: w₀ and ḡ, two words per parameter; t.
Departures from the paper: the last point is evaluated, not the average.
"""

import torch

from harness import ops

SPACE = {"lr": {"log": [1e-3, 1.0]}}


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.start, self.mean, self.t = ops.copies(task.params), ops.zeros(task.params), 0

    def step(self):
        task = self.task
        loss = task.backward(task.next_batch(), task.composite.smooth)
        self.t += 1
        reach = self.hp.lr * self.t**0.5
        with torch.no_grad():
            grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in task.params]
            torch._foreach_lerp_(self.mean, grads, 1 / self.t)
            away = torch._foreach_sub(self.start, torch._foreach_mul(self.mean, reach))
            torch._foreach_copy_(task.params, task.composite.prox(away, reach))
        return loss

    def state_dict(self):
        return {"start": self.start, "mean": self.mean, "t": self.t}

    def load_state_dict(self, state):
        self.start, self.mean, self.t = state["start"], state["mean"], state["t"]
