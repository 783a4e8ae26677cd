"""EWC: a pull of each weight to its old value, stronger where past tasks' answers need it.

Kirkpatrick et al., "Overcoming catastrophic forgetting in neural networks", arXiv 1612.00796; one
anchor and a running importance as in Schwarz et al., arXiv 1805.06370 (online EWC).

    at a boundary: Ω ← decay·Ω + F, F = diagonal Fisher over the past task's memory;  θ* ← θ
    L(new) + lam/2·Σ Ωᵢ(θᵢ − θ*ᵢ)²:  g ← ∇L(new) + lam·Ω(θ − θ*);  finetune's step on g

State: finetune's; Ω and θ*, two words per parameter; a reservoir of the present task's examples.
Departures from the paper: F = B·mean(ĝ²) over `batches` batches of B, ĝ the gradient of the batch's
mean loss against labels drawn from the model; its expectation is the mean over examples.
"""

import torch

from harness import ops
from harness.memory import Buffer
from submissions.continual import finetune

TRACKS = ["continual"]
PASSES = {"forward_backward": 1.1}
SPACE = {
    **finetune.SPACE,
    "lam": {"log": [0.1, 1e4], "default": 10.0},
    "decay": {"choice": [1.0, 0.9]},
    "batches": 16,
}
SKIPS = {
    "passes": "importances cost the same at every boundary, and a short run has as many as a race",
}


def importance(task, memory, batches):
    """Return the diagonal Fisher information at these weights, by labels drawn from the model."""
    total = ops.zeros(task.params)
    for _ in range(batches):
        task.sampled_backward(memory.sample(task.batch_size, task.rng))
        for sum_, p in zip(total, task.params, strict=True):
            sum_.addcmul_(p.grad, p.grad, value=task.batch_size / batches)
    return total


def pull_(params, omega, anchor, lam):
    """Add lam·Ω(θ − θ*) to the gradients."""
    apart = torch._foreach_sub([p.data for p in params], anchor)
    torch._foreach_mul_(apart, omega)
    torch._foreach_add_([p.grad for p in params], apart, alpha=lam)


class Algorithm:
    importance = staticmethod(importance)

    def __init__(self, task, hp):
        self.task, self.hp, self.state = task, hp, finetune.init(task.params, hp)
        self.omega, self.anchor, self.memory = ops.zeros(task.params), [], Buffer(task.memory)

    def step(self):
        task, hp = self.task, self.hp
        if task.boundary and task.step:
            new = self.importance(task, self.memory, hp.batches)
            torch._foreach_mul_(self.omega, hp.decay)
            torch._foreach_add_(self.omega, new)
            self.anchor, self.memory = ops.copies(task.params), Buffer(task.memory)
        batch = task.next_batch()
        loss = task.forward_backward(batch)
        if self.anchor:
            pull_(task.params, self.omega, self.anchor, hp.lam)
        ops.apply(finetune.update, task.params, self.state, hp, task.progress)
        self.memory.add(batch, task.rng)
        return loss

    def state_dict(self):
        kept = {name: getattr(self, name) for name in ("state", "omega", "anchor")}
        return kept | {"memory": self.memory.state_dict()}

    def load_state_dict(self, saved):
        self.state, self.omega, self.anchor = saved["state"], saved["omega"], saved["anchor"]
        self.memory.load_state_dict(saved["memory"])
