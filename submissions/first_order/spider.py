"""SPIDER: normalised steps along a gradient estimate that is updated by differences.

Fang et al., "SPIDER: Near-Optimal Non-Convex Optimization via Stochastic Path Integrated
Differential Estimator", arXiv 1807.01695; under generalised smoothness: arXiv 2303.02854.

    every EVERY steps: v = the gradient of LARGE batches at p
    else: v ← v + ∇f(p) − ∇f(last p), both on one batch;  p ← p(1 − lr·wd) − lr·v/‖v‖, global norm

State: v and the last p, two words per parameter; the step.
Departures from the paper: decoupled decay and a schedule of lr; period and large batch are fixed.
"""

import torch

from harness import ops
from harness.schedules import warmup_cosine

# PASSES follows from both: a large batch every EVERY steps, two gradients at the others.
EVERY, LARGE = 10, 4
PASSES = {"forward_backward": 2.2}
SPACE = {
    "lr": {"log": [0.03, 3.0]},
    "wd": {"log": [1e-4, 1e-1]},
    "warmup": 0.05,
}


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.state = {"v": ops.zeros(task.params), "last": ops.copies(task.params), "step": 0}

    def gradient(self, batch):
        """Return the loss of a batch and its gradient."""
        loss = self.task.forward_backward(batch)
        zero = torch.zeros_like
        return loss, [zero(p) if p.grad is None else p.grad.clone() for p in self.task.params]

    def large(self):
        """Return the mean loss of several batches; set v to their mean gradient."""
        losses, v = [], self.state["v"]
        torch._foreach_zero_(v)
        for _ in range(LARGE):
            loss, grads = self.gradient(self.task.next_batch())
            torch._foreach_add_(v, grads, alpha=1.0 / LARGE)
            losses.append(loss)
        return torch.stack(losses).mean()

    def small(self):
        """Return the loss of one batch; add the change of its gradient since the last p to v."""
        params, v = [p.data for p in self.task.params], self.state["v"]
        batch, now = self.task.next_batch(), ops.copies(self.task.params)
        torch._foreach_copy_(params, self.state["last"])
        _, old = self.gradient(batch)
        torch._foreach_copy_(params, now)
        loss, new = self.gradient(batch)
        torch._foreach_add_(v, new)
        torch._foreach_sub_(v, old)
        return loss

    def step(self):
        params, hp = [p.data for p in self.task.params], self.hp
        loss = self.small() if self.state["step"] % EVERY else self.large()
        self.state["step"] += 1
        torch._foreach_copy_(self.state["last"], params)
        lr, norm = (
            hp.lr * warmup_cosine(self.task.progress, hp.warmup),
            ops.global_norm(self.state["v"]),
        )
        torch._foreach_mul_(params, 1.0 - lr * hp.wd)
        torch._foreach_add_(params, self.state["v"], alpha=-lr / norm if norm else 0.0)
        return loss

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state
