"""ReLoRA: low-rank products that are merged and begun anew, for a change of full rank.

Lialin et al., "ReLoRA: High-Rank Training Through Low-Rank Updates", arXiv 2307.05695.

    the first `dense` of the horizon trains everything; then W' = W + s·B·A with W frozen
    every `period` of the horizon:  W ← W + s·B·A, A ~ U(±1/√in), B = 0, AdamW of A and B restarts
    the learning rate follows one cosine, and rises linearly for `rewarm` steps after a merge

State: AdamW's, two words per parameter that trains now.
Departures from the paper: the moments of A and B start at zero after a merge, and so does their
bias correction; the authors keep a thousandth of the moments. From pretrained weights there is no
dense phase, and the head alone trains beside A and B.
"""

from types import SimpleNamespace

import torch

from harness import ops, surgery
from submissions.first_order import adamw
from submissions.peft import lora

TRACKS = ["train", "finetune"]
SPACE = {
    **adamw.SPACE,
    "lr": {"log": [1e-3, 2e-2]},
    "wd": 0.0,
    "beta2": 0.99,
    "head_lr": 5e-3,
    "rank": {"int": [1, 16], "default": 8},
    # Largest share of all parameters that may train: an upper bound on the rank.
    "share": {"linear": [0.0, 1.0], "default": 1.0, "goal": "trainable"},
    "alpha": 8.0,
    "dense": {"linear": [0.0, 0.5], "default": 0.25},
    "period": {"linear": [0.1, 0.5], "default": 0.2},
    "rewarm": 10,
}


def adapt(model, task, hp):
    if task.start is not None:
        surgery.freeze(model)
    rank = surgery.fitting(model, hp.rank, hp.share, lora.size)
    surgery.replace(model, lambda linear: lora.LoRA(linear, rank, hp.alpha / rank))


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.maps = list(surgery.matrices(task.model).values())
        self.factors = [p for m in self.maps for p in (m.A, m.B)]
        self.weights, self.head = [m.weight for m in self.maps], surgery.head(task.model)
        apart = {id(p) for p in [*self.factors, *self.weights, *self.head]}
        self.rest = [p for p in task.params if id(p) not in apart]
        self.first = 0 if task.start is not None else int(hp.dense * task.horizon)
        self.begin(0)
        self.state["rest"] = adamw.init(self.rest, hp)
        self.state["head"] = adamw.init(self.head, hp)

    def begin(self, step):
        """Let the weights train, or the factors; restart AdamW for them."""
        dense = step < self.first
        for p in self.weights:
            p.requires_grad_(dense)
        for p in self.factors:
            p.requires_grad_(not dense)
        moving = self.weights if dense else self.factors
        self.state = {**getattr(self, "state", {}), "moving": adamw.init(moving, self.hp)}

    def step(self):
        task, hp, length = self.task, self.hp, max(1, int(self.hp.period * self.task.horizon))
        since = (task.step - self.first) % length if task.step >= self.first else task.step
        if since == 0 and task.step:
            self.merge()
            self.begin(task.step)
        loss = task.forward_backward(task.next_batch())
        rise = min(1.0, (since + 1) / hp.rewarm) if task.step > since else 1.0
        dense = task.step < self.first
        rates = {"rest": hp.lr, "head": hp.head_lr, "moving": hp.lr * rise}
        groups = {"rest": self.rest, "head": self.head}
        groups["moving"] = self.weights if dense else self.factors
        for key, params in groups.items():
            own = SimpleNamespace(**vars(hp) | {"lr": rates[key]})
            ops.apply(adamw.update, params, self.state[key], own, task.progress)
        return loss

    @torch.no_grad()
    def merge(self):
        for m in self.maps:
            m.weight.add_(m.scale * m.B @ m.A)
            bound = m.A.shape[1] ** -0.5
            m.A.uniform_(-bound, bound)
            m.B.zero_()

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.begin(self.task.step)
        self.state = state
