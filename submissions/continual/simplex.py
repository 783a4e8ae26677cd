"""Simplex: a readout that never changes, the corners of a simplex, and features that stay put.

Biondi, Pernici, Ricci, Del Bimbo, "Stationary Representations: Optimally Approximating
Compatibility and Implications for Improved Model Replacements", arXiv 2405.02581.

    readout: corners c_i of a regular simplex of K = width + 1 corners, c_iᵀc_j = −1/(K − 1); fixed
    L = weight·nats + (1 − weight)·HOC on new and replayed examples, from the second task on
    HOC = mean over i of −mu·⟨f_i, f'_i⟩ + log Σ_{j of other classes} exp(mu·⟨f_i, f'_j⟩),
    f features of length 1, f' those of the model at the last boundary;  finetune's step on ∇L

State: er's; the old weights, one word per parameter.
Departures from the paper: outputs of classes that never come are left out. Pairs of one class are
dropped from the sum as in the paper's equation; in the released code each adds 1 to it.
"""

import torch
import torch.nn.functional as F

from harness import ops, surgery
from harness.memory import labels
from submissions.continual import er, finetune

TRACKS = ["continual"]
PASSES = {"forward_backward": 0.01, "forward_backward@batch=2": 1, "forward@batch=2": 0.8}
SPACE = {
    **finetune.SPACE,
    "weight": {"choice": [0.5, 0.1, 1.0]},
    "mu": {"log": [3.0, 30.0], "default": 10.0},
}


def corners(count, width):
    """Return `count` of the width + 1 corners of a regular simplex around 0, of length 1.

    It is turned at random: a corner along an axis hangs on one unit, which an earlier task may have
    switched off for good.
    """
    unit = torch.eye(width, dtype=torch.float64)
    last = torch.full((1, width), (1 - (width + 1) ** 0.5) / width, dtype=torch.float64)
    every = torch.cat([unit, last])
    turn = torch.linalg.qr(torch.randn(width, width, dtype=torch.float64)).Q
    return F.normalize(every - every.mean(0), dim=1)[:count] @ turn


def adapt(model, task, hp):
    for p in surgery.head(model):
        p.requires_grad_(False)
        p.zero_() if p.ndim == 1 else p.copy_(corners(*p.shape))
    return model


def hoc(features, old, classes, mu):
    """Return the higher-order compatibility loss of features with old ones, both of length 1."""
    close = mu * features @ old.T
    same = classes[:, None] == classes
    rows = (~same).any(
        1
    )  # an example with no example of another class has nothing to be apart from
    apart = close[rows].masked_fill(same[rows], -torch.inf).logsumexp(1)
    return (apart.sum() - close.diagonal().sum()) / len(classes)


class Algorithm(er.Algorithm):
    def __init__(self, task, hp):
        super().__init__(task, hp)
        self.old = []

    def step(self):
        task = self.task
        if task.boundary and task.step and self.hp.weight < 1:
            self.old = ops.copies(task.params)
        both = batch = task.next_batch()
        if len(self.memory):
            past = self.memory.sample(task.batch_size, task.rng)
            both = {k: torch.cat([batch[k], past[k]]) for k in batch}
        before = task.features_of(self.old, both) if self.old else None
        loss = task.backward(both, lambda _, both: self.loss(both, before))
        ops.apply(finetune.update, task.params, self.state, self.hp, task.progress)
        self.memory.add(batch, task.rng)
        return loss

    def loss(self, both, before):
        nats = self.task.nats(self.task.logits(both), both).mean()
        if before is None:
            return nats
        features = F.normalize(self.task.features(both), dim=1)
        kept = hoc(features, F.normalize(before, dim=1), labels(both), self.hp.mu)
        return self.hp.weight * nats + (1 - self.hp.weight) * kept

    def state_dict(self):
        return super().state_dict() | {"old": self.old}

    def load_state_dict(self, saved):
        super().load_state_dict(saved)
        self.old = saved["old"]
