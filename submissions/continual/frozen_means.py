"""Frozen means: the network is trained in the first task alone; later classes are feature means.

The baseline of few-shot class-incremental learning, as in Roy et al., arXiv 2403.14392, and the
decoupled training of Zhang et al., "Few-Shot Incremental Learning with Continually Evolved
Classifiers", arXiv 2104.03047.

    first task: finetune's step;  in its last `late` share of steps, and in all later tasks, each
    class's sum of features of length 1 grows;  after the first task the weights stay
    answer: the class whose mean has the largest cosine to the features

State: finetune's in the first task; a sum of features and a count for each class.
Departures from the paper: means of the first classes are over the end of their training, because a
stream gives no second look at its examples.
"""

import torch
import torch.nn.functional as F

from harness import ops
from harness.memory import labels
from submissions.continual import finetune

TRACKS = ["continual"]
PASSES = {"forward_backward": 0.5, "forward": 0.5}
SPACE = {**finetune.SPACE, "late": {"choice": [0.1, 0.3]}}
SKIPS = {"passes": "backward passes are made in the first task alone, however long it is"}


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp, self.state = task, hp, finetune.init(task.params, hp)
        self.sums = {}

    def step(self):
        task, batch = self.task, self.task.next_batch()
        first, length = task.segment
        if first:
            self.state = {}
            self.grow(task.features_of([p.data for p in task.params], batch), labels(batch))
            return None
        kept = {}

        def loss(model, batch):
            kept["features"] = task.features(batch)
            return task.nats(task.logits(batch), batch).mean()

        value = task.backward(batch, loss)
        if task.step >= (1 - self.hp.late) * length:
            self.grow(kept["features"].detach(), labels(batch))
        ops.apply(finetune.update, task.params, self.state, self.hp, task.progress)
        return value

    def grow(self, features, classes):
        """Add features of length 1 to the sums of their classes."""
        unit = F.normalize(features, dim=1)
        for c in classes.unique().tolist():
            total = unit[classes == c].sum(0)
            self.sums[str(c)] = self.sums[str(c)] + total if str(c) in self.sums else total

    def state_dict(self):
        return {"state": self.state, "sums": self.sums}

    def load_state_dict(self, saved):
        self.state, self.sums = saved["state"], saved["sums"]


@torch.no_grad()
def predict(algorithm, inputs):
    """Return cosines to the class means [B, C], -1 for classes that never came."""
    task, sums = algorithm.task, algorithm.sums
    if not sums:
        return task.model(inputs)
    x = F.normalize(task.features({"inputs": inputs}), dim=1)
    classes = task.model(inputs[:1]).shape[-1]
    scores = torch.full((len(inputs), classes), -1.0, dtype=x.dtype, device=x.device)
    for c, total in sums.items():
        scores[:, int(c)] = x @ F.normalize(total, dim=0)
    return scores
