"""LwF: on new examples, keep the old model's answers over the outputs of earlier tasks.

Li and Hoiem, "Learning without Forgetting", arXiv 1606.09282.

    L = L(new) + alpha·KL(softmax(z_old / T) ‖ softmax(z / T)) over the outputs of earlier tasks,
    z_old of the model as it was at the last boundary;  finetune's step on ∇L

State: finetune's; the old model, one word per parameter; which outputs were trained.
Departures from the paper: no warm-up of a new head; no T² factor, as in Avalanche and Mammoth;
there is one head, whose outputs trained so far are the old head (all outputs, if examples are
sequences).
"""

import torch
import torch.nn.functional as F

from harness import ops
from submissions.continual import finetune

TRACKS = ["continual"]
PASSES = {"forward_backward": 1, "forward": 1}
SPACE = {**finetune.SPACE, "alpha": {"log": [0.1, 100.0], "default": 1.0}, "temperature": 2.0}


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp, self.state = task, hp, finetune.init(task.params, hp)
        self.old, self.kept, self.taught = [], torch.zeros(0), torch.zeros(0)

    def step(self):
        task = self.task
        if task.boundary and task.step:
            self.old, self.kept = ops.copies(task.params), self.taught.clone()
        batch = task.next_batch()
        before = task.logits_of(self.old, batch) if self.old else None
        loss = task.backward(batch, lambda model, batch: self.loss(batch, before))
        ops.apply(finetune.update, task.params, self.state, self.hp, task.progress)
        return loss

    def loss(self, batch, before):
        logits = self.task.logits(batch)
        nats = self.task.nats(logits, batch).mean()
        if not len(self.taught):
            self.taught = torch.zeros(logits.shape[-1], device=logits.device)
        self.taught[batch.get("targets", slice(None))] = 1.0
        if before is None:
            return nats
        old, new = (
            (z[..., self.kept > 0] / self.hp.temperature).flatten(0, -2).log_softmax(-1)
            for z in (before, logits)
        )
        return nats + self.hp.alpha * F.kl_div(new, old, reduction="batchmean", log_target=True)

    def state_dict(self):
        names = ("state", "old", "kept", "taught")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, saved):
        for name, value in saved.items():
            setattr(self, name, value)
