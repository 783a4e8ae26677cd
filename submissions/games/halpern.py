"""Anchored extragradient (EAG-C): Halpern's pull to the start, on extragradient steps.

Halpern, 1967; Yoon and Ryu, "Accelerated Algorithms for Smooth Convex-Concave Minimax Problems with
O(1/k²) Rate on Squared Gradient Norm", arXiv 2102.07922, Section 2.

    a = z + (z₀ − z)/(k + 2);  h = a − lr·F(z);  z ← a − lr·F(h),  k = 0, 1, ...

F is the gradient as `backward` leaves it; its norm at the last point falls like 1/k, where that of
extragradient falls like 1/√k. Both calls see the same batch. The paper's proof takes lr ≤ 1/(8L).

State: z₀, one word per parameter; k.
Departures from the paper: none.
"""

import torch

from harness import ops

PASSES = {"forward_backward": 2}
TRACKS = ["train", "game"]
SPACE = {"lr": {"log": [0.03, 1.0]}}


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.start, self.k = ops.copies(task.params), 0

    def step(self):
        task, batch = self.task, self.task.next_batch()
        with torch.no_grad():
            pull = torch._foreach_sub(self.start, task.params)
            anchored = torch._foreach_add(list(task.params), pull, alpha=1 / (self.k + 2))
        loss = task.forward_backward(batch)
        self.move(anchored)
        task.forward_backward(batch)
        self.move(anchored)
        self.k += 1
        return loss

    @torch.no_grad()
    def move(self, anchored):
        """Set the parameters to a step from the anchored point along their gradient."""
        for p, a in zip(self.task.params, anchored):
            p.copy_(a if p.grad is None else a - self.hp.lr * p.grad)

    def state_dict(self):
        return {"start": self.start, "k": self.k}

    def load_state_dict(self, state):
        self.start, self.k = state["start"], state["k"]
