"""ER-ACE: new examples compete among the classes of their own batch alone.

Caccia et al., "New Insights on Reducing Abrupt Representation Change in Online Continual
Learning", arXiv 2104.05025.

    new: cross-entropy over the classes present in the batch;  replayed: over all classes
    er's mix of the two gradients;  finetune's step

The new batch then pushes no score of an absent class down, which is what forgets abruptly.

State: er's.
Departures from the paper: the two losses have weights (er's `share`), where the paper adds them;
a linear readout, where the authors' code has a cosine one.
"""

import torch

from harness import ops
from harness.memory import labels
from submissions.continual import er, finetune

TRACKS = ["continual"]
PASSES = er.PASSES
SPACE = er.SPACE


class Algorithm(er.Algorithm):
    def step(self):
        task, hp = self.task, self.hp
        batch = task.next_batch()
        loss = er.mix(task, batch, self.memory, hp.share, self.present)
        ops.apply(finetune.update, task.params, self.state, hp, task.progress)
        self.memory.add(batch, task.rng)
        return loss

    def present(self, model, batch):
        """Return the loss over the classes of the batch's targets."""
        scores = self.task.logits(batch)
        absent = torch.ones(scores.shape[-1], dtype=torch.bool, device=scores.device)
        absent[labels(batch)] = False
        return self.task.nats(scores.masked_fill(absent, -torch.inf), batch).mean()
