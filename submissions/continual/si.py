"""SI: a pull of each weight to its old value, stronger where its path lowered the loss.

Zenke, Poole and Ganguli, "Continual Learning Through Synaptic Intelligence", arXiv 1703.04200.

    each step: ω ← ω − ∇L(new)·Δθ
    at a boundary: Ω ← Ω + max(ω, 0)/((θ − θ*)² + damping);  θ* ← θ;  ω ← 0
    g ← ∇L(new) + lam·Ω(θ − θ*);  finetune's step on g

State: finetune's; ω, Ω and θ*, three words per parameter.
Departures from the paper: none. ω is at least 0, as in the authors' code, and uses the gradient of
the new examples' loss alone.
"""

import torch

from harness import ops
from submissions.continual import ewc, finetune

TRACKS = ["continual"]
SPACE = {
    **finetune.SPACE,
    "lam": {"log": [1e-3, 100.0], "default": 0.1},
    "damping": {"log": [1e-3, 1.0], "default": 0.1},
}


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.moments = finetune.init(task.params, hp)
        self.state = {
            "path": ops.zeros(task.params),
            "omega": ops.zeros(task.params),
            "anchor": ops.copies(task.params),
        }

    def step(self):
        task, hp, state = self.task, self.hp, self.state
        if task.boundary and task.step:
            for w, p, omega, anchor in zip(
                state["path"], task.params, state["omega"], state["anchor"], strict=True
            ):
                omega.add_(w.clamp_(min=0) / ((p.data - anchor).square() + hp.damping))
                anchor.copy_(p.data)
                w.zero_()
        loss = task.forward_backward(task.next_batch())
        grads, before = ops.copies([p.grad for p in task.params]), ops.copies(task.params)
        ewc.pull_(task.params, state["omega"], state["anchor"], hp.lam)
        ops.apply(finetune.update, task.params, self.moments, hp, task.progress)
        moved = torch._foreach_sub([p.data for p in task.params], before)
        torch._foreach_addcmul_(state["path"], grads, moved, value=-1.0)
        return loss

    def state_dict(self):
        return {"moments": self.moments, "state": self.state}

    def load_state_dict(self, saved):
        self.moments, self.state = saved["moments"], saved["state"]
