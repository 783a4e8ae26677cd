"""GRCL: an equal pull of the weights that some past task needed, none of the others.

Nazemi et al., arXiv 2309.15274, gradient-based regularised continual learning.

    at a boundary: gate ← gate or (F among its matrix's `share` largest), F = ewc's diagonal Fisher
    of the past task;  θ* ← θ;  g ← ∇L(new) + lam·gate·(θ − θ*);  finetune's step

State: finetune's; θ*, one word per parameter; the gate, a byte; a reservoir of the present task.
Departures from the paper: it was read in summary only; the measure of a weight's importance, the
share and the form of the penalty are ours.
"""

import torch

from harness import ops
from harness.memory import Buffer
from submissions.continual import ewc, exssnet, finetune

TRACKS = ["continual"]
PASSES = ewc.PASSES
SPACE = {
    **finetune.SPACE,
    "lam": {"log": [1e-3, 10.0], "default": 0.1},
    "share": {"linear": [0.05, 0.5], "default": 0.2},
    "batches": 16,
}
SKIPS = {
    "passes": "importances cost the same at every boundary, and a short run has as many as a race",
}


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp, self.state = task, hp, finetune.init(task.params, hp)
        self.gates = [torch.zeros_like(p, dtype=torch.bool) for p in task.params]
        self.anchor, self.memory = [], Buffer(task.memory)

    def step(self):
        task, hp = self.task, self.hp
        if task.boundary and task.step:
            needed = ewc.importance(task, self.memory, hp.batches)
            new = [exssnet.largest(fisher, hp.share) for fisher in needed]
            self.gates = [old | gate for old, gate in zip(self.gates, new, strict=True)]
            self.anchor, self.memory = ops.copies(task.params), Buffer(task.memory)
        batch = task.next_batch()
        loss = task.forward_backward(batch)
        if self.anchor:
            ewc.pull_(task.params, self.gates, self.anchor, hp.lam)
        ops.apply(finetune.update, task.params, self.state, hp, task.progress)
        self.memory.add(batch, task.rng)
        return loss

    def state_dict(self):
        kept = {name: getattr(self, name) for name in ("state", "gates", "anchor")}
        return kept | {"memory": self.memory.state_dict()}

    def load_state_dict(self, saved):
        self.state, self.gates, self.anchor = saved["state"], saved["gates"], saved["anchor"]
        self.memory.load_state_dict(saved["memory"])
