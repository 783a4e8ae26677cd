"""ETF with rotations: in the first task an image turned by a quarter is a class of its own.

Of the tricks that Roy et al., arXiv 2403.14392, put together: prototypes that are assigned before
training, and rotations as classes.

    of C classes and 4 turns each pair (c, r) has a corner w_{4c+r} of one simplex; the readout's
    rows are those of r = 0, fixed;  first task: L = cross-entropy of scale·⟨w, f⟩ over all 4·C on
    each image in four turns;  later tasks: as `etf`

State: etf's; the 4·C corners.
Departures from the paper: as for `etf`; images must be square. A six turned twice looks like a
nine: on digits the task asks for what cannot be told, on garments it does not.
"""

import math

import torch
import torch.nn.functional as F

from harness import ops, surgery
from harness.errors import UserError
from harness.memory import labels
from submissions.continual import etf, finetune, simplex

TRACKS = ["continual"]
PASSES = {"forward_backward@batch=2": 0.2, "forward_backward@batch=4": 0.8}
SPACE = etf.SPACE
SKIPS = {"passes": "the first task's passes are over four turns of each image, however long it is"}
TURNS = 4


def adapt(model, task, hp):
    for p in surgery.head(model):
        p.requires_grad_(False)
        p.zero_()
    return model


def turned(batch):
    """Return each image in four turns [4·B, ...], with labels 4·c + r."""
    inputs, classes = batch["inputs"], labels(batch)
    side = math.isqrt(inputs[0].numel())
    if side * side != inputs[0].numel():
        raise UserError("etf_rotations turns square images", "stream_fscil or stream_split")
    pictures = inputs.view(len(inputs), side, side)
    turns = [pictures.rot90(r, (1, 2)).reshape(inputs.shape) for r in range(TURNS)]
    return {
        **{k: v.repeat(TURNS, *[1] * (v.ndim - 1)) for k, v in batch.items()},
        "inputs": torch.cat(turns),
        "targets": torch.cat([TURNS * classes + r for r in range(TURNS)]),
    }


class Algorithm(etf.Algorithm):
    def __init__(self, task, hp):
        super().__init__(task, hp)
        rows = surgery.readout(task.model).weight
        classes, width = rows.shape
        if TURNS * classes > width + 1:
            raise UserError(
                f"{width} features have no {TURNS * classes} corners of a simplex",
                f"a readout of at least {TURNS * classes - 1} features, as in stream_fscil",
            )
        self.corners = simplex.corners(TURNS * classes, width).to(rows)
        with torch.no_grad():
            rows.copy_(self.corners[::TURNS])

    def step(self):
        task = self.task
        if task.segment[0]:
            return super().step()
        batch = task.next_batch()
        loss = task.backward(turned(batch), self.loss_of_turns)
        ops.apply(finetune.update, task.params, self.state, self.hp, task.progress)
        self.memory.add(batch, task.rng)
        return loss

    def loss_of_turns(self, model, batch):
        features = F.normalize(self.task.features(batch), dim=1)
        return F.cross_entropy(self.hp.scale * features @ self.corners.T, batch["targets"])

    def state_dict(self):
        return super().state_dict() | {"corners": self.corners}

    def load_state_dict(self, saved):
        super().load_state_dict(saved)
        self.corners = saved["corners"]
