"""InfoBatch: AdamW that leaves out half of the easy examples of each epoch, and weights the rest.

Qin et al., "InfoBatch: Lossless Training Speed Up by Unbiased Dynamic Data Pruning",
arXiv 2303.04947.

    score_i: the loss at the last visit, 3 before the first
    an epoch takes a share 1 − r of the examples with a score below the mean, weight 1/(1 − r), and
    all others with weight 1;  loss = mean of weight·loss over the batch
    in the last eighth of the budget every example is taken, with weight 1

State: AdamW's m and v, two words per parameter; a score, a number and a weight for each example.
Departures from the paper: an epoch's last examples share a batch with the next epoch's first. The
last eighth is of the budget, because an epoch's length varies.
"""

import torch
import torch.nn.functional as F

from harness import ops
from harness.batch import part
from submissions.first_order import adamw

SPACE = {**adamw.SPACE, "ratio": {"linear": [0.0, 0.9], "default": 0.5}}
START, PRUNED = 3.0, 0.875


def losses_of(logits, targets):
    """Return each example's cross entropy, [B], the mean over its tokens where it has several."""
    flat = logits.reshape(-1, logits.shape[-1])
    each = F.cross_entropy(flat, targets.reshape(-1), reduction="none")
    return each.view(len(logits), -1).mean(dim=1)


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.state = adamw.init(task.params, hp)
        none = torch.empty(0, dtype=torch.int64)
        self.epoch = {"scores": torch.full((task.examples,), START), "left": none}
        self.epoch["weights"] = torch.empty(0)

    def begin(self):
        """Return the numbers and weights of a new epoch, in random order."""
        scores, generator = self.epoch["scores"], self.task.rng
        weights = torch.ones(len(scores))
        order = torch.randperm(len(scores), generator=generator)
        if self.task.progress < PRUNED:
            easy = order[scores[order] < scores.mean()]
            kept = int((1 - self.hp.ratio) * len(easy))
            weights[easy[kept:]] = 0.0
            weights[easy[:kept]] = 1 / (1 - self.hp.ratio)
            order = order[torch.randperm(len(order), generator=generator)]
            order = order[weights[order] > 0]
        return order, weights[order]

    def take(self, count):
        """Return the next `count` example numbers of the epochs, and their weights."""
        left, weights = self.epoch["left"], self.epoch["weights"]
        while len(left) < count:
            more, theirs = self.begin()
            left, weights = torch.cat([left, more]), torch.cat([weights, theirs])
        self.epoch["left"], self.epoch["weights"] = left[count:], weights[count:]
        return left[:count], weights[:count]

    def step(self):
        task = self.task
        index, weights = self.take(task.batch_size)
        batch = task.gather(index)

        def loss(*_):
            losses = losses_of(task.logits(batch), part(batch, "targets"))
            self.epoch["scores"][index] = losses.detach().to(self.epoch["scores"])
            return (weights.to(losses) * losses).mean()

        value = task.backward(batch, loss)
        ops.apply(adamw.update, task.params, self.state, self.hp, task.progress)
        return value

    def state_dict(self):
        return {"adam": self.state, "epoch": self.epoch}

    def load_state_dict(self, state):
        self.state, self.epoch = state["adam"], state["epoch"]
