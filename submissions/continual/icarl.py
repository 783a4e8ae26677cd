"""iCaRL: exemplars chosen by herding, distilled outputs, and answers by the nearest class mean.

Rebuffi et al., "iCaRL: Incremental Classifier and Representation Learning", arXiv 1611.07725.

    L = mean over outputs of binary cross-entropy on new examples and exemplars; targets: σ of the
    old model's scores for classes of earlier tasks, one-hot for the others;  finetune's step on ∇L
    at a boundary: each class keeps memory/(classes seen) exemplars, in the order in which their
    running mean of features comes nearest to the class mean (herding)
    answer: the class whose mean of exemplars' features is nearest; features have length 1

State: finetune's; the old weights, one word per parameter; exemplars, and a reservoir of the
present task that they are chosen from, each half of `task.memory` bytes.
Departures from the paper: a stream gives each example once, so herding chooses from a reservoir and
not from all of the task; the present task's classes have means too, of the reservoir.
"""

import torch
import torch.nn.functional as F

from harness import ops
from harness.memory import Buffer, labels
from submissions.continual import finetune

TRACKS = ["continual"]
PASSES = {"forward_backward": 0.2, "forward_backward@batch=2": 0.8, "forward@batch=2": 0.8}
SPACE = {
    **finetune.SPACE,
    "lr": {"log": [0.02, 2.0], "default": 0.2},  # the loss is a mean over outputs too
    "adaptive": False,
}


def herd(features, count):
    """Return which rows [n, d] bring a running mean nearest to the mean of all, in order."""
    goal, total, order = features.mean(0), torch.zeros_like(features[0]), []
    left = torch.ones(len(features), dtype=torch.bool, device=features.device)
    for k in range(1, min(count, len(features)) + 1):
        apart = (goal - (total + features) / k).norm(dim=1).masked_fill(~left, torch.inf)
        order.append(int(apart.argmin()))
        left[order[-1]], total = False, total + features[order[-1]]
    return order


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp, self.state = task, hp, finetune.init(task.params, hp)
        self.old, self.known, self.kept = [], [], {}
        self.present = Buffer(task.memory // 2)

    def step(self):
        task = self.task
        if task.boundary and task.step:
            self.choose()
            self.old, self.present = ops.copies(task.params), Buffer(task.memory // 2)
        batch, before = task.next_batch(), None
        both = batch
        if self.kept:
            drawn = torch.randint(
                len(self.kept["targets"]), (task.batch_size,), generator=task.rng
            ).to(batch["targets"].device)
            both = {k: torch.cat([v, self.kept[k][drawn]]) for k, v in batch.items()}
            before = task.logits_of(self.old, both)
        loss = task.backward(both, lambda _, both: self.loss(both, before))
        ops.apply(finetune.update, task.params, self.state, self.hp, task.progress)
        self.present.add(batch, task.rng)
        return loss

    def loss(self, both, before):
        scores = self.task.logits(both)
        target = F.one_hot(labels(both), scores.shape[-1]).to(scores)
        if before is not None:
            target[:, self.known] = torch.sigmoid(before[:, self.known])
        return F.binary_cross_entropy_with_logits(scores, target)

    @torch.no_grad()
    def features(self, examples):
        """Return features of length 1, in passes of the workload's batch size."""
        size = self.task.batch_size
        parts = [
            self.task.features({k: v[i : i + size] for k, v in examples.items()})
            for i in range(0, len(examples["targets"]), size)
        ]
        return F.normalize(torch.cat(parts), dim=1)

    def choose(self):
        """Choose new exemplars by herding, and cut the lists of the earlier classes."""
        fresh = self.present.data
        features, classes = self.features(fresh), fresh["targets"]
        new = [c for c in classes.unique().tolist() if c not in self.known]
        seen = self.known + new
        share = max(1, Buffer(self.task.memory // 2).capacity(fresh) // len(seen))
        parts = []
        for c in self.known:
            rows = (self.kept["targets"] == c).nonzero()[:share, 0]
            parts.append({k: v[rows] for k, v in self.kept.items()})
        for c in new:
            rows = (classes == c).nonzero()[:, 0]
            rows = rows[herd(features[rows], share)]
            parts.append({k: v[rows] for k, v in fresh.items()})
        self.known = seen
        self.kept = {k: torch.cat([part[k] for part in parts]) for k in fresh}

    def state_dict(self):
        kept = {name: getattr(self, name) for name in ("state", "old", "known", "kept")}
        return kept | {"present": self.present.state_dict()}

    def load_state_dict(self, saved):
        self.present.load_state_dict(saved.pop("present"))
        for name, value in saved.items():
            setattr(self, name, value)


@torch.no_grad()
def predict(algorithm, inputs):
    """Return minus the distance to each class mean, [B, C]; classes that never came are last."""
    a, task = algorithm, algorithm.task
    classes = task.model(inputs[:1]).shape[-1]
    held = [examples for examples in (a.kept, a.present.data) if examples]
    x = F.normalize(task.features({"inputs": inputs}), dim=1)
    scores = torch.full((len(inputs), classes), -10.0, dtype=x.dtype, device=x.device)
    if held:
        known = torch.cat([examples["targets"] for examples in held])
        features = torch.cat([a.features(examples) for examples in held])
        for c in known.unique().tolist():
            mean = F.normalize(features[known == c].mean(0), dim=0)
            scores[:, c] = -(x - mean).norm(dim=1)
    return scores
