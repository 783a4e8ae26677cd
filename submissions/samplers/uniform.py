"""Uniform: AdamW on new collocation points every step, drawn uniformly in the box.

The usual baseline of adaptive sampling, "PINN (dynamic)" in Daw et al., arXiv 2207.02338. The other
samplers differ from it in their choice of points.

State: AdamW's m and v, two words per parameter; the step; the points.
Departures from the paper: AdamW with warm-up and cosine decay in place of Adam with steps of decay.
"""

import torch

from harness import ops
from submissions.first_order import adamw

SPACE = {
    "lr": {"log": [5e-4, 1e-2]},
    "wd": 0.0,
    "beta1": 0.9,
    "beta2": 0.999,
    "eps": 1e-8,
    "warmup": 0.02,
}


def draw(task, count):
    """Return uniform points [count, dimensions] in the task's box, from the submission's stream."""
    low, high = task.box
    return low + (high - low) * torch.rand(count, len(low), generator=task.rng).to(low)


class Algorithm:
    """AdamW at the points in `state`; `observe` sees their residuals [B] and chooses the next."""

    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.adam, self.state = adamw.init(task.params, hp), {"points": draw(task, task.batch_size)}

    def weights(self, points):
        """Return factors of the loss's terms by name, or None."""
        return

    def observe(self, points, residuals):
        self.state["points"] = draw(self.task, len(points))

    def step(self):
        task, points = self.task, self.state["points"]
        loss = task.forward_backward(task.batch_at(points), weights=self.weights(points))
        self.observe(points, task.last_terms["residual"])
        ops.apply(adamw.update, task.params, self.adam, self.hp, task.progress)
        return loss

    def state_dict(self):
        return {"adam": self.adam, "sampler": self.state}

    def load_state_dict(self, state):
        self.adam, self.state = state["adam"], state["sampler"]
