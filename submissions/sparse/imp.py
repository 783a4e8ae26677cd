"""Iterative magnitude pruning: train, prune a part of the rest, rewind, repeat.

Frankle, Carbin, "The Lottery Ticket Hypothesis", arXiv 1803.03635; later rewinding points: Frankle
et al., arXiv 1912.05671; learning-rate rewinding: Renda et al., arXiv 2003.02389.

    round k of n: train for a part of the horizon, keep the (1 - sparsity)^(k/n) largest |w| of all
    rewind "weights": every weight that stays returns to its value at step `point` of round 1
    rewind "rate": only the schedule starts again
    the last round trains under the final mask

State: a mask of the hidden matrices; AdamW's two words per parameter; with "weights" a copy of the
weights.
Departures from the paper: the weights at step 0 are trained, not random; AdamW in place of SGD.
"""

import torch

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
    "rounds": {"int": [1, 6], "default": 3},
    "rewind": {"choice": ["rate", "weights"], "tuned": False},
    "point": 0,
}
VARIANTS = {"lottery": {"rewind": "weights"}, "lottery_late": {"rewind": "weights", "point": 10}}


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp, self.early = task, hp, []
        self.state = adamw.init(task.params, hp)

    def step(self):
        task, hp = self.task, self.hp
        length = max(1, task.horizon // (hp.rounds + 1))
        done = min(task.step // length, hp.rounds)
        at = task.step - done * length
        if hp.rewind == "weights" and task.step == hp.point:
            self.early = ops.copies(task.params)
        if at == 0 and done:
            self.prune(done)
        loss = task.forward_backward(task.next_batch())
        span = length if done < hp.rounds else task.horizon - done * length
        ops.apply(adamw.update, task.params, self.state, hp, (at + 0.5) / span)
        return loss

    @torch.no_grad()
    def prune(self, done):
        found = surgery.weights(self.task.model)
        scores = [w.abs().masked_fill(~self.task.masks.of(w), -1.0) for w in found]
        share = 1 - (1 - self.hp.sparsity) ** (done / self.hp.rounds)
        masks = magnitude.kept(scores, share)
        for p, old in zip(self.task.params, self.early):
            p.copy_(old)
        for w, mask in zip(found, masks):
            self.task.masks.set(w, mask)
        self.state = adamw.init(self.task.params, self.hp)

    def state_dict(self):
        return {"adam": self.state, "early": self.early}

    def load_state_dict(self, state):
        self.state, self.early = state["adam"], state["early"]
