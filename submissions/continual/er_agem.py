"""ER-AGEM: experience replay whose mixed gradient never points against the memory's.

Hess, Tuytelaars, van de Ven, "Two Complementary Perspectives to Continual Learning: Ask Not Only
What to Optimize, But Also How", arXiv 2311.04898.

    r = ∇L(replay), g = share·∇L(new) + (1 − share)·r;  where gᵀr < 0:  g ← g − (gᵀr / rᵀr)·r
    finetune's step on g

er says what to optimise, A-GEM's projection how to get there, against the stability gap.

State: er's.
Departures from the paper: the two losses have weights (er's `share`); one replay batch serves both
the loss and the projection.
"""

import torch

from harness import ops
from submissions.continual import agem, er, finetune

TRACKS = ["continual"]
PASSES = er.PASSES
SPACE = er.SPACE


class Algorithm(er.Algorithm):
    def step(self):
        task, share, reference = self.task, self.hp.share, None
        batch = task.next_batch()
        if len(self.memory):
            task.forward_backward(self.memory.sample(task.batch_size, task.rng))
            reference = ops.copies([p.grad for p in task.params])
        loss = task.forward_backward(batch)
        if reference:
            grads = [p.grad for p in task.params]
            torch._foreach_lerp_(grads, reference, 1 - share)
            agem.project_(grads, reference)
        ops.apply(finetune.update, task.params, self.state, self.hp, task.progress)
        self.memory.add(batch, task.rng)
        return loss
