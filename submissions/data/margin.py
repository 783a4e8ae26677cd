"""Margin: AdamW, and every 20 steps the labels of those examples of which the model is least sure.

Roth and Small, "Margin-Based Active Learning for Structured Output Spaces", ECML 2006; variant
`entropy` after Settles, "Active Learning Literature Survey", 2009, section 3.1.

    of 8 batches of examples without a label, drawn at random, buy the `size` with the smallest
        margin    p₁ − p₂, the two largest probabilities of the model
        entropy   Σ p·log p
    until `labels` examples have one; train by AdamW on all that have

State: AdamW's m and v, two words per parameter.
Departures from the paper: a random part of the examples is scored each time, and the model goes
on training instead of beginning anew.
"""

import torch

from harness import ops
from submissions.first_order import adamw

# Steps between two purchases, and batches of examples that are scored for each.
EVERY, CANDIDATES = 20, 8
PASSES = {"forward_backward": 1, "forward@batch=8": 0.05}
SPACE = {
    **adamw.SPACE,
    "labels": {"int": [60, 1000], "default": 300, "goal": "labels"},
    "size": {"int": [5, 50], "default": 10},
    "score": {"choice": ["margin", "entropy"], "tuned": False},
}
VARIANTS = {"entropy": {"score": "entropy"}}


def wanted(task, hp):
    """Return how many labels to buy in this step; in the first one, tell that we buy ourselves."""
    if task.step == 0:
        task.reveal(torch.empty(0, dtype=torch.int64))
    left = min(hp.labels - len(task.labelled), len(task.unlabelled))
    return min(hp.size, left) if left > 0 and (task.step + 1) % EVERY == 0 else 0


def drawn(task):
    """Return the numbers of all examples without a label, in random order."""
    index = task.unlabelled
    return index[torch.randperm(len(index), generator=task.rng)]


def least_sure(logits, score, count):
    """Return the places of the `count` examples of which the scores [B, C] are least sure."""
    p = logits.softmax(dim=1)
    if score == "margin":
        first, second = p.topk(2, dim=1).values.T
        sure = first - second
    else:
        sure = (p * logits.log_softmax(dim=1)).sum(dim=1)
    return sure.topk(count, largest=False).indices.cpu()


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.state = adamw.init(task.params, hp)

    def buy(self, count):
        """Buy the labels of `count` examples, of those that were drawn."""
        task, index = self.task, drawn(self.task)
        most = CANDIDATES * task.batch_size
        # As many as declared are scored, also when few are left without a label.
        scored = torch.cat([index, task.labelled])[:most]
        logits = task.logits_of([p.data for p in task.params], task.gather(scored))
        chosen = least_sure(logits[: len(index)], self.hp.score, min(count, most, len(index)))
        task.reveal(scored[chosen])

    def step(self):
        task = self.task
        if count := wanted(task, self.hp):
            self.buy(count)
        loss = task.forward_backward(task.next_batch())
        ops.apply(adamw.update, task.params, self.state, self.hp, task.progress)
        return loss

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state
