"""A-GEM: a step never points against the gradient of the memory.

Chaudhry et al., "Efficient Lifelong Learning with A-GEM", arXiv 1812.00420.

    r = ∇L(memory batch), g = ∇L(new);  where gᵀr < 0:  g ← g − (gᵀr / rᵀr)·r;  finetune's step on g

State: finetune's; a reservoir of `task.memory` bytes.
Departures from the paper: the memory is a reservoir, not equal shares of tasks, so the method needs
no boundaries.
"""

import torch

from harness import ops
from submissions.continual import er, finetune

TRACKS = ["continual"]
PASSES = {"forward_backward": 2}
SPACE = finetune.SPACE


def dot(a, b):
    """Return the inner product of two lists of tensors, as a number."""
    return float(sum(torch.vdot(x.flatten(), y.flatten()) for x, y in zip(a, b, strict=True)))


def project_(grads, reference):
    """Remove from `grads` the component against `reference`; both are lists of tensors."""
    along, square = dot(grads, reference), dot(reference, reference)
    # The square of a tiny gradient is 0 in float32.
    if along < 0 < square:
        torch._foreach_add_(grads, reference, alpha=-along / square)


class Algorithm(er.Algorithm):
    def step(self):
        task = self.task
        batch, reference = task.next_batch(), None
        if len(self.memory):
            task.forward_backward(self.memory.sample(task.batch_size, task.rng))
            reference = ops.copies([p.grad for p in task.params])
        loss = task.forward_backward(batch)
        if reference:
            project_([p.grad for p in task.params], reference)
        ops.apply(finetune.update, task.params, self.state, self.hp, task.progress)
        self.memory.add(batch, task.rng)
        return loss
