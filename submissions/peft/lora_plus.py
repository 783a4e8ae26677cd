"""LoRA+: LoRA whose B trains at a larger learning rate than A.

Hayou, Ghosh, Yu, "LoRA+: Efficient Low Rank Adaptation of Large Models", arXiv 2402.12354.

    W' = W + s·B·A as LoRA;  the learning rate of B is λ times that of A

State: AdamW's for A and B, r(in + out) scalars a matrix.
Departures from the paper: none. λ = 16 is the paper's.
"""

from types import SimpleNamespace

from harness import ops, surgery
from submissions.first_order import adamw
from submissions.peft import lora

TRACKS = ["finetune"]
SPACE = {
    **adamw.SPACE,
    "lr": {"log": [1e-4, 1e-2]},
    "wd": 0.0,
    "beta2": 0.99,
    "head_lr": 5e-3,
    "rank": {"int": [1, 16], "default": 4},
    # Largest share of all parameters that may train: an upper bound on the rank.
    "share": {"linear": [0.0, 1.0], "default": 1.0, "goal": "trainable"},
    "alpha": 8.0,
    "scale": "standard",
    "start": "zero",
    # λ
    "ratio": {"log": [2.0, 64.0], "default": 16.0},
}


def adapt(model, task, hp):
    lora.adapt(model, task, hp)


class Algorithm:
    def __init__(self, task, hp):
        self.task, maps = task, list(surgery.matrices(task.model).values())
        rates = {"A": hp.lr, "B": hp.ratio * hp.lr, "head": hp.head_lr}
        self.hp = {key: SimpleNamespace(**vars(hp) | {"lr": lr}) for key, lr in rates.items()}
        self.groups = {"A": [m.A for m in maps], "B": [m.B for m in maps]}
        self.groups["head"] = surgery.head(task.model)
        self.state = {key: adamw.init(params, hp) for key, params in self.groups.items()}

    def step(self):
        loss = self.task.forward_backward(self.task.next_batch())
        for key, params in self.groups.items():
            ops.apply(adamw.update, params, self.state[key], self.hp[key], self.task.progress)
        return loss

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state
