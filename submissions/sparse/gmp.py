"""Gradual magnitude pruning: the share of zeros grows as a cubic while training goes on.

Zhu, Gupta, "To prune, or not to prune: exploring the efficacy of pruning for model compression",
arXiv 1710.01878.

    s_t = s·(1 - (1 - (t - begin)/(end - begin))³) between two shares of the horizon
    at `updates` points: of every matrix the share s_t with the smallest |w| is zero from then on

State: a mask of the hidden matrices; AdamW's two words per parameter.
Departures from the paper: AdamW in place of SGD; scope "global" ranks all matrices together.
"""

from harness import ops, surgery
from submissions.first_order import adamw
from submissions.sparse import magnitude

TRACKS = ["compress"]
SPACE = {
    **adamw.SPACE,
    "lr": {"log": [3e-4, 1e-2]},
    "wd": 0.0,
    "beta2": 0.99,
    "sparsity": {"linear": [0.0, 0.99], "default": 0.8, "goal": "sparsity"},
    "scope": {"choice": ["layer", "global"]},
    "begin": 0.0,
    "end": {"linear": [0.2, 0.9], "default": 0.5},
    "updates": {"int": [1, 40], "default": 15},
}


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.weights = surgery.weights(task.model)
        self.state = adamw.init(task.params, hp)

    def due(self, step):
        """Return how many of the updates are due at a step."""
        hp = self.hp
        done = (step / self.task.horizon - hp.begin) / (hp.end - hp.begin)
        return min(hp.updates, max(0, int(1 + done * (hp.updates - 1)))) if done >= 0 else 0

    def step(self):
        task, hp = self.task, self.hp
        number = self.due(task.step)
        if number > (self.due(task.step - 1) if task.step else 0):
            self.prune(hp.sparsity * (1 - (1 - number / hp.updates) ** 3))
        loss = task.forward_backward(task.next_batch())
        ops.apply(adamw.update, task.params, self.state, hp, task.progress)
        return loss

    def prune(self, share):
        scores = [w.detach().abs() for w in self.weights]
        for w, mask in zip(self.weights, magnitude.kept(scores, share, self.hp.scope)):
            self.task.masks.set(w, mask)

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state
