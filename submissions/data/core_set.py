"""Core-set: AdamW, and every 20 steps the labels of examples that are far from all labelled ones.

Sener and Savarese, "Active Learning for Convolutional Neural Networks: A Core-Set Approach",
arXiv 1708.00489, Algorithm 1 (greedy k-centre).

    of examples without a label, drawn at random, buy one after the other the one with the largest
    distance min_c ‖f(x) − f(c)‖ to its nearest centre c; centres are those with a label, and those
    bought before it; f(x) is what the model's last linear map reads

16 batches are passed, of which the labelled examples are a part. It stops at `labels` examples.
State: AdamW's m and v, two words per parameter.
Departures from the paper: greedy choice without the mixed-integer programme that refines it; a
random part of the examples is looked at; the model goes on training instead of beginning anew.
"""

import torch

from submissions.data import margin
from submissions.first_order import adamw

CANDIDATES = 16
PASSES = {"forward_backward": 1, "forward@batch=16": 0.05}
SPACE = {
    **adamw.SPACE,
    "labels": {"int": [60, 600], "default": 300, "goal": "labels"},
    "size": {"int": [5, 50], "default": 10},
}


def farthest(features, centres, count):
    """Return the places of `count` rows of `features` that cover the rest best, greedily.

    Args:
        features: [B, D]; centres: rows [M, D] that are covered already.
    """
    near, chosen = torch.cdist(features, centres).amin(dim=1), []
    for _ in range(count):
        place = int(near.argmax())
        chosen.append(place)
        near = torch.minimum(near, torch.cdist(features, features[place : place + 1])[:, 0])
    return torch.tensor(chosen)


class Algorithm(margin.Algorithm):
    def buy(self, count):
        task, known, index = self.task, self.task.labelled, margin.drawn(self.task)
        passed = torch.cat([known, index])[: CANDIDATES * task.batch_size]
        features = task.features_of([p.data for p in task.params], task.gather(passed)).float()
        centres, others = features[: len(known)], features[len(known) :]
        if len(others):
            chosen = farthest(others, centres, min(count, len(others)))
            task.reveal(passed[len(known) + chosen])
