"""Sophia-H: momentum divided by a Hutchinson estimate of the Hessian's diagonal, clipped.

Liu et al., "Sophia: A Scalable Stochastic Second-order Optimizer for Language Model Pre-training",
arXiv 2305.14342, Algorithms 1 and 3.

    m ← β1·m + (1 − β1)g
    every `every` steps, with z standard normal and H the batch's Hessian: h ← β2·h + (1 − β2)z·(Hz)
    p ← p(1 − lr·wd) − lr·clip(m/max(γ·h, eps), −1, 1)

State: m and h, two words per parameter.
Departures from the paper: the Hessian is that of the step's whole batch, not of a part of it.
"""

import torch

from harness import ops
from submissions.first_order import sophia_g

PASSES = {"forward_backward": 1, "hvp": 0.1}
SPACE = {**sophia_g.SPACE, "gamma": {"log": [1e-3, 1.0]}}


class Algorithm(sophia_g.Algorithm):
    def step(self):
        task, hp = self.task, self.hp
        params, batch = task.params, task.next_batch()
        loss = task.forward_backward(batch)
        self.average("m", 1.0 - hp.beta1, [p.grad for p in params])
        if task.step % hp.every == 0:
            z = [torch.randn(p.shape, generator=task.rng).to(p) for p in params]
            products = torch._foreach_mul(task.hvp(batch, z), z)
            self.average("h", 1.0 - hp.beta2, products)
        ops.apply(sophia_g.descend, params, self.state, hp, task.progress)
        return loss
