"""MAS: a pull of each weight to its old value, stronger where the outputs change with it.

Aljundi et al., "Memory Aware Synapses: Learning what (not) to forget", arXiv 1711.09601.

    at a boundary: Ω ← decay·Ω + mean |∂‖z(x)‖²/∂θ| over the past task's memory;  θ* ← θ
    g ← ∇L(new) + lam·Ω(θ − θ*);  finetune's step on g

State: ewc's.
Departures from the paper: the absolute value is of the gradient of a batch's mean ‖z‖², as in
Avalanche, not of each example's gradient.
"""

from harness import ops
from submissions.continual import ewc

TRACKS = ["continual"]
PASSES = ewc.PASSES
SPACE = {**ewc.SPACE, "lam": {"log": [1e-3, 100.0], "default": 0.1}}
SKIPS = {
    "passes": "importances cost the same at every boundary, and a short run has as many as a race",
}


def importance(task, memory, batches):
    """Return the mean over batches of |∂ mean ‖z‖²/∂θ|."""

    def length(model, batch):
        return task.logits(batch).flatten(1).square().sum(dim=1).mean()

    total = ops.zeros(task.params)
    for _ in range(batches):
        task.backward(memory.sample(task.batch_size, task.rng), length)
        for sum_, p in zip(total, task.params, strict=True):
            sum_.add_(p.grad.abs(), alpha=1 / batches)
    return total


class Algorithm(ewc.Algorithm):
    importance = staticmethod(importance)
