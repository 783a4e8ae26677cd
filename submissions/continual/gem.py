"""GEM: the nearest gradient that does not raise the loss on any past task's memory.

Lopez-Paz and Ranzato, "Gradient Episodic Memory for Continual Learning", arXiv 1706.08840.

    gₖ = ∇L(memory of task k), G = (g₁, g₂, ...);  where some gₖᵀg < 0:  g ← g + Gᵀv,
    v = argmin_{v ≥ margin} ½·vᵀ(GGᵀ)v + (Gg)ᵀv;  finetune's step on g

State: finetune's; each task's first examples, `task.memory` bytes in equal shares.
Departures from the paper: gradients of past tasks are over a batch from the memory, not all of it;
shares shrink as tasks come, because their number is unknown; 1e-3 times its mean is added to the
diagonal of GGᵀ, where the authors' code adds 1e-3.
"""

import torch

from harness import ops
from harness.memory import Buffer
from submissions.continual import finetune

TRACKS = ["continual"]
PASSES = {"forward_backward": 3}
SPACE = {**finetune.SPACE, "margin": {"choice": [0.5, 0.0, 0.1]}}


def project(g, past, margin):
    """Return g [d] moved, in float64, so that it agrees with the rows of `past` [k, d]."""
    rows = past.double()
    against = rows @ g.double()
    if bool((against >= 0).all()):
        return g
    square = rows @ rows.T
    square += 1e-3 * square.diagonal().mean() * torch.eye(len(square), dtype=square.dtype)
    lower = torch.full_like(against, margin)
    v = lower + ops.nonnegative_qp(square, against + square @ lower)
    return g + (rows.T @ v).to(g)


def flat(params):
    """Return the gradients as one vector."""
    return torch.cat([p.grad.flatten() for p in params])


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.state, self.memories = finetune.init(task.params, hp), []

    def step(self):
        task = self.task
        if task.boundary:
            share = task.memory // (len(self.memories) + 1)
            for memory in self.memories:
                memory.shrink(share)
            self.memories.append(Buffer(share))
        batch, past = task.next_batch(), []
        for memory in self.memories[:-1]:
            task.forward_backward(memory.sample(task.batch_size, task.rng))
            past.append(flat(task.params))
        loss = task.forward_backward(batch)
        if past:
            moved = project(flat(task.params), torch.stack(past), self.hp.margin)
            for p, part in zip(task.params, moved.split([p.numel() for p in task.params])):
                p.grad.copy_(part.view_as(p))
        ops.apply(finetune.update, task.params, self.state, self.hp, task.progress)
        self.memories[-1].add_first(batch)
        return loss

    def state_dict(self):
        return {"state": self.state, "memories": [m.state_dict() for m in self.memories]}

    def load_state_dict(self, saved):
        self.state = saved["state"]
        self.memories = [Buffer(0) for _ in saved["memories"]]
        for memory, state in zip(self.memories, saved["memories"], strict=True):
            memory.load_state_dict(state)
