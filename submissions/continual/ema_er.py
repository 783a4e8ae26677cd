"""EMA-ER: experience replay whose averaged weights are evaluated, against the stability gap.

Soutif-Cormerais, Carta, van de Weijer, "Improving Online Continual Learning Performance and
Stability with Temporal Ensembles", arXiv 2306.16817.

    er's step;  w̄ ← a·w̄ + (1 − a)·θ;  evaluated: w̄, which starts as a copy of θ
    average = constant: a = decay;  ramp: a = min(1 − 1/(t + 1), decay);  window: w̄ is the mean of
    all θ since the last boundary

State: er's; w̄, one word per parameter; the number of weights in the average.
Departures from the paper: the authors' decay is 0.9 at the beginning of the stream and 0.99 after,
here it is one number; ramp and window are ours.
"""

import torch

from harness import ops
from submissions.continual import er

TRACKS = ["continual"]
PASSES = er.PASSES
SPACE = {
    **er.SPACE,
    "average": {"choice": ["constant", "ramp", "window"], "tuned": False},
    "decay": {"choice": [0.95, 0.99, 0.9, 0.999]},
}
VARIANTS = {"window_er": {"average": "window"}}


class Algorithm(er.Algorithm):
    def __init__(self, task, hp):
        super().__init__(task, hp)
        self.mean, self.taken = ops.copies(task.params), 0

    def step(self):
        if self.hp.average == "window" and self.task.boundary:
            self.taken = 0
        loss = super().step()
        self.taken += 1
        left = {
            "constant": 1 - self.hp.decay,
            "ramp": max(1 / (self.taken + 1), 1 - self.hp.decay),
            "window": 1 / self.taken,
        }[self.hp.average]
        torch._foreach_lerp_(self.mean, [p.data for p in self.task.params], left)
        return loss

    def evaluate_view(self):
        return self.mean

    def state_dict(self):
        return super().state_dict() | {"mean": self.mean, "taken": self.taken}

    def load_state_dict(self, saved):
        super().load_state_dict(saved)
        self.mean, self.taken = saved["mean"], saved["taken"]
