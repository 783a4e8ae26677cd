"""L2 on attention: queries, keys and values are pulled to their old values; the rest is free.

Smith, Tian, Halbe, Hsu, Kira, "A Closer Look at Rehearsal-Free Continual Learning",
arXiv 2203.17269.

    g ← ∇L(new) + lam·(θ − θ*) for the matrices of queries, keys and values, θ* their values at the
    last boundary;  finetune's step on g

Such a matrix is known by its shape: three times as many outputs as inputs.

State: finetune's; θ* of these matrices.
Departures from the paper: the loss is over all outputs, where the authors take the new classes'.
"""

import torch

from harness import ops
from harness.errors import UserError
from submissions.continual import finetune

TRACKS = ["continual"]
SPACE = {**finetune.SPACE, "lam": {"log": [1e-4, 10.0], "default": 0.01}}


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.state, self.anchor = finetune.init(task.params, hp), []
        pairs = zip(task.params, task.roles, strict=True)
        self.pulled = [p for p, r in pairs if r.kind == "hidden" and r.fan_out == 3 * r.fan_in]
        if not self.pulled:
            raise UserError("l2_attention found no attention", "a transformer, as in stream_text")

    def step(self):
        task = self.task
        if task.boundary and task.step:
            self.anchor = ops.copies(self.pulled)
        loss = task.forward_backward(task.next_batch())
        if self.anchor:
            apart = torch._foreach_sub([p.data for p in self.pulled], self.anchor)
            torch._foreach_add_([p.grad for p in self.pulled], apart, alpha=self.hp.lam)
        ops.apply(finetune.update, task.params, self.state, self.hp, task.progress)
        return loss

    def state_dict(self):
        return {"state": self.state, "anchor": self.anchor}

    def load_state_dict(self, saved):
        self.state, self.anchor = saved["state"], saved["anchor"]
