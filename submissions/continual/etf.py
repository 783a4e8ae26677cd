"""ETF: classes are corners of a simplex from the start, and features are drawn to them.

Yang et al., "Neural Collapse Inspired Feature-Classifier Alignment for Few-Shot Class-Incremental
Learning", arXiv 2302.03004; of the tricks of Roy et al., arXiv 2403.14392, the assigned prototypes.

    readout: simplex's corners w_c, fixed;  L = cross-entropy of scale·⟨w_c, f⟩ on new and replayed
    examples, f features of length 1;  finetune's step, after the first task `later` times as large

State: er's.
Departures from the paper: cross-entropy as in Roy et al., because features here are not negative
and (⟨w_c, f⟩ − 1)² alone lets them collapse; all layers train in later tasks, at the smaller rate;
no projection layer; a class takes the corner of its own number.
"""

import copy

import torch
import torch.nn.functional as F

from harness import ops, surgery
from submissions.continual import er, finetune, simplex

TRACKS = ["continual"]
PASSES = {"forward_backward": 0.01, "forward_backward@batch=2": 1}
SPACE = {
    **finetune.SPACE,
    "later": {"log": [1e-3, 1.0], "default": 1.0},
    "scale": {"log": [3.0, 30.0], "default": 10.0},
}
adapt = simplex.adapt


class Algorithm(er.Algorithm):
    def __init__(self, task, hp):
        super().__init__(task, hp)
        self.smaller = copy.copy(hp)
        self.smaller.lr = hp.lr * hp.later

    def step(self):
        task = self.task
        both = batch = task.next_batch()
        if len(self.memory):
            past = self.memory.sample(task.batch_size, task.rng)
            both = {k: torch.cat([batch[k], past[k]]) for k in batch}
        loss = task.backward(both, self.loss)
        hp = self.smaller if task.segment[0] else self.hp
        ops.apply(finetune.update, task.params, self.state, hp, task.progress)
        self.memory.add(batch, task.rng)
        return loss

    def loss(self, model, both):
        """Return the workload's loss of scaled cosines in place of its scores."""
        rows = surgery.readout(model).weight
        cosines = F.linear(F.normalize(self.task.features(both), dim=1), rows)
        return self.task.nats(self.hp.scale * cosines, both).mean()
