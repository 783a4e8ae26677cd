"""Linear probe: only the readout trains, the lower reference of fine-tuning.

    W_head ← AdamW; the rest is frozen

State: AdamW's for the readout. Every method of this family trains the head with this SPACE.
Departures from the paper: none.
"""

from types import SimpleNamespace

from harness import ops, surgery
from submissions.first_order import adamw

BASE = "adamw"
TRACKS = ["finetune"]
SPACE = {"head_lr": 5e-3, "base_wd": 0.01, "base_warmup": 0.05}


def adapt(model, task, hp):
    surgery.freeze(model)


class Trainer:
    """AdamW on the parameters of an `Algorithm` method, some with another learning rate.

    Args:
        hp: adamw's hyperparameters and head_lr.
        apart: the parameters that train at head_lr; the head by default.
    """

    def __init__(self, task, hp, apart=None):
        self.task, self.hp, self.head_hp = (
            task,
            hp,
            SimpleNamespace(**{**vars(hp), "lr": hp.head_lr}),
        )
        self.apart = surgery.head(task.model) if apart is None else apart
        self.reset()

    def reset(self):
        """Restart AdamW with the parameters that train now."""
        known = {id(p) for p in self.apart}
        self.own = [p for p in self.task.params if id(p) not in known]
        self.head = [p for p in self.task.params if id(p) in known]
        self.state = {"own": adamw.init(self.own, self.hp), "head": adamw.init(self.head, self.hp)}

    def update(self):
        progress = self.task.progress
        ops.apply(adamw.update, self.own, self.state["own"], self.hp, progress)
        ops.apply(adamw.update, self.head, self.state["head"], self.head_hp, progress)
